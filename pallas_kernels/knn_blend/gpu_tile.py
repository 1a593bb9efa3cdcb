"""A block of points on a GPU: selection of neighbours, blending, and its gradient (Triton).

Functions of a kernel's values and operands; `gpu.py` and the fused march build kernels of them.

Alphabet: `t` points of a block, a point a lane, `k` neighbours, `j` the numbers of a texel and its
right neighbour, which lie side by side in the texel table: 2 · channels, each half padded.

* Selection: the best K (key, index) pairs stay in registers; Gaussians are scalars, the same for
  all lanes. Groups of Gaussians are compared first, by their nearest members, and only the members
  of a point's K best groups are inserted (`select.py` says why that is exact).
* Payload: a footprint is two rows [t j] of the table for each plane. The three planes, and
  forward the K neighbours, are summed before the sum over a texel's two halves is taken.
* Backward recomputes all but the choice. Table and frame gradients are atomic adds. The frames'
  are few addresses that many points share, so they go to several copies, a row of twelve at once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.gpu_memory import Ref, add, both, load, power_of_two, rowwise
from pallas_kernels.knn_blend.select import ascending, insert, start
from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES, BlendOptions

_PLANES = len(PLANE_AXES)
# Gaussians of a group.
GROUP = 8
# Fewest numbers that a texel is padded to: two texels are what a matrix product wants at least.
_NARROWEST = 8

Point = tuple[Array, Array, Array]


def _key(point: Point, frame: list[Array], metric: str) -> Array:
    """Squared distance of each point to one Gaussian (or one Gaussian a point)."""
    delta = [point[a] - frame[a] for a in range(3)]
    if metric == "rbf":
        delta = _whiten(delta, frame[3:])
    return delta[0] * delta[0] + delta[1] * delta[1] + delta[2] * delta[2]


def _whiten(delta: list[Array], whiten: list[Array]) -> list[Array]:
    """A · delta."""
    return [sum(whiten[3 * a + b] * delta[b] for b in range(3)) for a in range(3)]


def _rows(metric: str) -> int:
    return 3 if metric == "euclidean" else 12


def select(point: Point, frames: Ref, head: Array, *, options: BlendOptions) -> tuple[Array, ...]:
    """The K nearest Gaussians of each point, nearest first, ties by index.

    `frames` is [b 12 g], g a multiple of GROUP.
    """
    parts, groups = _rows(options.metric), frames.shape[2] // GROUP

    def key(index):
        frame = [load(frames, head, a, index) for a in range(parts)]
        return _key(point, frame, options.metric)

    def nearest_member(group, rank):
        least = key(group * GROUP)
        for member in range(1, GROUP):
            own = key(group * GROUP + member)
            least = jnp.minimum(own, least)
        return insert(rank, least, jnp.full(least.shape, group, jnp.int32))

    nothing = start(options.neighbors, point[0])
    if groups <= options.neighbors:
        return jax.lax.fori_loop(
            0,
            frames.shape[2],
            lambda i, rank: insert(rank, key(i), jnp.full(point[0].shape, i, jnp.int32)),
            nothing,
        )[1]
    rank = jax.lax.fori_loop(0, groups, nearest_member, nothing)
    best = nothing
    # In ascending order of groups, so that among equal keys the lowest index stays in front.
    for group in ascending(rank[1]):
        first = group * GROUP
        best = jax.lax.fori_loop(
            0,
            GROUP,
            lambda j, best, first=first: insert(best, key(first + j), first + j),
            best,
        )
    return best[1]


def _local(point: Point, ids: Array, frames: Ref, head: Array) -> tuple[list, list, list]:
    """A (x − μ), x − μ and A of one neighbour a point."""
    frame = [load(frames, head, a, ids) for a in range(12)]
    delta = [point[a] - frame[a] for a in range(3)]
    return _whiten(delta, frame[3:]), delta, frame[3:]


def _rbf(local: list[Array]) -> Array:
    return jnp.exp(-0.5 * (local[0] * local[0] + local[1] * local[1] + local[2] * local[2]))


def _texel(local: Array, options: BlendOptions) -> tuple[Array, Array, Array]:
    """Position in the patch along one axis: lower texel, weight of the upper one, slope."""
    side = options.patch
    slope = 0.5 * side / options.extent
    position = local * slope + (0.5 * side - 0.5)
    inside = (position > 0.0) & (position < side - 1.0)
    position = jnp.minimum(jnp.maximum(position, 0.0), side - 1.0)
    low = jnp.minimum(jnp.floor(position), max(side - 2.0, 0.0))
    return low.astype(jnp.int32), position - low, jnp.where(inside, slope, 0.0)


def half_width(channels: int) -> int:
    """Numbers of one texel, padded; two of them are as many as a matrix product wants at least."""
    return max(_NARROWEST, power_of_two(channels))


def halves(channels: int) -> tuple[Array, Array, Array, Array | None]:
    """Of the numbers j of two neighbouring texels: offset, channel, whether of the right texel."""
    half = half_width(channels)
    j = jax.lax.broadcasted_iota(jnp.int32, (1, 2 * half), 1)
    right = j >= half
    if half == channels:
        return j, j % half, right, None
    channel = j % half
    return jnp.where(right, channel + channels, channel), channel, right, channel < channels


def channels_of(texels: jax.Array | Ref, options: BlendOptions) -> int:
    """c of a texel table [b n p·c]."""
    return texels.shape[2] // max(options.patch, 2)


def _footprint(place: list, ids: Array, plane: int, texels: Ref, *, options: BlendOptions):
    """Index of a plane's two rows [t j], the weights in it, and which numbers exist."""
    channels, side = channels_of(texels, options), max(options.patch, 2)
    column, row = PLANE_AXES[plane]
    offset, _, right, exists = halves(channels)
    (x, wx, _), (y, wy, _) = place[column], place[row]
    first = ((ids * _PLANES + plane) * side + y)[:, None]
    across = (x * channels)[:, None] + offset
    weight = jnp.where(right, wx[:, None], 1.0 - wx[:, None])
    return first, across, weight, wy[:, None], exists


