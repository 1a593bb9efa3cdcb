"""Marching through a field: its forms against its parts in float64, memory, platforms."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.knn_blend import GaussianTable
from pallas_kernels.knn_blend.naive import blend_chosen, patches_of
from pallas_kernels.knn_blend.specs import Spec, make_inputs, options_of
from pallas_kernels.ray_march import (
    DecoderOptions,
    MarchOptions,
    decode,
    gaussian_field,
    importance,
    march_field,
    march_field_twice,
    reference,
    triplane_field,
)
from pallas_kernels.ray_march.fields import GaussianField, TriplaneField
from pallas_kernels.ray_march.specs import make_decoder, make_rays
from pallas_kernels.triplane_sample import EG3D_AXES, PANOHEAD_AXES, LookupOptions
from pallas_kernels.triplane_sample.naive import triplane_sample_naive
from tests.pallas_kernels.knn_checks import assert_gradients_match

FORMS = ("reference", "tpu_interpret", "gpu_interpret")
RAYS, SAMPLES = 20, 4
# The interpreter takes seconds a ray.
FEW = {"reference": (2, RAYS), "tpu_interpret": (1, 3), "gpu_interpret": (1, 3)}
GAUSSIANS = Spec(heads=2, points=1, grid=4, patch=2, channels=4)


def eg3d():
    """A tri-plane as EG3D's: density activated in the interval's middle."""
    planes = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6, 5, 4)), jnp.float32)
    options = LookupOptions(axes=EG3D_AXES)
    march, decoding = {"density": "softplus"}, DecoderOptions()
    return planes, lambda p: triplane_field(p, options=options), march, decoding


def panohead():
    """A tri-grid as PanoHead's, cropped."""
    planes = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 5, 6, 4)), jnp.float32)
    options = LookupOptions(axes=PANOHEAD_AXES)
    march = {"density": "softplus", "rule": "left"}
    decoding = DecoderOptions(color="leaky_relu", crop=0.3)
    return planes, lambda p: triplane_field(p, options=options), march, decoding


def gaussians(**changes):
    """Gaussian3Diff's field: density activated and gated at the sample."""
    _, table, atlas = make_inputs(GAUSSIANS)
    floats = table.centers, table.rotations, table.radii, atlas

    def build(floats):
        *geometry, atlas = floats
        table_of = GaussianTable(*geometry, valid=table.valid[: len(atlas)])
        return gaussian_field(table_of, atlas=atlas, options=options_of(GAUSSIANS, **changes))

    return floats, build, {}, DecoderOptions(density="softplus", gate=1.0, scale=2.0)


CASES = {
    "eg3d": eg3d,
    "panohead": panohead,
    "gaussians": gaussians,
    "gaussians_rbf_raw": functools.partial(gaussians, metric="rbf", blend="raw"),
}


@functools.cache
def inputs_of(name):
    """What has a gradient: the field's arrays, the decoder, rays and depths."""
    arrays = CASES[name]()[0]
    rays, depths = make_rays(2, RAYS, SAMPLES)
    return arrays, make_decoder(4, 8, 3), rays, depths


def probes(name, seed=5):
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = (2, RAYS, 3), *((2, RAYS),) * 3
    return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))


def seen_of(marched):
    return marched.features, marched.distance, marched.alpha, marched.reach


@functools.partial(jax.jit, static_argnames=("name", "form", "tile"))
def run(inputs, weights, *, name, form="reference", tile=4096):
    """What rays see, and the gradients of Σ weights · results."""
    _, build, march, decoding = CASES[name]()
    options = MarchOptions(**march, implementation=form, tile=tile)

    def objective(inputs):
        arrays, decoder, rays, depths = inputs
        marched = march_field(
            build(arrays), decoder, rays=rays, depths=depths, options=options, decoding=decoding
        )
        seen = seen_of(marched)
        return sum(jnp.sum(a * w) for a, w in zip(seen, weights, strict=True)), seen

    gradients, seen = jax.grad(objective, has_aux=True)(inputs)
    return seen, gradients


def chosen(name, inputs):
    """The neighbours that the field itself chooses, [b t k]."""
    arrays, _, rays, depths = inputs
    field = CASES[name]()[1](arrays)
    points = rays.origins[:, :, None] + depths[..., None] * rays.directions[:, :, None]
    saved = jax.vmap(lambda field, x: field.choose(x))(field, points.reshape(len(points), -1, 3))
    return jnp.swapaxes(saved, -1, -2)


