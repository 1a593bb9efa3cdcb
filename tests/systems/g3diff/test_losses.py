import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.systems.g3diff import losses
from tests.systems.g3diff import tiny


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def array(values):
    return jnp.asarray(values, jnp.float32)


def value(function, *arguments, **static):
    """The loss compiled as a whole, which is quicker than operation by operation."""
    return jax.jit(functools.partial(function, **static))(*arguments)


def test_l1_is_the_mean_absolute_difference():
    a, b = normal(2, 5, 3), normal(2, 5, 3, seed=1)
    slow = np.mean([abs(x - y) for x, y in zip(*(np.ravel(c) for c in (a, b)), strict=True)])
    np.testing.assert_allclose(value(losses.l1, a, b), slow, rtol=1e-5)
    assert value(losses.l1, a, a) == 0


def halved(image):
    side = image.shape[0] // 2
    out = np.zeros((side, side, 3))
    for i, j in itertools.product(range(side), repeat=2):
        out[i, j] = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1))
    return out


def slow_multiscale(error, side):
    """Level by level and patch by patch, with loops over pixels."""
    patches = [patch for view in error for patch in view.reshape(-1, side, side, 3)]
    total, levels = 0.0, 0
    while patches[0].shape[0] > 1:
        n = patches[0].shape[0]
        down, right = [], []
        for patch in patches:
            down += [abs(patch[i + 1, j] - patch[i, j]) for i in range(n - 1) for j in range(n)]
            right += [abs(patch[i, j + 1] - patch[i, j]) for i in range(n) for j in range(n - 1)]
        patches = [halved(patch) for patch in patches]
        total += np.mean(down) + np.mean(right) + np.mean(np.abs(patches))
        levels += 1
    return total / levels


@pytest.mark.parametrize("side", [2, 3, 4, 9])
def test_multiscale_l1_is_what_loops_over_the_pyramid_give(side):
    a, b = normal(2, 3 * side**2, 3), normal(2, 3 * side**2, 3, seed=1)
    slow = slow_multiscale(np.asarray(a - b), side)
    np.testing.assert_allclose(value(losses.multiscale_l1, a, b, side=side), slow, rtol=1e-5)


@pytest.mark.parametrize("side", [2, 4, 9, 36])
def test_multiscale_l1_is_zero_for_equal_patches_and_a_constant_shift_costs_its_size(side):
    a = normal(1, side**2, 3)
    assert value(losses.multiscale_l1, a, a, side=side) == 0
    np.testing.assert_allclose(value(losses.multiscale_l1, a + 0.25, a, side=side), 0.25, rtol=1e-4)


def test_multiscale_l1_feels_an_edge_more_than_the_same_error_without_edges():
    smooth = jnp.full((1, 16, 3), 0.1)
    checks = smooth * array(1 - 2 * (np.indices((4, 4)).sum(0) % 2)).reshape(1, 16, 1)
    zero = jnp.zeros_like(smooth)
    np.testing.assert_allclose(value(losses.l1, smooth, zero), value(losses.l1, checks, zero))
    edges, flat = (
        value(losses.multiscale_l1, image, zero, side=4) for image in (checks, smooth)
    )
    assert edges > flat


def test_depth_counts_rays_with_a_surface_only():
    prediction, target = normal(2, 6), normal(2, 6, seed=1)
    mask = array([[1, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 1]])
    slow = [
        (prediction[i, j] - target[i, j]) ** 2
        for i, j in itertools.product(range(2), range(6))
        if mask[i, j]
    ]
    for guess in (prediction, prediction + 9 * (1 - mask)):
        np.testing.assert_allclose(
            value(losses.depth, guess, target, mask), np.mean(slow), rtol=1e-5
        )
    assert value(losses.depth, prediction, target, 0 * mask) == 0


def test_silhouette_is_the_mean_squared_difference():
    alpha, mask = array([[0.25, 1.0, 0.5]]), array([[0, 1, 1]])
    np.testing.assert_allclose(value(losses.silhouette, alpha, mask), (0.0625 + 0 + 0.25) / 3)