def _scale(total: Array, options: BlendOptions) -> Array:
    """The factor of Σ_k g_k h_k: the mean over planes, the blend's normalisation."""
    if options.blend == "raw":
        return jnp.full(total.shape, 1.0 / _PLANES, total.dtype)
    return 1.0 / (_PLANES * (total + EPSILON))


def _blended(point, ids, frames, texels, head, *, options) -> tuple[Array, Array]:
    """(g · sum over planes [t j], g [t]) of one neighbour a point."""
    local, _, _ = _local(point, ids, frames, head)
    g, total = _rbf(local), 0.0
    place = [_texel(v, options) for v in local]
    for plane in range(_PLANES):
        first, across, weight, wy, exists = _footprint(place, ids, plane, texels, options=options)
        low = load(texels, head, first, across, mask=exists)
        high = load(texels, head, first + 1, across, mask=exists)
        total = total + weight * (low + wy * (high - low))
    return g[:, None] * total, g


def blend(
    point: Point, ids: tuple[Array, ...], frames: Ref, texels: Ref, head: Array, *, options
) -> tuple[Array, Array]:
    """(features [t j], Σ g [t]) of points whose neighbours are chosen.

    The features are in two halves (`halves`), of the left texels and of the right, to be summed.
    """
    features, total = 0.0, 0.0
    for chosen in ids:
        part, g = _blended(point, chosen, frames, texels, head, options=options)
        features, total = features + part, total + g
    return features * _scale(total, options)[:, None], total


def blend_again(
    point: Point,
    ids: Callable[[Array], Array],
    frames: Ref,
    texels: Ref,
    head: Array,
    *,
    options: BlendOptions,
) -> tuple[Array, Array]:
    """`blend` of neighbours k that lie in memory: a loop, which compiles sooner."""

    def step(k, carry):
        part = _blended(point, ids(k), frames, texels, head, options=options)
        return carry[0] + part[0], carry[1] + part[1]

    size, width = point[0].shape[0], 2 * half_width(channels_of(texels, options))
    start = jnp.zeros((size, width), jnp.float32), jnp.zeros((size,), jnp.float32)
    features, total = jax.lax.fori_loop(0, options.neighbors, step, start)
    return features * _scale(total, options)[:, None], total


