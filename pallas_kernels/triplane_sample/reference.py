"""Tri-plane lookup in plain JAX, forward and backward: the path on CPUs.

`naive.py` says the same in a page; this is the form that is fast and lean. It walks tiles of
points and keeps nothing of a tile but its features; backwards it looks the texels up again.

Alphabet: `x` tiles, `t` points of a tile, `n` planes, `c` channels, `q` corners of a point's cell.
Points come points-minor (`[3 t]`: a vector loop over points); features are rows of channels.

What makes it fast on CPUs (numbers in `docs/kernels.md`):
* planes are used as they lie: a cell is two lines (a tri-grid's four) of 2c numbers, read and added
  to as runs. They are clamped into the plane; a corner beyond it weighs nothing, which is the
  padding with zeros;
* the corners' sum is written out, so that one loop over points and channels holds all of it;
* weights and indices are made in a loop of their own (`_footprints`). A loop is the only fence that
  XLA's CPU compiler respects; without it they are computed again for every channel.

Invariants:
* a window of corners lies inside its plane, whatever the points hold;
* nothing of size points × planes × corners × c outlives a tile.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.triplane_sample.types import LookupOptions

_IN_BOUNDS = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
# Rows of this many numbers map to the same lines of a CPU's cache.
_PAGE = 1024


class _Axis(NamedTuple):
    """Where points lie along one axis of a plane.

    Attributes:
      start: first texel of the window.
      weights: of the window's one or two texels.
      slopes: the weights' derivatives by the coordinate.
    """

    start: Int[Array, "t"]
    weights: tuple
    slopes: tuple


def _axis(coordinate: Float[Array, "t"], size: int, box: float) -> _Axis:
    """Texel coordinates ((2x/box + 1)·size − 1)/2, counted from the middle of the axis.

    So counted they are as exact as the points are, and a weight as exact as they.
    """
    texel = coordinate * (size / box) - (0.0 if size % 2 else 0.5)
    low = jnp.floor(texel)
    fraction = texel - low
    index = jnp.clip(low, -size, size).astype(jnp.int32) + size // 2
    start = jnp.clip(index, 0, max(size - 2, 0))
    offsets = [start + tap - index for tap in range(min(size, 2))]
    weights = [jnp.where(o == 0, 1.0 - fraction, jnp.where(o == 1, fraction, 0.0)) for o in offsets]
    slopes = [((o == 1) - 1.0 * (o == 0)) * (size / box) for o in offsets]
    return _Axis(start, tuple(weights), tuple(slopes))


def _sizes(planes: Array) -> tuple[int, ...]:
    """(W, H) or (W, H, D): an axis a coordinate of `LookupOptions.axes`."""
    return planes.shape[2:-1][::-1]


def _plane_axes(points: Float[Array, "3 t"], plane: int, sizes, options) -> list[_Axis]:
    axes = options.axes[plane]
    return [_axis(points[a], size, options.box) for a, size in zip(axes, sizes, strict=True)]


def _corners(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The taps along (W, H[, D]) of each corner, W fastest: the order of a window's numbers."""
    taps = [range(min(size, 2)) for size in reversed(sizes)]
    return [corner[::-1] for corner in itertools.product(*taps)]


def _product(axes: list[_Axis], corner: tuple[int, ...], slope_of: int | None = None) -> Array:
    """The weight of a corner, or its slope along one axis."""
    return math.prod(
        (axis.slopes if i == slope_of else axis.weights)[tap]
        for i, (axis, tap) in enumerate(zip(axes, corner, strict=True))
    )


def _footprints(points: Float[Array, "3 t"], sizes: tuple[int, ...], options: LookupOptions):
    """Per plane: the window's start, one array an axis, and the corners' weights, each [t]."""

    def half(points):
        planes = []
        for plane in range(len(options.axes)):
            axes = _plane_axes(points, plane, sizes, options)
            weights = [_product(axes, corner) for corner in _corners(sizes)]
            planes.append(([axis.start for axis in axes], weights))
        return planes

    # In two halves: a loop of one step is unrolled, and fences nothing.
    count = points.shape[1]
    halves = jnp.pad(points, ((0, 0), (0, count % 2))).reshape(3, 2, -1).swapaxes(0, 1)
    return jax.tree.map(lambda a: a.reshape(-1)[:count], jax.lax.map(half, halves))


def _lines(start: list, plane: int | Array, planes: Array) -> Int[Array, "t l"]:
    """The first texel of each line of the windows, all heads' texels counted through.

    A window has a line for each tap along (D,) H; `plane` counts through the heads.
    """
    sizes = _sizes(planes)
    first, steps = plane, []
    for axis in reversed(range(len(sizes))):
        first = first * sizes[axis] + start[axis]
    for corner in _corners((1, *sizes[1:])):
        steps.append(sum(tap * math.prod(sizes[:axis]) for axis, tap in enumerate(corner)))
    return jnp.stack([first + step for step in steps], axis=-1)


def _gather(planes: Array, lines: Int[Array, "t l"]) -> Float[Array, "t q c"]:
    """The corners of each point's cell."""
    channels, taps = planes.shape[-1], min(planes.shape[-2], 2)
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(2, 3), collapsed_slice_dims=(), start_index_map=(0,)
    )
    texels = planes.reshape(-1, channels)
    values = jax.lax.gather(texels, lines[..., None], numbers, (taps, channels), mode=_IN_BOUNDS)
    return values.reshape(len(lines), -1, channels)


