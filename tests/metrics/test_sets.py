import itertools

import numpy as np
import pytest

from headjax.metrics import sets


def points(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def slow_distances(a, b):
    return np.array([[np.linalg.norm(x - y) for y in b] for x in a])


def test_distances_are_those_of_every_pair():
    a, b = points(0, 7, 5), points(1, 4, 5)
    np.testing.assert_allclose(sets.distances(a, b), slow_distances(a, b), rtol=1e-9)


def test_a_row_is_not_its_own_nearest():
    a = points(0, 6, 3)
    slow = [min(np.linalg.norm(a[i] - a[j]) for j in range(6) if j != i) for i in range(6)]
    np.testing.assert_allclose(sets.nearest_other(a), slow, rtol=1e-9)
    twice = np.concatenate([a, a])
    np.testing.assert_allclose(sets.nearest_other(twice), 0.0, atol=1e-6)


def test_features_are_box_averages_of_the_views():
    views = points(0, 2, 3, 8, 8, 3)
    features = sets.render_features(views, size=4).reshape(2, 3, 4, 4, 3)
    for n, v, i, j in itertools.product(range(2), range(3), range(4), range(4)):
        block = views[n, v, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(features[n, v, i, j], block.mean((0, 1)), rtol=1e-9)


def test_features_do_not_depend_on_the_resolution_of_flat_pictures():
    small = points(0, 2, 1, 4, 4, 3)
    large = small.repeat(3, axis=2).repeat(3, axis=3)
    np.testing.assert_allclose(
        sets.render_features(large, size=4), sets.render_features(small, size=4), rtol=1e-9
    )


def test_views_that_do_not_shrink_evenly_are_refused():
    with pytest.raises(ValueError, match="48x48 pixels do not shrink evenly to 32x32"):
        sets.render_features(np.zeros((1, 1, 48, 48, 3)))


def test_sample_quality_is_the_median_of_nearest_distances():
    samples, train, heldout = points(0, 5, 4), points(1, 9, 4), points(2, 3, 4)
    quality = sets.sample_quality(samples, train=train, heldout=heldout)
    others = slow_distances(train, train) + np.diag(np.full(9, np.inf))
    spread = np.median(others.min(1))
    to_train = np.median(slow_distances(samples, train).min(1))
    apart = slow_distances(samples, samples) + np.diag(np.full(5, np.inf))
    expected = {
        "sample_to_train": to_train,
        "sample_to_sample": np.median(apart.min(1)),
        "train_to_train": spread,
        "heldout_to_train": np.median(slow_distances(heldout, train).min(1)),
        "sample_to_train_relative": to_train / spread,
        "sample_to_sample_relative": np.median(apart.min(1)) / spread,
    }
    assert set(quality) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(quality[name], value, rtol=1e-9, err_msg=name)


def test_copies_of_training_heads_and_copies_of_one_sample_are_found_out():
    train, heldout = points(0, 8, 4), points(1, 3, 4)
    memorised = sets.sample_quality(train[:4], train=train, heldout=heldout)
    assert memorised["sample_to_train_relative"] < 1e-6
    collapsed = sets.sample_quality(
        np.repeat(points(2, 1, 4), 5, axis=0), train=train, heldout=heldout
    )
    assert collapsed["sample_to_sample_relative"] < 1e-6


def test_a_single_sample_has_no_nearest_other():
    quality = sets.sample_quality(points(0, 1, 4), train=points(1, 4, 4), heldout=points(2, 2, 4))
    assert np.isnan(quality["sample_to_sample"]) and np.isfinite(quality["sample_to_train"])
