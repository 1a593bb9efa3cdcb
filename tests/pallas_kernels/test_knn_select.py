"""The K nearest Gaussians: exactly those, nearest first, ties by index."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.knn_blend import cells, reference
from pallas_kernels.knn_blend.select import select
from pallas_kernels.knn_blend.specs import Spec, make_inputs, options_of


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


@functools.partial(jax.jit, static_argnames=("neighbors",))
def _through_cells(points, frames, *, neighbors):
    """`_select` through a grid; and how many of its cells have no list."""
    box = cells.box_of(points.T, frames)
    grid = cells.build(frames, box, neighbors=neighbors, side=8)
    tiles = points.reshape(3, 2, 2, -1).transpose(1, 2, 0, 3)
    ids = jax.lax.map(
        lambda x: cells.select_tile(x, frames, grid, neighbors=neighbors), tiles
    )
    return ids.transpose(2, 0, 1, 3).reshape(neighbors, -1), jnp.sum(grid.counts < 0)


def _surface(count, *, seed=0):
    """Centres on an ellipsoid, row after row, as UV maps hold a head's."""
    random = np.random.default_rng(seed)
    polar, around = np.divmod(np.arange(count), int(count**0.5))
    polar, around = np.pi * polar / int(count**0.5), 2 * np.pi * around / int(count**0.5)
    ring = np.sin(polar)
    surface = np.stack([0.2 * ring * np.cos(around), 0.27 * np.cos(polar), 0.24 * ring])
    return surface + random.normal(size=surface.shape) * 0.003


def _frames(centers, *, invalid=()):
    centers = np.array(centers, np.float32)
    centers[:, list(invalid)] = 1e15
    return jnp.asarray(np.concatenate([centers, np.ones((9, centers.shape[1]))]), jnp.float32)


