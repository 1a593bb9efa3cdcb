"""K-nearest Gaussian blending in plain JAX, forward and backward: the path on CPUs.

`naive.py` says the same in ten lines; this is the form that is fast and lean. It walks tiles of
points, keeps nothing of a tile but its neighbours' indices, and recomputes the rest backwards.

Alphabet: `s` chunks of a tile, `t` points of a chunk, `k` neighbours, `g` Gaussians, `c` channels.
Arithmetic is points-minor (`[k t]`: a vector loop over points); only what the backward pass
addresses the texel table with is points-major (`[t k …]`): it contracts and scatters whole runs.

Two habits here look odd and are what makes it fast (measured in `docs/kernels.md`):
* a tile is worked on in stages, each a `lax.map` over its chunks. A loop is the only fence that
  XLA's CPU compiler respects; without one an index is computed again for every channel that it
  addresses, and a weight for every texel;
* forwards the sum over neighbours, planes and corners is written out, one loop over points and
  channels; backwards texels are gathered 2 × 2c at a time, contracted by a batched dot, and
  scattered the same way.

Invariants:
* the selection of neighbours carries no gradient; everything after it does;
* a Gaussian that is not valid is chosen only where fewer than K are valid, and then weighs nothing;
* nothing of size points × Gaussians or points × K × patch outlives a tile.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from pallas_kernels.knn_blend import cells as grid
from pallas_kernels.knn_blend.cells import Cells
from pallas_kernels.knn_blend.select import rows, select
from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES, BlendOptions, GaussianTable

Selection = Literal["auto", "all", "cells"]

_IN_BOUNDS = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
# Points of a chunk, about: its texels fit the cache, its vectors fill the machine's.
_CHUNK = 1024
# Numbers in a quarter of a page of memory.
_PAGE = 256
_PLANES = len(PLANE_AXES)
# Where a Gaussian that is not valid sits: out of every point's reach, its square still a number.
_FAR = 1e15


def frames(gaussians: GaussianTable, *, options: BlendOptions) -> Float[Array, "12 g"]:
    """Rows 0–2: the centres μ. Rows 3–11: A = diag(1/std) Rᵀ, so that g = exp(−½ |A (x−μ)|²)."""
    radii = jnp.abs(gaussians.radii)
    if options.radii == "variance":
        std = jnp.sqrt(jnp.maximum(radii, options.min_std**2))
    else:
        std = jnp.maximum(radii, options.min_std)
    whiten = jnp.swapaxes(gaussians.rotations, -1, -2) / std[..., None]
    valid = gaussians.valid[:, None]
    whiten = jnp.where(valid[..., None], whiten, jnp.eye(3)).reshape(-1, 9)
    centers = jnp.where(valid, gaussians.centers, _FAR)
    return jnp.concatenate([centers, whiten], axis=1).T


def texel_table(atlas: Float[Array, "h w d"], *, patch: int) -> Float[Array, "n m"]:
    """The atlas as rows (gaussian · 3 + plane) · p + y, each the p · c numbers of one texel row.

    A patch of one texel is doubled, so that every footprint is 2 × 2.
    """
    grid, channels = atlas.shape[0] // patch, atlas.shape[-1] // _PLANES

    # Plane by plane: a last axis of c numbers, were there one, would be padded to 128 on a TPU.
    def plane(start):
        table = atlas[..., start : start + channels]
        table = table.reshape(grid, patch, grid, patch * channels)
        return (jnp.tile(table, (1, 2, 1, 2)) if patch == 1 else table).swapaxes(1, 2)

    planes = [plane(start) for start in range(0, atlas.shape[-1], channels)]
    return jnp.stack(planes, axis=2).reshape(-1, planes[0].shape[-1])


def _whitened(points: Array, ids: Array, table: Array) -> tuple:
    """A (x − μ) of each neighbour: three arrays [k t]."""
    delta = [points[a] - rows(table[a], ids) for a in range(3)]
    return tuple(
        sum(rows(table[3 + 3 * a + b], ids) * delta[b] for b in range(3)) for a in range(3)
    )


def _texel(u: Array, *, options: BlendOptions) -> tuple[Array, Array, Array]:
    """Position in the patch along one axis: lower texel, weight of the upper one, slope.

    |u| ≤ κ spans the patch; the footprint is clamped inside it, so that a neighbouring patch of the
    atlas never bleeds in, and the slope is 0 where the clamp holds.
    """
    side = options.patch
    slope = 0.5 * side / options.extent
    position = u * slope + (0.5 * side - 0.5)
    inside = (position > 0.0) & (position < side - 1.0)
    position = jnp.clip(position, 0.0, side - 1.0)
    low = jnp.minimum(jnp.floor(position), max(side - 2.0, 0.0))
    return low, position - low, jnp.where(inside, slope, 0.0)


def _pair(weight: Array) -> Array:
    """(1 − w, w) on a new last axis, as an affine map: a concatenation would not vectorise."""
    return weight[..., None] * jnp.array([-1.0, 1.0], weight.dtype) + jnp.array(
        [1.0, 0.0], weight.dtype
    )


def _footprints(u: tuple, g: Array, ids: Array, *, channels: int, options: BlendOptions):
    """Per plane: weights [t k 2 2] with g inside, and table indices [t k 2] (row, column)."""
    side = max(options.patch, 2)
    weights, indices = [], []
    for plane, (column, row) in enumerate(PLANE_AXES):
        x, wx, _ = _texel(u[column].T, options=options)
        y, wy, _ = _texel(u[row].T, options=options)
        weights.append(g.T[..., None, None] * _pair(wy)[..., :, None] * _pair(wx)[..., None, :])
        first = (ids.T * _PLANES + plane) * side + y.astype(jnp.int32)
        indices.append(jnp.stack([first, x.astype(jnp.int32) * channels], axis=-1))
    return tuple(weights), tuple(indices)


def _corners(u: tuple, g: Array, ids: Array, *, options: BlendOptions):
    """Per plane: weights of the four corners with g inside, and the first one's place, all [k t].

    A place is that of a texel, a row of c channels.
    """
    side = max(options.patch, 2)
    weights, places = [], []
    for plane, (column, row) in enumerate(PLANE_AXES):
        x, wx, _ = _texel(u[column], options=options)
        y, wy, _ = _texel(u[row], options=options)
        low, high = g * (1.0 - wy), g * wy
        weights.append((low * (1.0 - wx), low * wx, high * (1.0 - wx), high * wx))
        first = (ids * _PLANES + plane) * side + y.astype(jnp.int32)
        places.append(first * side + x.astype(jnp.int32))
    return tuple(weights), tuple(places)


def _gather(texels: Array, index: Array, *, channels: int) -> Float[Array, "t q c"]:
    """The 2 × 2 texels at each index, as 4 k rows of c channels."""
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(2, 3), collapsed_slice_dims=(), start_index_map=(0, 1)
    )
    window = jax.lax.gather(texels, index, numbers, (2, 2 * channels), mode=_IN_BOUNDS)
    return window.reshape(index.shape[0], -1, channels)


def _scatter_add(texels: Array, index: Array, values: Float[Array, "t q c"]) -> Array:
    """Adds each index' 2 × 2 texels: the transpose of `_gather`."""
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1)
    )
    values = values.reshape(*index.shape[:2], 2, -1)
    return jax.lax.scatter_add(texels, index, values, numbers, mode=_IN_BOUNDS)