def test_coverage_is_the_mean_influence_of_a_samples_k_gaussians():
    influence = jnp.abs(normal(2, 4, 5, 3))  # heads, rays, samples, K
    slow = np.mean([sum(g) / 3 for g in np.asarray(influence).reshape(-1, 3)])
    np.testing.assert_allclose(
        value(losses.coverage, influence.sum(-1), neighbors=3), slow, rtol=1e-5
    )


def test_volume_is_that_of_the_ellipsoids_of_valid_gaussians():
    heads = tiny.heads()
    slow = [
        4 / 3 * np.pi * np.prod(np.asarray(heads.radii[cell], np.float64))
        for cell in zip(*np.nonzero(heads.valid), strict=True)
    ]
    for signed in (heads, heads.replace(radii=-heads.radii)):
        np.testing.assert_allclose(value(losses.volume, signed), np.mean(slow), rtol=1e-5)


def test_volume_grows_with_every_radius():
    heads = tiny.heads()
    slope = value(
        jax.grad(lambda radii: losses.volume(heads.replace(radii=radii))), heads.radii
    )
    assert np.all(np.asarray(slope)[np.asarray(heads.valid)] > 0)
    assert np.all(np.asarray(slope)[~np.asarray(heads.valid)] == 0)


def slow_total_variation(heads):
    maps = np.concatenate([heads.centers, heads.rpy, heads.radii], axis=-1).astype(np.float64)
    valid, total = np.asarray(heads.valid), 0.0
    batch, grid = valid.shape[:2]
    for b, i, j in itertools.product(range(batch), range(grid), range(grid)):
        for h, w in ((i + 1, j), (i, j + 1)):
            if h < grid and w < grid and valid[b, i, j] and valid[b, h, w]:
                total += np.abs(maps[b, h, w] - maps[b, i, j]).sum()
    return total / valid.sum()


def test_total_variation_is_what_a_loop_over_neighbours_gives():
    heads = tiny.heads()
    np.testing.assert_allclose(
        value(losses.total_variation, heads), slow_total_variation(heads), rtol=1e-5
    )


def test_total_variation_ignores_cells_without_a_gaussian_and_the_seams():
    heads = tiny.heads()
    wild = jnp.where(heads.valid[..., None], heads.centers, 1e3)
    ignored = value(losses.total_variation, heads.replace(centers=wild))
    np.testing.assert_allclose(ignored, value(losses.total_variation, heads), rtol=1e-6)
    # A stripe of cells without Gaussians parts two constant halves: no pair crosses it, nor do
    # the map's opposite edges touch.
    grid = heads.valid.shape[1]
    halves = jnp.where(jnp.arange(grid)[:, None] < 1, 0.0, 1.0)
    flat = jnp.broadcast_to(halves[None, :, :, None], heads.centers.shape)
    valid = jnp.broadcast_to((jnp.arange(grid) != 1)[None, :, None], heads.valid.shape)
    parted = heads.replace(centers=flat, rpy=flat, radii=flat, valid=valid)
    assert value(losses.total_variation, parted) == 0


def test_mesh_is_the_mean_squared_distance_to_the_registered_surface():
    heads = tiny.heads()
    surface = tiny.heads(1).centers
    slow = [
        np.sum((np.asarray(heads.centers[cell]) - np.asarray(surface[cell])) ** 2)
        for cell in zip(*np.nonzero(heads.valid), strict=True)
    ]
    np.testing.assert_allclose(value(losses.mesh, heads, surface), np.mean(slow), rtol=1e-5)
    assert value(losses.mesh, heads, heads.centers) == 0


def test_code_expects_one_for_each_dimension_of_a_code_from_the_prior():
    sigma, dimensions = 0.01, 64
    z = sigma * normal(4000, dimensions)
    np.testing.assert_allclose(value(losses.code, z, sigma=sigma), dimensions, rtol=0.01)
    np.testing.assert_allclose(value(losses.code, array([[3.0, 4.0]]), sigma=0.5), 100.0)


def test_tanh_range_is_flat_in_the_middle_and_grows_quadratically_outside():
    def at(value):
        return float(jitted(np.full((1, 1, 1, 1), value, np.float32)))

    jitted = jax.jit(losses.tanh_range)

    assert at(0.0) == 0
    np.testing.assert_allclose(at(1.0), (1 - np.tanh(1)) ** 2, rtol=1e-5)
    np.testing.assert_allclose(at(20.0), 19.0**2, rtol=1e-5)
    values = [at(x) for x in np.linspace(0, 5, 20)]
    assert values == sorted(values)
    np.testing.assert_allclose(at(-1.3), at(1.3), rtol=1e-6)


