import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.render import gaussian_field as field

OPTIONS = field.FieldOptions(patch=2, tile=256)


@functools.lru_cache
def scene(batch=2, grid=4):
    """Gaussians on spheres of radius 0.2 with random payloads; one cell is not valid."""
    rng = np.random.default_rng(0)
    t, p = np.meshgrid((np.arange(grid) + 0.5) / grid * np.pi,
                       (np.arange(grid) + 0.5) / grid * 2 * np.pi, indexing="ij")  # fmt: skip
    unit = np.stack([np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)], axis=-1)
    valid = np.ones((batch, grid, grid), bool)
    valid[:, 0, 0] = False

    def array(values):
        return jnp.asarray(values, jnp.float32)

    heads = field.GaussianHeads(
        centers=array(np.broadcast_to(0.2 * unit, (batch, grid, grid, 3))),
        rpy=array(rng.uniform(-1, 1, (batch, grid, grid, 3))),
        radii=array(rng.uniform(0.03, 0.08, (batch, grid, grid, 3))),
        payload=array(rng.standard_normal((batch, 2 * grid, 2 * grid, 24))),
        valid=jnp.asarray(valid),
    )
    points = array(rng.uniform(-0.3, 0.3, (batch, 64, 3)))
    return field.init_decoder(jax.random.key(0)), heads, points


@functools.lru_cache
def query(options=OPTIONS):
    return jax.jit(lambda decoder, heads, points: field.query(
        decoder, heads, points=points, options=options
    ))  # fmt: skip


def test_the_rendering_mlp_is_eight_by_thirty_two_by_four():
    decoder = field.init_decoder(jax.random.key(0))
    assert decoder["w0"].shape == (8, 32) and decoder["w1"].shape == (32, 4)
    assert sum(leaf.size for leaf in jax.tree.leaves(decoder)) == 420


def test_density_is_the_decoded_one_times_the_gate_of_the_influence():
    decoder, heads, points = scene()
    gated = query()(decoder, heads, points)
    bare = query(dataclasses.replace(OPTIONS, density_gate=None))(decoder, heads, points)
    np.testing.assert_allclose(
        gated.sigma, bare.sigma * np.minimum(1.0, np.asarray(gated.rbf)), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(gated.color, bare.color)
    scaled = query(dataclasses.replace(OPTIONS, density_scale=20.0))(decoder, heads, points)
    np.testing.assert_allclose(scaled.sigma, 20 * gated.sigma, rtol=1e-5)


def test_space_that_no_gaussian_reaches_is_empty():
    decoder, heads, points = scene()
    far = query()(decoder, heads, points + 5.0)
    np.testing.assert_array_equal(far.sigma, 0.0)
    np.testing.assert_array_equal(far.rbf, 0.0)


def test_cells_without_a_gaussian_never_contribute():
    decoder, heads, points = scene()
    wild = heads.replace(
        centers=jnp.where(heads.valid[..., None], heads.centers, 0.0),
        radii=jnp.where(heads.valid[..., None], heads.radii, 0.5),
    )
    for a, b in zip(
        jax.tree.leaves(query()(decoder, heads, points)),
        jax.tree.leaves(query()(decoder, wild, points)), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_planes_are_averaged_or_summed():
    decoder, heads, points = scene()
    tripled = heads.replace(payload=3.0 * heads.payload)
    summed = query(dataclasses.replace(OPTIONS, plane_reduce="sum"))(decoder, heads, points)
    np.testing.assert_allclose(
        summed.color, query()(decoder, tripled, points).color, rtol=1e-4, atol=1e-6
    )


def shoot(count=48):
    """Rays from the front towards random points of the head, for two heads."""
    aim = np.random.default_rng(1).uniform(-0.25, 0.25, (2, count, 3))
    origins = np.broadcast_to([0.0, 0.0, 2.7], aim.shape)
    directions = aim - origins
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    return jnp.asarray(origins, jnp.float32), jnp.asarray(directions, jnp.float32)


@functools.lru_cache
def renderer(importance=0):
    sampling = field.RayOptions(samples=12, importance=importance)
    return jax.jit(lambda decoder, heads, origins, directions: field.render_rays(
        decoder, heads, origins=origins, directions=directions, options=OPTIONS,
        sampling=sampling,
    ))  # fmt: skip


def test_the_range_of_a_ray_holds_all_that_a_head_has():
    _, heads, _ = scene()
    origins, directions = shoot()
    near, far = jax.jit(functools.partial(field.head_range, box=0.36))(heads, origins, directions)
    centers = np.asarray(heads.centers)[np.asarray(heads.valid)].reshape(2, -1, 3)
    reach = 3 * np.asarray(heads.radii)[np.asarray(heads.valid)].reshape(2, -1, 3)
    low = np.maximum((centers - reach).min(1), -0.36)[:, None, None]
    high = np.minimum((centers + reach).max(1), 0.36)[:, None, None]
    along = np.linspace(2.0, 3.4, 57)
    points = origins[:, :, None] + along[:, None] * directions[:, :, None]
    inside = np.all((points > low + 1e-4) & (points < high - 1e-4), axis=-1)
    between = (along >= np.asarray(near)[..., None]) & (along <= np.asarray(far)[..., None])
    assert inside.any() and np.all(between[inside])


@pytest.mark.parametrize("importance", [0, 6])
def test_what_a_ray_sees_does_not_depend_on_the_others(importance):
    decoder, heads, _ = scene()
    origins, directions = shoot()
    order = np.random.default_rng(2).permutation(origins.shape[1])
    whole = renderer(importance)(decoder, heads, origins, directions)
    shuffled = renderer(importance)(decoder, heads, origins[:, order], directions[:, order])
    for name in ("features", "depth", "alpha"):
        np.testing.assert_allclose(
            getattr(shuffled, name), np.asarray(getattr(whole, name))[:, order],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    assert np.all((np.asarray(whole.alpha) >= 0) & (np.asarray(whole.alpha) <= 1 + 1e-6))


def test_rendering_is_querying_and_marching():
    decoder, heads, _ = scene()
    origins, directions = shoot()
    near, far = field.head_range(heads, origins, directions, box=0.36)
    depths = field.volume.stratified(near, far, samples=12)
    composite, reach = jax.jit(lambda decoder, heads: field.march_rays(
        decoder, heads, origins=origins, directions=directions, depths=depths, options=OPTIONS,
    ))(decoder, heads)  # fmt: skip
    whole = renderer()(decoder, heads, origins, directions)
    np.testing.assert_allclose(composite.features, whole.features, rtol=1e-4, atol=1e-5)
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    samples = query()(decoder, heads, points)
    marched = field.volume.march(samples.color, samples.sigma, depths=depths, background=1.0)
    np.testing.assert_allclose(composite.features, marched.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(composite.depth, marched.depth, rtol=1e-4)
    np.testing.assert_allclose(reach, samples.rbf.mean(-1), rtol=1e-4, atol=1e-6)
