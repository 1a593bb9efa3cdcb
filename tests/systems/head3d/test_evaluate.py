"""The measure of kept identities, on pictures whose answer is known; sources; what is "n/a"."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import orbit_labels
from headjax.io.images import to_uint8
from headjax.metrics import views
from headjax.nets.part_segmenter import CLASSES
from headjax.nets.perceptual.weights import ASSETS, Missing
from headjax.nets.triplane_gan import Generated
from headjax.systems.head3d import evaluate, sources
from headjax.train.gan import pictures


def kept(student, teacher):
    return evaluate.identity_kept(evaluate.face_crop(student), evaluate.face_crop(teacher))


def faces(count=6, side=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def test_the_face_of_a_picture_of_64_pixels_is_cut_out_as_it_is():
    pictures = faces()
    np.testing.assert_allclose(evaluate.face_crop(pictures), pictures[:, 19:51, 16:48], atol=1e-6)
    large = pictures.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(evaluate.face_crop(large).mean(), pictures[:, 19:51, 16:48].mean(),
                               atol=1e-3)  # fmt: skip


def test_all_identities_are_kept_by_a_student_that_is_near_its_teacher():
    teacher = faces()
    told = kept(teacher + 0.05 * faces(seed=1), teacher)
    assert told["identity_kept"] == 1.0 and told["identity_latents"] == 6
    assert told["front_distance"] < 0.1 < told["front_distance_to_others"]


def test_a_collapsed_student_keeps_at_most_the_identity_of_its_one_face():
    teacher = faces()
    student = np.repeat(teacher[2:3], 6, axis=0)
    assert kept(student, teacher)["identity_kept"] == pytest.approx(1 / 6)


def test_exchanged_identities_are_not_kept_and_a_draw_does_not_count():
    teacher = faces()
    assert kept(teacher[::-1], teacher)["identity_kept"] == 0.0
    same = np.repeat(teacher[:1], 6, axis=0)
    assert kept(same, same)["identity_kept"] == 0.0


def test_what_is_beside_the_face_does_not_count():
    teacher = faces()
    student = teacher.copy()
    student[:, :19], student[:, :, :16] = 1.0, -1.0
    told = kept(student, teacher)
    assert told["identity_kept"] == 1.0 and told["front_distance"] < 1e-6


def test_the_shares_and_distances_are_those_of_loops():
    teacher, student = faces(), faces(seed=3)
    told = kept(student, teacher)
    mine, theirs = evaluate.face_crop(student), evaluate.face_crop(teacher)
    near, own = 0, []
    for i in range(6):
        distances = [np.sqrt(np.mean((mine[i] - theirs[j]) ** 2)) for j in range(6)]
        near += all(distances[i] < distances[j] for j in range(6) if j != i)
        own.append(distances[i])
    assert told["identity_kept"] == pytest.approx(near / 6)
    assert told["front_distance"] == pytest.approx(np.median(own))


def test_one_latent_or_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        kept(faces(1), faces(1))
    with pytest.raises(ValueError, match="of the same"):
        kept(faces(3), faces(2))


def test_networks_without_weights_say_which_file_is_missing():
    missing = evaluate.face_embeddings(Missing(ASSETS["arcface"]), faces(2))
    told = evaluate.arcface_identity(missing, missing)
    assert told.startswith("n/a") and "model_ir_se50.pth" in told
    rows = views.image_quality([], [], network=Missing(ASSETS["inception"]))
    assert set(rows) >= {"fid", "kid_x100", "fid_front", "kid_x100_back"}
    assert all("pt_inception" in value for value in rows.values())


def test_quality_compares_each_half_with_its_own():
    def features(network, pictures):
        return pictures.reshape(len(pictures), -1)[:, :4].astype(np.float64)

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (12, 8, 8, 3)).astype(np.uint8)
    yaws = np.repeat([0.0, np.pi], 6)
    other = pictures.copy()
    other[6:] //= 4

    def parts(of):
        return [(of[i : i + 5], yaws[i : i + 5]) for i in range(0, 12, 5)]

    rows = views.image_quality(
        parts(pictures), parts(other), network="a network", features=features
    )
    assert rows["fid_front"] == pytest.approx(0.0, abs=1e-2) and rows["fid_back"] > 10.0


def test_a_back_view_is_faceless_below_one_percent_of_the_heads_pixels():
    skin, nose = (CLASSES.index(name) for name in ("skin", "nose"))
    labels = np.full((4, 20, 20), skin, np.uint8)
    labels[0, 0, :3] = nose  # 3 of 400 pixels
    labels[1, 0, :5] = nose  # 5 of 400
    labels[3] = CLASSES.index("background")
    assert evaluate.faceless(labels) == 0.5


class Numbered:
    """Records that say which they are."""

    fields = ("image", "camera", "more", "identity")

    def __init__(self, first, yaws):
        self.first, self.cameras = first, orbit_labels(yaws)

    def __len__(self):
        return len(self.cameras)

    def __getitem__(self, index):
        return self.read(index, fields=self.fields)

    def read(self, index, *, fields):
        record = {
            "image": np.full((2, 2, 3), self.first + index, np.uint8),
            "camera": self.cameras[index],
            "more": np.zeros(1),
            "identity": np.int32(index // 2),
        }
        return {name: record[name] for name in fields}


def number(record, name="image"):
    return int(record[name].flat[0])


def test_joined_sources_follow_each_other():
    joined = sources.Joined(Numbered(0, [0.0, 0.0]), Numbered(10, [0.0]), Numbered(20, [0.0, 0.0]))
    assert len(joined) == 5
    assert [number(joined[i]) for i in range(5)] == [0, 1, 10, 20, 21]
    assert [int(joined[i]["identity"]) for i in range(5)] == [0, 0, 0, 0, 0]
    assert number(joined[-1]) == 21 and set(joined[0]) == {"image", "camera", "more", "identity"}


def test_identities_of_joined_sources_are_counted_on():
    heads = Numbered(10, [0.0, 0.0, 0.0])
    joined = sources.Joined(Numbered(0, [0.0, 0.0]), heads, heads, first=[0, 7, 7])
    assert [int(joined[i]["identity"]) for i in range(8)] == [0, 0, 7, 7, 8, 7, 7, 8]
    assert "identity" not in joined.read(3, fields=("image",))


class Painter(pictures.Drawer):
    """Paints heads as dark as their latents' first number, on the left; the right stays white."""

    def __init__(self):
        self.config = SimpleNamespace(z_dim=3)

    def styles(self, z):
        return z

    def draw(self, ws, labels):
        image = jnp.zeros((len(ws), 4, 4, 3)) + ws[:, :1, None, None]
        image = image.at[:, :, 2:].set(1.0)
        mask = image[..., :1]
        return Generated(image=image, image_raw=image, depth=mask, mask=mask, features=mask)


