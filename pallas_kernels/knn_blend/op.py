"""The public K-nearest Gaussian blending."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.knn_blend import reference
from pallas_kernels.knn_blend.types import PLANE_AXES, BlendOptions, GaussianTable


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blend(points: Array, frames: Array, texels: Array, options: BlendOptions):
    return _blend_forward(points, frames, texels, options)[0]


def _blend_forward(points, frames, texels, options):
    features, total, ids = jax.lax.map(
        lambda head: reference.forward(*head, options=options), (points, frames, texels)
    )
    count = points.shape[1]
    outputs = features, total, jax.vmap(lambda i: reference.untile(i, count=count))(ids)
    return outputs, (points, frames, texels, ids)


def _blend_backward(options, residuals, cotangents):
    *inputs, ids = residuals
    return jax.lax.map(
        lambda head: reference.backward(
            *head[0], ids=head[1], cotangents=head[2], options=options
        ),
        (inputs, ids, cotangents[:2]),
    )


_blend.defvjp(_blend_forward, _blend_backward)


def _check(count: int, atlas: Array, options: BlendOptions) -> None:
    height, width, depth = atlas.shape[1:]
    grid = height // options.patch
    if height != width or grid * options.patch != height or grid * grid != count:
        raise ValueError(
            f"atlas of {height}x{width} texels does not hold {count} patches of side "
            f"{options.patch}: expected a square of side sqrt(Gaussians) x patch"
        )
    if depth % len(PLANE_AXES):
        raise ValueError(f"atlas has {depth} channels, expected 3 planes of equally many")
    if options.neighbors > count:
        raise ValueError(f"neighbors={options.neighbors} but there are only {count} Gaussians")


def knn_blend(
    points: Float[Array, "b r 3"],
    gaussians: GaussianTable,
    *,
    atlas: Float[Array, "b h w d"],
    options: BlendOptions,
) -> tuple[Float[Array, "b r c"], Float[Array, "b r"], Int[Array, "b r k"]]:
    """Blends the local tri-planes of each point's K nearest Gaussians.

    f(x) = Σ_k w_k · mean over planes of bilinear(h_k, Rᵀ(x−μ)/(κ·std)), w_k = g_k / (Σ g + 1e-7)
    (Gaussian3Diff, supplement §1.1 and fig. 2; `docs/paper_map.md`).

    Args:
      points: query points, world units.
      gaussians: the heads' Gaussians, leading axis b, in row-major order of the UV grid.
      atlas: payload, [G·p, G·p, 3·c]: patch (i, j) holds Gaussian i·G + j; plane-major channels.
      options: see `BlendOptions`.

    Returns:
      features, Σ_k g_k, and the neighbours' indices (nearest first). Gradients flow to points,
      Gaussians and atlas; the choice of neighbours carries none. All float32.

    Raises:
      ValueError: the atlas does not hold one p×p patch for each Gaussian, or there are fewer
        Gaussians than neighbours.
    """
    _check(gaussians.centers.shape[-2], atlas, options)
    frames = jax.vmap(lambda table: reference.frames(table, options=options))(gaussians)
    texels = jax.vmap(lambda a: reference.texel_table(a, patch=options.patch))(atlas)
    return _blend(*(a.astype(jnp.float32) for a in (points, frames, texels)), options)
