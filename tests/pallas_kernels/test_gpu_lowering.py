"""The GPU kernels where there is no GPU: lowered and, with the CUDA plugin, compiled for one."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels import gpu_atomics, gpu_memory
from pallas_kernels.knn_blend import GaussianTable, knn_blend
from pallas_kernels.knn_blend import specs as knn_specs
from pallas_kernels.ray_march import (
    DecoderOptions,
    MarchOptions,
    gaussian_field,
    march_field,
    march_field_twice,
    ray_march,
    triplane_field,
)
from pallas_kernels.ray_march import specs as march_specs
from pallas_kernels.triplane_sample import EG3D_AXES, PANOHEAD_AXES, LookupOptions, triplane_sample
from pallas_kernels.triplane_sample import specs as triplane_specs
from tests.pallas_kernels import gpu_backend


def _abstract(make, *arguments):
    return jax.eval_shape(functools.partial(make, *arguments))


def _sum(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32)


def _head(spec):
    """Points, centres, rotations, radii and atlas: what has a gradient."""
    points, table, atlas = knn_specs.make_inputs(spec)
    return points, table.centers, table.rotations, table.radii, atlas


def _table(centers, rotations, radii):
    valid = jnp.ones(centers.shape[:-1], bool)
    return GaussianTable(centers=centers, rotations=rotations, radii=radii, valid=valid)


def _knn(name, **changes):
    """A named shape of `knn_blend`: the call, and what it is called with."""
    spec = knn_specs.SPECS[name]
    options = knn_specs.options_of(spec, **changes)

    def call(points, *geometry_and_atlas):
        *geometry, atlas = geometry_and_atlas
        return knn_blend(points, _table(*geometry), atlas=atlas, options=options)

    return call, _abstract(_head, spec)


def _triplane(name, **changes):
    spec = triplane_specs.SPECS[name]
    options = triplane_specs.options_of(spec, **changes)
    inputs = _abstract(triplane_specs.make_inputs, spec)
    return functools.partial(triplane_sample, options=options), inputs


def _march(name, **changes):
    def call(features, sigma, depths):
        return ray_march(features, sigma, depths=depths, options=MarchOptions(**changes))

    return call, march_specs.march_inputs(march_specs.MARCHES[name], abstract=True)


def _field(name):
    """A field's arrays, how it is made of them, and what goes with it."""
    if name in ("eg3d", "panohead"):
        spec = triplane_specs.SPECS["eg3d_coarse" if name == "eg3d" else name]
        axes = EG3D_AXES if name == "eg3d" else PANOHEAD_AXES
        planes = jax.ShapeDtypeStruct(spec.planes, jnp.float32)
        options = LookupOptions(axes=axes)
        build = functools.partial(triplane_field, options=options)
        sizes, march = (32, 64, 32), {"density": "softplus"}
        return planes, build, sizes, march, DecoderOptions()
    spec = dataclasses.replace(knn_specs.SPECS["paper"], points=1)
    options = knn_specs.options_of(spec, neighbors=int(name))

    def build(arrays):
        *geometry, atlas = arrays
        return gaussian_field(_table(*geometry), atlas=atlas, options=options)

    return _abstract(_head, spec)[1:], build, (8, 32, 3), {}, DecoderOptions(gate=1.0, scale=2.0)


def _march_field(name, *, twice=False, samples=48):
    arrays, build, sizes, march, decoding = _field(name)
    heads = jax.tree.leaves(arrays)[0].shape[0]
    decoder = _abstract(march_specs.make_decoder, *sizes)
    rays, depths = _abstract(march_specs.make_rays, heads, 64 * 64, samples)
    common = {"options": MarchOptions(**march), "decoding": decoding}

    def once(arrays, decoder, rays, depths):
        return march_field(build(arrays), decoder, rays=rays, depths=depths, **common)

    def again(arrays, decoder, rays, depths):
        common["uniform"] = jnp.zeros_like(depths)
        return march_field_twice(build(arrays), decoder, rays=rays, depths=depths, **common)

    return again if twice else once, (arrays, decoder, rays, depths)


def _with_gradient(call):
    """A call's results summed up, and the gradients of all that it is called with."""

    def run(*arguments):
        return jax.value_and_grad(lambda a: _sum(call(*a)))(arguments)

    return run