def in_parts(name, inputs, ids):
    """The same by the parts' plain forms: every sample looked up, decoded, composited."""
    arrays, decoder, rays, depths = inputs
    _, build, march, decoding = CASES[name]()
    points = rays.origins[:, :, None] + depths[..., None] * rays.directions[:, :, None]
    points = points.reshape(len(points), -1, 3)
    if "gaussians" in name:
        *geometry, atlas = arrays
        valid = make_inputs(GAUSSIANS)[1].valid[: len(atlas)]
        options = build(arrays).options
        features, reach = jax.vmap(
            lambda x, t, a, i: blend_chosen(
                x, t, payload=patches_of(a, patch=GAUSSIANS.patch), ids=i, options=options
            )
        )(points, GaussianTable(*geometry, valid=valid), atlas, ids)
    else:
        features = triplane_sample_naive(points, arrays, options=build(arrays).options)
        reach = jnp.zeros(points.shape[:-1], points.dtype)
    sigma, color = decode(decoder, features, reach=reach, points=points, options=decoding)
    shape = depths.shape
    composited = reference.forward(
        color.reshape(*shape, -1), sigma.reshape(shape), depths, options=MarchOptions(**march)
    )
    return *composited, jnp.sum(reach.reshape(shape), axis=-1)


def wide(name, inputs, weights):
    """Results and gradients of the parts in float64, with the neighbours that were chosen."""
    ids = chosen(name, inputs) if "gaussians" in name else None
    with jax.enable_x64(True):
        inputs, weights = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (inputs, weights))

        def objective(inputs):
            seen = in_parts(name, inputs, ids)
            return sum(jnp.sum(a * w) for a, w in zip(seen, weights, strict=True)), seen

        gradients, seen = jax.jit(jax.grad(objective, has_aux=True))(inputs)
        return jax.tree.map(np.asarray, (seen, gradients))


def named(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_decoding_is_the_formula_of_eg3ds_decoder():
    decoder, features = make_decoder(8, 32, 3), np.random.default_rng(0).normal(size=(7, 8))
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), decoder)
    out = np.log1p(np.exp(features @ w.w0 + w.b0)) @ w.w1 + w.b1
    reach, points = jnp.linspace(0.0, 3.0, 7), jnp.linspace(-0.6, 0.6, 21).reshape(7, 3)

    def decoded(**options):
        given = jnp.asarray(features, jnp.float32), DecoderOptions(**options)
        return decode(decoder, given[0], reach=reach, points=points, options=given[1])

    sigma, color = decoded()
    np.testing.assert_allclose(color, 1.002 / (1 + np.exp(-out[:, 1:])) - 0.001, rtol=1e-4)
    np.testing.assert_allclose(sigma, out[:, 0], rtol=1e-4, atol=1e-6)
    sigma, color = decoded(color="none", density="softplus", gate=0.5, scale=4.0)
    gate = np.minimum(1.0, 0.5 * np.asarray(reach))
    np.testing.assert_allclose(sigma, 4 * gate * np.log1p(np.exp(out[:, 0] - 1)), rtol=1e-4)
    np.testing.assert_allclose(color, out[:, 1:], rtol=1e-4, atol=1e-6)
    sigma, color = decoded(color="leaky_relu", crop=0.4)
    want = np.where(out[:, 1:] > 0, out[:, 1:], 0.2 * out[:, 1:]) * np.sqrt(2)
    np.testing.assert_allclose(color, want, rtol=1e-4, atol=1e-6)
    outside = np.abs(np.asarray(points)[:, ::2]).max(-1) > 0.4
    np.testing.assert_array_equal(sigma == -1e3, outside)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_every_form_is_its_parts_in_float64_and_their_gradient(name, form):
    weights = probes(name)
    heads, rays = FEW[form]
    arrays, decoder, *lines = inputs_of(name)
    inputs = (jax.tree.map(lambda a: a[:heads], arrays), decoder,
              *jax.tree.map(lambda a: a[:heads, :rays], tuple(lines)))  # fmt: skip
    weights = jax.tree.map(lambda a: a[:heads, :rays], weights)
    seen, gradients = run(inputs, weights, name=name, form=form)
    want, expected = wide(name, inputs, weights)
    for got, value in zip(seen, want, strict=True):
        assert np.abs(got - value).max() <= 1e-5 * value.std() + 1e-12
    assert_gradients_match(named(gradients), named(expected))


