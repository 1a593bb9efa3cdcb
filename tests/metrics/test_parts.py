"""The judge's scores, on true labels of heads and on labels made by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import FOCAL, orbit
from headjax.head import procedural
from headjax.metrics import parts
from headjax.nets import part_segmenter
from headjax.nets.part_segmenter import CLASSES, Judge, PartSegmenter, PartSegmenterConfig
from headjax.render.mesh import render_views

YAWS = {"front": 0.0, "left": 40.0, "right": -40.0, "back": 180.0}
HEADS = range(300, 324)


@pytest.fixture(scope="module")
def heads():
    """View -> (labels, depth) of true heads at 64 x 64."""
    yaw = np.deg2rad(np.array(list(YAWS.values()), np.float32))
    cameras = orbit(yaw, np.zeros_like(yaw))
    shown = [
        render_views(
            procedural.person_scene(procedural.sample_person(seed)),
            cameras,
            resolution=64,
            supersample=2,
        )
        for seed in HEADS
    ]
    labels = part_segmenter.classes_of(np.stack([views.parts for views in shown]))
    depth = np.stack([views.depth for views in shown])
    return {name: (labels[:, i], depth[:, i]) for i, name in enumerate(YAWS)}


def painted(*rectangles, size=64):
    """A label map [1, size, size] with rectangles (class, rows, columns)."""
    labels = np.zeros((1, size, size), np.uint8)
    for name, rows, columns in rectangles:
        labels[0, slice(*rows), slice(*columns)] = CLASSES.index(name)
    return labels


FACE = (
    ("skin", (10, 50), (20, 44)),
    ("brows", (18, 19), (24, 29)),
    ("brows", (18, 19), (35, 40)),
    ("eyes", (22, 24), (24, 29)),
    ("eyes", (22, 24), (35, 40)),
    ("nose", (22, 34), (30, 34)),
    ("mouth", (38, 41), (28, 36)),
)


def without(name, *, after=0):
    """`FACE` but for the parts of a name, but for those before number `after`."""
    places = [i for i, part in enumerate(FACE) if part[0] == name][after:]
    return painted(*[part for i, part in enumerate(FACE) if i not in places])


def test_true_heads_show_all_parts_from_the_front(heads):
    for name, seen in parts.found(heads["front"][0]).items():
        assert seen.all(), name
    assert parts.all_found(heads["front"][0]).all()


def test_true_heads_show_their_parts_turned_by_40_degrees(heads):
    for side in ("left", "right"):
        assert parts.all_found(heads[side][0], view="turned").mean() > 0.95


def test_backs_of_true_heads_show_no_face(heads):
    labels, depth = heads["back"]
    assert not parts.all_found(labels, view="turned").any()
    assert parts.facial_share(labels).max() < 0.01
    assert parts.facial_share(labels, head=depth > 0).max() < 0.01
    assert parts.facial_share(heads["front"][0]).min() > 0.05


def test_noses_of_true_heads_stand_out_by_far_more_than_3_percent(heads):
    labels, depth = heads["front"]
    share = parts.nose_stands_out(depth, labels)
    assert np.mean(share >= 0.03) >= 0.95
    assert 0.1 < np.median(share) < 0.4


@pytest.mark.parametrize("name", parts.FACIAL)
def test_a_part_that_is_missing_is_not_found_and_the_others_are(name):
    assert parts.all_found(painted(*FACE)).all()
    seen = parts.found(without(name))
    assert not seen.pop(name).any()
    assert all(other.all() for other in seen.values())
    assert not parts.all_found(without(name)).any()


@pytest.mark.parametrize("name", ["brows", "eyes"])
def test_one_of_a_pair_is_not_enough_from_the_front_but_is_from_the_side(name):
    assert not parts.found(without(name, after=1))[name].any()
    assert parts.found(without(name, after=1), view="turned")[name].all()


def test_parts_in_the_wrong_order_are_not_found():
    upside_down = painted(*FACE)[:, ::-1]
    assert not any(seen.any() for seen in parts.found(upside_down).values())
    stray = painted(*[part for part in FACE if part[0] != "mouth"], ("mouth", (12, 15), (28, 36)))
    assert not parts.found(stray)["mouth"].any()


def test_an_empty_picture_shows_nothing():
    empty = painted()
    assert not any(seen.any() for seen in parts.found(empty).values())
    assert math.isnan(parts.facial_share(empty)[0])
    assert math.isnan(parts.nose_stands_out(np.zeros((1, 64, 64)), empty)[0])


def test_the_facial_share_counts_pixels_of_the_head():
    labels = painted(("hair", (0, 10), (0, 10)), ("eyes", (0, 2), (0, 5)))
    assert parts.facial_share(labels)[0] == pytest.approx(0.1)
    head = np.zeros((1, 64, 64), bool)
    head[0, :20, :10] = True
    assert parts.facial_share(labels, head=head)[0] == pytest.approx(0.05)
    head[0, 0] = False
    assert parts.facial_share(labels, head=head)[0] == pytest.approx(5 / 190)


def test_the_nose_is_measured_in_head_widths():
    """A face at depth d, w pixels wide, is w d / (focal 64) wide; so is the nose's height told."""
    labels = painted(*FACE)
    depth = np.full((1, 64, 64), 2.5)
    width = 24 * 2.5 / (FOCAL * 64)
    depth[0, 30:33, 31:33] -= 0.2 * width
    assert parts.nose_stands_out(depth, labels)[0] == pytest.approx(0.2)
    assert parts.nose_stands_out(5 * depth, labels)[0] == pytest.approx(0.2)
    nearer = depth.copy()
    nearer[0, 22:24, 38:40] -= 0.05 * width  # One corner comes nearer: the smaller gap counts.
    assert parts.nose_stands_out(nearer, labels)[0] == pytest.approx(0.15, rel=0.01)
    assert parts.nose_stands_out(np.full_like(depth, 2.5), labels)[0] == 0
    hollow = 5.0 - depth
    assert parts.nose_stands_out(hollow, labels)[0] <= 0