def _scale(g: Array, *, options: BlendOptions) -> tuple[Array, Array]:
    """Σ g, and the factor of Σ_k g_k h_k: the mean over planes, the blend's normalisation."""
    total = jnp.sum(g, axis=0)
    if options.blend == "raw":
        return total, jnp.full_like(total, 1.0 / _PLANES)
    return total, 1.0 / (_PLANES * (total + EPSILON))


def _prepare(points: Array, ids: Array, table: Array) -> tuple[tuple, Array]:
    """What both passes need of a tile: A (x − μ) and RBF values, per chunk."""
    u = jax.lax.map(lambda xs: _whitened(*xs, table), (points, ids))
    g = jax.lax.map(lambda u: jnp.exp(-0.5 * (u[0] ** 2 + u[1] ** 2 + u[2] ** 2)), u)
    return u, g


def _channels(texels: Array, options: BlendOptions) -> int:
    return texels.shape[1] // max(options.patch, 2)


def select_tile(
    points, table, *, options: BlendOptions, cells: Cells | None = None
) -> Int[Array, "s k t"]:
    """The neighbours of one tile of points [s 3 t], through a grid's lists where there is one."""
    if cells is not None:
        return grid.select_tile(points, table, cells, neighbors=options.neighbors)
    return jax.lax.map(
        lambda x: select(x, table, neighbors=options.neighbors, metric=options.metric), points
    )


def blend_tile(points, ids, table, texels, *, options: BlendOptions):
    """(features [s t c], Σ g [s t]) of one tile of points [s 3 t] with neighbours [s k t]."""
    side = max(options.patch, 2)
    flat = texels.reshape(-1, _channels(texels, options))
    u, g = _prepare(points, ids, table)
    weights, places = jax.lax.map(lambda xs: _corners(*xs, options=options), (u, g, ids))

    def contract(xs):
        g, weights, places = xs
        total, scale = _scale(g, options=options)
        blended = 0.0
        for corners, place in zip(weights, places, strict=True):
            for w, step in zip(corners, (0, 1, side, side + 1), strict=True):
                for k in range(len(w)):
                    blended += w[k][:, None] * rows(flat, place[k] + step)
        return blended * scale[:, None], total

    return jax.lax.map(contract, (g, weights, places))


