"""Compositing of given samples on GPUs, in Pallas' Triton dialect, forward and backward.

A program takes a block of rays, a ray a lane, and walks their samples front to back (`stream.py`);
features are read as they lie, a ray's channels [c t] at a time.

Alphabet: `b` heads, `r` rays, `s` samples, `c` features, padded, `t` rays of a block.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.gpu_memory import Ref, block, both, load, parameters, power_of_two, store
from pallas_kernels.ray_march import stream
from pallas_kernels.ray_march.types import MarchOptions

# Features that a block's registers hold, and rays of a block: a warp's lanes.
_WIDEST = 128
_RAYS = 32


def why_not(features: Array, options: MarchOptions) -> str | None:
    """What speaks against the kernel for features [b r s c]."""
    if features.size == 0:
        return "there are no samples"
    if features.shape[-1] > _WIDEST:
        return f"{features.shape[-1]} features do not fit a block's registers, {_WIDEST} do"
    return None


def _channels(count: int) -> tuple[Array, Array | None]:
    """The indices [c 1] of a ray's features, and which exist."""
    padded = power_of_two(count)
    channel = jax.lax.broadcasted_iota(jnp.int32, (padded, 1), 0)
    return channel, None if padded == count else channel < count


class _Block:
    """A program's rays, and how it reads and writes what belongs to them."""

    def __init__(self, features: Ref):
        self.head = pl.program_id(1)
        self.ray, self.mask = block(0, _RAYS, count=features.shape[1])
        self.channel, exists = _channels(features.shape[-1])
        lanes = None if self.mask is None else self.mask[None, :]
        self.everywhere = both(lanes, exists)

    def number(self, ref: Ref, *s) -> Array:
        return load(ref, self.head, self.ray, *s, mask=self.mask)

    def row(self, ref: Ref, *s) -> Array:
        return load(ref, self.head, self.ray[None], *s, self.channel, mask=self.everywhere)

    def put(self, ref: Ref, *s, value: Array) -> None:
        store(ref, self.head, self.ray, *s, value=value, mask=self.mask)

    def put_row(self, ref: Ref, *s, value: Array) -> None:
        index = self.head, self.ray[None], *s, self.channel
        store(ref, *index, value=value, mask=self.everywhere)


def _forward_kernel(features, sigma, depths, seen, distance, alpha, *, options):
    rays = _Block(features)
    sums = stream.forward(
        depths.shape[-1],
        depth=functools.partial(rays.number, depths),
        sample=lambda s: (rays.number(sigma, s), rays.row(features, s)),
        options=options,
    )
    rays.put_row(seen, value=sums[0])
    rays.put(distance, value=sums[1])
    rays.put(alpha, value=sums[2])


def _backward_kernel(
    features, sigma, depths, dseen, ddistance, dalpha, dfeatures, dsigma, ddepths, *, options
):
    rays = _Block(features)
    dcolor = rays.row(dseen)
    along, silhouette = rays.number(ddistance), rays.number(dalpha)

    def gain(s):
        share = jnp.sum(rays.row(features, s) * dcolor, axis=0)
        return share + along * rays.number(depths, s) + silhouette

    def emit(s, weight, slope, spread):
        rays.put_row(dfeatures, s, value=weight * dcolor)
        rays.put(dsigma, s, value=slope)
        rays.put(ddepths, s, value=spread + weight * along)

    stream.backward(
        depths.shape[-1],
        depth=functools.partial(rays.number, depths),
        sigma=functools.partial(rays.number, sigma),
        gain=gain,
        emit=emit,
        options=options,
    )


def _call(kernel, arrays: tuple, shapes: list[tuple], *, options: MarchOptions, interpret: bool):
    """Runs a kernel on whole arrays, for every block of rays and head."""
    dispatch.quiet_triton()
    heads, rays, _, channels = arrays[0].shape
    return pl.pallas_call(
        functools.partial(kernel, options=options),
        grid=(pl.cdiv(rays, _RAYS), heads),
        out_shape=[dispatch.like(arrays[0], shape) for shape in shapes],
        compiler_params=parameters(1 if channels <= 8 else 4),
        interpret=interpret,
    )(*arrays)


def forward(
    features: Float[Array, "b r s c"],
    sigma: Float[Array, "b r s"],
    depths: Float[Array, "b r s"],
    *,
    options: MarchOptions,
    interpret: bool,
) -> tuple[Float[Array, "b r c"], Float[Array, "b r"], Float[Array, "b r"]]:
    """`reference.forward` as a kernel."""
    heads, rays, _, channels = features.shape
    shapes = [(heads, rays, channels), (heads, rays), (heads, rays)]
    arrays = features, sigma, depths
    return tuple(_call(_forward_kernel, arrays, shapes, options=options, interpret=interpret))


def backward(
    features: Float[Array, "b r s c"],
    sigma: Float[Array, "b r s"],
    depths: Float[Array, "b r s"],
    dfeatures: Float[Array, "b r c"],
    ddistance: Float[Array, "b r"],
    dalpha: Float[Array, "b r"],
    *,
    options: MarchOptions,
    interpret: bool,
) -> tuple[Float[Array, "b r s c"], Float[Array, "b r s"], Float[Array, "b r s"]]:
    """`reference.backward` as a kernel."""
    arrays = features, sigma, depths, dfeatures, ddistance, dalpha
    shapes = [a.shape for a in arrays[:3]]
    return tuple(_call(_backward_kernel, arrays, shapes, options=options, interpret=interpret))