def test_overlap_pools_pixels_before_it_divides():
    true = painted(("nose", (0, 2), (0, 2)), ("hair", (4, 8), (0, 4)))
    told = painted(("nose", (0, 2), (0, 1)), ("hair", (4, 8), (0, 4)))
    one = parts.class_overlap(told, true)
    assert one.iou()["nose"] == 0.5 and one.iou()["hair"] == 1.0
    assert math.isnan(one.iou()["eyes"])
    assert one.mean(("nose", "hair", "eyes")) == 0.75
    both = one + parts.class_overlap(true, true)
    assert both.iou()["nose"] == 0.75
    together = parts.class_overlap(np.concatenate([told, true]), np.concatenate([true, true]))
    np.testing.assert_array_equal(together.common, both.common)
    np.testing.assert_array_equal(together.either, both.either)


@pytest.fixture(scope="module")
def judge():
    config = PartSegmenterConfig(widths=(8, 8, 8), margin=0)
    return Judge(config, part_segmenter.init_params(config, jax.random.key(0)))


def test_labels_are_those_of_the_largest_logits_however_many_pictures_come(judge):
    images = np.random.default_rng(0).uniform(-1, 1, (33, 64, 64, 3)).astype(np.float32)
    labels = parts.labels_of(judge, images)
    assert labels.shape == (33, 64, 64) and labels.dtype == np.uint8
    logits = PartSegmenter(judge.config).apply({"params": judge.params}, jnp.asarray(images[:2]))
    assert np.mean(np.argmax(logits, -1) == labels[:2]) > 0.999
    np.testing.assert_array_equal(parts.labels_of(judge, images[32:]), labels[32:])
    assert parts.labels_of(judge, images[:0]).shape == (0, 64, 64)


def test_pictures_of_another_size_are_brought_to_64(judge):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    assert parts.labels_of(judge, doubled).shape == (2, 64, 64)
    flat = np.full((1, 128, 128, 3), 0.3, np.float32)
    np.testing.assert_array_equal(
        parts.labels_of(judge, flat), parts.labels_of(judge, flat[:, :64, :64])
    )
