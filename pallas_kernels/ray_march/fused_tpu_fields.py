"""What the fused TPU kernel asks of a field: its arrays in VMEM, and how a tile is looked up.

The look-ups are those of the fields' own kernels; here they are given the refs that they want.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from pallas_kernels import dispatch
from pallas_kernels.knn_blend import tpu_tile as knn
from pallas_kernels.knn_blend.types import MOST_NEIGHBORS
from pallas_kernels.ray_march.fields import Field, GaussianField, TriplaneField
from pallas_kernels.tpu_memory import LANES, ROW_BYTES, SUBLANES, TILE, dot, to_scalars, vector
from pallas_kernels.triplane_sample import tpu_tile as triplane


@runtime_checkable
class Bound(Protocol):
    """A field inside a kernel; `points` are x, y, z of a tile's rays, each [8 128]."""

    def choose(self, points: list[Array]) -> list[Array]:
        """What is saved of a look-up, each [8 128]."""

    def lookup(self, points: list[Array], chosen: list[Array], *, live) -> tuple[Array, Array]:
        """Features [c t] of the first `live` points, and RBF values [8 128]."""

    def clear(self) -> None:
        """Sets the field's gradient to zero."""

    def pull(self, points, chosen, dfeatures: Array, dreach: Array, *, live) -> list[Array]:
        """Adds to the field's gradient; returns the points' own."""


@dataclasses.dataclass(frozen=True)
class Operands:
    """A field outside of a kernel.

    Attributes:
      inputs: arrays with their block specs, for a grid of (heads, tiles).
      gradients: shapes of their gradients with block specs, for the backward kernel.
      scratch: shapes of what `bind` wants beside them.
      bind: from the refs of inputs, gradients and scratch to the field inside the kernel.
      saved: how many numbers a look-up saves of a point.
      gradient: from the gradients' arrays to a tree like the field.
    """

    inputs: list[tuple[Array, pl.BlockSpec]]
    gradients: list[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]]
    scratch: Callable[..., list]
    bind: Callable[[tuple, tuple, tuple], Bound]
    saved: int
    gradient: Callable[[list[Array]], Field]


def _of_head(shape: tuple[int, ...], **kwargs) -> pl.BlockSpec:
    """One head's share of an array, whatever the tile."""
    return pl.BlockSpec((1, *shape), lambda b, i: (b, *(0 for _ in shape)), **kwargs)


# --- tri-planes and tri-grids ---


class _Planes:
    """Tri-planes in a kernel."""

    def __init__(self, inputs, gradients, scratch, *, options, layout):
        (self.table,), self.options, self.layout = inputs, options, layout
        self.dtable = gradients[0] if gradients else None
        *self.numbers, self.rows, self.products, self.semaphore = scratch

    def _prepare(self, points, *, slopes: bool):
        """The walk's numbers in scalar memory."""
        first_vectors, firsts, floats, scalars = self.numbers
        layout, size = self.layout, triplane.numbers_of_plane(self.layout, slopes=slopes)
        for k, axes in enumerate(self.options.axes):
            coordinates = [points[a] for a in axes]
            first, values = triplane.numbers(coordinates, k, layout=layout, slopes=slopes)
            first_vectors[k] = first
            for i, value in enumerate(values):
                floats[k * size + i] = value
        used = pl.ds(0, layout.held * size)
        to_scalars(first_vectors, firsts, self.semaphore)
        to_scalars(floats.at[used], scalars.at[used], self.semaphore)
        return firsts, scalars

    def choose(self, points):
        return []

    def lookup(self, points, chosen, *, live):
        firsts, scalars = self._prepare(points, slopes=False)
        # Rows of padding are added up too, and 0 times what lies there need not be 0.
        self.rows[...] = jnp.zeros(self.rows.shape, jnp.float32)
        triplane.look_up(
            self.table, firsts, scalars, self.rows, layout=self.layout, count=live, keep=False
        )
        features = self.options.scale * triplane.channels(self.rows[0], self.layout)
        return features, jnp.zeros((SUBLANES, LANES), jnp.float32)

    def clear(self):
        self.dtable[...] = jnp.zeros(self.dtable.shape, jnp.float32)

    def pull(self, points, chosen, dfeatures, dreach, *, live):
        firsts, scalars = self._prepare(points, slopes=True)
        self.rows[0] = self.options.scale * triplane.lanes(dfeatures, self.layout)
        self.products[...] = jnp.zeros(self.products.shape, jnp.float32)
        triplane.pull(
            self.table, self.dtable, firsts, scalars, self.rows, self.products,
            layout=self.layout, count=live,
        )  # fmt: skip
        dx = [jnp.zeros((SUBLANES, LANES), jnp.float32)] * 3
        ones, named = jnp.ones((SUBLANES, LANES), jnp.float32), len(self.layout.sizes)
        for plane, axes in enumerate(self.options.axes):
            for i, a in enumerate(axes):
                products = self.products[plane * named + i]
                sums = dot(ones, products, (((1,), (1,)), ((), ())))
                dx[a] = dx[a] + self.layout.sizes[i] / self.layout.box * vector(sums[:1])
        return dx


