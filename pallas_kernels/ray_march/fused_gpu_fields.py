"""What the fused GPU kernels ask of a field: its arrays, and how a block of points is looked up.

The look-ups are those of the fields' own kernels. A class here holds what is static of a field; its
arrays go through the kernels' operands.

A look-up gives rows [t j] for the MLP: j are the channels, padded, and of a Gaussian field there
are two halves whose sum the features are. `to_rows` lays the MLP's first matrix out for them, so
that the sum is taken by the matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.gpu_memory import Ref, power_of_two
from pallas_kernels.knn_blend import gpu as knn
from pallas_kernels.knn_blend import gpu_tile as knn_tile
from pallas_kernels.knn_blend.types import BlendOptions
from pallas_kernels.ray_march.fields import Field, GaussianField, TriplaneField
from pallas_kernels.triplane_sample import gpu as triplane
from pallas_kernels.triplane_sample.types import LookupOptions

# The least side of a matrix product on a GPU.
LEAST = 16

Point = tuple[Array, Array, Array]
Refs = dict[str, Ref]
Saved = Callable[[Array], Array]


@runtime_checkable
class Lookup(Protocol):
    """A kind of field in the kernels; `saved` is how many numbers it saves of a point."""

    saved: int
    channels: int

    def inputs(self, field: Field) -> dict[str, Array]:
        """The kernels' operands."""

    def zeros(self, field: Field) -> dict[str, Array]:
        """What `pull` adds to, before it has."""

    def gradient(self, field: Field, found: dict[str, Array]) -> Field:
        """The gradient as a tree like the field, from what `pull` added up."""

    def to_rows(self, matrix: Float[Array, "c h"]) -> Float[Array, "j h"]:
        """The matrix with whose rows those of a look-up are multiplied."""

    def from_rows(self, matrix: Float[Array, "j h"]) -> Float[Array, "c h"]:
        """The transpose of `to_rows`."""

    def choose(self, point: Point, refs: Refs, head: Array) -> tuple[Array, ...]:
        """What is saved of a look-up, each [t]."""

    def lookup(self, point, chosen, refs: Refs, head: Array) -> tuple[Array, Array]:
        """Rows [t j], and the field's RBF values [t]."""

    def again(self, point, saved: Saved, refs: Refs, head: Array) -> tuple[Array, Array]:
        """`lookup`, of what was saved: a function from k to its k-th number of each point."""

    def pull(
        self, point, saved: Saved, found, cotangents, refs, gradients, head, *, program, mask,
        interpret
    ):  # fmt: skip
        """The gradient of `lookup`, which found `found`.

        Adds to the field's gradients; returns the points' own, three arrays [t].
        """


def _padded(matrix: Array, rows: int) -> Array:
    return jnp.pad(matrix, ((0, rows - matrix.shape[0]), (0, 0)))


@dataclasses.dataclass(frozen=True)
class _Gaussians:
    """`GaussianField` in the kernels."""

    options: BlendOptions
    channels: int

    @property
    def saved(self):
        return self.options.neighbors

    def inputs(self, field):
        return {"frames": knn.padded(field.frames), "texels": field.texels}

    def zeros(self, field):
        sums, texels = knn.no_gradients(field.frames, field.texels)
        return {"sums": sums, "texels": texels}

    def gradient(self, field, found):
        frames = knn.frame_gradient(found["sums"], field.frames)
        return dataclasses.replace(field, frames=frames, texels=found["texels"])

    def to_rows(self, matrix):
        return jnp.tile(_padded(matrix, knn_tile.half_width(self.channels)), (2, 1))

    def from_rows(self, matrix):
        halves = matrix.reshape(2, -1, matrix.shape[1])
        return jnp.sum(halves, axis=0)[: self.channels]

    def choose(self, point, refs, head):
        return knn_tile.select(point, refs["frames"], head, options=self.options)

    def lookup(self, point, chosen, refs, head):
        tables = refs["frames"], refs["texels"]
        return knn_tile.blend(point, chosen, *tables, head, options=self.options)

    def again(self, point, saved, refs, head):
        tables = refs["frames"], refs["texels"]
        return knn_tile.blend_again(point, saved, *tables, head, options=self.options)

    def pull(
        self, point, saved, found, cotangents, refs, gradients, head, *, program, mask, interpret
    ):
        return knn_tile.pull(
            point,
            saved,
            found,
            cotangents,
            (refs["frames"], refs["texels"]),
            (gradients["sums"], gradients["texels"]),
            head,
            copy=knn.copy_of(program),
            options=self.options,
            mask=mask,
            interpret=interpret,
        )


@dataclasses.dataclass(frozen=True)
class _Planes:
    """`TriplaneField` in the kernels."""

    options: LookupOptions
    channels: int
    saved: int = 0

    def inputs(self, field):
        return {"planes": field.planes}

    def zeros(self, field):
        return {"planes": jnp.zeros_like(field.planes)}

    def gradient(self, field, found):
        return dataclasses.replace(field, planes=found["planes"])

    def to_rows(self, matrix):
        return _padded(matrix, max(LEAST, power_of_two(self.channels)))

    def from_rows(self, matrix):
        return matrix[: self.channels]

    def choose(self, point, refs, head):
        return ()

    def lookup(self, point, chosen, refs, head):
        rows = triplane.sample(point, refs["planes"], head, options=self.options, least=LEAST)
        return rows, jnp.zeros_like(point[0])

    def again(self, point, saved, refs, head):
        return self.lookup(point, (), refs, head)

    def pull(
        self, point, saved, found, cotangents, refs, gradients, head, *, program, mask, interpret
    ):
        return triplane.pull(
            point,
            [self.options.scale * cotangents[0]] * len(self.options.axes),
            refs["planes"],
            gradients["planes"],
            head,
            options=self.options,
            mask=mask,
            interpret=interpret,
        )


def lookup_of(field: Field) -> Lookup:
    """The kernels' view of a field."""
    if isinstance(field, GaussianField):
        return _Gaussians(field.options, knn_tile.channels_of(field.texels, field.options))
    return _Planes(field.options, field.planes.shape[-1])


def field_reason(field: Field) -> str | None:
    """What keeps the kernels from serving a field."""
    if isinstance(field, GaussianField):
        channels = knn_tile.channels_of(field.texels, field.options)
        return knn.too_much(channels, field.options.neighbors)
    if isinstance(field, TriplaneField):
        channels = field.planes.shape[-1]
        most = 2 * LEAST
        if channels > most:
            return f"{channels} channels do not fit a block's registers beside an MLP, {most} do"
        return None
    return f"there is no GPU look-up of a {type(field).__name__}"
