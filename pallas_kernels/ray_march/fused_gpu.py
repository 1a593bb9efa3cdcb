"""Marching through a field on GPUs, in Pallas' Triton dialect: no sample's features are kept.

A program takes a block of rays, a ray a lane, and a stretch of their samples, which it walks front
to back: the field's own kernel functions look a sample up (`fused_gpu_fields.py`), two small matrix
products decode it, and it is added to running sums. Stretches are independent of each other, so
that there are programs enough for all of a GPU; what they saw is put together afterwards:

  Σ w·f = Σ_k exp(−Σ_{l<k} τ_l) (Σ w·f of stretch k alone),   τ_l the optical depth of stretch l.

Under the midpoint rule neighbouring stretches share a sample. Backwards one kernel finds the
samples' gains dL/dW; with the densities, which the forward pass kept, plain JAX makes weights and
gradients of the densities of them ([r s] numbers); a second kernel hands them down to MLP and
field, whose gradients are atomic adds.

Alphabet: `b` heads, `x` stretches, `r` rays, `t` rays of a block, `s` samples, `j` numbers of a
looked-up row, `h` hidden, `o` outputs of the MLP, the density first; all but `r`, `s` padded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.gpu_memory import (
    add,
    block,
    both,
    load,
    parameters,
    power_of_two,
    rowwise,
    store,
)
from pallas_kernels.ray_march import stream
from pallas_kernels.ray_march.fields import Field
from pallas_kernels.ray_march.fused_gpu_fields import LEAST, Lookup, field_reason, lookup_of
from pallas_kernels.ray_march.fused_reference import Plan, color_of, density_of
from pallas_kernels.ray_march.reference import sample_weights
from pallas_kernels.ray_march.types import Decoder, Rays

# Samples of a stretch: enough that the shared one is little, few enough for many programs.
_STRETCH = 8
# Hidden units and outputs of the MLP that a block's registers hold.
_WIDEST = 64
# Copies of the MLP's gradient.
_COPIES = 16
_WEIGHTS = ("w0", "b0", "w1", "b1")
_dot = functools.partial(
    jnp.dot, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


# --- outside ---


def _pad(array: Array, shape: tuple[int, ...]) -> Array:
    return jnp.pad(array, [(0, new - old) for new, old in zip(shape, array.shape, strict=True)])


def _sides(decoder: Decoder) -> tuple[int, int]:
    """Hidden units and outputs, padded."""
    return tuple(max(LEAST, power_of_two(n)) for n in decoder.w1.shape)


def _weights(decoder: Decoder, lookup: Lookup) -> dict[str, Array]:
    """The MLP in powers of two; what is added is 0 and adds nothing."""
    hidden, outputs = _sides(decoder)
    w0 = lookup.to_rows(decoder.w0)
    return {
        "w0": _pad(w0, (w0.shape[0], hidden)),
        "b0": _pad(decoder.b0, (hidden,)),
        "w1": _pad(decoder.w1, (hidden, outputs)),
        "b1": _pad(decoder.b1, (outputs,)),
    }


def _decoder_gradient(sums: dict[str, Array], decoder: Decoder, lookup: Lookup) -> Decoder:
    """The MLP's gradient from the copies of its padded one."""
    found = {name: jnp.sum(sums[name], axis=0) for name in _WEIGHTS}
    found["w0"] = lookup.from_rows(found["w0"])
    parts = {
        name: array[tuple(slice(n) for n in getattr(decoder, name).shape)]
        for name, array in found.items()
    }
    return Decoder(**parts)


# --- inside ---


