"""K-nearest Gaussian blending on a TPU (Pallas, Mosaic), forward and backward.

A tile is 1,024 points: one vector register holds one number of each. A step of the grid first does
what is alike for all points as vectors (the walk over all Gaussians with a running insertion, A,
v = A (x − μ), the RBF), then walks point by point, neighbour by neighbour: one load brings a
Gaussian's whole patch, and hat functions over the lanes' texel coordinates weigh it,

    w = max(0, 1 − |column − x_lane|) · max(0, 1 − |row − y_lane|),

which is bilinear interpolation without a gather. The backward pass walks the same way, adds to
rows of the table's gradient in place (a TPU's grid is sequential) and walks a second time for the
Gaussians' gradients, which need the sums over lanes that the first walk left behind.

Alphabet: `b` heads, `t` points of a tile, as [8 128]; `k` neighbours, `g` Gaussians, `c` channels,
`m` rows of a Gaussian's patch, 128 lanes each.

Invariants:
* a row of the table holds whole texels, so that a lane has the same channel in every row;
* a point that pads the last tile is never walked, and adds no gradient;
* indices are in bounds whatever the points hold.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES, BlendOptions

_PLANES = len(PLANE_AXES)
_SUBLANES, _LANES = 8, 128
TILE = _SUBLANES * _LANES
# Gaussians compared in one step of the selection.
_UNROLL = 8
# Lanes of a row of a Gaussian's gradient that belong to one neighbour: 12 numbers, padded.
_GROUP = 16
_MOST_NEIGHBORS = _LANES // _GROUP
# Where padding sits: behind every Gaussian, those that are not valid included.
_NOWHERE = 1e18
# A v5e and a v6e have 128 MiB of VMEM and 1 MiB of SMEM; the compiler wants some for itself.
_VMEM, _SMEM = 100 << 20, 900 << 10
_ROW_BYTES = 4 * _LANES
_dot = functools.partial(
    jax.lax.dot_general,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
)


@dataclasses.dataclass(frozen=True)
class _Layout:
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
        return min(_LANES // self.channels, self.side**2)

    @property
    def plane_rows(self) -> int:
        return -(-(self.side**2) // self.texels_per_row)

    @property
    def rows(self) -> int:
        """Rows of a Gaussian: its planes one after another."""
        return _PLANES * self.plane_rows


def _layout(points: Array, frames: Array, texels: Array, options: BlendOptions) -> _Layout:
    side = max(options.patch, 2)
    heads, _, count = points.shape
    return _Layout(
        heads=heads,
        points=count,
        gaussians=frames.shape[-1],
        channels=texels.shape[-1] // side,
        side=side,
        neighbors=options.neighbors,
    )


def _to_rows(texels: Float[Array, "b n m"], layout: _Layout) -> Float[Array, "b rows 128"]:
    """The texel table in whole rows of lanes: (gaussian · 3 + plane) · plane_rows + row."""
    held = layout.plane_rows * layout.texels_per_row
    table = texels.reshape(layout.heads, -1, layout.side**2, layout.channels)
    table = jnp.pad(table, ((0, 0), (0, 0), (0, held - layout.side**2), (0, 0)))
    table = table.reshape(layout.heads, -1, layout.texels_per_row * layout.channels)
    return jnp.pad(table, ((0, 0), (0, 0), (0, _LANES - table.shape[-1])))


def _from_rows(table: Float[Array, "b rows 128"], layout: _Layout) -> Float[Array, "b n m"]:
    """The transpose of `_to_rows`."""
    table = table[..., : layout.texels_per_row * layout.channels]
    table = table.reshape(layout.heads, layout.gaussians * _PLANES, -1, layout.channels)
    return table[:, :, : layout.side**2].reshape(
        layout.heads, -1, layout.side * layout.channels
    )


def _tiled(array: Array, layout: _Layout) -> Array:
    """[b a r] as [b a r/128 128], padded with zeros to whole tiles."""
    pad = layout.tiles * TILE - layout.points
    array = jnp.pad(array, ((0, 0), (0, 0), (0, pad)))
    return array.reshape(*array.shape[:2], -1, _LANES)


def _untiled(array: Array, layout: _Layout) -> Array:
    return array.reshape(*array.shape[:2], -1)[..., : layout.points]


def _lane_tables(layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """The lanes' texel coordinates x, y [2 m 128], and which lane holds which channel [c 128]."""
    row, lane = np.indices((layout.rows, _LANES))
    texel = (row % layout.plane_rows) * layout.texels_per_row + lane // layout.channels
    held = layout.texels_per_row * layout.channels
    used = (lane < held) & (texel < layout.side**2)
    # A lane without a texel is far from everywhere.
    place = np.where(used, [texel % layout.side, texel // layout.side], -8)
    channel = np.arange(layout.channels)[:, None] == lane[:1] % layout.channels
    return np.float32(place), np.float32(channel & (lane[:1] < held))


# --- as vectors: one number of each point of a tile, [8 128] ---


def _insert(rank: tuple, key: Array, index: Array) -> tuple:
    """Puts one candidate per point into its sorted list; an equal key stays behind."""
    nearer = [key < old for old in rank[0]]

    def shifted(old, new):
        moved = [jnp.where(nearer[0], new, old[0])]
        for q in range(1, len(old)):
            moved.append(jnp.where(nearer[q], jnp.where(nearer[q - 1], old[q - 1], new), old[q]))
        return tuple(moved)

    return shifted(rank[0], key), shifted(rank[1], index)


def _select(frames, x: list[Array], *, layout: _Layout, metric: str) -> list[Array]:
    """The K nearest Gaussians of each point, nearest first; `frames` [1 a g] are scalars."""

    def key(i):
        delta = [x[a] - frames[0, a, i] for a in range(3)]
        if metric == "rbf":
            delta = [
                sum(frames[0, 3 + 3 * a + b, i] * delta[b] for b in range(3)) for a in range(3)
            ]
        return sum(d * d for d in delta)

    def step(j, rank):
        for u in range(_UNROLL):
            i = j * _UNROLL + u
            rank = _insert(rank, key(i), i)
        return rank

    shape = (_SUBLANES, _LANES)
    start = (
        tuple(jnp.full(shape, jnp.inf, jnp.float32) for _ in range(layout.neighbors)),
        tuple(jnp.full(shape, q, jnp.int32) for q in range(layout.neighbors)),
    )
    _, ids = jax.lax.fori_loop(0, frames.shape[-1] // _UNROLL, step, start)
    return [jnp.minimum(i, layout.gaussians - 1) for i in ids]


def _gather(frames, ids: Array) -> list[Array]:
    """Columns `ids` of the table [1 12 g]: 128 Gaussians at a time, a permutation of lanes each."""
    lane, block = ids & (_LANES - 1), ids >> 7

    def step(j, found):
        part = frames[0, :, pl.ds(pl.multiple_of(j * _LANES, _LANES), _LANES)]
        here = block == j

        def pick(a):
            row = jnp.broadcast_to(part[a : a + 1], ids.shape)
            got = jnp.take_along_axis(row, lane, axis=1, mode="promise_in_bounds")
            return jnp.where(here, got, found[a])

        return tuple(pick(a) for a in range(12))

    start = tuple(jnp.zeros(ids.shape, jnp.float32) for _ in range(12))
    return list(jax.lax.fori_loop(0, frames.shape[-1] // _LANES, step, start))


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
        return total, jnp.full_like(total, 1.0 / _PLANES)
    return total, 1.0 / (_PLANES * (total + EPSILON))


# --- from vectors to scalars, to rows of lanes, and back ---


def _to_scalars(vector, scalar, semaphore) -> None:
    copy = pltpu.make_async_copy(vector, scalar, semaphore)
    copy.start()
    copy.wait()


def _numbers(local: list[_Local], scale: Array, vectors) -> None:
    """Writes what the walk wants of each neighbour: its place in the patch and its weight."""
    for k, n in enumerate(local):
        for a in range(3):
            vectors[4 * k + a] = n.place[a]
        vectors[4 * k + 3] = n.g * scale


def _spread(vectors, rows) -> None:
    """Numbers of points [q 8 128] to rows of points [t q]."""
    for s in range(_SUBLANES):
        rows[pl.ds(s * _LANES, _LANES), :] = vectors[:, s, :].T


def _sum_lanes(rows, vectors) -> None:
    """Sums of rows of points [t q 128] to numbers of points [q 8 128]."""
    count = rows.shape[1]
    column = jax.lax.broadcasted_iota(jnp.int32, (_LANES, _LANES), 1)
    sums = jnp.zeros((TILE, _LANES), jnp.float32)
    for q in range(count):
        own = (column == q).astype(jnp.float32)
        sums = sums + _dot(rows[:, q, :], own, (((1,), (0,)), ((), ())))
    for s in range(_SUBLANES):
        vectors[pl.ds(0, count), s, :] = sums[s * _LANES : (s + 1) * _LANES].T[:count]


# --- point by point ---


def _planes(layout: _Layout) -> tuple[Array, Array]:
    """Which rows of a patch lie in the planes xy, xz and which in xy: [m 128] each."""
    row = jax.lax.broadcasted_iota(jnp.int32, (layout.rows, _LANES), 0)
    return row < 2 * layout.plane_rows, row < layout.plane_rows


def _distances(numbers, k: int, at: tuple, *, lanes, planes) -> tuple[Array, Array]:
    """Texels from each lane to the point, along the columns and rows of each plane."""
    u, v, w = (numbers[4 * k + a, *at] for a in range(3))
    column = jnp.where(planes[0], u, v)
    row = jnp.where(planes[1], v, w)
    return column - lanes[0], row - lanes[1]


def _hat(distance: Array) -> Array:
    return jnp.maximum(1.0 - jnp.abs(distance), 0.0)


def _hat_slope(distance: Array) -> Array:
    """Its derivative; at a texel's own place that towards the upper one, as the reference has."""
    slope = jnp.where(distance < 0.0, 1.0, -1.0)
    return jnp.where((distance >= -1.0) & (distance < 1.0), slope, 0.0)


def _walk(layout: _Layout, visit) -> None:
    """Calls visit(t, (s, l)) for each point t = 128 s + l of the tile that is not padding."""
    live = jnp.minimum(layout.points - pl.program_id(1) * TILE, TILE)

    def step(t, _):
        visit(t, (t >> 7, t & (_LANES - 1)))
        return 0

    jax.lax.fori_loop(0, live, step, 0)


def _patch(ids, k: int, at: tuple, layout: _Layout):
    return pl.ds(ids[k, *at] * layout.rows, layout.rows)


def _forward_kernel(
    frames, columns, points, table, lanes, channels,  # fmt: skip
    features, total, ids,
    vectors, scalars, ids_scalar, rows, semaphore,
    *, layout: _Layout, options: BlendOptions,
):  # fmt: skip
    x = [points[0, a] for a in range(3)]
    chosen = _select(frames, x, layout=layout, metric=options.metric)
    local = [_local(columns, x, i, options=options) for i in chosen]
    total[0], scale = _scale(local, options=options)
    for k, i in enumerate(chosen):
        ids[0, k] = i
    _numbers(local, scale, vectors)
    _to_scalars(vectors, scalars, semaphore)
    _to_scalars(ids.at[0], ids_scalar, semaphore)
    places, planes = (lanes[0], lanes[1]), _planes(layout)

    def visit(t, at):
        blended = jnp.zeros((layout.rows, _LANES), jnp.float32)
        for k in range(layout.neighbors):
            dx, dy = _distances(scalars, k, at, lanes=places, planes=planes)
            weight = _hat(dx) * _hat(dy) * scalars[4 * k + 3, *at]
            blended += weight * table[0, _patch(ids_scalar, k, at, layout)]
        rows[pl.ds(t, 1)] = jnp.sum(blended, axis=0, keepdims=True)

    _walk(layout, visit)
    features[0] = _dot(channels[...], rows[...], (((1,), (1,)), ((), ())))


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


def _backward_kernel(
    columns, points, table, lanes, channels, ids, dfeatures, dtotal,  # fmt: skip
    dpoints, dframes, dtable,
    vectors, scalars, ids_scalar, rows, products, semaphore,
    *, layout: _Layout, options: BlendOptions,
):  # fmt: skip
    @pl.when(pl.program_id(1) == 0)
    def _():
        dframes[...] = jnp.zeros(dframes.shape, jnp.float32)
        dtable[...] = jnp.zeros(dtable.shape, jnp.float32)

    x, neighbors = [points[0, a] for a in range(3)], range(layout.neighbors)
    local = [_local(columns, x, ids[0, k], options=options) for k in neighbors]
    _, scale = _scale(local, options=options)
    _numbers(local, scale, vectors)
    _to_scalars(vectors.at[pl.ds(0, 4 * layout.neighbors)], scalars, semaphore)
    _to_scalars(ids.at[0], ids_scalar, semaphore)
    rows[...] = _dot(dfeatures[0], channels[...], (((0,), (0,)), ((), ())))
    # Rows of padding are summed too.
    products[...] = jnp.zeros(products.shape, jnp.float32)
    places, planes = (lanes[0], lanes[1]), _planes(layout)

    def visit(t, at):
        gradient, parts = rows[pl.ds(t, 1)], []
        for k in neighbors:
            dx, dy = _distances(scalars, k, at, lanes=places, planes=planes)
            hats, slopes = (_hat(dx), _hat(dy)), (_hat_slope(dx), _hat_slope(dy))
            patch = _patch(ids_scalar, k, at, layout)
            parts += _products(hats, slopes, table[0, patch] * gradient, planes)
            weight = hats[0] * hats[1] * scalars[4 * k + 3, *at]
            dtable[0, patch] = dtable[0, patch] + weight * gradient
        products[t] = jnp.concatenate(parts, axis=0)

    _walk(layout, visit)
    _sum_lanes(products, vectors)
    sums = [[vectors[4 * k + a] * scale for a in range(4)] for k in neighbors]
    dv = _combine(local, sums, dtotal[0], options=options)
    for b in range(3):
        dpoints[0, b] = sum(
            n.whiten[3 * a + b] * d[a] for n, d in zip(local, dv, strict=True) for a in range(3)
        )
    _add_frames(dframes, vectors, rows, ids_scalar, dv=dv, local=local, layout=layout)


def _add_frames(dframes, vectors, rows, ids, *, dv, local, layout: _Layout) -> None:
    """Adds Σ dv ⊗ (x − μ, 1) to the Gaussians' rows; neighbour k writes lanes 16 k … 16 k + 11."""
    vectors[...] = jnp.zeros(vectors.shape, jnp.float32)
    for k, (n, d) in enumerate(zip(local, dv, strict=True)):
        for a in range(3):
            for b in range(3):
                vectors[_GROUP * k + 4 * a + b] = d[a] * n.delta[b]
            vectors[_GROUP * k + 4 * a + 3] = d[a]
    _spread(vectors, rows)
    group = jax.lax.broadcasted_iota(jnp.int32, (1, _LANES), 1) >> 4

    def visit(t, at):
        row = rows[pl.ds(t, 1)]
        for k in range(layout.neighbors):
            own = pl.ds(ids[k, *at], 1)
            dframes[0, own] = dframes[0, own] + jnp.where(group == k, row, 0.0)

    _walk(layout, visit)


def _frame_gradient(sums: Float[Array, "b g 128"], frames: Array) -> Float[Array, "b 12 g"]:
    """Gradient of the frames from the sums of dv ⊗ (x − μ, 1): dμ = −Aᵀ Σ dv."""
    heads, count = sums.shape[:2]
    sums = jnp.sum(sums.reshape(heads, count, -1, _GROUP), axis=2)[..., :12]
    sums = jnp.moveaxis(sums.reshape(heads, count, 3, 4), 1, -1)
    whiten = frames[:, 3:].reshape(heads, 3, 3, count)
    dcenters = -jnp.sum(whiten * sums[:, :, 3:], axis=1)
    return jnp.concatenate([dcenters, sums[:, :, :3].reshape(heads, 9, count)], axis=1)


# --- calls ---


def _padded(frames: Array, rows: int, multiple: int) -> Array:
    pad = -frames.shape[-1] % multiple
    return jnp.pad(frames[:, :rows], ((0, 0), (0, 0), (0, pad)), constant_values=_NOWHERE)


def _of_head(shape: tuple[int, ...], **kwargs) -> pl.BlockSpec:
    """One head's share of an array, whatever the tile."""
    return pl.BlockSpec((1, *shape), lambda b, i: (b, *(0 for _ in shape)), **kwargs)


def _of_all(array: np.ndarray) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda b, i: (0,) * array.ndim)


def _of_tile(*leading: int) -> pl.BlockSpec:
    """A tile of an array [b … r/128 128]."""
    zeros = (0,) * len(leading)
    return pl.BlockSpec((1, *leading, _SUBLANES, _LANES), lambda b, i: (b, *zeros, i, 0))


def _scratch(layout: _Layout, *, wide: bool) -> list:
    """Numbers of points as vectors and as scalars, ids as scalars, a row per point."""
    numbers, vector = 4 * layout.neighbors, (_SUBLANES, _LANES)
    return [
        pltpu.VMEM((_LANES if wide else numbers, *vector), jnp.float32),
        pltpu.SMEM((numbers, *vector), jnp.float32),
        pltpu.SMEM((layout.neighbors, *vector), jnp.int32),
        pltpu.VMEM((TILE, _LANES), jnp.float32),
    ]


def _call(kernel, layout: _Layout, *, interpret: bool, **kwargs):
    return pl.pallas_call(
        kernel,
        grid=(layout.heads, layout.tiles),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=_VMEM
        ),
        interpret=dispatch.tpu_interpreter() if interpret else False,
        **kwargs,
    )


def forward(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    *,
    options: BlendOptions,
    interpret: bool,
) -> tuple[Float[Array, "b c r"], Float[Array, "b r"], Int[Array, "b k r"]]:
    """Features, Σ g and the neighbours; see `op.blend`."""
    layout = _layout(points, frames, texels, options)
    channels, neighbors = layout.channels, layout.neighbors
    ranked = _padded(frames, 3 if options.metric == "euclidean" else 12, _UNROLL)
    columns, table = _padded(frames, 12, _LANES), _to_rows(texels, layout)
    lanes, lane_channels = _lane_tables(layout)
    wide = layout.tiles * TILE
    features, total, ids = _call(
        functools.partial(_forward_kernel, layout=layout, options=options),
        layout,
        interpret=interpret,
        in_specs=[
            _of_head(ranked.shape[1:], memory_space=pltpu.SMEM),
            _of_head(columns.shape[1:]),
            _of_tile(3),
            _of_head(table.shape[1:], pipeline_mode=pl.Buffered(1)),
            _of_all(lanes),
            _of_all(lane_channels),
        ],
        out_specs=[
            pl.BlockSpec((1, channels, TILE), lambda b, i: (b, 0, i)),
            _of_tile(),
            _of_tile(neighbors),
        ],
        out_shape=[
            dispatch.like(points, (layout.heads, channels, wide)),
            dispatch.like(points, (layout.heads, wide // _LANES, _LANES)),
            dispatch.like(points, (layout.heads, neighbors, wide // _LANES, _LANES), jnp.int32),
        ],
        scratch_shapes=[*_scratch(layout, wide=False), pltpu.SemaphoreType.DMA(())],
        name="knn_blend_forward",
    )(ranked, columns, _tiled(points, layout), table, lanes, lane_channels)
    total = total.reshape(layout.heads, -1)[:, : layout.points]
    return features[..., : layout.points], total, _untiled(ids, layout)


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
    """Gradients of points, frames and texels from those of features and Σ g."""
    layout = _layout(points, frames, texels, options)
    neighbors, tiled = layout.neighbors, functools.partial(_tiled, layout=layout)
    columns, table = _padded(frames, 12, _LANES), _to_rows(texels, layout)
    lanes, lane_channels = _lane_tables(layout)
    x, sums = tiled(points), (-(-layout.gaussians // _SUBLANES) * _SUBLANES, _LANES)
    dfeatures = jnp.pad(dfeatures, ((0, 0), (0, 0), (0, layout.tiles * TILE - layout.points)))
    dpoints, dframes, dtable = _call(
        functools.partial(_backward_kernel, layout=layout, options=options),
        layout,
        interpret=interpret,
        in_specs=[
            _of_head(columns.shape[1:]),
            _of_tile(3),
            _of_head(table.shape[1:], pipeline_mode=pl.Buffered(1)),
            _of_all(lanes),
            _of_all(lane_channels),
            _of_tile(neighbors),
            pl.BlockSpec((1, layout.channels, TILE), lambda b, i: (b, 0, i)),
            _of_tile(),
        ],
        out_specs=[_of_tile(3), _of_head(sums), _of_head(table.shape[1:])],
        out_shape=[
            dispatch.like(points, x.shape),
            dispatch.like(points, (layout.heads, *sums)),
            dispatch.like(points, table.shape),
        ],
        scratch_shapes=[
            *_scratch(layout, wide=True),
            pltpu.VMEM((TILE, 4 * neighbors, _LANES), jnp.float32),
            pltpu.SemaphoreType.DMA(()),
        ],
        name="knn_blend_backward",
    )(columns, x, table, lanes, lane_channels, tiled(ids), dfeatures, tiled(dtotal[:, None])[:, 0])
    dframes = _frame_gradient(dframes[:, : layout.gaussians], frames)
    return _untiled(dpoints, layout), dframes, _from_rows(dtable, layout)


def why_not(
    points: Array, frames: Array, texels: Array, *, options: BlendOptions, gradient: bool
) -> str | None:
    """What keeps the kernel (or, with `gradient`, the backward one) from serving these shapes."""
    layout = _layout(points, frames, texels, options)
    if layout.neighbors > _MOST_NEIGHBORS:
        return f"neighbors={layout.neighbors}, it serves up to {_MOST_NEIGHBORS}"
    if layout.channels > _LANES:
        return f"there are {layout.channels} channels, it serves up to {_LANES}"
    if not layout.points or not layout.heads:
        return "there are no points"
    vmem, smem = _vmem(layout, gradient=gradient), _smem(layout, options, gradient=gradient)
    if vmem > _VMEM or smem > _SMEM:
        return (
            f"{layout.gaussians} Gaussians of {layout.side}x{layout.side}x{layout.channels} texels "
            f"take {vmem >> 20} MiB of VMEM and {smem >> 10} KiB of SMEM, there are "
            f"{_VMEM >> 20} MiB and {_SMEM >> 10} KiB"
        )
    return None


def _vmem(layout: _Layout, *, gradient: bool) -> int:
    """Bytes of vector memory; what the pipeline moves from step to step is there twice."""
    table = layout.gaussians * layout.rows * _ROW_BYTES
    columns = 2 * 16 * 4 * (layout.gaussians + _LANES)
    tile = 4 * TILE * (2 * (3 + layout.channels + 2 * layout.neighbors + 8) + 4 * _LANES)
    if not gradient:
        return table + columns + tile
    products = -(-4 * layout.neighbors // _SUBLANES) * _SUBLANES * TILE * _ROW_BYTES
    sums = 2 * layout.gaussians * _ROW_BYTES + products
    return 3 * table + columns + tile + sums


def _smem(layout: _Layout, options: BlendOptions, *, gradient: bool) -> int:
    """Bytes of scalar memory."""
    numbers = 5 * layout.neighbors * TILE * 4
    if gradient:
        return numbers
    frames = 4 if options.metric == "euclidean" else 16
    return numbers + 2 * frames * 4 * (layout.gaussians + _LANES)
