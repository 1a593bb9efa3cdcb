"""K-nearest Gaussian blending, straight from the formulas: what the others are measured against.

Builds the full table of distances and gathers whole patches, as an obvious program would; its
gradient is JAX's own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES, BlendOptions, GaussianTable


def _std(radii: Float[Array, "*g 3"], options: BlendOptions) -> Float[Array, "*g 3"]:
    radii = jnp.abs(radii)
    if options.radii == "variance":
        return jnp.sqrt(jnp.maximum(radii, options.min_std**2))
    return jnp.maximum(radii, options.min_std)


def nearest(
    points: Float[Array, "r 3"], gaussians: GaussianTable, *, options: BlendOptions
) -> Int[Array, "r k"]:
    """`lax.top_k` over the distances of every point to every Gaussian."""
    points, gaussians = jax.lax.stop_gradient((points, gaussians))
    delta = points[:, None] - gaussians.centers
    if options.metric == "rbf":
        delta = jnp.einsum("rga,gab->rgb", delta, gaussians.rotations)
        delta = delta / _std(gaussians.radii, options)
    squared = jnp.sum(delta**2, axis=-1)
    squared = jnp.where(gaussians.valid, squared, jnp.inf)
    return jax.lax.top_k(-squared, options.neighbors)[1]


def _bilinear(
    plane: Float[Array, "r k p p c"], column: Float[Array, "r k"], row: Float[Array, "r k"]
) -> Float[Array, "r k c"]:
    """Plane values at fractional texels (column, row), which lie in [0, p − 1]."""
    side = plane.shape[2]
    flat = plane.reshape(*plane.shape[:2], side * side, -1)
    x0, y0 = jnp.floor(column), jnp.floor(row)
    wx, wy = column - x0, row - y0
    total = 0.0
    for y, by in ((y0, 1.0 - wy), (y0 + 1.0, wy)):
        for x, bx in ((x0, 1.0 - wx), (x0 + 1.0, wx)):
            inside = jnp.minimum(y, side - 1.0) * side + jnp.minimum(x, side - 1.0)
            index = inside.astype(jnp.int32)[..., None, None]
            texel = jnp.take_along_axis(flat, index, axis=2)[:, :, 0]
            total = total + (by * bx)[..., None] * texel
    return total


def blend_chosen(
    points: Float[Array, "r 3"],
    gaussians: GaussianTable,
    *,
    payload: Float[Array, "g p p 3 c"],
    ids: Int[Array, "r k"],
    options: BlendOptions,
) -> tuple[Float[Array, "r c"], Float[Array, "r"]]:
    """Features and Σ of RBF values for neighbours that are already chosen."""
    delta = points[:, None] - gaussians.centers[ids]
    local = jnp.einsum("rka,rkab->rkb", delta, gaussians.rotations[ids])
    local = local / _std(gaussians.radii, options)[ids]
    rbf = jnp.exp(-0.5 * jnp.sum(local**2, axis=-1)) * gaussians.valid[ids]
    side = options.patch
    unit = jnp.clip(local / options.extent, -1.0, 1.0)
    texel = jnp.clip((unit + 1.0) * (0.5 * side) - 0.5, 0.0, side - 1.0)
    patches = payload[ids]
    planes = [
        _bilinear(patches[..., plane, :], texel[..., column], texel[..., row])
        for plane, (column, row) in enumerate(PLANE_AXES)
    ]
    total = jnp.sum(rbf, axis=-1)
    weights = rbf / (total + EPSILON)[:, None] if options.blend == "normalized" else rbf
    return jnp.sum(weights[..., None] * sum(planes) / len(PLANE_AXES), axis=1), total


def patches_of(atlas: Float[Array, "h w d"], *, patch: int) -> Float[Array, "g p p 3 c"]:
    """The atlas cut into the Gaussians' own local tri-planes."""
    grid = atlas.shape[0] // patch
    payload = atlas.reshape(grid, patch, grid, patch, len(PLANE_AXES), -1).swapaxes(1, 2)
    return payload.reshape(grid * grid, *payload.shape[2:])


def knn_blend_naive(
    points: Float[Array, "b r 3"],
    gaussians: GaussianTable,
    *,
    atlas: Float[Array, "b h w d"],
    options: BlendOptions,
) -> tuple[Float[Array, "b r c"], Float[Array, "b r"], Int[Array, "b r k"]]:
    """`op.knn_blend`, the obvious way. `options.tile` is ignored."""

    def one_head(points, gaussians, atlas):
        ids = nearest(points, gaussians, options=options)
        payload = patches_of(atlas, patch=options.patch)
        blended = blend_chosen(points, gaussians, payload=payload, ids=ids, options=options)
        return *blended, ids

    return jax.vmap(one_head)(points, gaussians, atlas)
