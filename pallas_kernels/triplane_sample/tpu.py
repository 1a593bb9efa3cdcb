"""Tri-plane and tri-grid lookup on a TPU (Pallas, Mosaic), forward and backward.

The walk over a tile's points is in `tpu_tile.py`; here are the kernels around it and their calls.
Planes are served in groups: all that fit VMEM together, or one by one. The backward kernel adds to
rows of the planes' gradient in place: a TPU's grid is sequential.

Alphabet: that of `tpu_tile.py`, and `g` groups of planes.

Invariant: a point that pads the last tile has a gradient of zero.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.tpu_memory import LANES, ROW_BYTES, SMEM, SUBLANES, TILE, VMEM, dot, to_scalars
from pallas_kernels.triplane_sample import tpu_tile
from pallas_kernels.triplane_sample.tpu_tile import Layout
from pallas_kernels.triplane_sample.types import LookupOptions

# Of the VMEM that a kernel may take, what is left for values between its refs.
_SPARE = 4 << 20


def _layout(points: Array, planes: Array, options: LookupOptions, held: int) -> Layout:
    heads, _, count = points.shape
    return Layout(
        heads=heads,
        planes=planes.shape[1],
        points=count,
        sizes=planes.shape[2:-1][::-1],
        channels=planes.shape[-1],
        box=options.box,
        held=held,
    )


def _prepare(coordinates, firsts, floats, scalars, *, layout: Layout, slopes: bool, semaphore):
    """Writes `numbers` of the held planes to scalar memory."""
    size = tpu_tile.numbers_of_plane(layout, slopes=slopes)
    for k in range(layout.held):
        x = [coordinates[0, k, a] for a in range(len(layout.sizes))]
        first, values = tpu_tile.numbers(x, k, layout=layout, slopes=slopes)
        firsts[0][k] = first
        for i, value in enumerate(values):
            floats[k * size + i] = value
    to_scalars(firsts[0], firsts[1], semaphore)
    to_scalars(floats, scalars, semaphore)


def _clear(table) -> None:
    """Zeros, a plane's share of rows after the other: written out they would be a large program."""
    rows = math.gcd(table.shape[1], TILE)

    def step(i, _):
        table[0, pl.ds(i * rows, rows)] = jnp.zeros((rows, LANES), jnp.float32)
        return 0

    jax.lax.fori_loop(0, table.shape[1] // rows, step, 0)


def _live(layout: Layout) -> Array:
    """Points of this tile that are not padding."""
    return jnp.minimum(layout.points - pl.program_id(2) * TILE, TILE)


def _forward_kernel(
    coordinates, table, features, first_vectors, firsts, floats, scalars, rows, semaphore,
    *, layout: Layout, scale: float,
):  # fmt: skip
    _prepare(
        coordinates, (first_vectors, firsts), floats, scalars,
        layout=layout, slopes=False, semaphore=semaphore,
    )  # fmt: skip
    keep = rows.shape[0] > 1
    tpu_tile.look_up(table, firsts, scalars, rows, layout=layout, count=_live(layout), keep=keep)
    for k in range(rows.shape[0]):
        features[0, k] = scale * tpu_tile.channels(rows[k], layout)


def _backward_kernel(
    coordinates, table, dfeatures,  # fmt: skip
    dcoordinates, dtable,
    first_vectors, firsts, floats, scalars, rows, products, semaphore,
    *, layout: Layout, scale: float,
):  # fmt: skip
    @pl.when(pl.program_id(2) == 0)
    def _():
        _clear(dtable)

    _prepare(
        coordinates, (first_vectors, firsts), floats, scalars,
        layout=layout, slopes=True, semaphore=semaphore,
    )  # fmt: skip
    for k in range(rows.shape[0]):
        rows[k] = scale * tpu_tile.lanes(dfeatures[0, k], layout)
    # Rows of padding are added up too.
    products[...] = jnp.zeros(products.shape, jnp.float32)
    tpu_tile.pull(
        table, dtable, firsts, scalars, rows, products, layout=layout, count=_live(layout)
    )
    axes, ones = len(layout.sizes), jnp.ones((SUBLANES, LANES), jnp.float32)
    for k in range(layout.held):
        for a in range(axes):
            sums = dot(ones, products[k * axes + a], (((1,), (1,)), ((), ())))
            size = layout.sizes[a] / layout.box
            dcoordinates[0, k, pl.ds(a, 1)] = size * sums[:1]


def _coordinates(points: Array, layout: Layout, options: LookupOptions) -> Array:
    """[b n a r/128 128]: the coordinates of each plane in its own order, padded to whole tiles."""
    pad = layout.tiles * TILE - layout.points
    points = jnp.pad(points, ((0, 0), (0, 0), (0, pad)))
    planes = [jnp.stack([points[:, a] for a in axes], axis=1) for axes in options.axes]
    stacked = jnp.stack(planes, axis=1)
    return stacked.reshape(*stacked.shape[:3], -1, LANES)


def _scratch(layout: Layout, *, slopes: bool, apart: bool) -> list:
    """Numbers of points as vectors and as scalars, and rows of points."""
    vector = (SUBLANES, LANES)
    floats = (layout.held * tpu_tile.numbers_of_plane(layout, slopes=slopes), *vector)
    return [
        pltpu.VMEM((layout.held, *vector), jnp.int32),
        pltpu.SMEM((layout.held, *vector), jnp.int32),
        pltpu.VMEM(floats, jnp.float32),
        pltpu.SMEM(floats, jnp.float32),
        pltpu.VMEM((layout.held if apart else 1, TILE, LANES), jnp.float32),
    ]


def _specs(layout: Layout, apart: bool) -> tuple:
    """Block specs of coordinates, of planes in rows, and of features."""
    axes, kept = len(layout.sizes), layout.held if apart else 1
    return (
        pl.BlockSpec((1, layout.held, axes, SUBLANES, LANES), lambda b, g, i: (b, g, 0, i, 0)),
        functools.partial(
            pl.BlockSpec, (1, layout.held * layout.plane_rows, LANES), lambda b, g, i: (b, g, 0)
        ),
        functools.partial(pl.BlockSpec, (1, kept, layout.channels, TILE)),
    )


def _call(kernel, layout: Layout, *, interpret: bool, **kwargs):
    return pl.pallas_call(
        kernel,
        grid=(layout.heads, layout.groups, layout.tiles),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",) * 3, vmem_limit_bytes=VMEM
        ),
        interpret=dispatch.tpu_interpreter() if interpret else False,
        **kwargs,
    )


