"""K-nearest Gaussian blending on GPUs, in Pallas' Triton dialect.

A program takes a block of points through everything: selection, gather, blend (`gpu_tile.py`). Of
Pallas' two dialects for GPUs only Triton's reads memory at indices computed per lane
(`docs/kernels.md`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.gpu_memory import block, both, load, parameters, rowwise, store
from pallas_kernels.knn_blend import gpu_tile, reference
from pallas_kernels.knn_blend.gpu_tile import GROUP, channels_of, half_width
from pallas_kernels.knn_blend.types import BlendOptions

# Where padding sits: behind every Gaussian, and its squared distance still a number.
_NOWHERE = 1e18
# Copies of the frames' gradient.
_COPIES = 16
# Channels and neighbours that a block's registers hold.
_WIDEST, _MOST = 64, 8


def padded(frames: Float[Array, "b 12 g"]) -> Float[Array, "b 12 n"]:
    """The Gaussians in whole groups; what is added is behind every Gaussian."""
    pad = ((0, 0), (0, 0), (0, -frames.shape[2] % GROUP))
    return jnp.pad(frames, pad, constant_values=_NOWHERE)


def _forward_kernel(points, frames, texels, features, total, ids, *, options, size):
    head = pl.program_id(1)
    channels = channels_of(texels, options)
    t, mask = block(0, size, count=points.shape[2])
    point = tuple(load(points, head, a, t, mask=mask) for a in range(3))
    chosen = gpu_tile.select(point, frames, head, options=options)
    blended, reached = gpu_tile.blend(point, chosen, frames, texels, head, options=options)
    for k, index in enumerate(chosen):
        store(ids, head, k, t, value=index, mask=mask)
    store(total, head, t, value=reached, mask=mask)
    half = half_width(channels)
    channel = jax.lax.broadcasted_iota(jnp.int32, (1, half), 1)
    exists = both(rowwise(mask), None if half == channels else channel < channels)
    value = jnp.sum(blended.reshape(size, 2, half), axis=1)
    store(features, head, channel, t[:, None], value=value, mask=exists)


def _backward_kernel(
    points, frames, texels, ids, dfeatures, dtotal, _sums, _dtexels, dpoints, sums, dtexels,
    *, options, size, interpret,
):  # fmt: skip
    head = pl.program_id(1)
    channels = channels_of(texels, options)
    t, mask = block(0, size, count=points.shape[2])
    point = tuple(load(points, head, a, t, mask=mask) for a in range(3))
    _, channel, _, exists = gpu_tile.halves(channels)
    everywhere = both(rowwise(mask), exists)
    cotangents = (
        load(dfeatures, head, channel, t[:, None], mask=everywhere),
        load(dtotal, head, t, mask=mask),
    )

    def chosen(k):
        return load(ids, head, k, t, mask=mask)

    dpoint = gpu_tile.pull(
        point,
        chosen,
        gpu_tile.blend_again(point, chosen, frames, texels, head, options=options),
        cotangents,
        (frames, texels),
        (sums, dtexels),
        head,
        copy=copy_of(pl.program_id(0)),
        options=options,
        mask=mask,
        interpret=interpret,
    )
    for a in range(3):
        store(dpoints, head, a, t, value=dpoint[a], mask=mask)


def block_of(channels: int, *, gradient: bool) -> int:
    """Points of a block: fewer where there is more a point, for the sake of the registers."""
    size = 128 if channels <= 16 else 64
    return size // 2 if gradient else size


def too_much(channels: int, neighbors: int) -> str | None:
    """What a block's registers cannot hold."""
    if channels > _WIDEST:
        return f"{channels} channels do not fit a block's registers, {_WIDEST} do"
    if neighbors > _MOST:
        return f"{neighbors} neighbours do not fit a block's registers, {_MOST} do"
    return None


def why_not(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    *,
    options: BlendOptions,
    gradient: bool,
) -> str | None:
    """What speaks against the kernel for these shapes, None if nothing does."""
    if min(points.shape) == 0 or min(texels.shape) == 0:
        return "there is nothing to compute"
    return too_much(channels_of(texels, options), options.neighbors)


def _run(kernel, arguments: tuple, shapes: tuple, *, size: int, interpret: bool, aliases=None):
    """Calls a kernel on whole arrays, for every block of points and head."""
    dispatch.quiet_triton()
    points = arguments[0]
    return pl.pallas_call(
        functools.partial(kernel, size=size),
        grid=(pl.cdiv(points.shape[2], size), points.shape[0]),
        out_shape=shapes,
        input_output_aliases=aliases or {},
        compiler_params=parameters(4),
        interpret=interpret,
    )(*arguments)


def forward(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    *,
    options: BlendOptions,
    interpret: bool,
) -> tuple[Float[Array, "b c r"], Float[Array, "b r"], Int[Array, "b k r"]]:
    """Features, Σ g and neighbours; `reference.forward` of all heads, points-minor."""
    heads, _, count = points.shape
    like = functools.partial(dispatch.like, points)
    shapes = (
        like((heads, channels_of(texels, options), count)),
        like((heads, count)),
        like((heads, options.neighbors, count), jnp.int32),
    )
    return _run(
        functools.partial(_forward_kernel, options=options),
        (points, padded(frames), texels),
        shapes,
        size=block_of(channels_of(texels, options), gradient=False),
        interpret=interpret,
    )


def no_gradients(frames: Array, texels: Array) -> tuple[Array, Array]:
    """What `pull` adds to, before it has: several copies of the frames' sums, and the texels'."""
    sums = jnp.zeros((_COPIES, frames.shape[0], frames.shape[2], 16), frames.dtype)
    return dispatch.varying_alike((sums, jnp.zeros_like(texels), texels))[:2]


def copy_of(program: Array) -> Array:
    """The copy of the frames' sums that a program adds to."""
    return program % _COPIES


def frame_gradient(sums: Float[Array, "x b g 16"], frames: Float[Array, "b 12 g"]) -> Array:
    """Gradient of the frames from the copies of their sums."""
    return jax.vmap(reference.frame_gradient)(jnp.sum(sums, axis=0)[..., :12], frames)


def backward(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    ids: Int[Array, "b k r"],
    dfeatures: Float[Array, "b c r"],
    dtotal: Float[Array, "b r"],
    *,
    options: BlendOptions,
    interpret: bool,
) -> tuple[Float[Array, "b 3 r"], Float[Array, "b 12 g"], Float[Array, "b n m"]]:
    """Gradients of points, frames and texels, given those of features and Σ g."""
    zeros = no_gradients(frames, texels)
    dpoints, sums, dtexels = _run(
        functools.partial(_backward_kernel, options=options, interpret=interpret),
        (points, frames, texels, ids, dfeatures, dtotal, *zeros),
        tuple(dispatch.like(points, a.shape) for a in (points, *zeros)),
        size=block_of(channels_of(texels, options), gradient=True),
        interpret=interpret,
        aliases={6: 1, 7: 2},
    )
    return dpoints, frame_gradient(sums, frames), dtexels
