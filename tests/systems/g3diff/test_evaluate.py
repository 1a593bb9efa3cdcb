import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import camera_from_label, orbit_labels
from headjax.geometry.rays import pixel_rays
from headjax.render import gaussian_field as field
from headjax.render.parts import PART_IDS
from headjax.systems.g3diff import autodecoder, evaluate, settings
from tests.systems.g3diff import tiny

SKIN, BROW, EYE, LIP = (PART_IDS[n] for n in ("skin", "l_brow", "r_eye", "u_lip"))


def record(*, yaw=0.0, identity=0):
    """A face of flat colours over white: skin, brows, eyes, lips, hair."""
    parts = np.zeros((8, 8), np.uint8)
    parts[1:7, 1:7] = SKIN
    parts[1, 1:7], parts[2, 2:6], parts[3, 2:6], parts[5, 3:5] = PART_IDS["hair"], BROW, EYE, LIP
    image = np.full((8, 8, 3), 255, np.uint8)
    for part, color in (
        (SKIN, (200, 150, 120)), (BROW, (80, 60, 40)), (EYE, (20, 60, 90)), (LIP, (180, 60, 70)),
        (PART_IDS["hair"], (30, 20, 10)),
    ):  # fmt: skip
        image[parts == part] = color
    return {
        "image": image,
        "parts": parts[..., None],
        "mask": np.where(parts > 0, 255, 0).astype(np.uint8)[..., None],
        "camera": orbit_labels([math.degrees(yaw)])[0],
        "identity": np.array(identity, np.int32),
    }


def truth(record):
    return record["image"] / 255.0, (record["mask"][..., 0] > 127).astype(np.float64)


def summary(*added):
    tally = evaluate.Tally()
    for one, color, alpha in added:
        tally.add(one, color, alpha)
    return tally.summary()


def test_a_perfect_prediction_is_perfect_in_every_measure():
    one = record()
    scores = summary((one, *truth(one)))
    assert scores["psnr"] == scores["psnr_face"] == math.inf
    assert scores["iou"] == 1
    for part in ("brows", "eyes", "lips"):
        np.testing.assert_allclose(scores[f"contrast_{part}"], 1.0)


@pytest.mark.parametrize("shift", [0.1, 0.01])
def test_a_known_shift_of_all_colours_gives_the_known_psnr(shift):
    one = record()
    color, alpha = truth(one)
    scores = summary((one, color - shift, alpha))
    for name in ("psnr", "psnr_face"):
        np.testing.assert_allclose(scores[name], -20 * math.log10(shift), rtol=1e-9)
    np.testing.assert_allclose(scores["contrast_brows"], 1.0)