def forward_tile(points, table, texels, *, options: BlendOptions, cells: Cells | None = None):
    """(features [s t c], Σ g [s t], ids [s k t]) of one tile of points [s 3 t]."""
    ids = select_tile(points, table, options=options, cells=cells)
    return *blend_tile(points, ids, table, texels, options=options), ids


def _chain(u: tuple, slopes: tuple, dweights: tuple) -> tuple[Array, tuple]:
    """From the weights' gradients [t k 2 2] to those of g and (over g) of A (x − μ), all [k t]."""
    dg, du = 0.0, [0.0, 0.0, 0.0]
    for (column, row), d in zip(PLANE_AXES, dweights, strict=True):
        (wx, _), (wy, _) = slopes[column], slopes[row]
        d00, d01, d10, d11 = (d[:, :, y, x].T for y in (0, 1) for x in (0, 1))
        low, high = d01 - d00, d11 - d10
        bottom, top = d00 + wx * low, d10 + wx * high
        dg += bottom + wy * (top - bottom)
        du[row] += top - bottom
        du[column] += low + wy * (high - low)
    return dg, tuple(d * slope for d, (_, slope) in zip(du, slopes, strict=True))


def _local_gradient(u: tuple, g: Array, dweights: tuple, dtotal: Array, *, options: BlendOptions):
    """Gradient of A (x − μ), three arrays [k t]; in two stages, see the head of this file."""

    def chain(xs):
        u, dweights = xs
        return _chain(u, tuple(_texel(v, options=options)[1:] for v in u), dweights)

    def combine(xs):
        u, g, dg, du, dtotal = xs
        if options.blend == "normalized":
            dtotal = dtotal - jnp.sum(g * dg, axis=0) / (jnp.sum(g, axis=0) + EPSILON)
        dg = dg + dtotal
        return tuple(g * (du[a] - dg * u[a]) for a in range(3))

    return jax.lax.map(combine, (u, g, *jax.lax.map(chain, (u, dweights)), dtotal))


def backward_tile(carry, points, ids, cotangents, table, texels, *, options: BlendOptions):
    """Adds a tile to the gradients of texels [n m] and of frames [g 12]; and dx [s 3 t].

    A Gaussian's row holds Σ dv ⊗ (x − μ, 1), dv being the gradient of v = A (x − μ).
    """
    channels, size = _channels(texels, options), points.shape[-1]
    dfeatures, dtotal = cotangents
    u, g = _prepare(points, ids, table)
    weights, indices = jax.lax.map(
        lambda xs: _footprints(*xs, channels=channels, options=options), (u, g, ids)
    )

    def contract(dtexels, xs):
        g, weights, indices, df = xs
        df = df * _scale(g, options=options)[1][:, None]
        dweights = []
        for w, i in zip(weights, indices, strict=True):
            gathered = _gather(texels, i, channels=channels)
            dweights.append(jnp.einsum("tqc,tc->tq", gathered, df).reshape(w.shape))
            dtexels = _scatter_add(dtexels, i, w.reshape(size, -1, 1) * df[:, None])
        return dtexels, tuple(dweights)

    dtexels, dweights = jax.lax.scan(contract, carry[0], (g, weights, indices, dfeatures))
    du = _local_gradient(u, g, dweights, dtotal, options=options)

    def scatter(dframes, xs):
        x, ids, du = xs
        delta = [x[a] - rows(table[a], ids) for a in range(3)] + [1.0]
        outer = jnp.stack([du[a] * delta[b] for a in range(3) for b in range(4)], axis=-1)
        dx = [
            jnp.sum(sum(rows(table[3 + 3 * a + b], ids) * du[a] for a in range(3)), axis=0)
            for b in range(3)
        ]
        return dframes.at[ids].add(outer, mode="promise_in_bounds"), jnp.stack(dx)

    dframes, dx = jax.lax.scan(scatter, carry[1], (points, ids, du))
    return (dtexels, dframes), dx


def frame_gradient(
    sums: Float[Array, "g 12"], table: Float[Array, "12 g"]
) -> Float[Array, "12 g"]:
    """Gradient of the frames from the sums that `backward_tile` collects."""
    gaussians = table.shape[1]
    sums = sums.reshape(gaussians, 3, 4)
    whiten = table[3:].reshape(3, 3, gaussians)
    dcenters = -jnp.einsum("abg,ga->bg", whiten, sums[..., 3])
    return jnp.concatenate([dcenters, sums[..., :3].reshape(gaussians, 9).T])


