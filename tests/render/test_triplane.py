import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.render import triplane, volume
from pallas_kernels.ray_march.specs import make_decoder

RAYS = 30


def shoot():
    """Rays from radius 2.7 towards points of the unit box, for two heads."""
    aim = np.random.default_rng(1).uniform(-0.4, 0.4, (2, RAYS, 3))
    directions = aim - [0.0, 0.0, 2.7]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    origins = np.broadcast_to([0.0, 0.0, 2.7], aim.shape)
    return {"origins": jnp.asarray(origins, jnp.float32),
            "directions": jnp.asarray(directions, jnp.float32)}  # fmt: skip


@functools.lru_cache
def planes_of(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


EG3D = triplane.TriplaneOptions(samples=8, importance=0)
PLANES = (2, 3, 9, 9, 4)


def test_rendering_is_querying_and_marching_as_eg3d_does():
    planes, decoder, rays = planes_of(*PLANES), make_decoder(4, 8, 3), shoot()
    jitter = jax.random.uniform(jax.random.key(0), (2, RAYS, 8))
    seen = jax.jit(functools.partial(triplane.render_rays, options=EG3D, jitter=jitter))(
        decoder, planes, **rays
    )
    depths = triplane.spaced((2, RAYS), EG3D, jitter)
    points = rays["origins"][:, :, None] + depths[..., None] * rays["directions"][:, :, None]
    sigma, color = triplane.query(decoder, planes, points=points.reshape(2, -1, 3), options=EG3D)
    marched = volume.march(
        color.reshape(2, RAYS, 8, 3), sigma.reshape(2, RAYS, 8), depths=depths,
        options=EG3D.marching(),
    )  # fmt: skip
    np.testing.assert_allclose(seen.features, marched.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.alpha, marched.alpha, rtol=1e-4)
    np.testing.assert_allclose(seen.depth, marched.depth, rtol=1e-4)


def test_the_first_pass_is_spaced_with_both_ends_and_moved_by_its_jitter():
    depths = triplane.spaced((1,), EG3D)
    np.testing.assert_allclose(depths[0], np.linspace(2.25, 3.3, 8), rtol=1e-6)
    moved = triplane.spaced((1,), EG3D, jnp.full((1, 8), 0.5))
    np.testing.assert_allclose(moved - depths, 0.5 * 1.05 / 7, rtol=1e-4)


def test_importance_samples_look_where_the_first_pass_found_something():
    # One blob: density only near the middle of all planes.
    row = np.exp(-0.5 * ((np.arange(9) - 4) / 1.0) ** 2)
    planes = jnp.asarray(np.tile((row[:, None] * row)[None, None, ..., None], (1, 3, 1, 1, 1)))
    decoder = make_decoder(1, 2, 1)
    decoder = decoder.__class__(
        w0=jnp.array([[40.0, 0.0]]), b0=jnp.array([-10.0, 0.0]),
        w1=jnp.array([[6.0, 1.0], [0.0, 0.0]]), b1=jnp.array([-30.0, 0.0]),
    )  # fmt: skip
    rays = jax.tree.map(lambda a: a[:1, :1], shoot())
    rays["directions"] = jnp.array([[[0.0, 0.0, -1.0]]])
    one, two, fine = (
        triplane.render_rays(decoder, planes.astype(jnp.float32), options=options, **rays).features
        for options in (
            triplane.TriplaneOptions(samples=12, importance=0),
            triplane.TriplaneOptions(samples=12, importance=24),
            triplane.TriplaneOptions(samples=600, importance=0),
        )
    )
    assert np.abs(two - fine).max() < 0.5 * np.abs(one - fine).max()


def test_panoheads_crop_empties_pictures_but_not_queries():
    options = triplane.TriplaneOptions(
        axes="panohead", color="none", samples=8, importance=0, crop=0.1
    )
    planes, decoder = planes_of(1, 3, 3, 9, 9, 4), make_decoder(4, 8, 3)
    points = jnp.array([[[0.45, 0.0, 0.0], [0.0, 0.45, 0.0], [0.1, 0.1, 0.1]]])
    sigma, _ = triplane.query(decoder, planes, points=points, options=options)
    assert np.all(np.abs(sigma) < 100)
    # Rays along x = 0.45 stay in the margin, rays along x = 0 do not.
    origins = jnp.array([[[0.45, 0.0, 2.7], [0.0, 0.0, 2.7]]])
    directions = jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0]), origins.shape)
    seen = triplane.render_rays(
        decoder, planes, origins=origins, directions=directions, options=options
    )
    assert seen.alpha[0, 0] == 0.0 and seen.alpha[0, 1] > 0.01


@pytest.mark.parametrize("importance", [0, 6])
def test_noise_on_densities_of_no_size_changes_nothing(importance):
    options = triplane.TriplaneOptions(samples=8, importance=importance)
    planes, decoder, rays = planes_of(*PLANES), make_decoder(4, 8, 3), shoot()
    shape = (*rays["origins"].shape[:-1], 8 + importance)
    plain = triplane.render_rays(decoder, planes, options=options, **rays)
    silent = triplane.render_rays(
        decoder, planes, options=options, density_noise=jnp.zeros(shape), **rays
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, silent)


def test_noise_on_densities_is_added_before_their_activation():
    """So much of it that every sample is opaque: rays end at the first."""
    options = triplane.TriplaneOptions(samples=8, importance=0)
    planes, decoder, rays = planes_of(*PLANES), make_decoder(4, 8, 3), shoot()
    shape = (*rays["origins"].shape[:-1], 8)
    dense = triplane.render_rays(
        decoder, planes, options=options, density_noise=jnp.full(shape, 1e4), **rays
    )
    np.testing.assert_allclose(dense.alpha, 1.0, atol=1e-5)
    spacing = (options.far - options.near) / 7
    np.testing.assert_allclose(dense.depth, options.near + 0.5 * spacing, atol=1e-4)


def test_an_empty_ray_is_as_far_as_the_farthest_sample_and_white_where_asked():
    planes = 0.0 * planes_of(*PLANES)
    decoder = make_decoder(4, 8, 3)
    empty = decoder.__class__(decoder.w0, decoder.b0, 0 * decoder.w1, decoder.b1.at[0].set(-200.0))
    options = triplane.TriplaneOptions(samples=8, importance=0, white_back=True)
    seen = triplane.render_rays(empty, planes, options=options, **shoot())
    np.testing.assert_array_equal(seen.alpha, 0.0)
    np.testing.assert_array_equal(seen.features, 1.0)
    np.testing.assert_allclose(seen.depth, 3.3)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="0 < near < far, got 3.0 and 2.0"):
        triplane.TriplaneOptions(near=3.0, far=2.0)
    with pytest.raises(ValueError, match="at least 4 samples"):
        triplane.TriplaneOptions(samples=3)
    with pytest.raises(ValueError, match="planes"):
        two = planes_of(2, 2, 9, 9, 4)
        triplane.render_rays(make_decoder(4, 8, 3), two, options=EG3D, **shoot())


def test_depth_has_a_finite_gradient_where_a_ray_sees_next_to_nothing():
    planes, decoder = planes_of(*PLANES), make_decoder(4, 8, 3)
    options = triplane.TriplaneOptions(samples=8, importance=0)

    def total(bias):
        thin = decoder.__class__(decoder.w0, decoder.b0, 0 * decoder.w1, decoder.b1.at[0].set(bias))
        return jnp.sum(triplane.render_rays(thin, planes, options=options, **shoot()).depth)

    for bias in (-60.0, -30.0, -10.0):
        assert np.isfinite(jax.grad(total)(jnp.float32(bias))), bias