class _Walk:
    """A program's rays and stretch; how its samples are found, looked up and decoded."""

    def __init__(self, refs: dict, lookup: Lookup, *, plan: Plan, size: int):
        self.refs, self.lookup, self.plan, self.size = refs, lookup, plan, size
        self.stretch, self.head = pl.program_id(1), pl.program_id(2)
        self.rays, self.samples = refs["depths"].shape[1:]
        self.ray, self.mask = block(0, size, count=self.rays)
        self.origin = self._vector("origins")
        self.direction = self._vector("directions")
        self.first = self.stretch * _STRETCH

    def _vector(self, name: str) -> list[Array]:
        return [
            load(self.refs[name], self.head, self.ray, a, mask=self.mask) for a in range(3)
        ]

    def number(self, name: str, s: Array | int) -> Array:
        """A sample's number; behind the last sample the last one's."""
        s = jnp.minimum(s, self.samples - 1)
        return load(self.refs[name], self.head, self.ray, s, mask=self.mask)

    def point(self, s: Array) -> tuple[Array, Array, Array]:
        along = self.number("depths", s)
        return tuple(self.origin[a] + along * self.direction[a] for a in range(3))

    def own(self, s: Array) -> Array:
        """Which rays have a sample s of this very stretch."""
        limit = jnp.minimum(self.first + _STRETCH, self.samples)
        exists = jnp.full((self.size,), s, jnp.int32) < limit
        return both(self.mask, exists)

    def weights(self) -> list[Array]:
        """The MLP; read again for every sample, since registers are dearer."""
        return [self.refs[name][...] for name in _WEIGHTS]

    def saved(self, s: Array) -> Callable[[Array], Array]:
        """What the forward pass saved of a sample's look-up."""
        s = jnp.minimum(s, self.samples - 1)
        return lambda k: load(self.refs["saved"], self.head, k, s, self.ray, mask=self.mask)

    def decode(self, weights, rows, reach, *, point) -> tuple[Array, Array]:
        """Density [t] and colours [t o] of a sample; the density's own column holds no colour."""
        w0, b0, w1, b1 = weights
        hidden = stream.softplus(_dot(rows, w0) + b0[None])
        out = _dot(hidden, w1) + b1[None]
        column = jax.lax.broadcasted_iota(jnp.int32, (1, out.shape[1]), 1)
        first = jnp.sum(jnp.where(column == 0, out, 0.0), axis=1)
        places = (point[0], point[2])
        sigma = density_of(first, reach, places, self.plan.decoder)
        return sigma, color_of(out, self.plan.decoder)

    def outputs(self, count: int) -> tuple[Array, Array]:
        """Indices [1 o] of the colours behind the density, and which exist for which ray."""
        padded = self.refs["b1"].shape[0]
        column = jax.lax.broadcasted_iota(jnp.int32, (1, padded), 1) - 1
        exists = (column >= 0) & (column < count)
        return jnp.maximum(column, 0), both(rowwise(self.mask), exists)


def _mean(first: Array, second: Array, options) -> Array:
    return 0.5 * (first + second) if options.rule == "midpoint" else first


