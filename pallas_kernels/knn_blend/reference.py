"""K-nearest Gaussian blending in plain JAX: the definition, and the path on CPUs.

Alphabet: `t` points of a tile, `g` Gaussians, `k` neighbours, `p` side of a patch in texels,
`c` channels. Inside a tile arrays are points-minor (`[k t]`), so that every step is a straight
vector loop over points.

Invariants:
* the selection of neighbours carries no gradient; everything after it does;
* neighbours are in ascending order of distance, exact ties in ascending order of index;
* a Gaussian that is not valid is chosen only where fewer than K are valid, and then weighs nothing;
* nothing of size points × Gaussians or points × K × patch outlives a tile: the backward pass
  recomputes the tile from its points.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable

# Gaussians whose insertion into the running top K is unrolled in one step of the scan.
_UNROLL = 16
# Coordinates of the planes xy, xz, yz in the local frame: (column, row) of the texel grid.
PLANE_AXES = ((0, 1), (0, 2), (1, 2))


def _inverse_radii(radii: Float[Array, "g 3"], options: BlendOptions) -> Float[Array, "g 3"]:
    """1/std of each axis; the floor keeps a vanishing Gaussian finite."""
    radii = jnp.abs(radii)
    std = jnp.sqrt(radii) if options.radii == "variance" else radii
    return 1.0 / jnp.maximum(std, options.min_std)


def _distance(metric: str, table: tuple, index: int, point: tuple):
    """Squared distance of points to Gaussian `index`: Euclidean, or Mahalanobis for 'rbf'."""
    centre, whiten, penalty = table
    delta = [point[a] - centre[index, a] for a in range(3)]
    if metric == "rbf":
        delta = [sum(whiten[index, a, b] * delta[b] for b in range(3)) for a in range(3)]
    return sum(d * d for d in delta) + penalty[index]


def select(
    points: Float[Array, "3 t"], gaussians: GaussianTable, *, options: BlendOptions
) -> Int[Array, "k t"]:
    """The K nearest Gaussians of each point, nearest first, by a running insertion.

    'euclidean' ranks by |x − μ|², 'rbf' by the exponent of the RBF (the largest values).
    """
    points, gaussians = jax.lax.stop_gradient((points, gaussians))
    tile, count = points.shape[1], gaussians.centers.shape[0]
    pad = -count % _UNROLL
    whiten = jnp.swapaxes(gaussians.rotations, -1, -2) * _inverse_radii(gaussians.radii, options)[
        :, :, None
    ]
    # Invalid ones rank behind every valid one, still by index; padding is never reached.
    penalty = jnp.where(gaussians.valid, 0.0, jnp.float32(1e30))
    blocks = (
        jnp.pad(gaussians.centers, ((0, pad), (0, 0))).reshape(-1, _UNROLL, 3),
        jnp.pad(whiten, ((0, pad), (0, 0), (0, 0))).reshape(-1, _UNROLL, 3, 3),
        jnp.pad(penalty, (0, pad), constant_values=jnp.inf).reshape(-1, _UNROLL),
    )

    def insert(best, xs):
        block, first = xs
        distances, ids = list(best[0]), list(best[1])
        for j in range(_UNROLL):
            d = _distance(options.metric, block, j, points)
            n = jnp.full((tile,), 0, jnp.int32) + (first + j)
            for q in range(options.neighbors):
                nearer = d < distances[q]
                distances[q], d = (
                    jnp.where(nearer, d, distances[q]),
                    jnp.where(nearer, distances[q], d),
                )
                ids[q], n = jnp.where(nearer, n, ids[q]), jnp.where(nearer, ids[q], n)
        return (tuple(distances), tuple(ids)), None

    k = options.neighbors
    start = (
        tuple(jnp.full((tile,), jnp.inf) for _ in range(k)),
        tuple(jnp.zeros((tile,), jnp.int32) for _ in range(k)),
    )
    firsts = jnp.arange(0, count + pad, _UNROLL, dtype=jnp.int32)
    (_, ids), _ = jax.lax.scan(insert, start, (blocks, firsts))
    return jnp.stack(ids)


def _rows(table: Array, ids: Array) -> Array:
    return table.at[ids].get(mode="promise_in_bounds")


def influence(
    points: Float[Array, "3 t"],
    gaussians: GaussianTable,
    ids: Int[Array, "k t"],
    *,
    options: BlendOptions,
) -> tuple[Float[Array, "3 k t"], Float[Array, "k t"]]:
    """Local coordinates in standard deviations, and the RBF g = exp(−½ (x−μ)ᵀ Σ⁻¹ (x−μ))."""
    packed = jnp.concatenate(
        [
            gaussians.centers,
            gaussians.rotations.reshape(-1, 9),
            _inverse_radii(gaussians.radii, options),
            gaussians.valid[:, None].astype(jnp.float32),
        ],
        axis=1,
    )
    chosen = jnp.moveaxis(_rows(packed, ids), -1, 0)
    delta = points[:, None] - chosen[:3]
    rotation, inverse = chosen[3:12].reshape(3, 3, *ids.shape), chosen[12:15]
    whitened = jnp.stack(
        [sum(rotation[b, a] * delta[b] for b in range(3)) * inverse[a] for a in range(3)]
    )
    return whitened, jnp.exp(-0.5 * jnp.sum(whitened**2, axis=0)) * chosen[15]


def _texels(
    unit: Float[Array, "3 k t"], ids: Int[Array, "k t"], side: int
) -> tuple[Float[Array, "k 12 t"], Int[Array, "k 12 t"]]:
    """Bilinear weights and row numbers in the texel table, three planes × four corners.

    `unit` ∈ [−1, 1] spans the patch; the footprint is clamped inside it, so that a neighbouring
    patch of the atlas never bleeds in.
    """
    position = jnp.clip((unit + 1.0) * (0.5 * side) - 0.5, 0.0, side - 1.0)
    low = jnp.clip(jnp.floor(position), 0, max(side - 2, 0))
    high_weight = position - low
    index = low.astype(jnp.int32)
    step = min(1, side - 1)
    weights, rows = [], []
    for plane, (column, row) in enumerate(PLANE_AXES):
        for dy in (0, 1):
            for dx in (0, 1):
                wx = high_weight[column] if dx else 1.0 - high_weight[column]
                wy = high_weight[row] if dy else 1.0 - high_weight[row]
                y, x = index[row] + dy * step, index[column] + dx * step
                weights.append(wx * wy)
                rows.append(((ids * side + y) * side + x) * 3 + plane)
    return jnp.stack(weights, 1), jnp.stack(rows, 1)


def blend_tile(
    points: Float[Array, "3 t"],
    gaussians: GaussianTable,
    texels: Float[Array, "n c"],
    *,
    options: BlendOptions,
) -> tuple[Float[Array, "t c"], Float[Array, "t"], Int[Array, "t k"]]:
    """Features, Σ of RBF values and neighbours of one tile of points."""
    ids = select(points, gaussians, options=options)
    whitened, rbf = influence(points, gaussians, ids, options=options)
    side = options.patch
    weights, rows = _texels(jnp.clip(whitened / options.extent, -1.0, 1.0), ids, side)
    total = jnp.sum(rbf, axis=0)
    scale = rbf / (total + 1e-7) if options.blend == "normalized" else rbf
    weights = (weights * (scale / 3.0)[:, None]).reshape(-1, points.shape[1]).T
    gathered = _rows(texels, rows.reshape(-1, points.shape[1]).T)
    features = jnp.sum(weights[..., None] * gathered, axis=1)
    return features, total, ids.T


def texel_table(
    atlas: Float[Array, "h w d"], *, grid: int, patch: int
) -> Float[Array, "n c"]:
    """The atlas as rows ((gaussian · p + y) · p + x) · 3 + plane of c channels."""
    channels = atlas.shape[-1] // 3
    table = atlas.reshape(grid, patch, grid, patch, 3, channels)
    return table.transpose(0, 2, 1, 3, 4, 5).reshape(-1, channels)


def knn_blend_reference(
    points: Float[Array, "r 3"],
    gaussians: GaussianTable,
    *,
    texels: Float[Array, "n c"],
    options: BlendOptions,
) -> tuple[Float[Array, "r c"], Float[Array, "r"], Int[Array, "r k"]]:
    """`op.knn_blend` for one head, tile by tile, each tile recomputed in the backward pass."""
    count = points.shape[0]
    tile = min(options.tile, max(count, 1))
    pad = -count % tile
    tiles = jnp.pad(points, ((0, pad), (0, 0))).reshape(-1, tile, 3).swapaxes(1, 2)

    @jax.checkpoint
    def one(part):
        return blend_tile(part, gaussians, texels, options=options)

    outputs = jax.lax.map(one, tiles)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], outputs)


