"""Tri-plane and tri-grid lookup on GPUs, in Pallas' Triton dialect, forward and backward.

A program takes a block of points of one head, a point a lane. A corner of a point's cell is a row
of channels [t c] read where the point says; the planes are used as they lie. Backwards the rows are
read again, and a corner's share of the gradient is an atomic add.

Alphabet: `t` points of a block, `c` channels, padded, `n` planes.

Invariant: every row lies inside its plane, whatever the points hold; what lies beyond a plane has
weight 0, which is the padding with zeros.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.gpu_memory import Ref, add, block, both, lanes, load, parameters, rowwise, store
from pallas_kernels.triplane_sample.types import LookupOptions

# Channels that a block's registers hold.
_WIDEST = 128

Point = tuple[Array, Array, Array]


class _Taps(NamedTuple):
    """The one or two texels along an axis that a point lies between.

    Attributes:
      texel: index of the first, which is in bounds with its successor.
      weights: of both.
      slopes: of their weights by the coordinate.
    """

    texel: Array
    weights: list[Array]
    slopes: list[Array]


def _taps(coordinate: Array, size: int, box: float) -> _Taps:
    """Texel coordinates ((2x/box + 1)·size − 1)/2, counted from the axis' middle to be exact."""
    texel = coordinate * (size / box) - (0.0 if size % 2 else 0.5)
    low = jnp.floor(texel)
    fraction = texel - low
    index = jnp.minimum(jnp.maximum(low, -size), size).astype(jnp.int32) + size // 2
    first = jnp.minimum(jnp.maximum(index, 0), max(size - 2, 0))
    weights, slopes = [], []
    for tap in range(min(size, 2)):
        lower, upper = first + tap == index, first + tap == index + 1
        weights.append(jnp.where(lower, 1.0 - fraction, jnp.where(upper, fraction, 0.0)))
        slopes.append(jnp.where(lower, -size / box, jnp.where(upper, size / box, 0.0)))
    return _Taps(first, weights, slopes)


def _sizes(planes: jax.Array | Ref) -> tuple[int, ...]:
    """(W, H) or (W, H, D): an axis a coordinate of `LookupOptions.axes`."""
    return planes.shape[2:-1][::-1]


def _cell(point: Point, plane: int, planes: Ref, options: LookupOptions) -> list[_Taps]:
    axes, sizes = options.axes[plane], _sizes(planes)
    return [_taps(point[a], size, options.box) for a, size in zip(axes, sizes, strict=True)]


def _corners(cell: list[_Taps]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(taps.weights)) for taps in cell)))


def _weight(cell: list[_Taps], corner: tuple[int, ...], slope_of: int | None = None) -> Array:
    """A corner's weight [t 1], or its slope along one axis."""
    factors = [
        (taps.slopes if axis == slope_of else taps.weights)[tap]
        for axis, (taps, tap) in enumerate(zip(cell, corner, strict=True))
    ]
    return math.prod(factors[1:], start=factors[0])[:, None]


def _row(cell: list[_Taps], corner: tuple[int, ...], plane: int, head: Array, channel: Array):
    """Where a corner's channels [t c] lie in planes [b n (d) h w c]."""
    place = [(taps.texel + tap)[:, None] for taps, tap in zip(cell, corner, strict=True)]
    return head, plane, *place[::-1], channel


def sample_plane(
    point: Point, plane: int, planes: Ref, head: Array, *, options: LookupOptions, least: int = 1
) -> Float[Array, "t c"]:
    """Features of a block of points in one plane, padded to `least` channels or more."""
    channel, exists = lanes(planes.shape[-1], least=least)
    cell, total = _cell(point, plane, planes, options), 0.0
    for corner in _corners(cell):
        row = load(planes, *_row(cell, corner, plane, head, channel), mask=exists)
        total = total + _weight(cell, corner) * row
    return total


def sample(
    point: Point, planes: Ref, head: Array, *, options: LookupOptions, least: int = 1
) -> Float[Array, "t c"]:
    """Features of a block of points, for options that add the planes up."""
    parts = [
        sample_plane(point, plane, planes, head, options=options, least=least)
        for plane in range(len(options.axes))
    ]
    return options.scale * sum(parts)


def pull(
    point: Point,
    dfeatures: list[Float[Array, "t c"]],
    planes: Ref,
    dplanes: Ref,
    head: Array,
    *,
    options: LookupOptions,
    mask: Array | None,
    interpret: bool,
) -> list[Array]:
    """The gradient of `sample_plane`s: adds the planes' to `dplanes`, returns the points'.

    Args:
      point: the block's points.
      dfeatures: a gradient for each plane.
      planes, head, options: as the lookup had them.
      dplanes: like planes.
      mask: which points exist.
      interpret: see `gpu_memory.add`.
    """
    channel, exists = lanes(planes.shape[-1], least=dfeatures[0].shape[1])
    exists = both(rowwise(mask), exists)
    # Sums over corners and planes first, one sum over channels a coordinate afterwards.
    slopes = [jnp.zeros_like(dfeatures[0]) for _ in range(3)]
    for plane, cotangent in enumerate(dfeatures):
        cell = _cell(point, plane, planes, options)
        for corner in _corners(cell):
            row = _row(cell, corner, plane, head, channel)
            along = load(planes, *row, mask=exists) * cotangent
            for axis, a in enumerate(options.axes[plane]):
                slopes[a] = slopes[a] + _weight(cell, corner, axis) * along
            share = _weight(cell, corner) * cotangent
            add(dplanes, *row, value=share, mask=exists, interpret=interpret)
    return [jnp.sum(slope, axis=1) for slope in slopes]