def _forward_kernel(refs: dict, out: dict, *, lookup: Lookup, plan: Plan, size: int):
    walk, options = _Walk(refs, lookup, plan=plan, size=size), plan.march
    midpoint = options.rule == "midpoint"

    def sample(s):
        point, own = walk.point(s), walk.own(s)
        chosen = lookup.choose(point, refs, walk.head)
        for k, index in enumerate(chosen):
            store(out["saved"], walk.head, k, s, walk.ray, value=index, mask=own)
        rows, reach = lookup.lookup(point, chosen, refs, walk.head)
        sigma, color = walk.decode(walk.weights(), rows, reach, point=point)
        store(out["sigma"], walk.head, walk.ray, s, value=sigma, mask=own)
        return sigma, color, jnp.where(own, reach, 0.0)

    def passed(sums, sigma, color, depth, delta):
        """The sums behind one more interval."""
        seen, distance, alpha, optical = sums
        through = stream.activated(sigma, options) * delta
        weight = stream.opacity(through) * jnp.exp(-optical)
        return (
            seen + weight[:, None] * color,
            distance + weight * depth,
            alpha + weight,
            optical + through,
        )

    def between(i, carry):
        """The midpoint rule: the interval from the sample before to this one."""
        sums, total, t, sigma, color = carry
        s = walk.first + i
        t_next, (sigma_next, color_next, reach) = walk.number("depths", s), sample(s)
        ends = (sigma, sigma_next), (color, color_next), (t, t_next)
        means = [0.5 * (a + b) for a, b in ends]
        sums = passed(sums, *means, t_next - t)
        return sums, total + reach, t_next, sigma_next, color_next

    def behind(i, carry):
        """The left rule: the interval from this sample to the next."""
        sums, total = carry
        s = walk.first + i
        t, (sigma, color, reach) = walk.number("depths", s), sample(s)
        mean = (walk.number("depths", walk.samples - 1) - walk.number("depths", 0)) / (
            walk.samples - 1
        )
        delta = jnp.where(s == walk.samples - 1, mean, walk.number("depths", s + 1) - t)
        return passed(sums, sigma, color, t, delta), total + reach

    nothing = jnp.zeros((size,), jnp.float32)
    blank = jnp.zeros((size, refs["b1"].shape[0]), jnp.float32)
    carry = (blank, nothing, nothing, nothing), nothing
    if midpoint:
        # The first sample ends an interval of no length.
        carry = *carry, walk.number("depths", walk.first), nothing, blank
        carry = jax.lax.fori_loop(0, _STRETCH + 1, between, carry)
    else:
        carry = jax.lax.fori_loop(0, _STRETCH, behind, carry)
    (seen, *scalars), reach = carry[:2]
    place = walk.stretch, walk.head, walk.ray
    column, exists = walk.outputs(out["seen"].shape[-1])
    rows = walk.stretch, walk.head, walk.ray[:, None], column
    store(out["seen"], *rows, value=seen, mask=exists)
    for name, value in zip(
        ("distance", "alpha", "optical", "reach"), (*scalars, reach), strict=True
    ):
        store(out[name], *place, value=value, mask=walk.mask)


def _gain_kernel(refs: dict, out: dict, *, lookup: Lookup, plan: Plan, size: int):
    walk = _Walk(refs, lookup, plan=plan, size=size)
    column, exists = walk.outputs(refs["dseen"].shape[-1])
    dseen = load(refs["dseen"], walk.head, walk.ray[:, None], column, mask=exists)
    along, silhouette = (
        load(refs[name], walk.head, walk.ray, mask=walk.mask) for name in ("ddistance", "dalpha")
    )

    def step(i, _):
        s = walk.first + i
        point = walk.point(s)
        rows, reach = lookup.again(point, walk.saved(s), refs, walk.head)
        _, color = walk.decode(walk.weights(), rows, reach, point=point)
        gain = jnp.sum(color * dseen, axis=1) + along * walk.number("depths", s) + silhouette
        store(out["gain"], walk.head, walk.ray, s, value=gain, mask=walk.own(s))
        return 0

    jax.lax.fori_loop(0, _STRETCH, step, 0)


