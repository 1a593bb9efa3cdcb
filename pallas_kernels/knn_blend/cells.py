"""The K nearest of many Gaussians: a uniform grid whose cells list every Gaussian that can matter.

Alphabet: `x` cells, `n` strips (eight Gaussians that are neighbours along a Morton curve), `m`
rivals of a cell, `l` entries of a cell's list, `t` points, `k` neighbours.

Gaussian i is one of the K nearest of no point of a cell where K others are nearer everywhere in it.
|x − μ_j|² − |x − μ_i|² is linear in x, so over the box c ± h it is at most

    |c − μ_j|² − |c − μ_i|² + 2 Σ_a h_a |μ_i − μ_j|_a,

and i is left out where that is negative for K of the cell's rivals j, Gaussians near its centre.
On a surface this leaves a tenth of what a sphere of radius d_K(c) + 2h would hold, for a cell far
off the surface sees little of it. Strips are sifted first, by their bounding boxes.

Invariants:
* the result is that of `select.select`, exact ties to the lowest index: every slack errs towards
  longer lists, lists are in ascending order, and a point without a list (its cell's was too long,
  or it lies outside the grid) is compared with every Gaussian;
* nothing here depends on the Gaussians' order but the time: they are sorted along the curve.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.knn_blend import select
from pallas_kernels.knn_blend.select import rows

_STRIP = 8
_WORD = 32
# List entries that a point compares at a time: one gathered run of memory.
_RUN = 16
# Cells that are sifted at a time, and those whose lists are written at a time.
_MANY, _FEW = 4096, 512
# Strips that a cell may keep.
_STRIPS = 256
# Points compared with every Gaussian at a time, where they have no list.
_BLOCK = 256
# Beyond this a Gaussian is not valid (`reference.frames`), and says nothing about where heads are.
_OUTSIDE = 1e14
# Where padding sits: behind every Gaussian, and its squared distance still a number.
_NOWHERE = 1e18
# Relative slack of squared distances; what rounding can do to them is a tenth of it.
_SLACK = 1e-5
# Takeover, measured (`benchmarks/growth.py`): points, and pairs of points and Gaussians, from which
# a grid's lists pay for their making; for K ≤ 4, and above, where insertion takes most of the time.
_POINTS, _PAIRS = (2**16, 2**17), (2**28, 2**29)
# From here on more cells are worth their lists.
_POINTS_FINE = 2**20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cells:
    """A grid over a box, the cells in row-major order, and its lists, in an order of their own.

    Attributes:
      low: the box's lower corner.
      scale: cells per unit of length.
      slot: where a cell's list is.
      counts: entries of a cell's list; −1 where there is none.
      ids: the lists, ascending, ending in entries that are no Gaussian's.
      centers: μ of the lists' entries; far away for those that are no Gaussian's.
    """

    low: Float[Array, "3"]
    scale: Float[Array, "3"]
    slot: Int[Array, "x"]
    counts: Int[Array, "x"]
    ids: Int[Array, "x l"]
    centers: Float[Array, "x 3 l"]


Box = tuple[Float[Array, "3"], Float[Array, "3"]]


def pays(*, points: int, gaussians: int, neighbors: int, metric: str) -> bool:
    """Whether a grid is expected to be faster than comparing everything, its making included."""
    many = int(neighbors > 4)
    enough = points >= _POINTS[many] and points * gaussians >= _PAIRS[many]
    return metric == "euclidean" and enough


def side_for(points: int) -> int:
    """Cells along each axis, by the number of points that will ask."""
    return 16 if points < _POINTS_FINE else 24


def box_of(points: Float[Array, "r 3"], table: Float[Array, "12 g"]) -> Box:
    """The points' box, but not far beyond the Gaussians': strays must not coarsen the cells."""
    known = jnp.abs(table[:3]) < _OUTSIDE
    low = jnp.min(jnp.where(known, table[:3], jnp.inf), axis=1)
    high = jnp.max(jnp.where(known, table[:3], -jnp.inf), axis=1)
    margin = 0.5 * jnp.max(high - low)
    finite = jnp.isfinite(points)
    first = jnp.min(jnp.where(finite, points, jnp.inf), axis=0)
    last = jnp.max(jnp.where(finite, points, -jnp.inf), axis=0)
    return jnp.maximum(low - margin, first), jnp.minimum(high + margin, last)


def _spread(bits: Int[Array, "g"]) -> Int[Array, "g"]:
    """Ten bits, two zeros between each pair."""
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        bits = (bits | (bits << shift)) & mask
    return bits


def _along_curve(centers: Float[Array, "3 g"], box: Box) -> Int[Array, "g"]:
    """The Gaussians in the order of a Morton curve through the box."""
    unit = (centers - box[0][:, None]) / (box[1] - box[0])[:, None]
    cell = jnp.clip(unit * 1024.0, 0.0, 1023.0).astype(jnp.int32)
    code = sum(_spread(cell[a]) << a for a in range(3))
    return jnp.argsort(code).astype(jnp.int32)


def _pack(keep: Bool[Array, "n t"]) -> Int[Array, "w t"]:
    """Rows as bits of words, the first the lowest."""
    parts = keep.reshape(-1, _WORD, keep.shape[-1])
    return sum(parts[:, j].astype(jnp.int32) << j for j in range(_WORD))


def _set_bits(words: Int[Array, "w t"], *, capacity: int) -> tuple[Array, Array]:
    """Per column, the places of the set bits in order [capacity t], and how many there are [t].

    A column hops from set bit to set bit, all columns at once; `following` skips empty words.
    Entries beyond the last are w·32.
    """
    count, tile = words.shape
    column = jnp.arange(tile, dtype=jnp.int32)
    totals = jnp.sum(jax.lax.population_count(words), axis=0)

    def back(i, carry):
        nearest, following = carry
        at = count - 1 - i
        word = jax.lax.dynamic_index_in_dim(words, at, keepdims=False)
        nearest = jnp.where(word != 0, at, nearest)
        return nearest, jax.lax.dynamic_update_index_in_dim(following, nearest, at, 0)

    nobody = jnp.full((count + 1, tile), count, jnp.int32)
    carry, _ = dispatch.varying_alike(((nobody[0], nobody), words))
    first, following = jax.lax.fori_loop(0, count, back, carry)
    following, padded = following.reshape(-1), jnp.pad(words, ((0, 1), (0, 0))).reshape(-1)

    def hop(i, carry):
        places, at, word = carry
        bit = jax.lax.population_count((word & -word) - 1)
        place = jnp.where(word != 0, at * _WORD + bit, count * _WORD)
        places = jax.lax.dynamic_update_index_in_dim(places, place, i, 0)
        word = word & (word - 1)
        onward = rows(following, jnp.minimum(at + 1, count) * tile + column)
        at = jnp.where(word == 0, onward, at)
        return places, at, jnp.where(word == 0, rows(padded, at * tile + column), word)

    places = jnp.full((capacity, tile), count * _WORD, jnp.int32)
    carry = places, first, rows(padded, first * tile + column)
    carry, _ = dispatch.varying_alike((carry, words))
    steps = jnp.minimum(jnp.max(totals), capacity)
    return jax.lax.fori_loop(0, steps, hop, carry)[0], totals


@dataclasses.dataclass(frozen=True)
class _Sieve:
    """What both siftings share: sorted Gaussians, their strips' boxes, the cells' half sides."""

    centers: Float[Array, "3 g"]
    middles: Float[Array, "3 n"]
    extents: Float[Array, "3 n"]
    half: Float[Array, "3"]
    neighbors: int

    @property
    def strips(self) -> int:
        return self.middles.shape[1]

    def rivals(self, cells: Float[Array, "3 t"]) -> Int[Array, "m t"]:
        """Gaussians near the cells' centres, nearest first: good ones, any would be right."""
        count = self.neighbors + 5
        near = -(-count // _STRIP) + 3
        frames = jnp.pad(self.middles, ((0, 9), (0, 0)))
        strips = select.select(cells, frames, neighbors=near, metric="euclidean")

        def key(ids):
            return sum((cells[a] - rows(self.centers[a], ids)) ** 2 for a in range(3))

        return select.within(strips, key, size=_STRIP, count=count)

    def reach(self, cells: Float[Array, "3 t"], rivals: Int[Array, "m t"]) -> tuple:
        """The rivals' centres, and |c − μ_j|² with all slack on top."""
        centers = [rows(self.centers[a], rivals) for a in range(3)]
        squared = sum((centers[a] - cells[a]) ** 2 for a in range(3))
        return centers, squared * (1 + _SLACK) + _SLACK * jnp.sum(self.half**2)

    def beaten(self, place: list, limit: Array, reach: tuple, *, count: int) -> Bool[Array, "n t"]:
        """Whether K of the first `count` rivals are nearer than `limit` throughout the cell."""
        centers, squared = reach
        nearer = 0
        for j in range(count):
            lead = sum(self.half[a] * jnp.abs(place[a] - centers[a][j]) for a in range(3))
            nearer += (squared[j] + 2 * (1 + _SLACK) * lead < limit).astype(jnp.int32)
        return nearer >= self.neighbors

    def strips_of(self, cells: Float[Array, "3 t"], rivals: Int[Array, "m t"]) -> tuple:
        """Strips whose boxes are not beaten, [s t] in order, and their number."""
        reach = self.reach(cells, rivals)

        def some(box):
            middle, extent = (part[:, :, None] for part in box)
            gap = [jnp.maximum(jnp.abs(cells[a] - middle[a]) - extent[a], 0.0) for a in range(3)]
            within = 2 * (1 + _SLACK) * sum(self.half[a] * extent[a] for a in range(3))
            limit = sum(g * g for g in gap) * (1 - _SLACK) - within
            return ~self.beaten(list(middle), limit, reach, count=self.neighbors + 1)

        boxes = (a.reshape(3, -1, _RUN).swapaxes(0, 1) for a in (self.middles, self.extents))
        keep = jax.lax.map(some, tuple(boxes)).reshape(self.strips, -1)
        return _set_bits(_pack(keep), capacity=min(_STRIPS, self.strips))

    def members_of(self, cells, rivals, strips, counts, *, capacity: int) -> tuple:
        """Gaussians of those strips that are not beaten: sorted places [l t], and their number."""
        reach, tile = self.reach(cells, rivals), cells.shape[1]
        strips_per_word = _WORD // _STRIP

        def test(xs):
            place, real = xs
            limit = sum((place[a] - cells[a]) ** 2 for a in range(3)) * (1 - _SLACK)
            return real & ~self.beaten(list(place), limit, reach, count=len(rivals))

        def word(i, words):
            chosen = jax.lax.dynamic_slice(
                strips, (i * strips_per_word, 0), (strips_per_word, tile)
            )
            first = jnp.minimum(chosen, self.strips - 1) * _STRIP
            ids = first[:, None] + jnp.arange(_STRIP, dtype=jnp.int32)[:, None]
            halves = ids.reshape(2, -1, tile)
            real = jnp.repeat(chosen < self.strips, _STRIP, axis=0).reshape(halves.shape)
            # Gathered in a loop of its own: a fence, or every rival would gather again.
            places = jax.lax.map(
                lambda i: tuple(rows(self.centers[a], i) for a in range(3)), halves
            )
            keep = jax.lax.map(test, (places, real)).reshape(_WORD, tile)
            return jax.lax.dynamic_update_slice(words, _pack(keep), (i, 0))

        words = jnp.zeros((strips.shape[0] // strips_per_word, tile), jnp.int32)
        words, _ = dispatch.varying_alike((words, cells))
        words = jax.lax.fori_loop(0, -(-jnp.max(counts) // strips_per_word), word, words)
        bits, totals = _set_bits(words, capacity=capacity)
        nobody = jnp.full((1, tile), self.strips, jnp.int32)
        chosen = jnp.concatenate([strips, nobody]).reshape(-1)
        strip = rows(chosen, bits // _STRIP * tile + jnp.arange(tile, dtype=jnp.int32))
        return strip * _STRIP + bits % _STRIP, totals


def _sieve(centers: Float[Array, "3 g"], order: Int[Array, "g"], half: Array, neighbors: int):
    pad = -centers.shape[1] % (_STRIP * _WORD)
    ordered = jnp.stack([rows(centers[a], order) for a in range(3)])
    ordered = jnp.pad(ordered, ((0, 0), (0, pad)), constant_values=_NOWHERE)
    strips = ordered.reshape(3, -1, _STRIP)
    low, high = jnp.min(strips, axis=-1), jnp.max(strips, axis=-1)
    middles = 0.5 * (low + high)
    extents = jnp.maximum(high - middles, middles - low) * (1 + _SLACK)
    return _Sieve(ordered, middles, extents, half, neighbors)


def _centers(box: Box, side: int) -> Float[Array, "3 x"]:
    steps = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    axes = [box[0][a] + steps * (box[1] - box[0])[a] for a in range(3)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij")).reshape(3, -1)


def _chunked(array: Float[Array, "3 x"], size: int) -> Float[Array, "c 3 s"]:
    return array.reshape(3, -1, size).swapaxes(0, 1)


def build(table: Float[Array, "12 g"], box: Box, *, neighbors: int, side: int = 16) -> Cells:
    """A grid of side³ cells over the box, for one head.

    Args:
      table: `reference.frames`.
      box: lower and upper corner; points outside are served, but slowly.
      neighbors: K.
      side: a multiple of 8.
    """
    if side % 8:
        raise ValueError(f"side={side} cells must be a multiple of 8")
    size = jnp.maximum(box[1] - box[0], 1e-3 * jnp.max(jnp.abs(box[1] - box[0])))
    box = box[0], box[0] + size
    # The slack covers points that rounding puts into the cell next door.
    half = size / (2 * side) * (1 + 1e-4) + 1e-6 * jnp.maximum(*(jnp.abs(b) for b in box))
    count, gaussians = side**3, table.shape[1]
    capacity = 256 if gaussians <= 8192 else 384
    order = _along_curve(table[:3], box)
    sieve = _sieve(table[:3], order, half, neighbors)

    def coarse(cells):
        rivals = sieve.rivals(cells)
        strips, counts = sieve.strips_of(cells, rivals)
        return rivals.T, strips.T, counts

    centers = _centers(box, side)
    parts = jax.lax.map(coarse, _chunked(centers, count // -(-count // _MANY)))
    rivals, strips, counts = (a.reshape(count, *a.shape[2:]) for a in parts)
    fits = counts <= strips.shape[1]
    counts = jnp.where(fits, counts, 0)
    names = jnp.pad(order, (0, sieve.centers.shape[1] + _STRIP - gaussians),
                    constant_values=gaussians)  # fmt: skip
    padded = jnp.pad(table[:3], ((0, 0), (0, 1)), constant_values=_NOWHERE)
    # Cells with lists of one length together: a loop runs as long as its longest column.
    by_length = jnp.argsort(counts).astype(jnp.int32)

    def fine(cells):
        places, totals = sieve.members_of(
            jnp.stack([rows(centers[a], cells) for a in range(3)]),
            rivals[cells].T,
            strips[cells].T,
            counts[cells],
            capacity=capacity,
        )
        ids = jax.lax.sort(rows(names, places).T, dimension=1)
        listed = jnp.stack([rows(padded[a], ids) for a in range(3)], axis=1)
        return ids, listed, jnp.where(fits[cells] & (totals <= capacity), totals, -1)

    lists = jax.lax.map(fine, by_length.reshape(-1, _FEW))
    ids, listed, totals = (a.reshape(count, *a.shape[2:]) for a in lists)
    slot = jnp.argsort(by_length).astype(jnp.int32)
    return Cells(box[0], side / size, slot, rows(totals, slot), ids, listed)


def _locate(points: Float[Array, "3 t"], cells: Cells) -> tuple[Array, Array]:
    """The list of each point's cell, and its length; −1 for none."""
    side = round(cells.slot.shape[0] ** (1 / 3))
    place = [(points[a] - cells.low[a]) * cells.scale[a] for a in range(3)]
    inside = jnp.ones(points.shape[1:], bool)
    for p in place:
        inside &= (p >= 0) & (p <= side)
    whole = [jnp.minimum(jnp.where(inside, p, 0.0), side - 1.0).astype(jnp.int32) for p in place]
    cell = (whole[0] * side + whole[1]) * side + whole[2]
    return rows(cells.slot, cell), jnp.where(inside, rows(cells.counts, cell), -1)


def _among_listed(points, slots, counts, cells: Cells, *, neighbors: int) -> Int[Array, "k t"]:
    """The nearest of each point's list; nonsense where it has none."""
    tile, capacity = points.shape[1], cells.ids.shape[1]
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(0,), start_index_map=(0, 2)
    )

    def run(i, rank):
        index = jnp.stack([slots, jnp.broadcast_to(i * _RUN, slots.shape)], axis=-1)
        listed = jax.lax.gather(
            cells.centers, index, numbers, (1, 3, _RUN),
            mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        )  # fmt: skip
        keys = sum((points[a][:, None] - listed[:, a]) ** 2 for a in range(3))
        for j in range(_RUN):
            rank = select.insert(rank, keys[:, j], jnp.full((tile,), 0, jnp.int32) + i * _RUN + j)
        return rank

    start, _ = dispatch.varying_alike((select.start(neighbors, points[0]), (slots, cells.ids)))
    _, chosen = jax.lax.fori_loop(0, -(-jnp.max(counts) // _RUN), run, start)
    return rows(cells.ids.reshape(-1), slots * capacity + jnp.stack(chosen))


def select_tile(
    points: Float[Array, "s 3 t"],
    table: Float[Array, "12 g"],
    cells: Cells,
    *,
    neighbors: int,
) -> Int[Array, "s k t"]:
    """`select.select` of each chunk of a tile of points, through the cells' lists.

    The tile is sorted by the lengths of the lists, so that a chunk walks lists of one length, and
    the points without a list are the first.
    """
    chunks, _, size = points.shape
    tile = chunks * size
    flat = points.swapaxes(0, 1).reshape(3, tile)
    slots, counts = _locate(flat, cells)
    bits = max(tile - 1, 1).bit_length()
    packed = (-(-counts // _RUN) << bits) | jnp.arange(tile, dtype=jnp.int32)
    order = jax.lax.sort(packed, is_stable=False) & (2**bits - 1)
    flat = jnp.stack([rows(flat[a], order) for a in range(3)])
    slots, counts = rows(slots, order), rows(counts, order)
    ids = jax.lax.map(
        lambda xs: _among_listed(*xs, cells, neighbors=neighbors),
        (_chunked(flat, size), slots.reshape(chunks, size), counts.reshape(chunks, size)),
    )
    ids = ids.swapaxes(0, 1).reshape(neighbors, tile)
    block, without = min(_BLOCK, tile), jnp.sum(counts < 0)

    def compare_all(carry):
        first, ids = carry
        some = jax.lax.dynamic_slice(flat, (0, first), (3, block))
        found = select.select(some, table, neighbors=neighbors, metric="euclidean")
        return first + block, jax.lax.dynamic_update_slice(ids, found, (0, first))

    # A slice that would pass the end begins earlier, and finds some points' neighbours again.
    carry, _ = dispatch.varying_alike(((jnp.int32(0), ids), (flat, table)))
    _, ids = jax.lax.while_loop(lambda carry: carry[0] < without, compare_all, carry)
    ids = jnp.zeros_like(ids).at[:, order].set(
        ids, unique_indices=True, mode="promise_in_bounds"
    )
    return ids.reshape(neighbors, chunks, size).swapaxes(0, 1)