def _point(points: Ref, head: Array, count: int, size: int) -> tuple[Point, Array, Array | None]:
    """A block's points, their indices, and which exist."""
    t, mask = block(0, size, count=count)
    return tuple(load(points, head, a, t, mask=mask) for a in range(3)), t, mask


def _forward_kernel(points, planes, features, *, options, size):
    head = pl.program_id(1)
    point, t, mask = _point(points, head, points.shape[2], size)
    channel, exists = lanes(planes.shape[-1])
    exists = both(rowwise(mask), exists)
    if options.reduce != "none":
        value = sample(point, planes, head, options=options)
        store(features, head, t[:, None], channel, value=value, mask=exists)
        return
    for plane in range(len(options.axes)):
        value = sample_plane(point, plane, planes, head, options=options)
        store(features, head, plane, t[:, None], channel, value=value, mask=exists)


def _backward_kernel(
    points, planes, dfeatures, _zeros, dpoints, dplanes, *, options, size, interpret
):
    head = pl.program_id(1)
    point, t, mask = _point(points, head, points.shape[2], size)
    channel, exists = lanes(planes.shape[-1])
    exists = both(rowwise(mask), exists)
    count = len(options.axes)
    if options.reduce == "none":
        cotangents = [
            load(dfeatures, head, plane, t[:, None], channel, mask=exists) for plane in range(count)
        ]
    else:
        cotangent = load(dfeatures, head, t[:, None], channel, mask=exists)
        cotangents = [options.scale * cotangent] * count
    dpoint = pull(
        point,
        cotangents,
        planes,
        dplanes,
        head,
        options=options,
        mask=mask,
        interpret=interpret,
    )
    for a in range(3):
        store(dpoints, head, a, t, value=dpoint[a], mask=mask)


def block_of(channels: int, *, gradient: bool) -> int:
    """Points of a block: fewer where there is more a point, for the sake of the registers."""
    size = 128 if channels <= 16 else 64 if channels <= 64 else 32
    return size // 2 if gradient else size


def too_much(channels: int) -> str | None:
    """What a block's registers cannot hold."""
    if channels > _WIDEST:
        return f"{channels} channels do not fit a block's registers, {_WIDEST} do"
    return None


def why_not(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    *,
    options: LookupOptions,
    gradient: bool,
) -> str | None:
    """What speaks against the kernel for these shapes, None if nothing does."""
    return "there are no points" if points.size == 0 else too_much(planes.shape[-1])


def _run(kernel, arguments: tuple, shapes, *, size: int, interpret: bool, aliases: dict, options):
    """Calls a kernel on whole arrays, for every block of points and head."""
    dispatch.quiet_triton()
    points = arguments[0]
    return pl.pallas_call(
        functools.partial(kernel, options=options, size=size),
        grid=(pl.cdiv(points.shape[2], size), points.shape[0]),
        out_shape=shapes,
        input_output_aliases=aliases,
        compiler_params=parameters(4),
        interpret=interpret,
    )(*arguments)


def forward(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    *,
    options: LookupOptions,
    interpret: bool,
) -> Float[Array, "b *n r c"]:
    """`reference.forward` as a kernel."""
    heads, _, count = points.shape
    apart = (planes.shape[1],) if options.reduce == "none" else ()
    shape = dispatch.like(points, (heads, *apart, count, planes.shape[-1]))
    return _run(
        _forward_kernel,
        (points, planes),
        shape,
        size=block_of(planes.shape[-1], gradient=False),
        interpret=interpret,
        aliases={},
        options=options,
    )


def backward(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    dfeatures: Float[Array, "b *n r c"],
    *,
    options: LookupOptions,
    interpret: bool,
) -> tuple[Float[Array, "b 3 r"], Float[Array, "b n *s c"]]:
    """`reference.backward` as a kernel."""
    zeros, _ = dispatch.varying_alike((jnp.zeros_like(planes), planes))
    return _run(
        functools.partial(_backward_kernel, interpret=interpret),
        (points, planes, dfeatures, zeros),
        [dispatch.like(points, points.shape), dispatch.like(points, planes.shape)],
        size=block_of(planes.shape[-1], gradient=True),
        interpret=interpret,
        aliases={3: 1},
        options=options,
    )