def _backward_kernel(
    refs: dict, zeros: dict, out: dict, held: dict, *, lookup: Lookup, plan, size, interpret
):
    walk = _Walk(refs, lookup, plan=plan, size=size)
    program = pl.program_id(0) + pl.program_id(1)
    column, exists = walk.outputs(refs["dseen"].shape[-1])
    dseen = load(refs["dseen"], walk.head, walk.ray[:, None], column, mask=exists)
    dtotal = load(refs["dreach"], walk.head, walk.ray, mask=walk.mask)

    def step(i, carry):
        sums, dorigin, ddirection = carry
        s = walk.first + i
        own = walk.own(s)
        point, saved, along = walk.point(s), walk.saved(s), walk.number("depths", s)
        found = lookup.again(point, saved, refs, walk.head)
        _, pull = jax.vjp(functools.partial(walk.decode, point=point), walk.weights(), *found)
        weight = jnp.where(own, walk.number("weights", s), 0.0)
        dsigma = jnp.where(own, walk.number("dsigma", s), 0.0)
        dweights, drows, dreach = pull((dsigma, weight[:, None] * dseen))
        dpoint = lookup.pull(
            point,
            saved,
            found,
            (drows, dreach + dtotal),
            refs,
            held,
            walk.head,
            program=program,
            mask=own,
            interpret=interpret,
        )
        dpoint = [jnp.where(own, d, 0.0) for d in dpoint]
        by_depth = sum(dpoint[a] * walk.direction[a] for a in range(3))
        store(out["ddepths"], walk.head, walk.ray, s, value=by_depth, mask=own)
        return (
            [total + part for total, part in zip(sums, dweights, strict=True)],
            [dorigin[a] + dpoint[a] for a in range(3)],
            [ddirection[a] + along * dpoint[a] for a in range(3)],
        )

    nothing = [jnp.zeros((size,), jnp.float32) for _ in range(3)]
    carry = [jnp.zeros(refs[name].shape, jnp.float32) for name in _WEIGHTS], nothing, nothing
    sums, dorigin, ddirection = jax.lax.fori_loop(0, _STRETCH, step, carry)
    for a in range(3):
        place = walk.stretch, walk.head, a, walk.ray
        store(out["dorigins"], *place, value=dorigin[a], mask=walk.mask)
        store(out["ddirections"], *place, value=ddirection[a], mask=walk.mask)
    for name, value in zip(_WEIGHTS, sums, strict=True):
        index = [
            jax.lax.broadcasted_iota(jnp.int32, value.shape, axis) for axis in range(value.ndim)
        ]
        add(held[name], program % _COPIES, *index, value=value, mask=None, interpret=interpret)


# --- calls ---


def _block_of(lookup: Lookup, *, gradient: bool) -> tuple[int, int]:
    """Rays of a block, and warps: what the compiler could hold in registers, or nearly."""
    if lookup.channels > LEAST:
        return 32, 8
    return (32 if gradient else 128), 4


def why_not(field: Field, decoder: Decoder, depths, *, gradient: bool) -> str | None:
    """What keeps the kernels from serving these shapes."""
    if not depths.size:
        return "there are no samples"
    if max(decoder.w1.shape) > _WIDEST:
        hidden, outputs = decoder.w1.shape
        return (
            f"{hidden} hidden units and {outputs} outputs do not fit a block's registers, "
            f"{_WIDEST} of each do"
        )
    return field_reason(field)


def _call(
    kernel, operands: tuple, shapes, *, lookup: Lookup, gradient=False, interpret, aliases=None
):
    """Runs a kernel on whole arrays, for every block of rays, stretch and head."""
    dispatch.quiet_triton()
    size, warps = _block_of(lookup, gradient=gradient)
    heads, rays, samples = operands[0]["depths"].shape
    return pl.pallas_call(
        functools.partial(kernel, lookup=lookup, size=size),
        grid=(pl.cdiv(rays, size), pl.cdiv(samples, _STRETCH), heads),
        out_shape=shapes,
        input_output_aliases=aliases or {},
        compiler_params=parameters(warps),
        interpret=interpret,
    )(*operands)


def _inputs(field: Field, decoder: Decoder, rays: Rays, depths: Array, lookup: Lookup) -> dict:
    return {
        **lookup.inputs(field),
        **_weights(decoder, lookup),
        "origins": rays.origins,
        "directions": rays.directions,
        "depths": depths,
    }


def _joined(out: dict[str, Array]) -> tuple:
    """What rays saw, from what they saw in each stretch alone; stretches come first."""
    # Shifted rather than subtracted: an opaque stretch must not erase the depth of those before.
    before = jnp.cumsum(out["optical"][:-1], axis=0)
    through = jnp.exp(-jnp.concatenate([jnp.zeros_like(out["optical"][:1]), before], axis=0))
    seen = jnp.sum(through[..., None] * out["seen"], axis=0)
    sums = (jnp.sum(through * out[name], axis=0) for name in ("distance", "alpha"))
    return seen, *sums, jnp.sum(out["reach"], axis=0)