def test_the_faces_psnr_looks_at_the_face_only():
    one = record()
    color, alpha = truth(one)
    face = np.isin(one["parts"][..., 0], [SKIN, BROW, EYE, LIP])
    outside = np.where(face[..., None], color, 0.0)
    scores = summary((one, outside, alpha))
    assert scores["psnr_face"] == math.inf and scores["psnr"] < 10
    inside = summary((one, np.where(face[..., None], color - 0.1, color), alpha))
    np.testing.assert_allclose(inside["psnr_face"], 20.0)
    np.testing.assert_allclose(inside["psnr"], 20 - 10 * math.log10(face.mean()), rtol=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_contrast_is_the_share_of_a_parts_difference_that_is_left(share):
    one = record()
    color, alpha = truth(one)
    parts = one["parts"][..., 0]
    skin = color[parts == SKIN][0]
    faded = np.where(np.isin(parts, [BROW, EYE, LIP])[..., None],
                     skin + share * (color - skin), color)  # fmt: skip
    scores = summary((one, faded, alpha))
    for part in ("brows", "eyes", "lips"):
        np.testing.assert_allclose(scores[f"contrast_{part}"], share, atol=1e-12)


@pytest.mark.parametrize(("degrees", "counts"), [
    (0, True), (39, True), (-39, True), (41, False), (-41, False), (180, False),
])  # fmt: skip
def test_the_face_counts_within_forty_degrees_of_the_front(degrees, counts):
    one = record(yaw=math.radians(degrees))
    scores = summary((one, *truth(one)))
    assert scores["psnr"] == math.inf
    assert (scores["psnr_face"] == math.inf) == counts
    assert math.isnan(scores["psnr_face"]) == (not counts)
    assert math.isnan(scores["contrast_eyes"]) == (not counts)


def test_a_shifted_silhouette_has_the_known_iou():
    one = record()
    color, alpha = truth(one)
    np.testing.assert_allclose(summary((one, color, np.roll(alpha, 1, axis=1)))["iou"], 5 / 7)


def test_errors_pool_over_pixels_and_contrast_is_the_median_over_identities():
    shifts, tally = (0.0, 0.1, 0.1), evaluate.Tally()
    for identity, share in enumerate((1.0, 0.5, 0.2)):
        one = record(identity=identity)
        color, alpha = truth(one)
        skin = color[one["parts"][..., 0] == SKIN][0]
        brow = (one["parts"][..., 0] == BROW)[..., None]
        tally.add(one, np.where(brow, skin + share * (color - skin), color), alpha)
    np.testing.assert_allclose(tally.summary()["contrast_brows"], 0.5)
    views = [(record(), *truth(record())) for _ in shifts]
    pooled = summary(*((r, c - s, a) for (r, c, a), s in zip(views, shifts, strict=True)))
    np.testing.assert_allclose(pooled["psnr"], -10 * math.log10(0.02 / 3), rtol=1e-9)


def scene():
    """A small config, its spheres, and untrained parameters."""
    config = tiny.config("render.evaluation.samples=8", "decoder.code_dim=8", "decoder.width=8")
    registration = tiny.registration(2, grid=4)
    state = jax.jit(lambda key: autodecoder.init_state(
        key, registration, config=config, steps=1
    ))(jax.random.key(0))  # fmt: skip
    return config, registration, state.params


def test_a_picture_is_all_its_rays_rendered_and_white_where_they_miss():
    config, registration, params = scene()
    heads = jax.jit(evaluate.make_builder(config, valid=registration.valid))(
        params, jnp.array([0, 1])
    )
    heads = heads.replace(radii=0.01 + 0 * heads.radii)  # far from the picture's corners
    labels = jnp.asarray(orbit_labels([0.0, 70.0]))
    color, depth, alpha = evaluate.make_renderer(config, resolution=16)(
        params["shared"]["mlp"], heads, labels
    )
    origins, directions = pixel_rays(camera_from_label(labels), resolution=16)
    whole = jax.jit(lambda mlp, heads: field.render_rays(
        mlp, heads, origins=origins, directions=directions,
        options=settings.field_options(config),
        sampling=settings.ray_options(config.render.evaluation),
    ))(params["shared"]["mlp"], heads)  # fmt: skip
    assert color.shape == (2, 16, 16, 3) and depth.shape == alpha.shape == (2, 16, 16)
    np.testing.assert_allclose(color, whole.features.reshape(2, 16, 16, 3), atol=1e-4)
    np.testing.assert_allclose(alpha, whole.alpha.reshape(2, 16, 16), atol=1e-4)
    seen = np.asarray(alpha) > 1e-3
    np.testing.assert_allclose(
        np.asarray(depth)[seen], np.asarray(whole.depth.reshape(2, 16, 16))[seen], rtol=1e-3
    )
    np.testing.assert_array_equal(np.asarray(color)[:, 0, 0], 1.0)
    assert 0.05 < seen.mean() < 0.6


def test_the_mean_identity_has_the_mean_of_all_maps_and_the_cells_of_most():
    config, registration, params = scene()
    mean = evaluate.mean_head(params, registration=registration, config=config)
    assert mean.payload.shape == (1, 8, 8, 24)
    for name in ("centers", "rpy", "radii"):
        np.testing.assert_allclose(
            getattr(mean, name)[0], np.asarray(params["tables"][name]).mean(0), atol=1e-6
        )
    np.testing.assert_array_equal(mean.valid[0], registration.valid[0])