def _plane_layout(field: TriplaneField) -> triplane.Layout:
    planes = field.planes
    return triplane.Layout(
        heads=planes.shape[0],
        planes=planes.shape[1],
        points=TILE,
        sizes=planes.shape[2:-1][::-1],
        channels=planes.shape[-1],
        box=field.options.box,
        held=planes.shape[1],
    )


def _of_planes(field: TriplaneField) -> Operands:
    planes, options, layout = field.planes, field.options, _plane_layout(field)
    rows = triplane.to_rows(planes, layout)
    spec = functools.partial(_of_head, rows.shape[1:])

    def scratch(*, gradient: bool) -> list:
        numbers = layout.held * triplane.numbers_of_plane(layout, slopes=gradient)
        ints, floats = (layout.held, SUBLANES, LANES), (numbers, SUBLANES, LANES)
        products = layout.held * len(layout.sizes) if gradient else 1
        return [
            pltpu.VMEM(ints, jnp.int32),
            pltpu.SMEM(ints, jnp.int32),
            pltpu.VMEM(floats, jnp.float32),
            pltpu.SMEM(floats, jnp.float32),
            pltpu.VMEM((1, TILE, LANES), jnp.float32),
            pltpu.VMEM((products, TILE if gradient else SUBLANES, LANES), jnp.float32),
            pltpu.SemaphoreType.DMA(()),
        ]

    return Operands(
        inputs=[(rows, spec(pipeline_mode=pl.Buffered(1)))],
        gradients=[(dispatch.like(planes, rows.shape), spec(pipeline_mode=pl.Buffered(1)))],
        scratch=scratch,
        bind=functools.partial(_Planes, options=options, layout=layout),
        saved=0,
        gradient=lambda out: dataclasses.replace(field, planes=triplane.from_rows(out[0], layout)),
    )


# --- Gaussians with local tri-planes ---


class _Gaussians:
    """A head's Gaussians in a kernel."""

    def __init__(self, inputs, gradients, scratch, *, options, layout):
        self.tables, self.gradients = knn.Tables(*inputs), gradients
        self.scratch = knn.Scratch(*scratch)
        self.sizes = {"layout": layout, "options": options}

    def choose(self, points):
        layout, options = self.sizes["layout"], self.sizes["options"]
        return knn.select(self.tables.ranked, points, layout=layout, metric=options.metric)

    def lookup(self, points, chosen, *, live):
        self.scratch.rows[...] = jnp.zeros(self.scratch.rows.shape, jnp.float32)
        return knn.look_up(points, chosen, self.tables, self.scratch, live=live, **self.sizes)

    def clear(self):
        for gradient in self.gradients:
            gradient[...] = jnp.zeros(gradient.shape, jnp.float32)

    def pull(self, points, chosen, dfeatures, dreach, *, live):
        return knn.pull(
            points, chosen, (dfeatures, dreach), self.gradients, self.tables, self.scratch,
            live=live, **self.sizes,
        )  # fmt: skip