def forward(
    field: Field,
    decoder: Decoder,
    rays: Rays,
    depths: Float[Array, "b r s"],
    *,
    plan: Plan,
    interpret: bool,
) -> tuple:
    """`fused_reference.forward` as a kernel."""
    lookup, (heads, count, samples) = lookup_of(field), depths.shape
    stretches = pl.cdiv(samples, _STRETCH)
    like = functools.partial(dispatch.like, depths)
    scalars = ("distance", "alpha", "optical", "reach")
    shapes = {
        "seen": like((stretches, heads, count, decoder.w1.shape[1] - 1)),
        **{name: like((stretches, heads, count)) for name in scalars},
        "sigma": like(depths.shape),
    }
    if lookup.saved:
        shapes["saved"] = like((heads, lookup.saved, samples, count), jnp.int32)
    out = _call(
        functools.partial(_forward_kernel, plan=plan),
        (_inputs(field, decoder, rays, depths, lookup),),
        shapes,
        lookup=lookup,
        interpret=interpret,
    )
    nothing = jnp.zeros((heads, 0, samples, count), jnp.int32)
    nothing, _ = dispatch.varying_alike((nothing, depths))
    return _joined(out), out["sigma"], out.get("saved", nothing)


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
    """`fused_reference.backward` as kernels."""
    lookup = lookup_of(field)
    inputs = _inputs(field, decoder, rays, depths, lookup)
    inputs |= {"saved": saved} if lookup.saved else {}
    names = "dseen", "ddistance", "dalpha", "dreach"
    inputs |= dict(zip(names, cotangents, strict=True))
    like = functools.partial(dispatch.like, depths)
    gain = _call(
        functools.partial(_gain_kernel, plan=plan),
        (inputs,),
        {"gain": like(depths.shape)},
        lookup=lookup,
        interpret=interpret,
    )["gain"]
    weights, pull = jax.vjp(
        functools.partial(sample_weights, options=plan.march), sigma, depths
    )
    dsigma, ddepths = pull(gain)
    inputs |= {"weights": weights, "dsigma": dsigma}
    out, held = _handed_down(field, inputs, lookup=lookup, plan=plan, interpret=interpret)
    ddepths += cotangents[1][..., None] * weights + out["ddepths"]
    drays = Rays(*(jnp.sum(out[n], 0).swapaxes(1, 2) for n in ("dorigins", "ddirections")))
    return lookup.gradient(field, held), _decoder_gradient(held, decoder, lookup), drays, ddepths


def _handed_down(field: Field, inputs: dict, *, lookup: Lookup, plan: Plan, interpret: bool):
    """The second kernel: gradients of rays and depths, and of what all programs add to."""
    depths = inputs["depths"]
    heads, count, samples = depths.shape
    stretches = pl.cdiv(samples, _STRETCH)
    like = functools.partial(dispatch.like, depths)
    zeros = lookup.zeros(field)
    zeros |= {name: jnp.zeros((_COPIES, *inputs[name].shape), jnp.float32) for name in _WEIGHTS}
    *_, zeros = dispatch.varying_alike((depths, zeros))
    vectors = like((stretches, heads, 3, count))
    out = {"ddepths": like(depths.shape), "ddirections": vectors, "dorigins": vectors}
    before = len(jax.tree.leaves(inputs)), len(out)
    return _call(
        functools.partial(_backward_kernel, plan=plan, interpret=interpret),
        (inputs, zeros),
        (out, {name: like(array.shape) for name, array in zeros.items()}),
        lookup=lookup,
        gradient=True,
        interpret=interpret,
        aliases={before[0] + i: before[1] + i for i in range(len(zeros))},
    )
