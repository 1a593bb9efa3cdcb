"""The K nearest Gaussians: exactly those, nearest first, ties by index."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.knn_blend.select import select


@functools.partial(jax.jit, static_argnames=("neighbors", "metric"))
def _select(points, frames, *, neighbors, metric="euclidean"):
    # A loop around it, as in the op: two tiles.
    tiles = points.reshape(3, 2, -1).swapaxes(0, 1)
    ids = jax.lax.map(lambda x: select(x, frames, neighbors=neighbors, metric=metric), tiles)
    return ids.swapaxes(0, 1).reshape(neighbors, -1)


def _inputs(count, *, points=90, seed=0):
    random = np.random.default_rng(seed)
    centers = random.uniform(-0.3, 0.3, (3, count))
    whiten = random.normal(size=(9, count)) * 10
    return (
        jnp.asarray(random.uniform(-0.4, 0.4, (3, points)), jnp.float32),
        jnp.asarray(np.concatenate([centers, whiten]), jnp.float32),
    )


def _squared(points, frames, metric):
    """[g r] in float64."""
    points, frames = np.float64(points), np.float64(frames)
    delta = points[:, None] - frames[:3, :, None]
    if metric == "rbf":
        delta = np.einsum("abg,bgr->agr", frames[3:].reshape(3, 3, -1), delta)
    return np.sum(delta**2, axis=0)


def _assert_nearest(ids, squared):
    ids, count = np.asarray(ids), ids.shape[0]
    chosen = np.take_along_axis(squared, ids, axis=0)
    kth = np.sort(squared, axis=0)[count - 1]
    assert (chosen <= kth * (1 + 1e-5)).all()
    assert (np.diff(chosen, axis=0) >= -1e-5 * chosen[1:]).all()
    assert all(len(set(column)) == count for column in ids.T)


# Direct; groups of 4, of 8; groups of groups.
@pytest.mark.parametrize("count", (1, 40, 150, 333, 2100))
def test_they_are_the_nearest(count):
    points, frames = _inputs(count)
    neighbors = min(count, 3)
    ids = _select(points, frames, neighbors=neighbors)
    _assert_nearest(ids, _squared(points, frames, "euclidean"))


# Twelve Gaussians for every K, and groups of them for the outermost.
@pytest.mark.parametrize(
    "neighbors,count", (*((k, 12) for k in range(1, 9)), (1, 300), (4, 300), (8, 300))
)
def test_every_k_to_8_is_served(neighbors, count):
    points, frames = _inputs(count)
    ids = _select(points, frames, neighbors=neighbors)
    _assert_nearest(ids, _squared(points, frames, "euclidean"))


@pytest.mark.parametrize("count", (40, 300))
def test_the_rbf_metric_ranks_by_the_exponent(count):
    points, frames = _inputs(count)
    ids = _select(points, frames, neighbors=3, metric="rbf")
    _assert_nearest(ids, _squared(points, frames, "rbf"))
    assert (ids != _select(points, frames, neighbors=3)).any()


@pytest.mark.parametrize("side,neighbors", ((3, 2), (7, 5), (13, 3)))
def test_exact_ties_go_to_the_lowest_index(side, neighbors):
    """On a lattice of eighths every distance is exact and most are shared."""
    axis = np.arange(side) / 8
    lattice = np.stack(np.meshgrid(axis, axis, axis), 0).reshape(3, -1)
    lattice = np.random.default_rng(0).permutation(lattice, axis=1)
    points = (np.random.default_rng(1).integers(0, 2 * side, (3, 60)) / 16).astype(np.float32)
    frames = jnp.asarray(np.concatenate([lattice, np.zeros((9, side**3))]), jnp.float32)
    ids = _select(jnp.asarray(points), frames, neighbors=neighbors)
    want = np.argsort(_squared(points, frames, "euclidean"), axis=0, kind="stable")[:neighbors]
    np.testing.assert_array_equal(ids, want)


@pytest.mark.parametrize("count", (20, 300))
def test_indices_stay_in_bounds_whatever_the_points_hold(count):
    _, frames = _inputs(count)
    for value in (np.nan, np.inf, 3e38, -1e25):
        ids = _select(jnp.full((3, 90), value, jnp.float32), frames, neighbors=3)
        assert (np.asarray(ids) >= 0).all() and (np.asarray(ids) < count).all()
