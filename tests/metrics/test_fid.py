"""The Fréchet distance, against Gaussians' closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg

from headjax.metrics.fid import Moments, frechet_distance, moments


def gaussian(mean, covariance, *, count=1000):
    """The moments that a sample with exactly this mean and covariance has."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    outer = covariance * (count - 1) + count * np.outer(mean, mean)
    return Moments(count, mean * count, outer)


def features(seed, count, size, *, spread=1.0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((size, size)) * spread
    return (rng.standard_normal((count, size)) @ mixing + rng.standard_normal(size)).astype(
        np.float32
    )


def test_between_lines_it_is_the_difference_of_means_and_deviations_squared():
    distance = frechet_distance(gaussian([1.0], [[4.0]]), gaussian([3.5], [[0.25]]))
    np.testing.assert_allclose(distance, 2.5**2 + (2.0 - 0.5) ** 2, rtol=1e-12)


def test_for_covariances_that_commute_it_is_that_of_each_axis():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([5.0, 1, 0.5, 4, 9])
    mean = np.arange(5.0)
    a = gaussian(mean, rotation @ np.diag(first) @ rotation.T)
    b = gaussian(-mean, rotation @ np.diag(second) @ rotation.T)
    wanted = 4 * (mean**2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(a, b), wanted, rtol=1e-10)


def test_of_samples_it_is_what_scipys_matrix_root_gives():
    x, y = features(1, 500, 24), features(2, 700, 24, spread=0.7)
    first, second = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
    difference = x.mean(0, dtype=float) - y.mean(0, dtype=float)
    root = scipy.linalg.sqrtm(first @ second).real
    wanted = difference @ difference + np.trace(first + second - 2 * root)
    np.testing.assert_allclose(frechet_distance(moments(x), moments(y)), wanted, rtol=1e-9)


def test_planes_without_a_common_direction_share_nothing():
    a = gaussian([0, 0, 0, 0], np.diag([1.0, 2.0, 0.0, 0.0]))
    b = gaussian([0, 0, 0, 0], np.diag([0.0, 0.0, 3.0, 4.0]))
    np.testing.assert_allclose(frechet_distance(a, b), 10.0, rtol=1e-12)
    still = gaussian([1, 0, 0, 0], np.zeros((4, 4)))
    np.testing.assert_allclose(frechet_distance(a, still), 1 + 3.0, rtol=1e-12)


def test_fewer_pictures_than_features_give_the_distance_within_their_span():
    """Both sets lie in a space of 12 of 200 axes, where both covariances have full rank."""
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((200, 12)))[0]
    x, y = features(4, 40, 12).astype(float), features(5, 50, 12).astype(float)
    inside = frechet_distance(moments(x), moments(y))
    outside = frechet_distance(moments(x @ basis.T), moments(y @ basis.T))
    np.testing.assert_allclose(outside, inside, rtol=1e-8)
    itself = frechet_distance(moments(x @ basis.T), moments(x @ basis.T))
    np.testing.assert_allclose(itself, 0, atol=1e-9)


def test_sums_of_parts_are_those_of_the_whole():
    x = features(6, 5000, 16)
    parts = sum((moments(part) for part in np.array_split(x, 7)), Moments.empty(16))
    whole = moments(x)
    assert parts.count == whole.count == 5000
    np.testing.assert_allclose(parts.outer, whole.outer, rtol=1e-10)
    np.testing.assert_allclose(parts.covariance(), np.cov(x.T.astype(float)), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(frechet_distance(parts, whole), 0.0, atol=1e-9)


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        frechet_distance(moments(np.ones((1, 3))), moments(np.ones((5, 3))))
