"""The GPU kernels where one block of points, one stretch of samples or one device is not enough."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from pallas_kernels.knn_blend import specs as knn_specs
from pallas_kernels.ray_march import (
    DecoderOptions,
    MarchOptions,
    gaussian_field,
    march_field,
    ray_march,
    triplane_field,
)
from pallas_kernels.ray_march import specs as march_specs
from pallas_kernels.triplane_sample import EG3D_AXES, LookupOptions, triplane_sample
from tests.pallas_kernels import gpu_backend
from tests.pallas_kernels.knn_checks import assert_gradients_match, run

# More than a block of points, and of the many Gaussians that are compared in groups.
GAUSSIANS = knn_specs.Spec(heads=2, points=150, grid=9, patch=2, channels=3)


def _planes(heads=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(heads, 3, 6, 5, 4)), jnp.float32)


def _lookup(inputs, *, form):
    options = LookupOptions(axes=EG3D_AXES, implementation=form)
    return triplane_sample(*inputs, options=options)


def _march(inputs, *, form):
    options = MarchOptions(rule="left", implementation=form)
    return ray_march(*inputs[:2], depths=inputs[2], options=options)


def _field(inputs, *, form, field="planes", **changes):
    """A march of 18 samples: three stretches, the last of two."""
    arrays, decoder, rays, depths = inputs
    if field == "planes":
        built = triplane_field(arrays, options=LookupOptions(axes=EG3D_AXES))
        decoding = DecoderOptions(color="none")
    else:
        options = knn_specs.options_of(GAUSSIANS)
        built = gaussian_field(GAUSSIANS_TABLE, atlas=arrays, options=options)
        decoding = DecoderOptions(density="softplus", gate=1.0)
    options = MarchOptions(**changes, implementation=form)
    return march_field(
        built, decoder, rays=rays, depths=depths, options=options, decoding=decoding
    )


def _field_inputs(arrays, channels, rays=35):
    decoder = march_specs.make_decoder(channels, 5, 2)
    return arrays, decoder, *march_specs.make_rays(2, rays, 18)


_, GAUSSIANS_TABLE, ATLAS = knn_specs.make_inputs(GAUSSIANS)
POINTS = jnp.asarray(np.random.default_rng(1).uniform(-0.6, 0.6, (2, 150, 3)), jnp.float32)
CASES = {
    "planes": (_lookup, (POINTS, _planes())),
    "rays": (_march, march_specs.march_inputs(march_specs.MARCHES["tiny"])),
    "field": (
        functools.partial(_field, density="softplus"),
        _field_inputs(_planes(), 4),
    ),
    "field, left": (
        functools.partial(_field, density="softplus", rule="left"),
        _field_inputs(_planes(), 4),
    ),
    "Gaussians": (functools.partial(_field, field="gaussians"), _field_inputs(ATLAS, 3)),
}


@functools.partial(jax.jit, static_argnames=("name", "form"))
def _run(inputs, *, name, form):
    """Results, and the gradients of their sum of squares."""

    def objective(inputs):
        results = jax.tree.leaves(CASES[name][0](inputs, form=form))
        return sum(jnp.sum(a**2) for a in results[:4]), results

    gradients, results = jax.grad(objective, has_aux=True)(inputs)
    return results, gradients


def _named(tree):
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


@pytest.mark.parametrize("form", gpu_backend.FORMS)
@pytest.mark.parametrize("name", CASES)
def test_blocks_and_stretches_join(name, form):
    gpu_backend.need_device(form)
    inputs = CASES[name][1]
    got, gradients = _run(inputs, name=name, form=form)
    want, expected = _run(inputs, name=name, form="reference")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(float(jnp.std(b)), 1e-2))
    assert_gradients_match(_named(gradients), _named(expected))


@pytest.mark.parametrize("form", gpu_backend.FORMS)
def test_blocks_of_points_choose_and_blend_alike(form):
    gpu_backend.need_device(form)
    inputs = knn_specs.make_inputs(GAUSSIANS)
    keys = jax.random.split(jax.random.key(0))
    shape = GAUSSIANS.heads, GAUSSIANS.points
    probes = jax.random.normal(keys[0], (*shape, 3)), jax.random.normal(keys[1], shape)
    options = knn_specs.options_of(GAUSSIANS, implementation=form)
    (features, total, ids), gradients = run(inputs, probes, options=options)
    options = dataclasses.replace(options, implementation="reference")
    want, expected = run(inputs, probes, options=options)
    np.testing.assert_array_equal(ids, want[2])
    np.testing.assert_allclose(features, want[0], atol=1e-5)
    np.testing.assert_allclose(total, want[1], atol=1e-5)
    assert_gradients_match(gradients, expected)


class TestOnSeveralDevices:
    def _divided(self, name, mesh, form, **kwargs):
        """The call of a case, its heads divided among a mesh."""
        call, heads = CASES[name][0], PartitionSpec("x")
        specs = jax.tree.map(lambda a: heads if a.shape[:1] == (2,) else None, CASES[name][1])
        specs = jax.tree.map(lambda s: s or PartitionSpec(), specs, is_leaf=lambda s: s is None)
        inner = functools.partial(call, form=form)
        return jax.shard_map(inner, mesh=mesh, in_specs=(specs,), out_specs=heads, **kwargs)

    def test_the_interpreted_kernel_runs_inside_shard_map(self):
        mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
        # JAX's own interpreter mixes values that vary over the mesh with its own that do not.
        call = self._divided("planes", mesh, "gpu_interpret", check_vma=False)
        inputs = CASES["planes"][1]

        def objective(inputs):
            return jnp.sum(call(inputs) ** 2)

        gradients = jax.jit(jax.grad(objective))(inputs)
        expected = _run(inputs, name="planes", form="reference")[1]
        assert_gradients_match(_named(gradients), _named(expected))

    @pytest.mark.parametrize("name,kernels", (("planes", 2), ("rays", 2), ("field", 3)))
    def test_lowering_inside_shard_map_picks_the_kernels(self, name, kernels):
        call = self._divided(name, gpu_backend.mesh_of(2), "auto")

        def objective(inputs):
            return sum(jnp.sum(a) for a in jax.tree.leaves(call(inputs))[:4])

        function, inputs = jax.value_and_grad(objective), CASES[name][1]
        assert gpu_backend.kernels_in(function, inputs, devices=2) == kernels