@pytest.mark.parametrize("name", ("eg3d", "gaussians"))
def test_the_tile_changes_nothing_but_rounding(name):
    inputs, weights = inputs_of(name), probes(name)
    whole, parts = (run(inputs, weights, name=name, tile=tile) for tile in (4096, 12))
    for a, b in zip(whole[0], parts[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_gradients_match(named(parts[1]), named(whole[1]))


@pytest.mark.parametrize("name,kind", (("eg3d", "eg3d"), ("gaussians", "plain")))
def test_two_passes_are_one_over_all_their_samples(name, kind):
    arrays, decoder, rays, _ = inputs_of(name)
    _, depths = make_rays(2, RAYS, 6)
    _, build, march, decoding = CASES[name]()
    uniform = jax.random.uniform(jax.random.key(0), (2, RAYS, 5))
    options = MarchOptions(**march)

    def twice(arrays):
        return march_field_twice(
            build(arrays), decoder, rays=rays, depths=depths, uniform=uniform, options=options,
            decoding=decoding, kind=kind,
        )  # fmt: skip

    seen = jax.jit(twice)(arrays)
    assert seen.depths.shape == (2, RAYS, 11) and np.all(np.diff(seen.depths) >= 0)

    def once(arrays):
        return march_field(
            build(arrays), decoder, rays=rays, depths=seen.depths, options=options,
            decoding=decoding,
        )  # fmt: skip

    first = march_field(
        build(arrays), decoder, rays=rays, depths=depths, options=options, decoding=decoding
    )
    weights = reference.interval_weights(first.sigma, depths, options=options)
    new = importance.resample(depths, weights[..., :5], uniform=uniform, kind=kind)
    every = np.sort(np.concatenate([depths, new], axis=-1), axis=-1)
    np.testing.assert_allclose(seen.depths, every, atol=2e-5)

    def total(march):
        return lambda arrays: sum(jnp.sum(jnp.sin(a)) for a in seen_of(march(arrays)))

    for a, b in zip(seen_of(seen), seen_of(jax.jit(once)(arrays)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    got, want = (jax.jit(jax.grad(total(march)))(arrays) for march in (twice, once))
    assert_gradients_match(named(got), named(want))


def test_nothing_of_a_samples_features_outlives_its_tile():
    def temporaries(rays, gradient):
        arrays, build, march, decoding = eg3d()
        _, decoder, _, _ = inputs_of("eg3d")
        shapes = jax.eval_shape(lambda: make_rays(2, rays, 48))

        def objective(arrays, decoder, rays, depths):
            seen = march_field(
                build(arrays), decoder, rays=rays, depths=depths,
                options=MarchOptions(**march), decoding=decoding,
            )  # fmt: skip
            return sum(jnp.sum(a**2) for a in seen_of(seen))

        function = jax.grad(objective, argnums=(0, 1, 2, 3)) if gradient else objective
        compiled = jax.jit(function).lower(arrays, decoder, *shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for gradient in (False, True):
        grown = temporaries(4096, gradient) - temporaries(1024, gradient)
        # A sample may leave behind its density and what depths cost; 4 features would be 16 bytes.
        assert grown / (2 * 3072 * 48) < 16


def assert_devices_agree():
    """By head and by ray, on four devices: the pictures and gradients of one."""
    from headjax.render import gaussian_field as field
    from tests.pallas_kernels import test_ray_march

    test_ray_march.assert_shards_agree()
    rng = np.random.default_rng(0)

    def array(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    for heads, rays in ((4, 6), (2, 8)):
        batch = field.GaussianHeads(
            centers=array(heads, 4, 4, 3, scale=0.1),
            rpy=array(heads, 4, 4, 3),
            radii=0.05 + 0 * array(heads, 4, 4, 3),
            payload=array(heads, 8, 8, 24),
            valid=jnp.ones((heads, 4, 4), bool),
        )
        (lines, depths), decoder = make_rays(heads, rays, 6), field.init_decoder(jax.random.key(0))

        def loss(decoder, batch, lines=lines, depths=depths):
            seen, reach = field.march_rays(
                decoder, batch, origins=lines.origins, directions=lines.directions,
                depths=depths, options=field.FieldOptions(patch=2),
            )  # fmt: skip
            return jnp.sum(jnp.sin(seen.features)) + jnp.sum(seen.depth) + jnp.sum(reach)

        def run(loss=loss, batch=batch, decoder=decoder):
            value = jax.value_and_grad(loss, argnums=(0, 1), allow_int=True)
            total, gradients = jax.jit(value)(decoder, batch)
            return total, jax.tree.leaves((gradients[0], gradients[1].payload, gradients[1].radii))

        one = run()
        auto = (jax.sharding.AxisType.Auto,) * 2
        with jax.set_mesh(jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=auto)):
            several = run()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_heads_or_rays_are_divided_among_devices():
    call = "import tests.pallas_kernels.test_march_field as m; m.assert_devices_agree()"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", call],
        check=True,
        env=os.environ | flags,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )


def real_shapes(kind, sharding=None):
    """Abstract inputs at the papers' sizes: field, decoder, rays, depths."""

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    if kind == "gaussians":
        options = options_of(Spec(heads=4, points=1, grid=32, patch=8))
        field = GaussianField(array(4, 12, 1024), array(4, 1024 * 24, 64), options)
    elif kind == "eg3d":
        field = TriplaneField(array(1, 3, 256, 256, 32), LookupOptions(axes=EG3D_AXES))
    else:
        field = TriplaneField(array(1, 3, 3, 256, 256, 32), LookupOptions(axes=PANOHEAD_AXES))
    heads, width = (4, (8, 32, 3)) if kind == "gaussians" else (1, (32, 64, 32))
    rays, depths = jax.eval_shape(lambda: make_rays(heads, 4096, 48))
    decoder = jax.eval_shape(lambda: make_decoder(*width))
    place = functools.partial(jax.tree.map, lambda a: array(*a.shape))
    return field, place(decoder), place(rays), place(depths)


def loss(field, decoder, rays, depths):
    seen = march_field(
        field, decoder, rays=rays, depths=depths, options=MarchOptions(density="softplus"),
        decoding=DecoderOptions(),
    )  # fmt: skip
    return sum(jnp.sum(a**2) for a in seen_of(seen))


@pytest.mark.parametrize("kind", ("gaussians", "eg3d"))
def test_lowering_for_a_tpu_picks_the_fused_kernels(kind):
    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(*real_shapes(kind))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2


def test_a_field_that_vmem_cannot_hold_is_served_by_the_reference_and_the_reason_is_known():
    from pallas_kernels.ray_march import fused_tpu

    field, decoder, _, depths = real_shapes("panohead")
    assert fused_tpu.why_not(field, decoder, depths, gradient=False) is None
    reason = fused_tpu.why_not(field, decoder, depths, gradient=True)
    assert "MiB of VMEM" in reason
    field, decoder, _, depths = real_shapes("gaussians")
    many = dataclasses.replace(field, options=dataclasses.replace(field.options, neighbors=9))
    assert fused_tpu.why_not(many, decoder, depths, gradient=False) == (
        "neighbors=9, it serves up to 8"
    )


@pytest.mark.tpu_backend
@pytest.mark.parametrize("topology", ("v5e:2x2", "v6e:2x2"))
@pytest.mark.parametrize("kind", ("gaussians", "eg3d", "panohead"))
def test_the_fused_kernels_compile_for_tpus(kind, topology, tpu_sharding):
    shapes = real_shapes(kind, tpu_sharding(topology))
    # PanoHead's planes and their gradient do not fit VMEM together: forward only.
    function = loss if kind == "panohead" else jax.grad(loss, argnums=(0, 1, 2, 3))
    compiled = jax.jit(function).lower(*shapes).compile()
    assert compiled.as_text().count("tpu_custom_call") >= (1 if kind == "panohead" else 2)
    samples = 4 * shapes[3].size
    # The field in rows of lanes and its gradient, and a few numbers of each sample.
    field = sum(4 * a.size for a in jax.tree.leaves(shapes[0]))
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * field + 12 * samples


def test_mistakes_are_named():
    arrays, decoder, rays, depths = inputs_of("eg3d")
    field = eg3d()[1](arrays)
    kwargs = {"rays": rays, "options": MarchOptions(), "decoding": DecoderOptions()}
    with pytest.raises(ValueError, match="at least 2 samples a ray, got 1"):
        march_field(field, decoder, depths=depths[..., :1], **kwargs)
    _, table, atlas = make_inputs(GAUSSIANS)
    with pytest.raises(ValueError, match="does not hold 16 patches of side 4"):
        gaussian_field(table, atlas=atlas, options=options_of(GAUSSIANS, patch=4))
    with pytest.raises(ValueError, match="neighbors=17 but there are only 16"):
        gaussian_field(table, atlas=atlas, options=options_of(GAUSSIANS, neighbors=17))
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'sum'"):
        triplane_field(arrays, options=LookupOptions(axes=EG3D_AXES, reduce="none"))
