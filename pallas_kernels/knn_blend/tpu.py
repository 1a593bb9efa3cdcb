"""K-nearest Gaussian blending on a TPU (Pallas, Mosaic), forward and backward.

What is done with a tile of 1,024 points is in `tpu_tile.py`; here are the kernels around it and
their calls. The table of a head stays in VMEM while its tiles pass, backwards its gradient too.

Alphabet: that of `tpu_tile.py`, and `b` heads.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.knn_blend import tpu_tile
from pallas_kernels.knn_blend.tpu_tile import Layout, Scratch, Tables
from pallas_kernels.knn_blend.types import MOST_NEIGHBORS, BlendOptions
from pallas_kernels.tpu_memory import LANES, ROW_BYTES, SMEM, SUBLANES, TILE, VMEM


def _layout(points: Array, frames: Array, texels: Array, options: BlendOptions) -> Layout:
    side = max(options.patch, 2)
    heads, _, count = points.shape
    return Layout(
        heads=heads,
        points=count,
        gaussians=frames.shape[-1],
        channels=texels.shape[-1] // side,
        side=side,
        neighbors=options.neighbors,
    )


def _tiled(array: Array, layout: Layout) -> Array:
    """[b a r] as [b a r/128 128], padded with zeros to whole tiles."""
    pad = layout.tiles * TILE - layout.points
    array = jnp.pad(array, ((0, 0), (0, 0), (0, pad)))
    return array.reshape(*array.shape[:2], -1, LANES)


def _untiled(array: Array, layout: Layout) -> Array:
    return array.reshape(*array.shape[:2], -1)[..., : layout.points]


def _live(layout: Layout) -> Array:
    """Points of this tile that are not padding."""
    return jnp.minimum(layout.points - pl.program_id(1) * TILE, TILE)


def _forward_kernel(
    ranked, columns, points, table, lanes, channels, features, total, ids, *scratch, layout, options
):
    tables, x = Tables(ranked, columns, table, lanes, channels), [points[0, a] for a in range(3)]
    chosen = tpu_tile.select(ranked, x, layout=layout, metric=options.metric)
    for k, i in enumerate(chosen):
        ids[0, k] = i
    features[0], total[0] = tpu_tile.look_up(
        x, chosen, tables, Scratch(*scratch), live=_live(layout), layout=layout, options=options
    )


def _backward_kernel(
    columns, points, table, lanes, channels, ids, dfeatures, dtotal,  # fmt: skip
    dpoints, dframes, dtable, *scratch, layout, options,
):  # fmt: skip
    @pl.when(pl.program_id(1) == 0)
    def _():
        dframes[...] = jnp.zeros(dframes.shape, jnp.float32)
        dtable[...] = jnp.zeros(dtable.shape, jnp.float32)

    dx = tpu_tile.pull(
        [points[0, a] for a in range(3)],
        [ids[0, k] for k in range(layout.neighbors)],
        (dfeatures[0], dtotal[0]),
        (dframes, dtable),
        Tables(None, columns, table, lanes, channels),
        Scratch(*scratch),
        live=_live(layout),
        layout=layout,
        options=options,
    )
    for b in range(3):
        dpoints[0, b] = dx[b]


# --- calls ---


def _of_head(shape: tuple[int, ...], **kwargs) -> pl.BlockSpec:
    """One head's share of an array, whatever the tile."""
    return pl.BlockSpec((1, *shape), lambda b, i: (b, *(0 for _ in shape)), **kwargs)


def _of_all(array: np.ndarray) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda b, i: (0,) * array.ndim)


def _of_tile(*leading: int) -> pl.BlockSpec:
    """A tile of an array [b … r/128 128]."""
    zeros = (0,) * len(leading)
    return pl.BlockSpec((1, *leading, SUBLANES, LANES), lambda b, i: (b, *zeros, i, 0))


def _call(kernel, layout: Layout, *, interpret: bool, **kwargs):
    return pl.pallas_call(
        kernel,
        grid=(layout.heads, layout.tiles),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM
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
    ranked = tpu_tile.padded(frames, 3 if options.metric == "euclidean" else 12, tpu_tile.UNROLL)
    columns, table = tpu_tile.padded(frames, 12, LANES), tpu_tile.to_rows(texels, layout)
    lanes, lane_channels = tpu_tile.lane_tables(layout)
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
            dispatch.like(points, (layout.heads, wide // LANES, LANES)),
            dispatch.like(points, (layout.heads, neighbors, wide // LANES, LANES), jnp.int32),
        ],
        scratch_shapes=tpu_tile.scratch(layout, gradient=False),
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
    columns, table = tpu_tile.padded(frames, 12, LANES), tpu_tile.to_rows(texels, layout)
    lanes, lane_channels = tpu_tile.lane_tables(layout)
    x, sums = tiled(points), (-(-layout.gaussians // SUBLANES) * SUBLANES, LANES)
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
        scratch_shapes=tpu_tile.scratch(layout, gradient=True),
        name="knn_blend_backward",
    )(columns, x, table, lanes, lane_channels, tiled(ids), dfeatures, tiled(dtotal[:, None])[:, 0])
    dframes = tpu_tile.frame_gradient(dframes[:, : layout.gaussians], frames)
    return _untiled(dpoints, layout), dframes, tpu_tile.from_rows(dtable, layout)


def why_not(
    points: Array, frames: Array, texels: Array, *, options: BlendOptions, gradient: bool
) -> str | None:
    """What keeps the kernel (or, with `gradient`, the backward one) from serving these shapes."""
    layout = _layout(points, frames, texels, options)
    if layout.neighbors > MOST_NEIGHBORS:
        return f"neighbors={layout.neighbors}, it serves up to {MOST_NEIGHBORS}"
    if layout.channels > LANES:
        return f"there are {layout.channels} channels, it serves up to {LANES}"
    if not layout.points or not layout.heads:
        return "there are no points"
    vmem, smem = _vmem(layout, gradient=gradient), _smem(layout, options, gradient=gradient)
    if vmem > VMEM or smem > SMEM:
        return (
            f"{layout.gaussians} Gaussians of {layout.side}x{layout.side}x{layout.channels} texels "
            f"take {vmem >> 20} MiB of VMEM and {smem >> 10} KiB of SMEM, there are "
            f"{VMEM >> 20} MiB and {SMEM >> 10} KiB"
        )
    return None


def _vmem(layout: Layout, *, gradient: bool) -> int:
    """Bytes of vector memory; what the pipeline moves from step to step is there twice."""
    table = layout.gaussians * layout.rows * ROW_BYTES
    columns = 2 * 16 * 4 * (layout.gaussians + LANES)
    tile = 4 * TILE * (2 * (3 + layout.channels + 2 * layout.neighbors + 8) + 4 * LANES)
    if not gradient:
        return table + columns + tile
    products = -(-4 * layout.neighbors // SUBLANES) * SUBLANES * TILE * ROW_BYTES
    sums = 2 * layout.gaussians * ROW_BYTES + products
    return 3 * table + columns + tile + sums


def _smem(layout: Layout, options: BlendOptions, *, gradient: bool) -> int:
    """Bytes of scalar memory."""
    numbers = 5 * layout.neighbors * TILE * 4
    if gradient:
        return numbers
    frames = 4 if options.metric == "euclidean" else 16
    return numbers + 2 * frames * 4 * (layout.gaussians + LANES)