# Of each: the call with its inputs, and how many kernels forward and gradient are together.
CASES = {
    "knn_blend paper": (lambda: _knn("paper"), 2),
    "knn_blend paper, eight by rbf": (lambda: _knn("paper", neighbors=8, metric="rbf"), 2),
    "knn_blend query": (lambda: _knn("query"), 2),
    "knn_blend demo": (lambda: _knn("demo"), 2),
    "knn_blend odd": (lambda: _knn("odd"), 2),
    "knn_blend single": (lambda: _knn("single"), 2),
    "triplane_sample training": (lambda: _triplane("training"), 2),
    "triplane_sample panohead": (lambda: _triplane("panohead"), 2),
    "triplane_sample odd, apart": (lambda: _triplane("odd", reduce="none"), 2),
    "ray_march paper": (lambda: _march("paper"), 2),
    "ray_march eg3d": (lambda: _march("eg3d", density="softplus"), 2),
    "ray_march odd, left": (lambda: _march("odd", rule="left"), 2),
    "march_field paper": (lambda: _march_field("3"), 3),
    "march_field paper, eight": (lambda: _march_field("8"), 3),
    "march_field eg3d, in two passes": (lambda: _march_field("eg3d", twice=True), 4),
    "march_field panohead": (lambda: _march_field("panohead"), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_lowering_for_cuda_picks_the_kernels(name):
    make, kernels = CASES[name]
    call, inputs = make()
    assert gpu_backend.kernels_in(_with_gradient(call), *inputs) == kernels


@pytest.mark.gpu_backend
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_compile_for_an_h200(name):
    """Through Triton and LLVM to PTX, and to machine code; no GPU is asked."""
    sharding = gpu_backend.h200()
    call, inputs = CASES[name][0]()
    inputs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), inputs
    )
    compiled = gpu_backend.lower(_with_gradient(call), *inputs).compile()
    results = jax.eval_shape(call, *inputs)
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves((inputs, results)))
    # No samples × features beside the results, no points × neighbours × texels.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * whole + (64 << 20)


@pytest.mark.parametrize(
    "call,match",
    (
        (lambda: _knn("paper", neighbors=9, implementation="gpu"), "9 neighbours"),
        (lambda: _march("wide", implementation="gpu"), "200 features"),
        (lambda: _triplane("tiny", implementation="gpu", channels=200), "200 channels"),
    ),
    ids=("knn_blend", "ray_march", "triplane_sample"),
)
def test_shapes_that_no_block_holds_are_refused_by_name(call, match, monkeypatch):
    wide = march_specs.March(heads=1, rays=1, samples=2, channels=200)
    monkeypatch.setitem(march_specs.MARCHES, "wide", wide)
    if "channels" in match:
        spec = dataclasses.replace(triplane_specs.SPECS["tiny"], channels=200)
        monkeypatch.setitem(triplane_specs.SPECS, "tiny", spec)
        call = functools.partial(_triplane, "tiny", implementation="gpu")
    function, inputs = call()
    with pytest.raises(ValueError, match=f"{match} do not fit a block's registers"):
        jax.eval_shape(function, *inputs)


def test_triton_s_deprecation_is_the_one_warning_that_is_silenced():
    function, inputs = _march("single")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        gpu_backend.lower(function, *inputs)
    assert [w for w in seen if "Triton" in str(w.message)] == []


def test_a_jax_without_triton_runs_the_reference(monkeypatch):
    monkeypatch.setattr(gpu_memory, "triton", None)
    function, inputs = _march("tiny")
    assert gpu_backend.kernels_in(function, *inputs) == 0
    function, inputs = _march("tiny", implementation="gpu")
    with pytest.raises(ValueError, match="because this JAX comes without Triton"):
        jax.eval_shape(function, *inputs)


def test_atomic_adds_are_no_fences():
    """If this fails, JAX's inside has changed: the kernels still work, their gradients slower."""
    assert gpu_atomics.add is not plgpu.atomic_add


def _on_memory(kernel, *arrays, shape):
    return pl.pallas_call(
        kernel, out_shape=jax.ShapeDtypeStruct(shape, jnp.float32), interpret=True
    )(*arrays)


class TestMemory:
    """`gpu_memory` in the interpreter."""

    def test_masked_reads_are_0_and_masked_writes_are_none(self):
        def kernel(table, rows, out):
            index = gpu_memory.load(rows, jnp.arange(8), mask=jnp.arange(8) < 6)
            column, exists = gpu_memory.lanes(3)
            mask = gpu_memory.both(gpu_memory.rowwise(jnp.arange(8) % 2 == 0), exists)
            value = gpu_memory.load(table, index[:, None], column, mask=mask)
            out[...] = jnp.full((8, 3), -1.0)
            place = jnp.arange(8)[:, None], column
            gpu_memory.store(out, *place, value=value, mask=mask)

        table = np.arange(15.0, dtype=np.float32).reshape(5, 3)
        rows = np.array([4, 0, 2, 1, 3, 0, 9, 9], np.int32)
        got = _on_memory(kernel, table, rows, shape=(8, 3))
        want = np.full((8, 3), -1.0)
        want[[0, 2, 4]] = table[[4, 2, 3]]
        want[6] = table[0]
        np.testing.assert_array_equal(got, want)

    def test_every_addend_counts_and_the_masked_do_not(self):
        def kernel(values, where, out):
            out[...] = jnp.zeros(3)
            value, index = values[...], where[...]
            mask = jnp.arange(8) < 6
            gpu_memory.add(out, index, value=value, mask=mask, interpret=True)

        values = np.arange(1.0, 9.0, dtype=np.float32)
        where = np.array([0, 1, 1, 1, 2, 2, 0, 0], np.int32)
        got = _on_memory(kernel, values, where, shape=(3,))
        np.testing.assert_array_equal(got, [1.0, 9.0, 11.0])
