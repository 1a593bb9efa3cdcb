"""The K nearest Gaussians of each point: exact, and lean on a CPU.

Alphabet: `t` points of a tile, `g` Gaussians, `n` rows to choose from, `k` neighbours. Arrays are
points-minor, so that every step is a straight vector loop over points.

A running insertion keeps K (distance, index) pairs per point. Insertion is the expensive part, so
most Gaussians never reach it: they are cut into groups, a point's K nearest Gaussians can only lie
in the K groups whose nearest members are nearest, and only those groups' members are compared.
The same argument finds the groups themselves when they are many.

Invariants:
* neighbours are in ascending order of distance, exact ties in ascending order of index;
* every index is in bounds, whatever the points hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Rows inserted in one step of the scan. Sixteen also keeps XLA's CPU compiler from fusing the
# step's slice into every comparison (it refuses to emit a producer that often), which costs 5x.
_STEP = 16
# Rows in a group (of Gaussians, of groups), the best first, and the fewest groups worth having.
_GROUPS = (8, 4)
_GROUPS_OF_GROUPS = (8,)
_FEWEST = 2 * _STEP
# Insertions (candidates x neighbours) that are written out rather than scanned: three neighbours'
# worth. Twice as many take XLA's CPU compiler ten seconds, six times as many ten minutes.
_WRITTEN_OUT = 72
# Where padding sits: behind every Gaussian, and its squared distance still a number.
_NOWHERE = 1e18


def rows(table: Array, ids: Array) -> Array:
    """table[ids] where the caller vouches for the indices."""
    return table.at[ids].get(mode="promise_in_bounds")


def insert(rank: tuple, key: Array, index: Array) -> tuple:
    """Puts one candidate per point into its sorted list; an equal key stays behind."""
    keys, ids = rank
    nearer = [key < old for old in keys]

    def shifted(old, new):
        moved = [jnp.where(nearer[0], new, old[0])]
        for q in range(1, len(old)):
            behind = jnp.where(nearer[q - 1], old[q - 1], new)
            moved.append(jnp.where(nearer[q], behind, old[q]))
        return tuple(moved)

    return shifted(keys, key), shifted(ids, index)


def start(count: int, key: Array) -> tuple:
    """Nothing found yet; like one row of keys, which may vary over devices (`shard_map`)."""
    return (
        tuple(jnp.full_like(key, jnp.inf) for _ in range(count)),
        tuple(jnp.full_like(key, q, jnp.int32) for q in range(count)),
    )


def _smallest(
    keys: Float[Array, "n t"], ids: Int[Array, "n t"] | None = None, *, count: int
) -> Int[Array, "k t"]:
    """The `count` rows of smallest key per column, by insertion; `ids` names the rows."""
    total, tile = keys.shape
    pad = ((0, -total % _STEP), (0, 0))
    blocks = jnp.pad(keys, pad, constant_values=jnp.inf).reshape(-1, _STEP, tile)
    firsts = jnp.arange(0, blocks.shape[0] * _STEP, _STEP, dtype=jnp.int32)
    names = firsts if ids is None else jnp.pad(ids, pad).reshape(blocks.shape)

    def step(rank, xs):
        block, name = xs
        for j in range(_STEP):
            own = jnp.full((tile,), 0, jnp.int32) + (name + j) if ids is None else name[j]
            rank = insert(rank, block[j], own)
        return rank, None

    (_, chosen), _ = jax.lax.scan(step, start(count, keys[0]), (blocks, names))
    return jnp.stack(chosen)


def ascending(ids: Sequence[Array]) -> list[Array]:
    """Each point's indices in order (a bubble network: K is small)."""
    ordered = list(ids)
    for i in range(len(ordered)):
        for j in range(len(ordered) - 1 - i):
            pair = ordered[j], ordered[j + 1]
            ordered[j], ordered[j + 1] = jnp.minimum(*pair), jnp.maximum(*pair)
    return ordered


