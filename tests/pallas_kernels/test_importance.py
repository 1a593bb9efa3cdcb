"""Importance samples: the distributions they are drawn from, and how they are put in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ray_march import importance


def first_pass(seed=0, *, rays=4, samples=12):
    rng = np.random.default_rng(seed)
    depths = np.sort(rng.uniform(2.0, 3.0, (rays, samples)), axis=-1)
    weights = rng.exponential(0.1, (rays, samples - 1)) * (rng.random((rays, samples - 1)) > 0.5)
    return depths, weights, rng.random((rays, 9))


def slow_eg3d(depths, weights, uniform):
    """One ray, in float64, index by index (facts on EG3D's `sample_pdf`)."""
    count = len(weights)
    padded = np.concatenate([[0.0], weights, [0.0]])
    peaks = [max(padded[i], padded[i + 1]) for i in range(count + 1)]
    smooth = [(peaks[i] + peaks[i + 1]) / 2 + 0.01 for i in range(count)]
    edges = [(depths[i] + depths[i + 1]) / 2 for i in range(count)]
    inner = np.array(smooth[1:-1]) + 1e-5
    cumulative = np.concatenate([[0.0], np.cumsum(inner / inner.sum())])
    out = []
    for u in uniform:
        above = np.searchsorted(cumulative, u, side="right")
        low, high = max(above - 1, 0), min(above, len(inner))
        span = cumulative[high] - cumulative[low]
        share = (u - cumulative[low]) / (span if span >= 1e-5 else 1.0)
        out.append(edges[low] + share * (edges[high] - edges[low]))
    return out


def test_eg3ds_samples_are_its_blurred_and_shifted_density():
    depths, weights, uniform = first_pass()
    arrays = [jnp.asarray(a, jnp.float32) for a in (depths, weights, uniform)]
    got = importance.resample(*arrays[:2], uniform=arrays[2], kind="eg3d")
    want = [slow_eg3d(*ray) for ray in zip(depths, weights, uniform, strict=True)]
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert np.all((got >= depths[:, :1]) & (got <= depths[:, -1:]))


@pytest.mark.parametrize("kind", ("plain", "eg3d"))
def test_samples_carry_no_gradient(kind):
    arrays = [jnp.asarray(a, jnp.float32) for a in first_pass()]

    def total(depths, weights, uniform):
        return jnp.sum(importance.resample(depths, weights, uniform=uniform, kind=kind))

    for gradient in jax.grad(total, argnums=(0, 1, 2))(*arrays):
        np.testing.assert_array_equal(gradient, 0.0)


def test_merged_ranks_are_those_of_a_stable_sort_ties_included():
    rng = np.random.default_rng(1)
    ascending = np.sort(rng.integers(0, 9, (5, 7)), axis=-1).astype(np.float32)
    more = rng.integers(0, 9, (5, 6)).astype(np.float32)
    ranks = importance.merged_ranks(jnp.asarray(ascending), jnp.asarray(more))
    both = np.concatenate([ascending, more], axis=-1)
    order = np.argsort(both, axis=-1, kind="stable")
    np.testing.assert_array_equal(np.argsort(np.asarray(ranks), axis=-1), order)
    np.testing.assert_array_equal(importance.inverse(ranks), order)
