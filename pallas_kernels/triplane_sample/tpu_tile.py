"""A tile of tri-plane lookup inside a TPU kernel: how planes lie in VMEM, and the walk over points.

Planes lie in VMEM as rows of 128 lanes, a row holding 128/c texels of a line. A tile is 1,024
points: one vector register holds one number of each. What is alike for all points (texel
coordinates, weights along H and D) is done as vectors (`numbers`) and copied to scalar memory; then
a walk (`look_up`, `pull`) goes point by point and plane by plane: one load brings the two rows of a
line that hold the cell's texels, and a hat function over the lanes' texel coordinates weighs them,

    w = max(0, 1 − |column − x_lane|),

which is linear interpolation, with zeros outside, without a gather. A point leaves one row behind;
a product with a 0/1 matrix (`channels`) adds its lanes up.

Alphabet: `b` heads, `k` planes in VMEM, `t` points of a tile as [8 128], `a` coordinates of a plane
in the order (W, H[, D]), `l` lines of a cell (the taps along D and H), `c` channels.

Invariants:
* channels of a texel are padded to a divisor of 128, so that a lane has the same channel in all
  rows;
* a walk reads and writes inside its plane, whatever the points hold.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.tpu_memory import LANES, TILE, dot, hat, hat_slope

# Points of the walk that are written out, so that their loads overlap.
_UNROLL = 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of one call, and how planes lie in rows of lanes.

    Attributes:
      sizes: (W, H) or (W, H, D) of a plane.
      held: planes that are in VMEM together.
    """

    heads: int
    planes: int
    points: int
    sizes: tuple[int, ...]
    channels: int
    box: float
    held: int

    @property
    def tiles(self) -> int:
        return -(-self.points // TILE)

    @property
    def groups(self) -> int:
        return self.planes // self.held

    @property
    def padded_channels(self) -> int:
        return 1 << (self.channels - 1).bit_length()

    @property
    def texels(self) -> int:
        """Texels of a row of lanes."""
        return LANES // self.padded_channels

    @property
    def line_rows(self) -> int:
        """Rows of lanes of a line of texels."""
        return -(-self.sizes[0] // self.texels)

    @property
    def span(self) -> int:
        """Rows that are loaded for two neighbouring texels."""
        return min(2, self.line_rows)

    @property
    def plane_rows(self) -> int:
        return math.prod(self.sizes[1:]) * self.line_rows

    @property
    def taps(self) -> tuple[tuple[int, ...], ...]:
        """The lines of a cell: taps along (H[, D])."""
        return tuple(itertools.product(*(range(min(2, size)) for size in self.sizes[1:])))

    @property
    def offsets(self) -> tuple[int, ...]:
        """Rows from a cell's first line to each of its lines."""
        strides = [self.line_rows * math.prod(self.sizes[1:axis]) for axis in (1, 2)]
        return tuple(sum(t * s for t, s in zip(tap, strides, strict=False)) for tap in self.taps)


def to_rows(planes: Float[Array, "b n *s c"], layout: Layout) -> Float[Array, "b rows 128"]:
    """Planes in whole rows of lanes: ((plane · D + z) · H + y) · line_rows + row.

    One image at a time: on its way XLA holds it with channels padded to 128 lanes.
    """
    pad = (
        (0, 0),
        (0, layout.line_rows * layout.texels - layout.sizes[0]),
        (0, layout.padded_channels - layout.channels),
    )
    images = planes.reshape(-1, *planes.shape[-3:])
    rows = jax.lax.map(lambda image: jnp.pad(image, pad).reshape(-1, LANES), images)
    return rows.reshape(layout.heads, -1, LANES)


def from_rows(rows: Float[Array, "b rows 128"], layout: Layout) -> Float[Array, "b n *s c"]:
    """The transpose of `to_rows`."""
    width, height, *_ = layout.sizes

    def image(rows):
        image = rows.reshape(height, -1, layout.padded_channels)
        return image[:, :width, : layout.channels]

    images = jax.lax.map(image, rows.reshape(-1, height * layout.line_rows, LANES))
    return images.reshape(layout.heads, layout.planes, *layout.sizes[:0:-1], width, layout.channels)


# --- as vectors: one number of each point of a tile, [8 128] ---


def _start(coordinate: Array, axis: int, layout: Layout) -> tuple[Array, Array]:
    """First texel of the window (of the rows, along W), and the place counted from there.

    Texel coordinates are counted from the middle of the axis, which loses no digit of a point.
    """
    size = layout.sizes[axis]
    texel = coordinate * (size / layout.box) - (0.0 if size % 2 else 0.5)
    start = jnp.clip(jnp.floor(texel), -size, size).astype(jnp.int32) + size // 2
    if axis:
        start = jnp.clip(start, 0, max(size - 2, 0))
    else:
        shift = layout.texels.bit_length() - 1
        start = jnp.clip(start >> shift, 0, layout.line_rows - layout.span) << shift
    return start, texel - (start - size // 2).astype(jnp.float32)


def _lines(places: list[Array], layout: Layout, slope_of: int | None = None) -> list[Array]:
    """Weights of a cell's lines, or their slopes along one of (H[, D])."""
    return [
        math.prod(
            (hat_slope if i == slope_of else hat)(place - float(tap))
            for i, (place, tap) in enumerate(zip(places, taps, strict=True))
        )
        for taps in layout.taps
    ]


def numbers(
    coordinates: list[Array], plane: int, *, layout: Layout, slopes: bool
) -> tuple[Array, list[Array]]:
    """What the walk wants of each point in one plane.

    Args:
      coordinates: of the points, in the plane's order (W, H[, D]); any shape of vectors.
      plane: which of the planes in VMEM.
      layout: sizes.
      slopes: whether the weights' slopes are wanted too.

    Returns:
      the cell's first row, and: the place along W from there, the weights of its lines, and for
      each of (H[, D]) their slopes.
    """
    starts, places = zip(
        *(_start(x, axis, layout) for axis, x in enumerate(coordinates)), strict=True
    )
    row = plane * (layout.plane_rows // layout.line_rows)
    for axis in range(len(starts) - 1, 0, -1):
        lines = math.prod(layout.sizes[1:axis])
        row = row + starts[axis] * lines
    shift = layout.texels.bit_length() - 1
    first = row * layout.line_rows + (starts[0] >> shift)
    across = list(places[1:])
    values = [places[0], *_lines(across, layout)]
    for axis in range(len(across) if slopes else 0):
        values += _lines(across, layout, axis)
    return first, values


def numbers_of_plane(layout: Layout, *, slopes: bool) -> int:
    """How many values `numbers` returns."""
    lines = len(layout.taps)
    return 1 + lines * (len(layout.sizes) if slopes else 1)


# --- point by point ---


def _places(layout: Layout) -> Array:
    """Texels of the lanes of the rows that are loaded together, [span 128]."""
    shape = (layout.span, LANES)
    row, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    shift = layout.padded_channels.bit_length() - 1
    return (row * layout.texels + (lane >> shift)).astype(jnp.float32)


def _channel_of_lane(layout: Layout) -> Array:
    """Which lane holds which channel: [c 128], ones and zeros."""
    shape = (layout.channels, LANES)
    channel, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return (channel == (lane & (layout.padded_channels - 1))).astype(jnp.float32)


def walk(count: Array | int, visit: Callable[[Array, Array, Array], None]) -> None:
    """Calls visit(t, t // 128, t % 128) for each point of a tile up to `count`, about."""

    def step(j, _):
        for u in range(_UNROLL):
            t = j * _UNROLL + u
            visit(t, t >> 7, t & (LANES - 1))
        return 0

    steps = jax.lax.div(count + (_UNROLL - 1), jnp.int32(_UNROLL))
    jax.lax.fori_loop(0, steps, step, 0)


def _load(table, first: Array, layout: Layout) -> list[Array]:
    """The rows of each line of a cell, [span 128] each."""
    return [table[0, pl.ds(first + offset, layout.span)] for offset in layout.offsets]


def look_up(
    table, firsts, scalars, rows, *, layout: Layout, count: Array | int, keep: bool
) -> None:
    """Leaves in `rows` each point's features of the held planes, not yet added over lanes.

    Args:
      table: held planes in rows of lanes, a ref [1 rows 128].
      firsts, scalars: `numbers` of each held plane, SMEM refs [k 8 128] and [k·m 8 128].
      rows: VMEM ref [1 t 128], or with `keep`, [k t 128].
      layout: sizes.
      count: points to walk.
      keep: keeps the planes apart rather than adding them.
    """
    places, size = _places(layout), numbers_of_plane(layout, slopes=False)
    lines = len(layout.taps)

    def visit(t, s, lane):
        total = jnp.zeros((layout.span, LANES), jnp.float32)
        for k in range(layout.held):
            values = _load(table, firsts[k, s, lane], layout)
            line = sum(scalars[k * size + 1 + i, s, lane] * values[i] for i in range(lines))
            part = hat(scalars[k * size, s, lane] - places) * line
            if keep:
                rows[k, pl.ds(t, 1)] = jnp.sum(part, axis=0, keepdims=True)
            total = total + part
        if not keep:
            rows[0, pl.ds(t, 1)] = jnp.sum(total, axis=0, keepdims=True)

    walk(count, visit)


def channels(rows: Array, layout: Layout) -> Float[Array, "c t"]:
    """A row per point, added over lanes of a channel."""
    return dot(_channel_of_lane(layout), rows, (((1,), (1,)), ((), ())))


def lanes(features: Array, layout: Layout) -> Float[Array, "t 128"]:
    """The transpose of `channels`."""
    return dot(features, _channel_of_lane(layout), (((0,), (0,)), ((), ())))


def pull(
    table, dtable, firsts, scalars, rows, products, *, layout: Layout, count: Array | int
) -> None:
    """The gradient of `look_up`: adds to `dtable`, leaves the coordinates' in `products`.

    Args:
      table, dtable: held planes and their gradient, refs [1 rows 128].
      firsts, scalars: `numbers` with slopes of each held plane.
      rows: gradient of the features over lanes, VMEM ref [1 t 128] or [k t 128].
      products: VMEM ref [k·a t 128]: by coordinate, not yet added over lanes.
      layout: sizes.
      count: points to walk.
    """
    places, size = _places(layout), numbers_of_plane(layout, slopes=True)
    axes, lines = len(layout.sizes), len(layout.taps)
    apart = rows.shape[0] > 1

    def visit(t, s, lane):
        for k in range(layout.held):
            gradient = rows[k if apart else 0, pl.ds(t, 1)]
            first = firsts[k, s, lane]
            distance = scalars[k * size, s, lane] - places
            across, values = hat(distance), _load(table, first, layout)
            for a in range(axes):
                at = k * size + 1 + a * lines
                line = sum(scalars[at + i, s, lane] * values[i] for i in range(lines))
                part = (across if a else hat_slope(distance)) * line * gradient
                products[k * axes + a, pl.ds(t, 1)] = jnp.sum(part, axis=0, keepdims=True)
            for i, offset in enumerate(layout.offsets):
                own = pl.ds(first + offset, layout.span)
                weight = scalars[k * size + 1 + i, s, lane] * across
                dtable[0, own] = dtable[0, own] + weight * gradient

    walk(count, visit)