class TestCells:
    """A grid's lists change the time alone: the same neighbours, in the same order."""

    # One number of Gaussians, so that one compilation serves; more than a list can hold.
    COUNT = 343

    def _assert_same(self, points, frames, *, neighbors=3):
        points = jnp.asarray(points, jnp.float32)
        ids, without = _through_cells(points, frames, neighbors=neighbors)
        squared = _squared(points, frames, "euclidean")
        want = np.argsort(squared, axis=0, kind="stable")[:neighbors]
        chosen = np.take_along_axis(squared, np.asarray(ids), axis=0)
        expected = np.take_along_axis(squared, want, axis=0)
        np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=1e-12)
        return ids, want, int(without)

    def _points(self, count=400, *, half=0.4):
        return np.random.default_rng(5).uniform(-half, half, (3, count))

    @pytest.mark.parametrize(
        "neighbors", [1, 3, *(pytest.param(k, marks=pytest.mark.sweep) for k in (2, 4, 5, 6, 7)), 8]
    )
    def test_every_k_to_8_finds_the_nearest(self, neighbors):
        frames = _frames(_surface(self.COUNT))
        _, _, without = self._assert_same(self._points(), frames, neighbors=neighbors)
        assert without < 8**3 / 4

    def test_the_order_of_the_gaussians_does_not_matter(self):
        centers = np.random.default_rng(0).permutation(_surface(self.COUNT), axis=1)
        assert self._assert_same(self._points(), _frames(centers))[2] < 8**3 / 4

    def test_gaussians_scattered_in_a_box_are_found(self):
        centers = np.random.default_rng(0).uniform(-0.3, 0.3, (3, self.COUNT))
        assert self._assert_same(self._points(), _frames(centers))[2] == 0

    def test_exact_ties_go_to_the_lowest_index(self):
        axis = np.arange(7) / 8
        lattice = np.stack(np.meshgrid(axis, axis, axis), 0).reshape(3, -1)
        lattice = np.random.default_rng(0).permutation(lattice, axis=1)
        points = np.random.default_rng(1).integers(-1, 14, (3, 400)) / 16
        ids, want, without = self._assert_same(points, _frames(lattice))
        np.testing.assert_array_equal(ids, want)
        assert without < 8**3

    def test_coincident_gaussians_come_in_order(self):
        few = np.random.default_rng(0).integers(-4, 5, (3, self.COUNT // 7)) / 16
        ids, want, _ = self._assert_same(self._points() // 0.03125 / 32, _frames(np.tile(few, 7)))
        np.testing.assert_array_equal(ids, want)

    def test_clusters_too_long_for_a_list_are_compared_whole(self):
        """All Gaussians at one place: nobody is nearer than anybody, no cell has a list."""
        frames = _frames(np.full((3, self.COUNT), 0.125))
        ids, want, without = self._assert_same(self._points() // 0.03125 / 32, frames)
        np.testing.assert_array_equal(ids, want)
        assert without == 8**3

    def test_a_sphere_seen_from_its_centre_is_served(self):
        """Everything is equally far from there: the cells around it have the longest lists."""
        normals = np.random.default_rng(0).normal(size=(3, self.COUNT))
        frames = _frames(0.3 * normals / np.linalg.norm(normals, axis=0))
        assert self._assert_same(self._points(), frames)[2] < 8**3

    def test_points_far_outside_are_compared_whole(self):
        points = self._points()
        points[:, ::7] *= 1e4
        points[:, ::31] = 3.0
        _, _, without = self._assert_same(points, _frames(_surface(self.COUNT)))
        assert without < 8**3 / 4

    def test_gaussians_that_are_not_valid_are_not_chosen_while_enough_are(self):
        invalid = np.random.default_rng(0).permutation(self.COUNT)[: self.COUNT // 2]
        ids, _, _ = self._assert_same(
            self._points(), _frames(_surface(self.COUNT), invalid=invalid)
        )
        assert not np.isin(np.asarray(ids), invalid).any()

    def test_with_fewer_valid_than_k_the_others_come_in_order(self):
        frames = _frames(_surface(self.COUNT), invalid=range(2, self.COUNT))
        ids, _, _ = self._assert_same(self._points(), frames)
        assert (np.sort(np.asarray(ids), axis=0) == np.array([[0], [1], [2]])).all()

    @pytest.mark.parametrize("value", (np.nan, np.inf, 3e38))
    def test_indices_stay_in_bounds_whatever_the_points_hold(self, value):
        points = self._points()
        points[:, 3:9] = value
        ids, _ = _through_cells(
            jnp.asarray(points, jnp.float32), _frames(_surface(self.COUNT)), neighbors=3
        )
        assert (np.asarray(ids) >= 0).all() and (np.asarray(ids) < self.COUNT).all()

    def test_far_from_the_origin_rounding_loses_nobody(self):
        centers = _surface(self.COUNT) + 100.0
        self._assert_same(self._points() + 100.0, _frames(centers))

    def test_a_grid_is_used_for_many_points_and_many_gaussians_only(self):
        many = {"points": 2**16, "gaussians": 4096, "neighbors": 3, "metric": "euclidean"}
        assert cells.pays(**many)
        for change in ({"points": 2**10}, {"gaussians": 256}, {"metric": "rbf"}):
            assert not cells.pays(**many | change)

    def test_the_reference_finds_the_same_with_and_without_lists(self):
        spec = Spec(heads=1, points=1500, grid=18, patch=2, channels=2, layout="head")
        inputs, options = make_inputs(spec), options_of(spec, tile=800)
        points, table, atlas = jax.tree.map(lambda a: a[0], inputs)

        @functools.partial(jax.jit, static_argnames="selection")
        def run(points, table, atlas, *, selection):
            frames = reference.frames(table, options=options)
            texels = reference.texel_table(atlas, patch=options.patch)
            return reference.forward(
                points, frames, texels, options=options, selection=selection
            )

        for got, want in zip(
            run(points, table, atlas, selection="cells"),
            run(points, table, atlas, selection="all"),
            strict=True,
        ):
            np.testing.assert_array_equal(got, want)