def chunks_of(count: int) -> tuple[int, int]:
    """How many chunks a tile of `count` points is cut into, and points of a chunk."""
    # At least two: a loop of one step is unrolled, and fences nothing.
    chunks = max(2, round(count / _CHUNK))
    size = -(-count // chunks)
    if size > _PAGE:
        # Rows a page apart would share cache lines, which costs the forward sum a third.
        size = -(-size // 16) * 16
        size += 16 * (size % _PAGE == 0)
    return chunks, size


def _tiled(array: Shaped[Array, "r m"], *, options: BlendOptions) -> Shaped[Array, "n s t m"]:
    """Rows cut into tiles of chunks, all alike and nearly full, padded with zeros."""
    count = max(array.shape[0], 1)
    tiles = -(-count // options.tile)
    chunks, size = chunks_of(-(-count // tiles))
    padded = jnp.pad(array, ((0, tiles * chunks * size - array.shape[0]), (0, 0)))
    return padded.reshape(tiles, chunks, size, -1)


def forward(
    points: Float[Array, "r 3"],
    table: Float[Array, "12 g"],
    texels: Float[Array, "n m"],
    *,
    options: BlendOptions,
    selection: Selection = "auto",
) -> tuple[Float[Array, "r c"], Float[Array, "r"], Int[Array, "x s k t"]]:
    """Features and Σ g of one head; the neighbours stay in tiles, as `backward` wants them.

    `selection` compares a point with 'all' Gaussians or with its grid 'cells' list: the neighbours
    are the same. 'auto' makes a grid where that pays, and on CPUs only: elsewhere its many short
    loops would not.
    """
    count = points.shape[0]
    tiles = _tiled(points, options=options).swapaxes(-1, -2)

    def compared(points, tiles, table, texels):
        return jax.lax.map(lambda x: forward_tile(x, table, texels, options=options), tiles)

    def listed(points, tiles, table, texels):
        box, side = grid.box_of(points, table), grid.side_for(count)
        cells = grid.build(table, box, neighbors=options.neighbors, side=side)
        return jax.lax.map(
            lambda x: forward_tile(x, table, texels, options=options, cells=cells), tiles
        )

    arguments = points, tiles, table, texels
    many = dict(gaussians=table.shape[1], neighbors=options.neighbors, metric=options.metric)
    if selection == "cells":
        features, total, ids = listed(*arguments)
    elif selection == "auto" and grid.pays(points=count, **many):
        features, total, ids = jax.lax.platform_dependent(
            *arguments, cpu=listed, default=compared
        )
    else:
        features, total, ids = compared(*arguments)
    features = features.reshape(-1, features.shape[-1])[:count]
    return features, total.reshape(-1)[:count], ids


def untile(ids: Int[Array, "x s k t"], *, count: int) -> Int[Array, "r k"]:
    """The neighbours of `forward` as rows."""
    return ids.swapaxes(-1, -2).reshape(-1, ids.shape[-2])[:count]


def tiled_ids(ids: Int[Array, "r k"], *, options: BlendOptions) -> Int[Array, "x s k t"]:
    """Rows of neighbours in tiles, as `backward` wants them; padding is neighbour 0."""
    return _tiled(ids, options=options).swapaxes(-1, -2)


def backward(
    points: Float[Array, "r 3"],
    table: Float[Array, "12 g"],
    texels: Float[Array, "n m"],
    *,
    ids: Int[Array, "x s k t"],
    cotangents: tuple[Float[Array, "r c"], Float[Array, "r"]],
    options: BlendOptions,
) -> tuple[Float[Array, "r 3"], Float[Array, "12 g"], Float[Array, "n m"]]:
    """Gradients of points, frames and texels of one head, from those of features and Σ g."""
    count = points.shape[0]
    tiles = _tiled(points, options=options).swapaxes(-1, -2)
    dfeatures = _tiled(cotangents[0], options=options)
    dtotal = _tiled(cotangents[1][:, None], options=options)[..., 0]

    def step(carry, xs):
        x, ids, *cotangents = xs
        return backward_tile(carry, x, ids, cotangents, table, texels, options=options)

    start = (jnp.zeros_like(texels), jnp.zeros_like(table.T))
    (dtexels, sums), dx = jax.lax.scan(step, start, (tiles, ids, dfeatures, dtotal))
    dx = dx.swapaxes(-1, -2).reshape(-1, 3)[:count]
    return dx, frame_gradient(sums, table), dtexels