def within(
    groups: Int[Array, "q t"], members: Callable[[Array], Array], *, size: int, count: int
) -> Int[Array, "k t"]:
    """The `count` smallest members of the chosen groups; `members` gives the keys of rows.

    Groups go in ascending order, so that among equal keys the lowest row stays in front.
    """
    firsts = jnp.stack(ascending(list(groups))) * size
    keys = jax.lax.map(lambda first: tuple(members(first + j) for j in range(size)), firsts)
    if len(firsts) * size * count > _WRITTEN_OUT:
        ids = firsts[:, None] + jnp.arange(size, dtype=jnp.int32)[:, None]
        tile = groups.shape[1]
        return _smallest(
            jnp.stack(keys, axis=1).reshape(-1, tile), ids.reshape(-1, tile), count=count
        )
    rank = start(count, keys[0][0])
    for q, first in enumerate(firsts):
        for j in range(size):
            rank = insert(rank, keys[j][q], first + j)
    return jnp.stack(rank[1])


def _group_size(sizes: tuple[int, ...], total: int, count: int) -> int:
    """The first size that leaves enough groups, 0 where grouping wins nothing."""
    return next((size for size in sizes if total // size >= max(_FEWEST, count)), 0)


def _least(keys: list) -> Array:
    best = keys[0]
    for key in keys[1:]:
        best = jnp.where(key < best, key, best)
    return best


def _nearest_rows(keys: Float[Array, "n t"], *, count: int) -> Int[Array, "k t"]:
    """`_smallest`, through groups where they are many."""
    total, tile = keys.shape
    size = _group_size(_GROUPS_OF_GROUPS, total, count)
    if not size:
        return _smallest(keys, count=count)
    keys = jnp.pad(keys, ((0, -total % (2 * size)), (0, 0)), constant_values=jnp.inf)
    minima = jax.lax.map(
        lambda part: _least([part[:, j] for j in range(size)]),
        keys.reshape(2, -1, size, tile),
    )
    flat, column = keys.reshape(-1), jnp.arange(tile, dtype=jnp.int32)
    return within(
        _nearest_rows(minima.reshape(-1, tile), count=count),
        lambda ids: rows(flat, ids * tile + column),
        size=size,
        count=count,
    )


def _squared(delta: list, whiten: list | None) -> Array:
    if whiten is not None:
        delta = [sum(whiten[3 * a + b] * delta[b] for b in range(3)) for a in range(3)]
    return sum(d * d for d in delta)


def select(
    points: Float[Array, "3 t"], frames: Float[Array, "12 g"], *, neighbors: int, metric: str
) -> Int[Array, "k t"]:
    """The K nearest Gaussians of each point, nearest first.

    Args:
      points: query points.
      frames: rows 0–2 the centres μ, rows 3–11 the whitening matrices A (row-major).
      neighbors: K, at most the number of Gaussians.
      metric: 'euclidean' ranks by |x − μ|²; 'rbf' by |A (x − μ)|², that is by the RBF's value.
    """
    tile, count = points.shape[1], frames.shape[1]
    size = _group_size(_GROUPS, count, neighbors)
    parts = frames[:3] if metric == "euclidean" else frames
    parts = jnp.pad(parts, ((0, 0), (0, -count % (2 * max(size, 1)))), constant_values=_NOWHERE)

    def key(columns):
        delta = [points[a] - columns[a] for a in range(3)]
        return _squared(delta, columns[3:] if metric == "rbf" else None)

    if not size:
        return _smallest(key([c[:count, None] for c in parts]), count=neighbors)
    # In two halves: a loop is the only fence that XLA's CPU compiler respects, and without one
    # the minima are computed again by each of their readers.
    minima = jax.lax.map(
        lambda part: _least([key([c[:, j, None] for c in part]) for j in range(size)]),
        parts.reshape(len(parts), 2, -1, size).swapaxes(0, 1),
    )
    groups = _nearest_rows(minima.reshape(-1, tile), count=neighbors)
    ids = within(
        groups, lambda ids: key([rows(c, ids) for c in parts]), size=size, count=neighbors
    )
    return jnp.minimum(ids, count - 1)
