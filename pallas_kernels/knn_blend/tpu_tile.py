"""K-nearest Gaussian blending of one tile of points on a TPU: what kernels do with it in VMEM.

A tile is 1,024 points: one vector register holds one number of each. What is alike for all points
is done as vectors (the walk over all Gaussians with a running insertion, A, v = A (x − μ), the
RBF); then a walk goes point by point, neighbour by neighbour: one load brings a Gaussian's whole
patch, and hat functions over the lanes' texel coordinates weigh it,

    w = max(0, 1 − |column − x_lane|) · max(0, 1 − |row − y_lane|),

which is bilinear interpolation without a gather. Backwards the same walk adds to rows of the
table's gradient in place (a TPU's grid is sequential), and a second one adds to the Gaussians',
which need the sums over lanes that the first left behind.

Alphabet: `t` points of a tile, as [8 128]; `k` neighbours, `g` Gaussians, `c` channels, `m` rows of
a Gaussian's patch, 128 lanes each.

Invariants:
* a row of the table holds whole texels, so that a lane has the same channel in every row;
* a point that pads the last tile is never walked, and adds no gradient;
* indices are in bounds whatever the points hold.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels.knn_blend.select import insert, start
from pallas_kernels.knn_blend.types import EPSILON, MOST_NEIGHBORS, PLANE_AXES, BlendOptions
from pallas_kernels.tpu_memory import LANES, SUBLANES, TILE, dot, hat, hat_slope, to_scalars

PLANES = len(PLANE_AXES)
# Gaussians compared in one step of the selection.
UNROLL = 8
# Lanes of a row of a Gaussian's gradient that belong to one neighbour: 12 numbers, padded.
_GROUP = LANES // MOST_NEIGHBORS
# Where padding sits: behind every Gaussian, those that are not valid included.
_NOWHERE = 1e18


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of one call, and how a patch lies in rows of lanes."""

    heads: int
    points: int
    gaussians: int
    channels: int
    side: int
    neighbors: int

    @property
    def tiles(self) -> int:
        return -(-self.points // TILE)

    @property
    def texels_per_row(self) -> int:
        return min(LANES // self.channels, self.side**2)

    @property
    def plane_rows(self) -> int:
        return -(-(self.side**2) // self.texels_per_row)

    @property
    def rows(self) -> int:
        """Rows of a Gaussian: its planes one after another."""
        return PLANES * self.plane_rows


def to_rows(texels: Float[Array, "b n m"], layout: Layout) -> Float[Array, "b rows 128"]:
    """The texel table in whole rows of lanes: (gaussian · 3 + plane) · plane_rows + row."""
    # In whole planes: a last axis of a few numbers, were there one, would be padded to 128.
    table = texels.reshape(layout.heads, layout.gaussians * PLANES, -1)
    held = layout.plane_rows * layout.texels_per_row - layout.side**2
    table = jnp.pad(table, ((0, 0), (0, 0), (0, held * layout.channels)))
    table = table.reshape(layout.heads, -1, layout.texels_per_row * layout.channels)
    return jnp.pad(table, ((0, 0), (0, 0), (0, LANES - table.shape[-1])))


def from_rows(table: Float[Array, "b rows 128"], layout: Layout) -> Float[Array, "b n m"]:
    """The transpose of `to_rows`."""
    table = table[..., : layout.texels_per_row * layout.channels]
    planes = table.reshape(layout.heads, layout.gaussians * PLANES, -1)
    planes = planes[..., : layout.side**2 * layout.channels]
    # A fence: merged with what follows, this would become axes of a few numbers.
    planes = jax.lax.optimization_barrier(planes)
    return planes.reshape(layout.heads, -1, layout.side * layout.channels)


def lane_tables(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The lanes' texel coordinates x, y [2 m 128], and which lane holds which channel [c 128]."""
    row, lane = np.indices((layout.rows, LANES))
    texel = (row % layout.plane_rows) * layout.texels_per_row + lane // layout.channels
    held = layout.texels_per_row * layout.channels
    used = (lane < held) & (texel < layout.side**2)
    # A lane without a texel is far from everywhere.
    place = np.where(used, [texel % layout.side, texel // layout.side], -8)
    channel = np.arange(layout.channels)[:, None] == lane[:1] % layout.channels
    return np.float32(place), np.float32(channel & (lane[:1] < held))


# --- as vectors: one number of each point of a tile, [8 128] ---


def select(frames, x: list[Array], *, layout: Layout, metric: str) -> list[Array]:
    """The K nearest Gaussians of each point, nearest first; `frames` [1 a g] are scalars."""

    def key(i):
        delta = [x[a] - frames[0, a, i] for a in range(3)]
        if metric == "rbf":
            delta = [
                sum(frames[0, 3 + 3 * a + b, i] * delta[b] for b in range(3)) for a in range(3)
            ]
        return sum(d * d for d in delta)

    def step(j, rank):
        for u in range(UNROLL):
            i = j * UNROLL + u
            rank = insert(rank, key(i), i)
        return rank

    nothing = start(layout.neighbors, x[0])
    _, ids = jax.lax.fori_loop(0, frames.shape[-1] // UNROLL, step, nothing)
    return [jnp.minimum(i, layout.gaussians - 1) for i in ids]


def _gather(frames, ids: Array) -> list[Array]:
    """Columns `ids` of the table [1 12 g]: 128 Gaussians at a time, a permutation of lanes each."""
    lane, block = ids & (LANES - 1), ids >> 7

    def step(j, found):
        part = frames[0, :, pl.ds(pl.multiple_of(j * LANES, LANES), LANES)]
        here = block == j

        def pick(a):
            row = jnp.broadcast_to(part[a : a + 1], ids.shape)
            got = jnp.take_along_axis(row, lane, axis=1, mode="promise_in_bounds")
            return jnp.where(here, got, found[a])

        return tuple(pick(a) for a in range(12))

    start = tuple(jnp.zeros(ids.shape, jnp.float32) for _ in range(12))
    return list(jax.lax.fori_loop(0, frames.shape[-1] // LANES, step, start))


@dataclasses.dataclass
class _Local:
    """A tile's points in the frame of one neighbour, everything [8 128]."""

    whiten: list[Array]
    delta: list[Array]
    v: list[Array]
    g: Array
    place: list[Array]
    slope: list[Array]


def _local(frames, x: list[Array], ids: Array, *, options: BlendOptions) -> _Local:
    """x − μ, v = A (x − μ), exp(−½|v|²), the place in the patch in texels and its slope."""
    frame = _gather(frames, ids)
    whiten, delta = frame[3:], [x[a] - frame[a] for a in range(3)]
    v = [sum(whiten[3 * a + b] * delta[b] for b in range(3)) for a in range(3)]
    g = jnp.exp(-0.5 * sum(u * u for u in v))
    last, slope = options.patch - 1.0, 0.5 * options.patch / options.extent
    free = [u * slope + 0.5 * last for u in v]
    place = [jnp.clip(p, 0.0, last) for p in free]
    slopes = [jnp.where((p > 0.0) & (p < last), slope, 0.0) for p in free]
    return _Local(whiten, delta, v, g, place, slopes)


def _scale(local: list[_Local], *, options: BlendOptions) -> tuple[Array, Array]:
    """Σ g, and the factor of Σ_k g_k h_k: the mean over planes, the blend's normalisation."""
    total = sum(n.g for n in local)
    if options.blend == "raw":
        return total, jnp.full_like(total, 1.0 / PLANES)
    return total, 1.0 / (PLANES * (total + EPSILON))


# --- from vectors to scalars, to rows of lanes, and back ---


def _numbers(local: list[_Local], scale: Array, vectors) -> None:
    """Writes what the walk wants of each neighbour: its place in the patch and its weight."""
    for k, n in enumerate(local):
        for a in range(3):
            vectors[4 * k + a] = n.place[a]
        vectors[4 * k + 3] = n.g * scale


def _spread(vectors, rows) -> None:
    """Numbers of points [q 8 128] to rows of points [t q]."""
    for s in range(SUBLANES):
        rows[pl.ds(s * LANES, LANES), :] = vectors[:, s, :].T


def _sum_lanes(rows, vectors) -> None:
    """Sums of rows of points [t q 128] to numbers of points [q 8 128]."""
    count = rows.shape[1]
    column = jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), 1)
    sums = jnp.zeros((TILE, LANES), jnp.float32)
    for q in range(count):
        own = (column == q).astype(jnp.float32)
        sums = sums + dot(rows[:, q, :], own, (((1,), (0,)), ((), ())))
    for s in range(SUBLANES):
        vectors[pl.ds(0, count), s, :] = sums[s * LANES : (s + 1) * LANES].T[:count]


# --- point by point ---


def _planes(layout: Layout) -> tuple[Array, Array]:
    """Which rows of a patch lie in the planes xy, xz and which in xy: [m 128] each."""
    row = jax.lax.broadcasted_iota(jnp.int32, (layout.rows, LANES), 0)
    return row < 2 * layout.plane_rows, row < layout.plane_rows


def _distances(numbers, k: int, at: tuple, *, lanes, planes) -> tuple[Array, Array]:
    """Texels from each lane to the point, along the columns and rows of each plane."""
    u, v, w = (numbers[4 * k + a, *at] for a in range(3))
    column = jnp.where(planes[0], u, v)
    row = jnp.where(planes[1], v, w)
    return column - lanes[0], row - lanes[1]


def _walk(live, visit) -> None:
    """Calls visit(t, (s, l)) for each of the first `live` points t = 128 s + l of a tile."""

    def step(t, _):
        visit(t, (t >> 7, t & (LANES - 1)))
        return 0

    jax.lax.fori_loop(0, live, step, 0)


def _patch(ids, k: int, at: tuple, layout: Layout):
    return pl.ds(ids[k, *at] * layout.rows, layout.rows)


class Tables(NamedTuple):
    """A head's Gaussians in a kernel.

    Attributes:
      ranked: what the selection compares, SMEM ref [1 a g]; None where neighbours are given.
      columns: frames, VMEM ref [1 12 g].
      table: payload in rows of lanes, VMEM ref [1 g·m 128].
      lanes, channels: `lane_tables`, VMEM refs.
    """

    ranked: Any
    columns: Any
    table: Any
    lanes: Any
    channels: Any


class Scratch(NamedTuple):
    """Numbers of points as vectors and as scalars, indices likewise, a row per point.

    `products` are rows per point and neighbour, for the backward walk alone.
    """

    vectors: Any
    scalars: Any
    id_vectors: Any
    ids: Any
    rows: Any
    products: Any
    semaphore: Any


def scratch(layout: Layout, *, gradient: bool) -> Scratch:
    """The shapes of `Scratch`."""
    numbers, vector = 4 * layout.neighbors, (SUBLANES, LANES)
    products = (TILE, numbers, LANES) if gradient else (1, SUBLANES, LANES)
    return Scratch(
        vectors=pltpu.VMEM((LANES if gradient else numbers, *vector), jnp.float32),
        scalars=pltpu.SMEM((numbers, *vector), jnp.float32),
        id_vectors=pltpu.VMEM((layout.neighbors, *vector), jnp.int32),
        ids=pltpu.SMEM((layout.neighbors, *vector), jnp.int32),
        rows=pltpu.VMEM((TILE, LANES), jnp.float32),
        products=pltpu.VMEM(products, jnp.float32),
        semaphore=pltpu.SemaphoreType.DMA(()),
    )


def _prepare(local: list[_Local], scale: Array, ids: list[Array], scratch: Scratch) -> None:
    """Hands what the walk wants of each neighbour over to scalar memory."""
    _numbers(local, scale, scratch.vectors)
    for k, i in enumerate(ids):
        scratch.id_vectors[k] = i
    own = scratch.vectors.at[pl.ds(0, 4 * len(local))]
    to_scalars(own, scratch.scalars, scratch.semaphore)
    to_scalars(scratch.id_vectors, scratch.ids, scratch.semaphore)


def look_up(
    x: list[Array], ids: list[Array], tables: Tables, scratch: Scratch, *, live, layout, options
) -> tuple[Array, Array]:
    """Features [c t] and Σ g [8 128] of the first `live` points, with neighbours `ids`."""
    local = [_local(tables.columns, x, i, options=options) for i in ids]
    total, scale = _scale(local, options=options)
    _prepare(local, scale, ids, scratch)
    places, planes = (tables.lanes[0], tables.lanes[1]), _planes(layout)

    def visit(t, at):
        blended = jnp.zeros((layout.rows, LANES), jnp.float32)
        for k in range(layout.neighbors):
            dx, dy = _distances(scratch.scalars, k, at, lanes=places, planes=planes)
            weight = hat(dx) * hat(dy) * scratch.scalars[4 * k + 3, *at]
            blended += weight * tables.table[0, _patch(scratch.ids, k, at, layout)]
        scratch.rows[pl.ds(t, 1)] = jnp.sum(blended, axis=0, keepdims=True)

    _walk(live, visit)
    dimensions = (((1,), (1,)), ((), ()))
    return dot(tables.channels[...], scratch.rows[...], dimensions), total


def _combine(local, products, dtotal, *, options: BlendOptions) -> list[list[Array]]:
    """Gradient of each v; `products[k]` are those of g_k and (over g_k) of the place's numbers."""
    if options.blend == "normalized":
        weighed = sum(n.g * p[0] for n, p in zip(local, products, strict=True))
        dtotal = dtotal - weighed / (sum(n.g for n in local) + EPSILON)
    return [
        [n.g * (p[1 + a] * n.slope[a] - (p[0] + dtotal) * n.v[a]) for a in range(3)]
        for n, p in zip(local, products, strict=True)
    ]


def _products(hats, slopes, values, planes) -> list[Array]:
    """A neighbour's h · df and its three slopes, summed over rows but not yet over lanes."""
    (hx, hy), (sx, sy) = hats, slopes
    columns, lines = values * sx * hy, values * hx * sy
    first = jnp.where(planes[0], columns, 0.0)
    second = jnp.where(planes[0], 0.0, columns) + jnp.where(planes[1], lines, 0.0)
    third = jnp.where(planes[1], 0.0, lines)
    parts = values * hx * hy, first, second, third
    return [jnp.sum(part, axis=0, keepdims=True) for part in parts]


def pull(
    x: list[Array],
    ids: list[Array],
    cotangents: tuple[Array, Array],
    gradients: tuple[Any, Any],
    tables: Tables,
    scratch: Scratch,
    *,
    live,
    layout: Layout,
    options: BlendOptions,
) -> list[Array]:
    """The gradient of `look_up`: adds to those of frames and table, returns the points'.

    Args:
      x, ids: as `look_up` had them.
      cotangents: of the features [c t] and of Σ g [8 128].
      gradients: refs of the frames' sums [1 g 128] and of the table's gradient.
      tables, scratch, live, layout, options: as `look_up` had them.
    """
    dframes, dtable = gradients
    local = [_local(tables.columns, x, i, options=options) for i in ids]
    _, scale = _scale(local, options=options)
    _prepare(local, scale, ids, scratch)
    rows, products, neighbors = scratch.rows, scratch.products, range(layout.neighbors)
    rows[...] = dot(cotangents[0], tables.channels[...], (((0,), (0,)), ((), ())))
    # Rows of padding are summed too.
    products[...] = jnp.zeros(products.shape, jnp.float32)
    places, planes = (tables.lanes[0], tables.lanes[1]), _planes(layout)

    def visit(t, at):
        gradient, parts = rows[pl.ds(t, 1)], []
        for k in neighbors:
            dx, dy = _distances(scratch.scalars, k, at, lanes=places, planes=planes)
            hats, slopes = (hat(dx), hat(dy)), (hat_slope(dx), hat_slope(dy))
            patch = _patch(scratch.ids, k, at, layout)
            parts += _products(hats, slopes, tables.table[0, patch] * gradient, planes)
            weight = hats[0] * hats[1] * scratch.scalars[4 * k + 3, *at]
            dtable[0, patch] = dtable[0, patch] + weight * gradient
        products[t] = jnp.concatenate(parts, axis=0)

    _walk(live, visit)
    _sum_lanes(products, scratch.vectors)
    sums = [[scratch.vectors[4 * k + a] * scale for a in range(4)] for k in neighbors]
    dv = _combine(local, sums, cotangents[1], options=options)
    _add_frames(dframes, scratch, dv=dv, local=local, live=live)
    return [
        sum(n.whiten[3 * a + b] * d[a] for n, d in zip(local, dv, strict=True) for a in range(3))
        for b in range(3)
    ]


def _add_frames(dframes, scratch: Scratch, *, dv, local, live) -> None:
    """Adds Σ dv ⊗ (x − μ, 1) to the Gaussians' rows; neighbour k writes lanes 16 k … 16 k + 11."""
    vectors, rows, ids = scratch.vectors, scratch.rows, scratch.ids
    vectors[...] = jnp.zeros(vectors.shape, jnp.float32)
    for k, (n, d) in enumerate(zip(local, dv, strict=True)):
        for a in range(3):
            for b in range(3):
                vectors[_GROUP * k + 4 * a + b] = d[a] * n.delta[b]
            vectors[_GROUP * k + 4 * a + 3] = d[a]
    _spread(vectors, rows)
    group = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) >> 4

    def visit(t, at):
        row = rows[pl.ds(t, 1)]
        for k in range(len(local)):
            own = pl.ds(ids[k, *at], 1)
            dframes[0, own] = dframes[0, own] + jnp.where(group == k, row, 0.0)

    _walk(live, visit)


def frame_gradient(sums: Float[Array, "b g 128"], frames: Array) -> Float[Array, "b 12 g"]:
    """Gradient of the frames from the sums of dv ⊗ (x − μ, 1): dμ = −Aᵀ Σ dv."""
    heads, count = sums.shape[:2]
    sums = jnp.sum(sums.reshape(heads, count, -1, _GROUP), axis=2)[..., :12]
    sums = jnp.moveaxis(sums.reshape(heads, count, 3, 4), 1, -1)
    whiten = frames[:, 3:].reshape(heads, 3, 3, count)
    dcenters = -jnp.sum(whiten * sums[:, :, 3:], axis=1)
    return jnp.concatenate([dcenters, sums[:, :, :3].reshape(heads, 9, count)], axis=1)


def padded(frames: Array, rows: int, multiple: int) -> Array:
    pad = -frames.shape[-1] % multiple
    return jnp.pad(frames[:, :rows], ((0, 0), (0, 0), (0, pad)), constant_values=_NOWHERE)
