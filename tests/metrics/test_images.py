import itertools
import math

import numpy as np
import pytest

from headjax.metrics import images


def pictures(seed, *shape):
    return np.random.default_rng(seed).random((*shape, 3)).astype(np.float32)


def test_psnr_is_that_of_the_squared_error_over_all_values():
    a, b = pictures(0, 2, 5, 4), pictures(1, 2, 5, 4)
    slow = np.mean([(float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)])
    np.testing.assert_allclose(images.squared_error(a, b).psnr(), -10 * math.log10(slow), rtol=1e-9)


@pytest.mark.parametrize(("shift", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_a_known_shift_gives_a_known_psnr(shift, decibels):
    a = np.zeros((4, 4, 3))
    np.testing.assert_allclose(images.squared_error(a + shift, a).psnr(), decibels, atol=1e-9)


def test_equal_pictures_have_infinite_psnr_and_no_pictures_have_none():
    a = pictures(0, 4, 4)
    assert images.squared_error(a, a).psnr() == math.inf
    assert math.isnan(images.PooledError().psnr())


def test_only_chosen_pixels_count():
    a, b = pictures(0, 2, 3, 3), pictures(1, 2, 3, 3)
    where = np.random.default_rng(2).random((2, 3, 3)) > 0.5
    slow = [
        (float(a[v, i, j, c]) - float(b[v, i, j, c])) ** 2
        for v, i, j, c in itertools.product(range(2), range(3), range(3), range(3))
        if where[v, i, j]
    ]
    pooled = images.squared_error(a, b, where=where)
    np.testing.assert_allclose([pooled.squared, pooled.count], [sum(slow), len(slow)], rtol=1e-9)


def test_pooling_views_one_by_one_is_pooling_them_together():
    a, b = pictures(0, 3, 4, 4), pictures(1, 3, 4, 4)
    one_by_one = sum(
        (images.squared_error(x, y) for x, y in zip(a, b, strict=True)), images.PooledError()
    )
    np.testing.assert_allclose(one_by_one.psnr(), images.squared_error(a, b).psnr(), rtol=1e-12)
    # It is not the mean of the views' PSNRs, which a single good view would lift.
    mixed = images.squared_error(a[0], a[0]) + images.squared_error(a[1], b[1])
    assert math.isfinite(mixed.psnr())


def test_iou_is_the_shared_part_of_two_discs():
    y, x = np.indices((40, 40))
    left, right = (((x - c) ** 2 + (y - 20) ** 2 < 100) for c in (14, 26))
    first, second = (set(zip(*np.nonzero(disc), strict=True)) for disc in (left, right))
    np.testing.assert_allclose(
        images.overlap(left, right).iou(), len(first & second) / len(first | second)
    )
    assert images.overlap(left, left).iou() == 1
    assert images.overlap(left, ~left).iou() == 0
    assert math.isnan(images.overlap(left & False, left & False).iou())


def test_overlaps_pool_pixels():
    masks = np.random.default_rng(0).random((2, 3, 8, 8)) > 0.5
    pooled = sum((images.overlap(*pair) for pair in masks.swapaxes(0, 1)), images.Overlap())
    assert pooled == images.overlap(masks[0], masks[1])


def part_picture(*, part, skin):
    """Left column the part, the rest skin, and a corner of something else."""
    labels = np.ones((4, 4), np.uint8)
    labels[:, 0], labels[3, 3] = 4, 17
    color = np.where(labels[..., None] == 4, np.asarray(part), np.asarray(skin)).astype(np.float64)
    color[3, 3] = 0.123
    return color, labels


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -1.0, 2.0])
def test_contrast_is_the_share_of_the_true_difference_that_is_there(share):
    skin, part = np.array([0.8, 0.6, 0.5]), np.array([0.2, 0.1, 0.1])
    true, labels = part_picture(part=part, skin=skin)
    guess, _ = part_picture(part=skin + share * (part - skin), skin=skin)
    color = images.part_color(guess, true, parts=labels, part=(4, 5), skin=1)
    np.testing.assert_allclose(color.contrast(), share, atol=1e-12)


def test_contrast_ignores_a_cast_over_part_and_skin_and_colours_across_the_true_difference():
    skin, part = np.array([0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.1])
    true, labels = part_picture(part=part, skin=skin)
    guess, _ = part_picture(part=part + [0.2, 0.0, 0.1], skin=skin + [0.0, 0.1, 0.1])
    color = images.part_color(guess, true, parts=labels, part=(4,), skin=1)
    np.testing.assert_allclose(color.contrast(), 1.0, atol=1e-12)


def test_contrast_pools_pixels_and_needs_both_part_and_skin():
    true, labels = part_picture(part=[0.2, 0.2, 0.2], skin=[0.8, 0.8, 0.8])
    whole = images.part_color(true, true, parts=labels, part=(4,), skin=1)
    halves = sum(
        (images.part_color(true[i:j], true[i:j], parts=labels[i:j], part=(4,), skin=1)
         for i, j in ((0, 1), (1, 4))),
        images.PartColor(),
    )  # fmt: skip
    np.testing.assert_allclose(halves.part, whole.part)
    assert (halves.part_pixels, halves.skin_pixels) == (whole.part_pixels, whole.skin_pixels)
    assert math.isnan(images.PartColor().contrast())
    bare = images.part_color(true, true, parts=np.ones_like(labels), part=(4,), skin=1)
    assert math.isnan(bare.contrast())