def _gaussian_layout(field: GaussianField) -> knn.Layout:
    side = max(field.options.patch, 2)
    return knn.Layout(
        heads=field.frames.shape[0],
        points=TILE,
        gaussians=field.frames.shape[-1],
        channels=field.texels.shape[-1] // side,
        side=side,
        neighbors=field.options.neighbors,
    )


def _of_gaussians(field: GaussianField) -> Operands:
    layout, options = _gaussian_layout(field), field.options
    ranked = knn.padded(field.frames, 3 if options.metric == "euclidean" else 12, knn.UNROLL)
    columns, table = knn.padded(field.frames, 12, LANES), knn.to_rows(field.texels, layout)
    tables = [jnp.asarray(a) for a in knn.lane_tables(layout)]
    sums = (-(-layout.gaussians // SUBLANES) * SUBLANES, LANES)
    once = {"pipeline_mode": pl.Buffered(1)}

    def gradient(out):
        dframes = knn.frame_gradient(out[0][:, : layout.gaussians], field.frames)
        return dataclasses.replace(field, frames=dframes, texels=knn.from_rows(out[1], layout))

    return Operands(
        inputs=[
            (ranked, _of_head(ranked.shape[1:], memory_space=pltpu.SMEM)),
            (columns, _of_head(columns.shape[1:])),
            (table, _of_head(table.shape[1:], **once)),
            *((a, pl.BlockSpec(a.shape, lambda b, i, n=a.ndim: (0,) * n)) for a in tables),
        ],
        gradients=[
            (dispatch.like(table, (layout.heads, *sums)), _of_head(sums, **once)),
            (dispatch.like(table, table.shape), _of_head(table.shape[1:], **once)),
        ],
        scratch=functools.partial(knn.scratch, layout),
        bind=functools.partial(_Gaussians, options=options, layout=layout),
        saved=options.neighbors,
        gradient=gradient,
    )


# --- either ---


def operands_of(field: Field) -> Operands:
    """The operands of a batched field."""
    return (_of_planes if isinstance(field, TriplaneField) else _of_gaussians)(field)


def _bytes_of_planes(field: TriplaneField, *, gradient: bool) -> tuple[int, int]:
    layout = _plane_layout(field)
    values = layout.held * (1 + triplane.numbers_of_plane(layout, slopes=gradient))
    rows = layout.held * layout.plane_rows * (2 if gradient else 1) + TILE
    rows += layout.held * len(layout.sizes) * TILE if gradient else 0
    return ROW_BYTES * rows + 4 * TILE * values, 4 * TILE * values


def _bytes_of_gaussians(field: GaussianField, *, gradient: bool) -> tuple[int, int]:
    layout, options = _gaussian_layout(field), field.options
    table = layout.gaussians * layout.rows * (2 if gradient else 1)
    sums = layout.gaussians + 4 * layout.neighbors * TILE if gradient else 0
    columns = 2 * 16 * 4 * (layout.gaussians + LANES)
    frames = 4 if options.metric == "euclidean" else 16
    scalars = 5 * layout.neighbors * TILE * 4 + 2 * frames * 4 * (layout.gaussians + LANES)
    return ROW_BYTES * (table + sums + 2 * TILE) + columns, scalars


def bytes_of(field: Field, *, gradient: bool) -> tuple[int, int]:
    """Vector and scalar memory that the field takes in a kernel, about."""
    count = _bytes_of_planes if isinstance(field, TriplaneField) else _bytes_of_gaussians
    return count(field, gradient=gradient)


def field_reason(field: Field) -> str | None:
    """What speaks against the field in a kernel, whatever its size."""
    planes = isinstance(field, TriplaneField)
    channels = field.planes.shape[-1] if planes else _gaussian_layout(field).channels
    if channels > LANES:
        return f"there are {channels} channels, it serves up to {LANES}"
    if not planes and field.options.neighbors > MOST_NEIGHBORS:
        return f"neighbors={field.options.neighbors}, it serves up to {MOST_NEIGHBORS}"
    return None