def test_views_are_redrawn_of_their_own_latents_and_where_they_contradict_nothing_is_sure():
    count, mask = 9, np.zeros((4, 4, 1), np.uint8)
    mask[0] = 255
    views_ = [
        {"identity": np.array(i % 3), "camera": orbit_labels([i])[0], "mask": mask,
         "parts": np.array(i), "image": np.zeros((4, 4, 3), np.uint8),
         "depth": (2.5 + i) * (mask > 0).astype(np.float32)}
        for i in range(count)
    ]  # fmt: skip
    latents = np.array([[-1.0, 9.0], [-0.5, 9.0], [0.0, 9.0]], np.float32)
    drawn = sources.redrawn(Listed(views_), Painter(), latents=latents, key=jax.random.key(0))
    assert len(drawn) == count and drawn.fields == tuple(views_[0])
    for i in range(count):
        record = drawn[i]
        assert record["parts"] == i and record["image"].dtype == record["mask"].dtype == np.uint8
        np.testing.assert_array_equal(record["camera"], views_[i]["camera"])
        dark = to_uint8(latents[i % 3, :1])[0]
        assert np.all(record["image"][:, :2] == dark) and np.all(record["image"][:, 2:] == 255)
        # The first row is head, the rest is not; the left is drawn, the right is not.
        np.testing.assert_array_equal(
            record["mask"][..., 0], [[255, 255, 128, 128], *[[128, 128, 0, 0]] * 3]
        )
        np.testing.assert_array_equal(
            record["depth"][..., 0], [[2.5 + i, 2.5 + i, 0.0, 0.0], *[[0.0] * 4] * 3]
        )
    assert set(drawn.read(0, fields=("mask", "parts"))) == {"mask", "parts"}


class Listed:
    """Records of a list."""

    def __init__(self, records):
        self.records, self.fields = records, tuple(records[0])

    def __len__(self):
        return len(self.records)

    def read(self, index, *, fields):
        return {name: self.records[index][name] for name in fields}


def test_the_front_has_the_faces_and_the_heads_front_views_and_the_back_the_rest():
    faces_, heads = Numbered(0, [0.0, 30.0]), Numbered(10, [0.0, 90.0, 100.0, 180.0, -91.0])
    front, back = sources.front_and_back(faces_, heads)
    assert [number(front[i]) for i in range(len(front))] == [0, 1, 10, 11]
    assert [number(back[i]) for i in range(len(back))] == [12, 13, 14]
    pairs = sources.Pairs(front, back)
    assert len(pairs) == 4 and set(pairs[0]) == set(pairs.fields)
    assert [number(pairs[i]) for i in range(4)] == [0, 1, 10, 11]
    assert [number(pairs[i], "back_image") for i in range(4)] == [12, 13, 14, 12]
    np.testing.assert_array_equal(pairs[1]["back_camera"], heads.cameras[3])


def test_heads_without_a_back_are_refused():
    with pytest.raises(UserError, match="views of the back"):
        sources.front_and_back(Numbered(0, [0.0]), Numbered(0, [0.0, 45.0]))