def _slopes(place, chosen, g, cotangent, texels, head, dtexels, *, options, mask, interpret):
    """One neighbour's payload backwards: adds to the table's gradient.

    Returns the gradients [t] of g (by the payload) and of the position along each axis, in texels.
    """
    value, axes = 0.0, [0.0, 0.0, 0.0]
    _, _, right, _ = halves(channels_of(texels, options))
    sign = jnp.where(right, 1.0, -1.0)
    for plane, (column, row) in enumerate(PLANE_AXES):
        first, across, weight, wy, exists = _footprint(
            place, chosen, plane, texels, options=options
        )
        low = load(texels, head, first, across, mask=exists)
        high = load(texels, head, first + 1, across, mask=exists)
        upward, level = high - low, low + wy * (high - low)
        value = value + weight * level
        axes[column] = axes[column] + sign * level
        axes[row] = axes[row] + weight * upward
        share = g[:, None] * weight * cotangent
        for step, part in ((0, (1.0 - wy) * share), (1, wy * share)):
            place_of = head, first + step, across
            exists_too = both(rowwise(mask), exists)
            add(dtexels, *place_of, value=part, mask=exists_too, interpret=interpret)
    return tuple(jnp.sum(e * cotangent, axis=1) for e in (value, *axes))


def _outer(du: list[Array], delta: list[Array]) -> Array:
    """du ⊗ (delta, 1) as rows [t 16]: number 4a + b is du_a · delta_b, the last four are none."""
    j = jax.lax.broadcasted_iota(jnp.int32, (1, 16), 1)
    a, b = j // 4, j % 4

    def chosen(which, values, last):
        result = last
        for index in reversed(range(len(values))):
            result = jnp.where(which == index, values[index][:, None], result)
        return result

    return chosen(a, du, 0.0) * chosen(b, delta, 1.0)


def pull(
    point: Point,
    ids: Callable[[Array], Array],
    found: tuple[Float[Array, "t j"], Float[Array, "t"]],
    cotangents: tuple[Float[Array, "t j"], Float[Array, "t"]],
    tables: tuple[Ref, Ref],
    gradients: tuple[Ref, Ref],
    head: Array,
    *,
    copy: Array,
    options: BlendOptions,
    mask: Array | None,
    interpret: bool,
) -> tuple[Array, Array, Array]:
    """Gradients of `blend`: adds the tables' to `gradients`, returns the points'.

    Args:
      point: the block's points.
      ids: their neighbours k.
      found: what `blend` gave.
      cotangents: the gradients of it; of the features the same in both halves.
      tables: frames [b 12 g] and texels [b n m].
      gradients: sums [copies b g 16] of dv ⊗ (x − μ, 1), v = A (x − μ); and of the texels.
      head: which head.
      copy: which copy of the sums, see `copy_of`.
      options: see `BlendOptions`.
      mask: which points exist.
      interpret: see `gpu_memory.add`.
    """
    (frames, texels), (sums, dtexels) = tables, gradients
    (features, total), (dfeatures, dtotal) = found, cotangents
    if options.blend == "normalized":
        # Σ_k g_k dL/dg_k by way of the features, which the normalisation takes off.
        spread = jnp.sum(features * dfeatures, axis=1)
        dtotal = dtotal - spread / (total + EPSILON)
    cotangent = dfeatures * _scale(total, options)[:, None]
    number = jax.lax.broadcasted_iota(jnp.int32, (1, 16), 1)

    def step(k, dpoint):
        chosen = ids(k)
        local, delta, whiten = _local(point, chosen, frames, head)
        g, place = _rbf(local), [_texel(v, options) for v in local]
        dg, *daxes = _slopes(
            place,
            chosen,
            g,
            cotangent,
            texels,
            head,
            dtexels,
            options=options,
            mask=mask,
            interpret=interpret,
        )
        slopes = [slope for _, _, slope in place]
        du = [g * (daxes[a] * slopes[a] - (dg + dtotal) * local[a]) for a in range(3)]
        where, exists = (copy, head, chosen[:, None], number), both(rowwise(mask), number < 12)
        add(sums, *where, value=_outer(du, delta), mask=exists, interpret=interpret)
        return tuple(
            dpoint[b] + sum(whiten[3 * a + b] * du[a] for a in range(3)) for b in range(3)
        )

    nothing = jnp.zeros_like(total)
    return jax.lax.fori_loop(0, options.neighbors, step, (nothing, nothing, nothing))