def _scatter_add(planes: Array, lines: Int[Array, "t l"], values: Float[Array, "t q c"]) -> Array:
    """Adds the corners of each point's cell: the transpose of `_gather`."""
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )
    channels = planes.shape[-1]
    values = values.reshape(*lines.shape, -1, channels)
    texels = jax.lax.scatter_add(
        planes.reshape(-1, channels), lines[..., None], values, numbers, mode=_IN_BOUNDS
    )
    return texels.reshape(planes.shape)


def sample_tile(
    planes: Float[Array, "b n *s c"],
    points: Float[Array, "3 t"],
    *,
    head: int | Int[Array, ""] = 0,
    options: LookupOptions,
) -> Float[Array, "*n t c"]:
    """Features of a tile of points, all of one head; about a thousand points fit a CPU's cache.

    Args:
      planes: of all heads, as the user has them: they need no other layout.
      points: world units.
      head: whose planes.
      options: see `LookupOptions`.
    """
    count, features = planes.shape[1], []
    footprints = _footprints(points, _sizes(planes), options)
    for plane, (start, weights) in enumerate(footprints):
        corners = _gather(planes, _lines(start, head * count + plane, planes))
        features.append(sum(w[:, None] * corners[:, q] for q, w in enumerate(weights)))
    return jnp.stack(features) if options.reduce == "none" else options.scale * sum(features)


def pull_tile(
    accumulator: Float[Array, "b n *s c"],
    planes: Float[Array, "b n *s c"],
    points: Float[Array, "3 t"],
    dfeatures: Float[Array, "*n t c"],
    *,
    head: int | Int[Array, ""] = 0,
    options: LookupOptions,
) -> tuple[Float[Array, "b n *s c"], Float[Array, "3 t"]]:
    """The gradient of `sample_tile`: adds the planes' to `accumulator`, returns the points'.

    Args:
      accumulator: gradient of the planes so far; carry it through the loop over tiles, so that it
        is added to in place.
      planes, points, head, options: as `sample_tile` had them.
      dfeatures: gradient of what it returned.
    """
    sizes, count = _sizes(planes), planes.shape[1]
    dpoints = [jnp.zeros_like(points[0]) for _ in range(3)]
    for plane, (start, weights) in enumerate(_footprints(points, sizes, options)):
        df = dfeatures[plane] if options.reduce == "none" else options.scale * dfeatures
        lines = _lines(start, head * count + plane, planes)
        dweights = jnp.einsum("tqc,tc->tq", _gather(planes, lines), df)
        updates = jnp.stack(weights, axis=-1)[..., None] * df[:, None]
        accumulator = _scatter_add(accumulator, lines, updates)
        axes = _plane_axes(points, plane, sizes, options)
        for i, a in enumerate(options.axes[plane]):
            for q, corner in enumerate(_corners(sizes)):
                dpoints[a] = dpoints[a] + _product(axes, corner, i) * dweights[:, q]
    return accumulator, jnp.stack(dpoints)


def tile_size(count: int, tile: int) -> int:
    """About `tile` points: a divisor of their number where there is one, not of whole pages."""
    if count <= tile:
        return max(count, 1)
    fitting = (t for t in range(tile, tile // 2, -1) if count % t == 0 and t % _PAGE)
    return next(fitting, -(-count // -(-count // tile)))


def _tiled(array: Array, size: int) -> Array:
    """[b m r] as [b·x, m, t], padded with zeros."""
    heads, rows, count = array.shape
    tiles = -(-count // size)
    padded = jnp.pad(array, ((0, 0), (0, 0), (0, tiles * size - count)))
    return padded.reshape(heads, rows, tiles, size).swapaxes(1, 2).reshape(-1, rows, size)


def _heads(heads: int, tiles: int) -> Int[Array, "x"]:
    return jnp.repeat(jnp.arange(heads, dtype=jnp.int32), tiles // heads)


def forward(
    points: Float[Array, "b 3 r"], planes: Float[Array, "b n *s c"], *, options: LookupOptions
) -> Float[Array, "b *n r c"]:
    """Features of all points."""
    heads, _, count = points.shape
    tiles = _tiled(points, tile_size(count, options.tile))
    features = jax.lax.map(
        lambda xs: sample_tile(planes, xs[0], head=xs[1], options=options),
        (tiles, _heads(heads, len(tiles))),
    )
    features = features.reshape(heads, -1, *features.shape[1:])
    if options.reduce == "none":
        features = features.swapaxes(1, 2)
    return jax.lax.collapse(features, -3, -1)[..., :count, :]


def backward(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    dfeatures: Float[Array, "b *n r c"],
    *,
    options: LookupOptions,
) -> tuple[Float[Array, "b 3 r"], Float[Array, "b n *s c"]]:
    """Gradients of points and planes."""
    heads, _, count = points.shape
    size = tile_size(count, options.tile)
    tiles = _tiled(points, size)
    extra = len(tiles) // heads * size - count
    padding = ((0, 0),) * (dfeatures.ndim - 2) + ((0, extra), (0, 0))
    df = jnp.pad(dfeatures, padding)
    df = df.reshape(*df.shape[:-2], -1, size, df.shape[-1])
    if options.reduce == "none":
        df = df.swapaxes(1, 2)

    def step(accumulator, xs):
        points, df, head = xs
        return pull_tile(accumulator, planes, points, df, head=head, options=options)

    xs = (tiles, jax.lax.collapse(df, 0, 2), _heads(heads, len(tiles)))
    dplanes, dpoints = jax.lax.scan(step, jnp.zeros_like(planes), xs)
    dpoints = dpoints.reshape(heads, -1, 3, size).swapaxes(1, 2).reshape(heads, 3, -1)
    return dpoints[..., :count], dplanes
