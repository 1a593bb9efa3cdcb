import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.render import volume
from pallas_kernels.ray_march import MarchOptions
from pallas_kernels.ray_march.reference import interval_weights


def rays(seed=0, *, count=5, samples=9):
    """Sorted distances, densities and colours of some rays."""
    rng = np.random.default_rng(seed)
    depths = np.sort(rng.uniform(2.0, 3.0, (count, samples)), axis=-1)
    sigma, color = rng.exponential(8.0, (count, samples)), rng.random((count, samples, 3))
    return tuple(jnp.asarray(a, jnp.float32) for a in (color, sigma, depths))


def slow_march(color, sigma, depths):
    """EG3D's MipRayMarcher2, interval by interval: (colour, depth, alpha)."""
    seen, depth, alpha, through = np.zeros(3), 0.0, 0.0, 1.0
    for i in range(len(depths) - 1):
        density = (sigma[i] + sigma[i + 1]) / 2
        opacity = 1 - np.exp(-density * (depths[i + 1] - depths[i]))
        weight = through * opacity
        seen = seen + weight * (color[i] + color[i + 1]) / 2
        depth += weight * (depths[i] + depths[i + 1]) / 2
        alpha += weight
        through *= 1 - opacity
    return seen, depth / alpha, alpha


def test_marching_is_eg3ds_rule_interval_by_interval():
    color, sigma, depths = (np.asarray(a, np.float64) for a in rays())
    composite = jax.jit(lambda c, s, d: volume.march(c, s, depths=d))(*rays())
    for i in range(len(depths)):
        seen, depth, alpha = slow_march(color[i], sigma[i], depths[i])
        np.testing.assert_allclose(composite.features[i], seen, rtol=1e-4)
        np.testing.assert_allclose(composite.depth[i], depth, rtol=1e-5)
        np.testing.assert_allclose(composite.alpha[i], alpha, rtol=1e-5)


@pytest.mark.parametrize("rule", ["midpoint", "left"])
def test_weights_are_not_negative_and_sum_to_the_silhouette_of_the_optical_depth(rule):
    color, sigma, depths = rays()
    options = MarchOptions(rule=rule)
    composite = volume.march(color, sigma, depths=depths, options=options)
    weights = interval_weights(sigma, depths, options=options)
    assert np.all(np.asarray(weights) >= 0)
    np.testing.assert_allclose(weights.sum(-1), composite.alpha, rtol=1e-5)
    assert np.all(np.asarray(composite.alpha) <= 1 + 1e-6)
    delta = np.diff(depths)
    if rule == "left":
        delta = np.concatenate([delta, delta.mean(-1, keepdims=True)], axis=-1)
        optical = np.sum(sigma * delta, axis=-1)
    else:
        optical = np.sum((sigma[:, 1:] + sigma[:, :-1]) / 2 * delta, axis=-1)
    np.testing.assert_allclose(composite.alpha, 1 - np.exp(-optical), rtol=1e-5)


def test_fog_of_one_colour_is_the_closed_form():
    length, sigma = 0.5, 3.0
    depths = jnp.linspace(2.0, 2.0 + length, 400)[None]
    color = jnp.broadcast_to(jnp.array([0.2, 0.4, 0.6]), (1, 400, 3))
    composite = volume.march(color, jnp.full((1, 400), sigma), depths=depths, background=1.0)
    alpha = 1 - np.exp(-sigma * length)
    np.testing.assert_allclose(composite.alpha, [alpha], rtol=1e-4)
    np.testing.assert_allclose(
        composite.features[0], alpha * np.array([0.2, 0.4, 0.6]) + 1 - alpha, rtol=1e-4
    )
    mean = 2.0 + 1 / sigma - length * (1 - alpha) / alpha
    np.testing.assert_allclose(composite.depth, [mean], rtol=1e-4)


def test_a_wall_is_seen_where_it_stands_and_hides_what_is_behind():
    depths = jnp.linspace(2.0, 3.0, 101)[None]
    sigma = jnp.where(depths >= 2.4, 1e4, 0.0)
    color = jnp.where(depths[..., None] < 2.45, jnp.array([1.0, 0.0, 0.0]), 0.5)
    composite = volume.march(color, sigma, depths=depths, background=1.0)
    np.testing.assert_allclose(composite.depth, [2.4], atol=0.01)
    np.testing.assert_allclose(composite.features[0], [1.0, 0.0, 0.0], atol=1e-5)


def test_an_empty_ray_sees_the_background_and_no_depth():
    color, sigma, depths = rays()
    composite = volume.march(color, 0 * sigma, depths=depths, background=1.0)
    np.testing.assert_array_equal(composite.features, 1.0)
    np.testing.assert_array_equal(composite.alpha, 0.0)
    np.testing.assert_array_equal(composite.depth, 0.0)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e8])
def test_gradients_are_finite_at_any_density(scale):
    color, sigma, depths = rays()

    def total(color, sigma):
        composite = volume.march(color, sigma, depths=depths, background=1.0)
        return jnp.sum(composite.features) + jnp.sum(composite.depth) + jnp.sum(composite.alpha)

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(color, scale * sigma)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_stratified_samples_lie_one_in_each_stratum():
    near, far = jnp.array([2.0, 2.5]), jnp.array([3.0, 2.5])
    jitter = jax.random.uniform(jax.random.key(0), (2, 8))
    depths = np.asarray(volume.stratified(near, far, samples=8, jitter=jitter))
    np.testing.assert_array_equal(np.floor((depths[0] - 2.0) * 8), np.arange(8))
    np.testing.assert_allclose(depths[1], 2.5)
    middle = volume.stratified(near, far, samples=4)
    np.testing.assert_allclose(middle[0], [2.125, 2.375, 2.625, 2.875])


def test_resampling_goes_where_the_weights_are():
    edges = jnp.linspace(2.0, 3.0, 11)[None]
    weights = jnp.zeros((1, 10)).at[0, 3].set(0.6).at[0, 7].set(0.2)
    drawn = np.asarray(volume.resample(edges, weights, samples=400))[0]
    assert np.all(np.diff(drawn) >= 0) and drawn.min() >= 2.0 and drawn.max() <= 3.0
    share = np.histogram(drawn, bins=np.linspace(2, 3, 11))[0] / 400
    expected = (np.asarray(weights[0]) + 1e-3) / (0.8 + 10e-3)
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_mistakes_are_named():
    color, sigma, depths = rays()
    with pytest.raises(ValueError, match="at least 2 samples a ray, got 1"):
        volume.march(color[:, :1], sigma[:, :1], depths=depths[:, :1])