def test_surface_color_counts_every_sample_of_foreground_rays():
    prediction, target = normal(2, 3, 4, 3), normal(2, 3, 3, seed=1)
    mask = array([[1, 0, 1], [0, 0, 1]])
    slow = [
        np.abs(prediction[i, j] - target[i, j]).mean()
        for i, j in itertools.product(range(2), range(3))
        if mask[i, j]
    ]
    np.testing.assert_allclose(
        value(losses.surface_color, prediction, target, mask), np.mean(slow), rtol=1e-5
    )


def test_occupancy_is_least_where_the_opacity_over_the_length_is_the_target():
    length = 0.02

    @jax.jit
    @jax.value_and_grad
    def at(sigma, target):
        return losses.occupancy(sigma[None], target[None], length=length)

    for share in (0.1, 0.5, 0.9):
        best, target = array([-np.log1p(-share) / length]), array([share])
        entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
        least, slope = at(best, target)
        np.testing.assert_allclose(least, entropy, rtol=1e-5)
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)
        assert at(0.7 * best, target)[0] > least < at(1.4 * best, target)[0]


def test_occupancy_pushes_towards_solid_inside_and_empty_outside():
    slope = jax.jit(jax.grad(functools.partial(losses.occupancy, length=0.02)))
    sigma = array([[0.01, 1.0, 100.0]])
    assert np.all(np.asarray(slope(sigma, array([[1, 1, 1]]))) < 0)
    assert np.all(np.asarray(slope(sigma, array([[0, 0, 0]]))) > 0)


SIZES = [0.0, 1e-12, 1e-6, 1.0, 1e3, 1e6]


def terms_of(scale):
    """Every loss as (function, argument to differentiate) at arguments of this size."""
    heads = tiny.heads()
    rays, mask = scale * jnp.asarray(normal(2, 16, 3)), jnp.ones((2, 16))
    geometry = (scale * heads.centers, scale * heads.rpy, scale * heads.radii)

    def scaled(parts):
        return heads.replace(centers=parts[0], rpy=parts[1], radii=parts[2])

    return {
        "l1": (lambda x: losses.l1(x, 0 * x), rays),
        "multiscale_l1": (lambda x: losses.multiscale_l1(x, 0 * x, side=4), rays),
        "depth": (lambda x: losses.depth(x, 0 * x, mask), rays[..., 0]),
        "silhouette": (lambda x: losses.silhouette(x, mask), rays[..., 0]),
        "coverage": (lambda x: losses.coverage(x, neighbors=3), rays[..., 0]),
        "volume": (lambda x: losses.volume(scaled(x)), geometry),
        "total_variation": (lambda x: losses.total_variation(scaled(x)), geometry),
        "mesh": (lambda x: losses.mesh(scaled(x), heads.centers), geometry),
        "code": (lambda x: losses.code(x, sigma=0.01), rays[..., 0]),
        "tanh_range": (lambda x: losses.tanh_range(x), scale * heads.payload),
        "surface_color": (
            lambda x: losses.surface_color(x[:, :, None], 0 * x, mask), rays),
        "occupancy": (
            lambda x: losses.occupancy(x, mask * jnp.array([[0.0], [1.0]]), length=0.02),
            jnp.abs(rays[..., 0])),
    }  # fmt: skip


@jax.jit
def all_terms(scale):
    return {
        name: jax.value_and_grad(function)(argument)
        for name, (function, argument) in terms_of(scale).items()
    }


@pytest.mark.parametrize("scale", SIZES)
def test_values_and_gradients_are_finite_at_extreme_sizes(scale):
    for name, both in all_terms(scale).items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both)), name


def test_the_total_is_the_weighted_sum_and_every_term_needs_a_weight():
    terms = {"l1": jnp.float32(2.0), "depth": jnp.float32(3.0)}
    np.testing.assert_allclose(
        losses.weighted(terms, {"l1": 1.0, "depth": 0.1, "mesh": 7.0}), 2.3, rtol=1e-6
    )
    with pytest.raises(KeyError):
        losses.weighted(terms, {"l1": 1.0})