def forward(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    *,
    options: LookupOptions,
    interpret: bool,
) -> Float[Array, "b *n r c"]:
    """Features of all points; see `reference.forward`."""
    layout = _layout(points, planes, options, _held(points, planes, options, gradient=False))
    apart = options.reduce == "none"
    coordinates, table, features = _specs(layout, apart)
    parts = layout.planes if apart else layout.groups
    wide = layout.tiles * TILE
    out = _call(
        functools.partial(_forward_kernel, layout=layout, scale=options.scale),
        layout,
        interpret=interpret,
        in_specs=[coordinates, table(pipeline_mode=pl.Buffered(1))],
        out_specs=features(lambda b, g, i: (b, g, 0, i)),
        out_shape=dispatch.like(points, (layout.heads, parts, layout.channels, wide)),
        scratch_shapes=[
            *_scratch(layout, slopes=False, apart=apart),
            pltpu.SemaphoreType.DMA(()),
        ],
        name="triplane_sample_forward",
    )(_coordinates(points, layout, options), tpu_tile.to_rows(planes, layout))
    out = out[..., : layout.points].swapaxes(-1, -2)
    return out if apart else jnp.sum(out, axis=1)


def backward(
    points: Float[Array, "b 3 r"],
    planes: Float[Array, "b n *s c"],
    dfeatures: Float[Array, "b *n r c"],
    *,
    options: LookupOptions,
    interpret: bool,
) -> tuple[Float[Array, "b 3 r"], Float[Array, "b n *s c"]]:
    """Gradients of points and planes; see `reference.backward`."""
    layout = _layout(points, planes, options, _held(points, planes, options, gradient=True))
    apart, axes = options.reduce == "none", len(layout.sizes)
    coordinates, table, features = _specs(layout, apart)
    df = dfeatures if apart else dfeatures[:, None]
    wide = layout.tiles * TILE
    df = jnp.pad(df.swapaxes(-1, -2), ((0, 0), (0, 0), (0, 0), (0, wide - layout.points)))
    rows = tpu_tile.to_rows(planes, layout)
    dcoordinates, dtable = _call(
        functools.partial(_backward_kernel, layout=layout, scale=options.scale),
        layout,
        interpret=interpret,
        in_specs=[
            coordinates,
            table(pipeline_mode=pl.Buffered(1)),
            features((lambda b, g, i: (b, g, 0, i)) if apart else (lambda b, g, i: (b, 0, 0, i))),
        ],
        out_specs=[
            pl.BlockSpec((1, layout.held, axes, TILE), lambda b, g, i: (b, g, 0, i)),
            table(),
        ],
        out_shape=[
            dispatch.like(points, (layout.heads, layout.planes, axes, wide)),
            dispatch.like(points, rows.shape),
        ],
        scratch_shapes=[
            *_scratch(layout, slopes=True, apart=apart),
            pltpu.VMEM((layout.held * axes, TILE, LANES), jnp.float32),
            pltpu.SemaphoreType.DMA(()),
        ],
        name="triplane_sample_backward",
    )(_coordinates(points, layout, options), rows, df)
    return _dpoints(dcoordinates[..., : layout.points], options), tpu_tile.from_rows(dtable, layout)


