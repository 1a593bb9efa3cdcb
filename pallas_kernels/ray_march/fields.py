"""Fields that rays can march through, and how the reference looks one up, a tile at a time.

A field is a tree of arrays with a leading axis of heads, and what it is computed with; inside the
marcher it has lost that axis. Its look-up may save a few numbers a point by which the backward pass
finds the same values again (the neighbours' indices, [k, t]), never features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.knn_blend import cells
from pallas_kernels.knn_blend import reference as knn
from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable
from pallas_kernels.knn_blend.types import check as check_atlas
from pallas_kernels.ray_march.types import Leaf
from pallas_kernels.triplane_sample import reference as triplane
from pallas_kernels.triplane_sample.types import LookupOptions, check


@runtime_checkable
class Field(Protocol):
    """One head's field, as `reference.py` uses it; `points` are [t, 3]."""

    def wants_index(self, count: int) -> bool:
        """Whether an index pays for so many points of a head, on a CPU."""

    def indexed(self, corners: tuple[Array, Array], count: int) -> Field:
        """The same field with an index of what is near; points lie in the box of the corners."""

    def choose(self, points: Array) -> Array:
        """What is saved of a look-up, [k t]; k may be 0."""

    def lookup(self, points: Array, saved: Array) -> tuple[Array, Array]:
        """Features [t c] and RBF values [t] (0 where the field has none)."""

    def zeros(self) -> Any:
        """Gradient of the field's arrays, before any tile."""

    def pull(self, gradient: Any, points: Array, saved: Any, cotangents: tuple) -> tuple:
        """Adds a tile's share to the gradient; also returns the points' own [t 3]."""

    def gradient(self, gradient: Any) -> Any:
        """The gradient as a tree like the field."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianField:
    """UV Gaussians with local tri-planes, as tables; see `gaussian_field`.

    Attributes:
      frames: [b, 12, g], centres and whitening matrices, `knn_blend.reference.frames`.
      texels: [b, n, m], the payload, `knn_blend.reference.texel_table`.
      options: how neighbours are chosen and blended.
      cells: lists of what may be nearest, `knn_blend.cells`; None to compare every Gaussian.
    """

    frames: Leaf
    texels: Leaf
    options: BlendOptions = dataclasses.field(metadata={"static": True})
    cells: Leaf = None

    def wants_index(self, count):
        neighbors, metric = self.options.neighbors, self.options.metric
        gaussians = self.frames.shape[-1]
        return cells.pays(points=count, gaussians=gaussians, neighbors=neighbors, metric=metric)

    def indexed(self, corners, count):
        box, side = cells.box_of(jnp.stack(corners), self.frames), cells.side_for(count)
        found = cells.build(self.frames, box, neighbors=self.options.neighbors, side=side)
        return dataclasses.replace(self, cells=found)

    def _tiled(self, array: Array, chunks: int, size: int) -> Array:
        pad = ((0, chunks * size - array.shape[0]), (0, 0))
        return jnp.pad(array, pad).reshape(chunks, size, -1)

    def _points(self, points: Array) -> Array:
        return self._tiled(points, *knn.chunks_of(points.shape[0])).swapaxes(-1, -2)

    def _ids(self, saved: Array) -> Array:
        chunks, size = knn.chunks_of(saved.shape[1])
        padded = jnp.pad(saved, ((0, 0), (0, chunks * size - saved.shape[1])))
        return padded.reshape(-1, chunks, size).swapaxes(0, 1)

    def choose(self, points):
        ids = knn.select_tile(
            self._points(points), self.frames, options=self.options, cells=self.cells
        )
        return ids.swapaxes(0, 1).reshape(ids.shape[1], -1)[:, : points.shape[0]]

    def lookup(self, points, saved):
        features, total = knn.blend_tile(
            self._points(points), self._ids(saved), self.frames, self.texels, options=self.options
        )
        count = points.shape[0]
        return features.reshape(-1, features.shape[-1])[:count], total.reshape(-1)[:count]

    def zeros(self):
        return jnp.zeros_like(self.texels), jnp.zeros_like(self.frames.T)

    def pull(self, gradient, points, saved, cotangents):
        chunks, size = knn.chunks_of(points.shape[0])
        dfeatures = self._tiled(cotangents[0], chunks, size)
        dtotal = self._tiled(cotangents[1][:, None], chunks, size)[..., 0]
        gradient, dpoints = knn.backward_tile(
            gradient,
            self._points(points),
            self._ids(saved),
            (dfeatures, dtotal),
            self.frames,
            self.texels,
            options=self.options,
        )
        return gradient, dpoints.swapaxes(-1, -2).reshape(-1, 3)[: points.shape[0]]

    def gradient(self, gradient):
        dframes = knn.frame_gradient(gradient[1], self.frames)
        return dataclasses.replace(self, frames=dframes, texels=gradient[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TriplaneField:
    """Tri-planes or tri-grids, looked up as `triplane_sample` does.

    Attributes:
      planes: [b, n, (d,) h, w, c].
      options: which coordinates index which plane, and the box that they cover.
    """

    planes: Leaf
    options: LookupOptions = dataclasses.field(metadata={"static": True})

    def wants_index(self, count):
        return False

    def indexed(self, corners, count):
        return self

    def choose(self, points):
        return jnp.zeros_like(points.T[:0], jnp.int32)

    def lookup(self, points, saved):
        features = triplane.sample_tile(self.planes[None], points.T, options=self.options)
        return features, jnp.zeros_like(points[:, 0])

    def zeros(self):
        return jnp.zeros_like(self.planes[None])

    def pull(self, gradient, points, saved, cotangents):
        gradient, dpoints = triplane.pull_tile(
            gradient, self.planes[None], points.T, cotangents[0], options=self.options
        )
        return gradient, dpoints.T

    def gradient(self, gradient):
        return dataclasses.replace(self, planes=gradient[0])


def triplane_field(planes: Float[Array, "b n *s c"], *, options: LookupOptions) -> TriplaneField:
    """The field of heads given as tri-planes or tri-grids.

    Raises:
      ValueError: planes that do not fit the options, or options that keep the planes apart.
    """
    check(jnp.zeros((planes.shape[0], 1, 3)), planes, options)
    if options.reduce == "none":
        raise ValueError("a field has one feature vector a point: reduce must be 'mean' or 'sum'")
    return TriplaneField(planes=planes.astype(jnp.float32), options=options)


def gaussian_field(
    gaussians: GaussianTable, *, atlas: Float[Array, "b h w d"], options: BlendOptions
) -> GaussianField:
    """The field of heads given as Gaussians and payload atlas; see `knn_blend` for both.

    Raises:
      ValueError: the atlas does not hold one p×p patch for each Gaussian, or there are fewer
        Gaussians than neighbours.
    """
    check_atlas(gaussians.centers.shape[-2], atlas, options)
    frames = jax.vmap(lambda table: knn.frames(table, options=options))(gaussians)
    texels = jax.vmap(lambda a: knn.texel_table(a, patch=options.patch))(atlas)
    return GaussianField(
        frames=frames.astype(jnp.float32), texels=texels.astype(jnp.float32), options=options
    )
