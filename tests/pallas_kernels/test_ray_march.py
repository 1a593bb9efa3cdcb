"""Compositing of given samples: every form against float64, at its edges, on its platforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from pallas_kernels.ray_march import Marched, MarchOptions, ray_march
from pallas_kernels.ray_march.specs import MARCHES, march_inputs
from tests.pallas_kernels.knn_checks import assert_gradients_match

FORMS = ("reference", "tpu_interpret", "gpu_interpret")
RULES = [
    {"rule": rule, "density": density}
    for rule in ("midpoint", "left")
    for density in ("given", "softplus")
]
NAMES = ("features", "sigma", "depths")


def slow_march(features, sigma, depths, options):
    """One ray in float64, interval by interval: Σ w·feature, Σ w·t, Σ w."""
    count = len(depths)
    seen, distance, alpha, through = 0.0, 0.0, 0.0, 1.0
    for i in range(count - (options.rule == "midpoint")):
        last = i == count - 1
        delta = (depths[-1] - depths[0]) / (count - 1) if last else depths[i + 1] - depths[i]
        density, feature, t = sigma[i], features[i], depths[i]
        if options.rule == "midpoint":
            density = (density + sigma[i + 1]) / 2
            feature, t = (feature + features[i + 1]) / 2, (t + depths[i + 1]) / 2
        if options.density == "softplus":
            density = np.logaddexp(density - 1.0, 0.0)
        weight = through * -np.expm1(-density * delta)
        seen, distance, alpha = seen + weight * feature, distance + weight * t, alpha + weight
        through *= np.exp(-density * delta)
    return seen, distance, alpha


def cotangents(inputs, seed=3):
    keys = jax.random.split(jax.random.key(seed), 3)
    b, r, _, c = inputs[0].shape
    shapes = (b, r, c), (b, r), (b, r)
    return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))


def parts(marched: Marched):
    return marched.features, marched.distance, marched.alpha


@functools.partial(jax.jit, static_argnames="options")
def run(inputs, probes, *, options):
    """What rays see, and the gradients of Σ probes · results, by name."""

    def objective(inputs):
        seen = parts(ray_march(*inputs[:2], depths=inputs[2], options=options))
        return sum(jnp.sum(a * p) for a, p in zip(seen, probes, strict=True)), seen

    gradients, seen = jax.grad(objective, has_aux=True)(inputs)
    return seen, dict(zip(NAMES, gradients, strict=True))


def wide_gradients(inputs, probes, options):
    """The definition's gradients in float64, by name."""
    from pallas_kernels.ray_march import reference

    with jax.enable_x64(True):
        inputs, probes = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (inputs, probes))

        def objective(inputs):
            seen = reference.forward(*inputs, options=options)
            return sum(jnp.sum(a * p) for a, p in zip(seen, probes, strict=True))

        return dict(zip(NAMES, map(np.asarray, jax.grad(objective)(inputs)), strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: "-".join(r.values()))
def test_every_form_is_the_rule_in_float64_and_its_gradient(form, rule):
    options = MarchOptions(**rule, implementation=form)
    inputs = march_inputs(MARCHES["tiny"])
    probes = cotangents(inputs)
    seen, gradients = run(inputs, probes, options=options)
    wide = [np.asarray(a, np.float64) for a in inputs]
    rays = [[slow_march(*(a[b, r] for a in wide), options) for r in range(wide[0].shape[1])]
            for b in range(wide[0].shape[0])]  # fmt: skip
    for got, which in zip(seen, range(3), strict=True):
        want = np.array([[ray[which] for ray in head] for head in rays])
        assert np.abs(got - want).max() <= 1e-5 * want.std()
    assert_gradients_match(gradients, wide_gradients(inputs, probes, options))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ("odd", "single", "two_samples"))
def test_sizes_that_no_tile_divides_are_served(form, name):
    inputs = march_inputs(MARCHES[name])
    probes = cotangents(inputs)
    got, gradients = run(inputs, probes, options=MarchOptions(implementation=form))
    want, expected = run(inputs, probes, options=MarchOptions(implementation="reference"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_gradients_match(gradients, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", (0.0, 1e-8, 1e4))
def test_values_and_gradients_are_finite_at_any_density(form, scale):
    features, sigma, depths = march_inputs(MARCHES["odd"])
    inputs = features, scale * sigma, depths
    seen, gradients = run(inputs, cotangents(inputs), options=MarchOptions(implementation=form))
    for value in (*seen, *gradients.values()):
        assert np.isfinite(value).all()
    assert np.all((seen[2] >= 0.0) & (seen[2] <= 1.0 + 1e-6))


@pytest.mark.parametrize("rule", ("midpoint", "left"))
def test_an_opaque_wall_does_not_erase_the_fog_before_it(rule):
    options = MarchOptions(rule=rule)
    features, sigma, depths = march_inputs(MARCHES["odd"])
    sigma = jnp.where(jnp.arange(7) < 3, jnp.minimum(sigma, 1.0), 1e9)
    seen = parts(ray_march(features, sigma, depths=depths, options=options))
    wide = [np.asarray(a[0], np.float64) for a in (features, sigma, depths)]
    want = [slow_march(*ray, options) for ray in zip(*wide, strict=True)]
    for got, values in zip(seen, zip(*want, strict=True), strict=True):
        np.testing.assert_allclose(got[0], np.array(values), rtol=1e-5, atol=1e-5)
    assert np.all(seen[2] <= 1.0 + 1e-6)


def assert_shards_agree():
    """By head and by ray, on two devices: what one sees (`test_march_field` calls it)."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    inputs = march_inputs(MARCHES["tiny"])

    def march(*inputs):
        return parts(ray_march(*inputs[:2], depths=inputs[2], options=MarchOptions()))

    for split in (PartitionSpec("d"), PartitionSpec(None, "d")):
        divided = jax.shard_map(march, mesh=mesh, in_specs=split, out_specs=split)
        for a, b in zip(jax.jit(divided)(*inputs), march(*inputs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_tpu_and_a_gpu_get_their_kernels():
    inputs = march_inputs(MARCHES["paper"], abstract=True)

    def loss(*inputs):
        seen = ray_march(*inputs[:2], depths=inputs[2], options=MarchOptions())
        return sum(jnp.sum(jnp.sin(a)) for a in parts(seen))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*inputs)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2


@pytest.mark.tpu_backend
@pytest.mark.parametrize("topology", ("v5e:2x2", "v6e:2x2"))
@pytest.mark.parametrize("name", ("paper", "eg3d"))
def test_the_kernels_compile_for_tpus(topology, name, tpu_sharding):
    sharding = tpu_sharding(topology)
    inputs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        march_inputs(MARCHES[name], abstract=True),
    )

    def loss(*inputs):
        seen = ray_march(*inputs[:2], depths=inputs[2], options=MarchOptions())
        return sum(jnp.sum(jnp.sin(a)) for a in parts(seen))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 2


def test_mistakes_are_named():
    features, sigma, depths = march_inputs(MARCHES["odd"])
    with pytest.raises(ValueError, match="at least 2 samples a ray, got 1"):
        ray_march(features[:, :, :1], sigma[..., :1], depths=depths[..., :1],
                  options=MarchOptions())  # fmt: skip
    # The tests' own run-time checks of types may speak first.
    with pytest.raises(Exception, match="nearest"):
        MarchOptions(rule="nearest")
    with pytest.raises(Exception, match="cuda"):
        MarchOptions(implementation="cuda")
