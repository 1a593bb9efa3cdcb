"""The kernel distance, against its sums written out and a closed form."""

import numpy as np
import pytest

from headjax.metrics.kid import kernel_distance, unbiased_mmd


def test_the_estimate_is_its_sums_written_out():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((5, 4)) + 1

    def kernel(u, v):
        return (float(u @ v) / 4 + 1) ** 3

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return np.mean([kernel(z[i], z[j]) for i, j in pairs])

    cross = np.mean([kernel(u, v) for u in x for v in y])
    np.testing.assert_allclose(unbiased_mmd(x, y), within(x) + within(y) - 2 * cross, rtol=1e-12)


def test_its_expectation_is_the_difference_of_the_first_three_moments():
    """For d = 1: (xy + 1)³ = Σ_j (3 over j) x^j y^j, so MMD² = Σ_j (3 over j) (E x^j − E y^j)²."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 60, 1)), 0.5 + 0.8 * rng.standard_normal((400, 50, 1))
    first, second = (0.0, 1.0, 0.0), (0.5, 0.25 + 0.64, 0.125 + 3 * 0.5 * 0.64)
    wanted = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), first, second, strict=True))
    values = [unbiased_mmd(u, v) for u, v in zip(x, y, strict=True)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - wanted) < 4 * error
    assert error < 0.1 * wanted


def test_it_is_zero_on_average_for_two_samples_of_one_distribution():
    rng = np.random.default_rng(2)
    values = [unbiased_mmd(*rng.standard_normal((2, 40, 8))) for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_subsets_are_drawn_by_the_seed_and_average_to_the_whole():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((300, 8)), rng.standard_normal((250, 8)) + 0.3
    few = kernel_distance(x, y, subsets=200, subset_size=100)
    assert few == kernel_distance(x, y, subsets=200, subset_size=100)
    assert few != kernel_distance(x, y, subsets=200, subset_size=100, seed=1)
    assert few.deviation > 0
    assert abs(few.mean - unbiased_mmd(x, y)) < 4 * few.deviation / np.sqrt(200)
    small = kernel_distance(x[:250], y, subsets=2)
    np.testing.assert_allclose(small.mean, unbiased_mmd(x[:250], y), rtol=1e-9)
    np.testing.assert_allclose(small.deviation, 0, atol=1e-12)


def test_one_picture_is_not_enough():
    with pytest.raises(ValueError, match="at least 2 samples, got 1 and 3"):
        unbiased_mmd(np.ones((1, 2)), np.ones((3, 2)))