def _dpoints(dcoordinates: Float[Array, "b n a r"], options: LookupOptions) -> Array:
    """Adds up what the planes say of each coordinate: [b 3 r]."""
    total = [jnp.zeros_like(dcoordinates[:, 0, 0])] * 3
    for plane, axes in enumerate(options.axes):
        for i, a in enumerate(axes):
            total[a] = total[a] + dcoordinates[:, plane, i]
    return jnp.stack(total, axis=1)


def _vmem(layout: Layout, *, gradient: bool, apart: bool) -> int:
    """Bytes of vector memory; what the pipeline moves from step to step is there twice."""
    table = layout.held * layout.plane_rows * ROW_BYTES
    axes, kept = len(layout.sizes), layout.held if apart else 1
    sublanes = -(-layout.channels // SUBLANES) * SUBLANES
    values = layout.held * (1 + tpu_tile.numbers_of_plane(layout, slopes=gradient))
    tile = 4 * TILE * (2 * (layout.held * axes + kept * sublanes) + values)
    tile += kept * TILE * ROW_BYTES
    if not gradient:
        return table + tile
    products = layout.held * axes * TILE * ROW_BYTES
    return 3 * table + tile + products + 4 * TILE * 2 * layout.held * SUBLANES


def _held(points: Array, planes: Array, options: LookupOptions, *, gradient: bool) -> int:
    """Planes that VMEM holds together: all, or one, or not even one (0)."""
    apart = options.reduce == "none"
    for held in (planes.shape[1], 1):
        layout = _layout(points, planes, options, held)
        values = layout.held * (1 + tpu_tile.numbers_of_plane(layout, slopes=gradient))
        fits = _vmem(layout, gradient=gradient, apart=apart) <= VMEM - _SPARE
        if fits and 4 * TILE * values <= SMEM:
            return held
    return 0


def why_not(points: Array, planes: Array, *, options: LookupOptions, gradient: bool) -> str | None:
    """What keeps the kernel (or, with `gradient`, the backward one) from serving these shapes."""
    if planes.shape[-1] > LANES:
        return f"there are {planes.shape[-1]} channels, it serves up to {LANES}"
    if not points.size:
        return "there are no points"
    if not _held(points, planes, options, gradient=gradient):
        layout = _layout(points, planes, options, 1)
        size = _vmem(layout, gradient=gradient, apart=False) >> 20
        return f"one plane takes {size} MiB of VMEM, there are {(VMEM - _SPARE) >> 20} MiB"
    return None
