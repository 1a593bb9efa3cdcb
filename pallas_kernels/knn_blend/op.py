"""The public K-nearest Gaussian blending."""

from __future__ import annotations


import jax
from jaxtyping import Array, Float, Int

from pallas_kernels.knn_blend.reference import knn_blend_reference, texel_table
from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable


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
      Gaussians and atlas; the choice of neighbours carries none.

    Raises:
      ValueError: the atlas does not hold one p×p patch for each Gaussian.
    """
    count = gaussians.centers.shape[-2]
    grid = atlas.shape[1] // options.patch
    if atlas.shape[1] != atlas.shape[2] or grid * grid != count or atlas.shape[1] % options.patch:
        raise ValueError(
            f"atlas of {atlas.shape[1]}x{atlas.shape[2]} texels does not hold {count} patches of "
            f"side {options.patch}: expected a square of side sqrt(Gaussians) x patch"
        )
    if options.neighbors > count:
        raise ValueError(f"neighbors={options.neighbors} but there are only {count} Gaussians")

    def one_head(inputs):
        part, table, payload = inputs
        texels = texel_table(payload, grid=grid, patch=options.patch)
        return knn_blend_reference(part, table, texels=texels, options=options)

    return jax.lax.map(one_head, (points, gaussians, atlas))


