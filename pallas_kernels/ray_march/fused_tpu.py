"""Marching through a field on a TPU (Pallas, Mosaic): look-up, MLP and compositing in one kernel.

A step of the grid takes 1,024 rays of a head, one number of each a vector register, and walks their
samples front to back. A sample's features are looked up by the field's own kernel functions
(`fused_tpu_fields.py`), decoded by two small matrix products and added to running sums
(`stream.py`); they never leave VMEM. The backward pass walks twice: once for the samples' gains,
after which the densities' gradients are known, and once to hand gradients down to the MLP and the
field, whose gradients stay in VMEM from step to step (a TPU's grid is sequential).

Alphabet: `b` heads, `t` rays of a tile, as [8 128] where a field looks up and as [1 t] where rays
lie along the lanes; `s` samples, `c` features of the field, `h` hidden, `o` outputs of the MLP.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.ray_march import stream
from pallas_kernels.ray_march.fields import Field
from pallas_kernels.ray_march.fused_reference import Plan, color_of, density_of
from pallas_kernels.ray_march.fused_tpu_fields import (
    Bound,
    Operands,
    bytes_of,
    field_reason,
    operands_of,
)
from pallas_kernels.ray_march.types import Decoder, Rays
from pallas_kernels.tpu_memory import LANES, SMEM, SUBLANES, TILE, VMEM, row, vector

_dot = functools.partial(
    jnp.dot, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


# --- layouts outside ---


def _padding(rays: int) -> int:
    return -rays % TILE


def _rows(array: Array) -> Array:
    """[b r n] as [b n r], rays padded with zeros to whole tiles."""
    array = jnp.swapaxes(array, 1, 2)
    return jnp.pad(array, ((0, 0), (0, 0), (0, _padding(array.shape[-1]))))


def _vectors(rows: Array) -> Array:
    """[b … r] as [b … r/128 128]."""
    return rows.reshape(*rows.shape[:-1], -1, LANES)


def _of_rows(count: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, count, TILE), lambda b, i: (b, 0, i))


def _of_vectors(*counts: int) -> pl.BlockSpec:
    zeros = (0,) * len(counts)
    return pl.BlockSpec((1, *counts, SUBLANES, LANES), lambda b, i: (b, *zeros, i, 0))


def _whole(array: Array) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda b, i: (0,) * array.ndim)


def _columns(decoder: Decoder) -> list[Array]:
    """The MLP for features [c t]: matrices transposed, biases as columns."""
    return [decoder.w0.T, decoder.b0[:, None], decoder.w1.T, decoder.b1[:, None]]


def _decoder(columns: list[Array]) -> Decoder:
    w0, b0, w1, b1 = columns
    return Decoder(w0=w0.T, b0=b0[:, 0], w1=w1.T, b1=b1[:, 0])


# --- inside ---


def _decode(weights: list[Array], features: Array, reach: Array, *, places, plan: Plan):
    """Density [1 t] and colour [o t] of one sample of each ray."""
    w0, b0, w1, b1 = weights
    out = _dot(w1, stream.softplus(_dot(w0, features) + b0)) + b1
    return density_of(out[:1], reach, places, plan.decoder), color_of(out[1:], plan.decoder)


class _Walk:
    """A tile of rays: where its samples are, what its field holds there."""

    def __init__(self, refs: dict, bound: Bound, *, plan: Plan, rays: int):
        self.refs, self.bound, self.plan = refs, bound, plan
        self.live = jnp.minimum(rays - pl.program_id(1) * TILE, TILE)
        self.weights = [refs[name][...] for name in ("w0", "b0", "w1", "b1")]

    def depth(self, s) -> Array:
        return self.refs["depths"][0, pl.ds(s, 1)]

    def points(self, s) -> list[Array]:
        along, rays = vector(self.depth(s)), self.refs
        return [rays["origins"][0, a] + along * rays["directions"][0, a] for a in range(3)]

    def decode(self, weights, features, reach, points):
        places = None
        if self.plan.decoder.crop is not None:
            places = row(points[0]), row(points[2])
        return _decode(weights, features, reach, places=places, plan=self.plan)


def _forward_kernel(refs: dict, bound: Bound, *, plan: Plan, rays: int):
    walk = _Walk(refs, bound, plan=plan, rays=rays)
    refs["reach"][...] = jnp.zeros(refs["reach"].shape, jnp.float32)

    def sample(s):
        points = walk.points(s)
        chosen = bound.choose(points)
        for k, index in enumerate(chosen):
            refs["saved"][0, k, s] = index
        features, reach = bound.lookup(points, chosen, live=walk.live)
        reach = row(reach)
        refs["reach"][0] += reach
        sigma, color = walk.decode(walk.weights, features, reach, points)
        refs["sigma"][0, pl.ds(s, 1)] = sigma
        return sigma, color

    refs["seen"][0], refs["distance"][0], refs["alpha"][0] = stream.forward(
        refs["depths"].shape[1], depth=walk.depth, sample=sample, options=plan.march
    )


def _backward_kernel(refs: dict, bound: Bound, *, plan: Plan, rays: int, saved: int):
    walk, samples = _Walk(refs, bound, plan=plan, rays=rays), refs["depths"].shape[1]
    names = ("dw0", "db0", "dw1", "db1")

    @pl.when(pl.program_id(1) == 0)
    def _():
        bound.clear()

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        for name in names:
            refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)

    def found(s):
        points = walk.points(s)
        chosen = [refs["saved"][0, k, s] for k in range(saved)]
        features, reach = bound.lookup(points, chosen, live=walk.live)
        return points, chosen, features, row(reach)

    def gain(s, _):
        points, _, features, reach = found(s)
        _, color = walk.decode(walk.weights, features, reach, points)
        share = jnp.sum(color * refs["dseen"][0], axis=0, keepdims=True)
        share += refs["ddistance"][0] * walk.depth(s) + refs["dalpha"][0]
        refs["gains"][pl.ds(s, 1)] = share
        return 0

    def emit(s, weight, slope, along):
        refs["samples"][pl.ds(s, 1)] = weight
        refs["dsigma"][pl.ds(s, 1)] = slope
        refs["ddepths"][0, pl.ds(s, 1)] = along + weight * refs["ddistance"][0]

    def hand_down(s, _):
        points, chosen, features, reach = found(s)
        decode = functools.partial(walk.decode, points=points)
        _, pull = jax.vjp(decode, walk.weights, features, reach)
        dweights, dfeatures, dreach = pull(
            (refs["dsigma"][pl.ds(s, 1)], refs["samples"][pl.ds(s, 1)] * refs["dseen"][0])
        )
        for name, share in zip(names, dweights, strict=True):
            refs[name][...] += share
        dreach = vector(dreach + refs["dreach"][0])
        dx = bound.pull(points, chosen, dfeatures, dreach, live=walk.live)
        along = vector(walk.depth(s))
        for a in range(3):
            refs["dorigins"][0, a] += dx[a]
            refs["ddirections"][0, a] += along * dx[a]
        by_depth = sum(dx[a] * refs["directions"][0, a] for a in range(3))
        refs["ddepths"][0, pl.ds(s, 1)] += row(by_depth)
        return 0

    jax.lax.fori_loop(0, samples, gain, 0)
    stream.backward(
        samples,
        depth=walk.depth,
        sigma=lambda s: refs["sigma"][0, pl.ds(s, 1)],
        gain=lambda s: refs["gains"][pl.ds(s, 1)],
        emit=emit,
        options=plan.march,
    )
    for name in ("dorigins", "ddirections"):
        refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)
    jax.lax.fori_loop(0, samples, hand_down, 0)


# --- calls ---


def why_not(field: Field, decoder: Decoder, depths, *, gradient: bool) -> str | None:
    """What keeps the kernel (or, with `gradient`, the backward one) from serving these shapes."""
    if not depths.size:
        return "there are no samples"
    found = field_reason(field)
    if found:
        return found
    samples, (hidden, outputs) = depths.shape[-1], decoder.w1.shape
    vmem, smem = bytes_of(field, gradient=gradient)
    # Rows of samples come and go twice; of the MLP's values, and backwards their gradients, there
    # is one tile at a time.
    rows = (11 if gradient else 4) * samples + (6 if gradient else 3) * (hidden + outputs)
    vmem += 4 * TILE * rows
    if vmem > VMEM or smem > SMEM:
        return (
            f"it would take {vmem >> 20} MiB of VMEM and {smem >> 10} KiB of SMEM, there are "
            f"{VMEM >> 20} MiB and {SMEM >> 10} KiB"
        )
    return None


def _call(
    kernel, operands: Operands, inputs: dict, outputs: dict, *, scratch: dict, gradient, interpret
):
    """Runs a kernel that takes its refs by name; `inputs` and `outputs` hold (array, spec)."""
    names = [*inputs, *outputs, *scratch]
    held = operands.gradients if gradient else []
    counts = len(inputs), len(operands.inputs), len(outputs), len(held), len(scratch)

    def body(*refs):
        groups, start = [], 0
        for count in counts:
            groups.append(refs[start : start + count])
            start += count
        own_in, field_in, own_out, field_out, own_scratch = groups
        named = dict(zip(names, (*own_in, *own_out, *own_scratch), strict=True))
        kernel(named, operands.bind(field_in, field_out, refs[start:]))

    arrays = [*inputs.values(), *operands.inputs]
    results = [*outputs.values(), *held]
    heads, rays = inputs["depths"][0].shape[0], inputs["depths"][0].shape[-1]
    out = pl.pallas_call(
        body,
        grid=(heads, rays // TILE),
        in_specs=[spec for _, spec in arrays],
        out_specs=[spec for _, spec in results],
        out_shape=[shape for shape, _ in results],
        scratch_shapes=[*scratch.values(), *operands.scratch(gradient=gradient)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM
        ),
        interpret=dispatch.tpu_interpreter() if interpret else False,
        name="march_field_backward" if gradient else "march_field_forward",
    )(*(array for array, _ in arrays))
    named = dict(zip(outputs, out[: len(outputs)], strict=True))
    return named, out[len(outputs) :]


def _inputs(decoder: Decoder, rays: Rays, depths: Array) -> dict:
    along = _rows(depths)
    weights = zip(("w0", "b0", "w1", "b1"), _columns(decoder), strict=True)
    return {
        "origins": (_vectors(_rows(rays.origins)), _of_vectors(3)),
        "directions": (_vectors(_rows(rays.directions)), _of_vectors(3)),
        "depths": (along, _of_rows(along.shape[1])),
        **{name: (w, _whole(w)) for name, w in weights},
    }


def forward(
    field: Field, decoder: Decoder, rays: Rays, depths: Float[Array, "b r s"], *, plan, interpret
) -> tuple:
    """`fused_reference.forward` as a kernel."""
    operands, count, samples = operands_of(field), *depths.shape[1:]
    inputs, saved = _inputs(decoder, rays, depths), operands.saved
    heads, wide, like = depths.shape[0], inputs["depths"][0].shape[-1], depths
    features, kept = decoder.w1.shape[1] - 1, max(saved, 1)
    shape = (heads, kept, samples, wide // LANES, LANES)
    outputs = {
        "seen": (dispatch.like(like, (heads, features, wide)), _of_rows(features)),
        **{
            name: (dispatch.like(like, (heads, 1, wide)), _of_rows(1))
            for name in ("distance", "alpha", "reach")
        },
        "sigma": (dispatch.like(like, (heads, samples, wide)), _of_rows(samples)),
        "saved": (dispatch.like(like, shape, jnp.int32), _of_vectors(kept, samples)),
    }
    kernel = functools.partial(_forward_kernel, plan=plan, rays=count)
    out, _ = _call(
        kernel, operands, inputs, outputs, scratch={}, gradient=False, interpret=interpret
    )
    names = ("seen", "distance", "alpha", "reach", "sigma")
    seen, *scalars, sigma = (jnp.swapaxes(out[name][..., :count], 1, 2) for name in names)
    chosen = out["saved"].reshape(heads, kept, samples, -1)[:, :saved, :, :count]
    return (seen, *(a[..., 0] for a in scalars)), sigma, chosen


def backward(
    field: Field,
    decoder: Decoder,
    rays: Rays,
    depths: Float[Array, "b r s"],
    sigma: Float[Array, "b r s"],
    saved: Int[Array, "b k s r"],
    cotangents: tuple,
    *,
    plan: Plan,
    interpret: bool,
) -> tuple:
    """`fused_reference.backward` as a kernel."""
    operands, count, samples = operands_of(field), *depths.shape[1:]
    inputs, like = _inputs(decoder, rays, depths), depths
    inputs["sigma"] = (_rows(sigma), _of_rows(samples))
    wide = inputs["depths"][0].shape[-1]
    kept = jnp.pad(saved, ((0, 0),) * 3 + ((0, wide - count),))
    if not operands.saved:
        kept = jnp.zeros((depths.shape[0], 1, samples, wide), jnp.int32)
    inputs["saved"] = (_vectors(kept), _of_vectors(kept.shape[1], samples))
    names = ("dseen", "ddistance", "dalpha", "dreach")
    for name, array in zip(names, cotangents, strict=True):
        rows = _rows(array if array.ndim == 3 else array[..., None])
        inputs[name] = (rows, _of_rows(rows.shape[1]))
    vectors = (depths.shape[0], 3, wide // LANES, LANES)
    weights = [("d" + name, inputs[name]) for name in ("w0", "b0", "w1", "b1")]
    outputs = {
        "dorigins": (dispatch.like(like, vectors), _of_vectors(3)),
        "ddirections": (dispatch.like(like, vectors), _of_vectors(3)),
        "ddepths": (dispatch.like(like, inputs["depths"][0].shape), _of_rows(samples)),
        **{name: (dispatch.like(like, w.shape), spec) for name, (w, spec) in weights},
    }
    rows = pltpu.VMEM((samples, TILE), jnp.float32)
    kernel = functools.partial(_backward_kernel, plan=plan, rays=count, saved=operands.saved)
    out, held = _call(
        kernel,
        operands,
        inputs,
        outputs,
        scratch={"gains": rows, "samples": rows, "dsigma": rows},
        gradient=True,
        interpret=interpret,
    )

    def of_rays(name):
        array = out[name].reshape(*out[name].shape[:2], -1)
        return jnp.swapaxes(array[..., :count], 1, 2)

    drays = Rays(origins=of_rays("dorigins"), directions=of_rays("ddirections"))
    ddecoder = _decoder([out[name] for name, _ in weights])
    return operands.gradient(held), ddecoder, drays, of_rays("ddepths")
