"""K-nearest Gaussian blending on GPUs, in Pallas' Triton dialect.

A program takes a block of points, a point a lane, through everything: selection, gather, blend.
Of the two dialects only Triton's reads memory at indices computed per lane (`docs/kernels.md`).

Alphabet: `t` points of a block, `k` neighbours, `j` the numbers of a texel and its right
neighbour, which lie side by side in the texel table: 2 · channels, each half padded.

* Selection: the best K (key, index) pairs stay in registers; Gaussians are scalars, the same for
  all lanes. Groups of Gaussians are compared first, by their nearest members, and only the members
  of a point's K best groups are inserted (`select.py` says why that is exact).
* Payload: a footprint is two rows [t j] of the table for each plane. The three planes, and
  forward the K neighbours, are summed before the sum over a texel's two halves is taken.
* Backward recomputes all but the choice. Table and frame gradients are atomic adds. The frames'
  are few addresses that many points share, so they go to several copies, a row of twelve at once.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.gpu_memory import Ref, add, block, both, load, power_of_two, rowwise, store
from pallas_kernels.knn_blend import reference
from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES, BlendOptions

_PLANES = len(PLANE_AXES)
# Gaussians of a group, and neighbours from which on (and Gaussians below which) groups cost more
# than they save.
_GROUP = 8
# Where padding sits: behind every Gaussian, and its squared distance still a number.
_NOWHERE = 1e18
# Copies of the frames' gradient.
_COPIES = 16
# Widest row of a texel and its neighbour, in floats, that a block's registers hold.
_WIDEST = 128

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


def _insert(rank: tuple, key: Array, index: Array) -> tuple:
    """Puts one candidate a lane into its sorted list; an equal key stays behind."""
    keys, ids = rank
    nearer = [key < old for old in keys]

    def shifted(old, new):
        moved = [jnp.where(nearer[0], new, old[0])]
        for q in range(1, len(old)):
            moved.append(jnp.where(nearer[q], jnp.where(nearer[q - 1], old[q - 1], new), old[q]))
        return tuple(moved)

    return shifted(keys, key), shifted(ids, index)


def _start(count: int, like: Array) -> tuple:
    """No candidate yet; the indices are in bounds even if a point is not a number."""
    return (
        tuple(jnp.full(like.shape, jnp.inf, like.dtype) for _ in range(count)),
        tuple(jnp.full(like.shape, q, jnp.int32) for q in range(count)),
    )


def _ascending(ids: tuple[Array, ...]) -> list[Array]:
    """Each lane's indices in order (a bubble network: K is small)."""
    lanes = list(ids)
    for i in range(len(lanes)):
        for j in range(len(lanes) - 1 - i):
            pair = lanes[j], lanes[j + 1]
            lanes[j], lanes[j + 1] = jnp.minimum(*pair), jnp.maximum(*pair)
    return lanes


def _rows(metric: str) -> int:
    return 3 if metric == "euclidean" else 12


def select(point: Point, table: Ref, head: Array, *, options: BlendOptions) -> tuple[Array, ...]:
    """The K nearest Gaussians of each point, nearest first, ties by index.

    `table` is [b 12 g], g padded to whole groups by `padded`.
    """
    parts, groups = _rows(options.metric), table.shape[2] // _GROUP

    def key(index):
        frame = [load(table, head, a, index) for a in range(parts)]
        return _key(point, frame, options.metric)

    def nearest_member(group, rank):
        least = key(group * _GROUP)
        for member in range(1, _GROUP):
            own = key(group * _GROUP + member)
            least = jnp.minimum(own, least)
        return _insert(rank, least, jnp.full(least.shape, group, jnp.int32))

    start = _start(options.neighbors, point[0])
    if groups <= options.neighbors:
        return jax.lax.fori_loop(
            0,
            table.shape[2],
            lambda i, rank: _insert(rank, key(i), jnp.full(point[0].shape, i, jnp.int32)),
            start,
        )[1]
    rank = jax.lax.fori_loop(0, groups, nearest_member, start)
    best = start
    # In ascending order of groups, so that among equal keys the lowest index stays in front.
    for group in _ascending(rank[1]):
        first = group * _GROUP
        best = jax.lax.fori_loop(
            0,
            _GROUP,
            lambda j, best, first=first: _insert(best, key(first + j), first + j),
            best,
        )
    return best[1]


def padded(frames: Float[Array, "b 12 g"]) -> Float[Array, "b 12 n"]:
    """The Gaussians in whole groups; what is added is behind every Gaussian."""
    pad = ((0, 0), (0, 0), (0, -frames.shape[2] % _GROUP))
    return jnp.pad(frames, pad, constant_values=_NOWHERE)


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


def _halves(channels: int) -> tuple[Array, Array, Array, Array | None]:
    """Of the numbers j of two neighbouring texels: offset, channel, whether of the right texel."""
    half = power_of_two(channels)
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
    offset, _, right, exists = _halves(channels)
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


def blend(
    point: Point, ids: tuple[Array, ...], frames: Ref, texels: Ref, head: Array, *, options
) -> tuple[Array, Array]:
    """(features [t c], Σ g [t]) of points whose neighbours are chosen; c padded."""
    total, features = 0.0, 0.0
    for chosen in ids:
        local, _, _ = _local(point, chosen, frames, head)
        g = _rbf(local)
        total = total + g
        place = [_texel(v, options) for v in local]
        for plane in range(_PLANES):
            first, across, weight, wy, exists = _footprint(
                place, chosen, plane, texels, options=options
            )
            low = load(texels, head, first, across, mask=exists)
            high = load(texels, head, first + 1, across, mask=exists)
            features = features + g[:, None] * weight * (low + wy * (high - low))
    size, width = features.shape
    features = jnp.sum(features.reshape(size, 2, width // 2), axis=1)
    return features * _scale(total, options)[:, None], total


def _slopes(place, chosen, g, cotangent, texels, head, dtexels, *, options, mask, interpret):
    """One neighbour's payload backwards: adds to the table's gradient.

    Returns the gradients [t] of g (by the payload) and of the position along each axis, in texels.
    """
    value, axes = 0.0, [0.0, 0.0, 0.0]
    _, _, right, _ = _halves(channels_of(texels, options))
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
            add(
                dtexels,
                head,
                first + step,
                across,
                value=part,
                mask=both(rowwise(mask), exists),
                interpret=interpret,
            )
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
    ids: tuple[Array, ...],
    cotangent: Float[Array, "t j"],
    dtotal: Float[Array, "t"],
    tables: tuple[Ref, Ref],
    gradients: tuple[Ref, Ref],
    head: Array,
    *,
    options: BlendOptions,
    mask: Array | None,
    interpret: bool,
) -> list[Array]:
    """Gradients of `blend`: adds the tables' to `gradients`, returns the points'.

    Args:
      point: the block's points.
      ids: their neighbours.
      cotangent: the features' gradient, in both halves of a row of `_halves`.
      dtotal: the gradient of Σ g.
      tables: frames [b 12 g] and texels [b n m].
      gradients: sums [copies b g 16] of dv ⊗ (x − μ, 1), v = A (x − μ); and of the texels.
      head: which head.
      options: see `BlendOptions`.
      mask: which points exist.
      interpret: see `gpu_memory.add`.
    """
    frames, texels = tables
    sums, dtexels = gradients
    local = [_local(point, chosen, frames, head)[0] for chosen in ids]
    g = [_rbf(v) for v in local]
    total = sum(g)
    cotangent = cotangent * _scale(total, options)[:, None]
    found = []
    for chosen, v, weight in zip(ids, local, g, strict=True):
        place = [_texel(axis, options) for axis in v]
        dg, *daxes = _slopes(
            place,
            chosen,
            weight,
            cotangent,
            texels,
            head,
            dtexels,
            options=options,
            mask=mask,
            interpret=interpret,
        )
        found.append((dg, [d * slope for d, (_, _, slope) in zip(daxes, place, strict=True)]))
    if options.blend == "normalized":
        spread = sum(weight * dg for weight, (dg, _) in zip(g, found, strict=True))
        dtotal = dtotal - spread / (total + EPSILON)
    dpoint = [0.0, 0.0, 0.0]
    exists = jax.lax.broadcasted_iota(jnp.int32, (1, 16), 1) < 12
    copy = pl.program_id(0) % sums.shape[0]
    for chosen, v, weight, (dg, dlocal) in zip(ids, local, g, found, strict=True):
        _, delta, whiten = _local(point, chosen, frames, head)
        du = [weight * (dlocal[a] - (dg + dtotal) * v[a]) for a in range(3)]
        for b in range(3):
            dpoint[b] = dpoint[b] + sum(whiten[3 * a + b] * du[a] for a in range(3))
        add(
            sums,
            copy,
            head,
            chosen[:, None],
            jax.lax.broadcasted_iota(jnp.int32, (1, 16), 1),
            value=_outer(du, delta),
            mask=both(rowwise(mask), exists),
            interpret=interpret,
        )
    return dpoint


def _forward_kernel(points, table, frames, texels, features, total, ids, *, options, size):
    head = pl.program_id(1)
    channels = channels_of(texels, options)
    t, mask = block(0, size, count=points.shape[2])
    point = tuple(load(points, head, a, t, mask=mask) for a in range(3))
    chosen = select(point, table, head, options=options)
    blended, reached = blend(point, chosen, frames, texels, head, options=options)
    for k, index in enumerate(chosen):
        store(ids, head, k, t, value=index, mask=mask)
    store(total, head, t, value=reached, mask=mask)
    channel = jax.lax.broadcasted_iota(jnp.int32, (1, power_of_two(channels)), 1)
    exists = both(
        rowwise(mask),
        None if channel.shape[1] == channels else channel < channels,
    )
    store(features, head, channel, t[:, None], value=blended, mask=exists)


def _backward_kernel(
    points, frames, texels, ids, dfeatures, dtotal, _sums, _dtexels, dpoints, sums, dtexels,
    *, options, size, interpret,
):  # fmt: skip
    head = pl.program_id(1)
    channels = channels_of(texels, options)
    t, mask = block(0, size, count=points.shape[2])
    point = tuple(load(points, head, a, t, mask=mask) for a in range(3))
    chosen = tuple(load(ids, head, k, t, mask=mask) for k in range(options.neighbors))
    _, channel, _, exists = _halves(channels)
    everywhere = both(rowwise(mask), exists)
    dpoint = pull(
        point,
        chosen,
        load(dfeatures, head, channel, t[:, None], mask=everywhere),
        load(dtotal, head, t, mask=mask),
        (frames, texels),
        (sums, dtexels),
        head,
        options=options,
        mask=mask,
        interpret=interpret,
    )
    for a in range(3):
        store(dpoints, head, a, t, value=dpoint[a], mask=mask)


def block_of(channels: int, neighbors: int, *, gradient: bool) -> int:
    """Points of a block: fewer where there is more a point, for the sake of the registers."""
    size = 128 if channels <= 16 else 64
    if not gradient:
        return size
    return size // 2 if neighbors <= 4 else size // 4


def why_not(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    *,
    options: BlendOptions,
    gradient: bool = False,
) -> str | None:
    """What speaks against the kernel for these shapes, None if nothing does."""
    channels = channels_of(texels, options)
    if 2 * power_of_two(channels) > _WIDEST:
        return f"{channels} channels do not fit a block's registers, {_WIDEST // 2} do"
    if options.neighbors > 8:
        return f"{options.neighbors} neighbours do not fit a block's registers, 8 do"
    if min(points.shape) == 0 or min(texels.shape) == 0:
        return "there is nothing to compute"
    return None


def _run(kernel, arguments: tuple, shapes: tuple, *, size: int, interpret: bool, aliases=None):
    """Calls a kernel on whole arrays, for every block of points and head."""
    dispatch.quiet_triton()
    points = arguments[0]
    return pl.pallas_call(
        functools.partial(kernel, size=size),
        grid=(pl.cdiv(points.shape[2], size), points.shape[0]),
        out_shape=shapes,
        input_output_aliases=aliases or {},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(*arguments)


def forward(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    *,
    options: BlendOptions,
    interpret: bool,
) -> tuple[Float[Array, "b c r"], Float[Array, "b r"], Int[Array, "b k r"]]:
    """Features, Σ g and neighbours; `reference.forward` of all heads, points-minor."""
    heads, _, count = points.shape
    like = functools.partial(dispatch.like, points)
    shapes = (
        like((heads, channels_of(texels, options), count)),
        like((heads, count)),
        like((heads, options.neighbors, count), jnp.int32),
    )
    return _run(
        functools.partial(_forward_kernel, options=options),
        (points, padded(frames), frames, texels),
        shapes,
        size=block_of(channels_of(texels, options), options.neighbors, gradient=False),
        interpret=interpret,
    )


def no_gradients(frames: Array, texels: Array) -> tuple[Array, Array]:
    """What `pull` adds to, before it has: several copies of the frames' sums, and the texels'."""
    sums = jnp.zeros((_COPIES, frames.shape[0], frames.shape[2], 16), frames.dtype)
    return dispatch.varying_alike((sums, jnp.zeros_like(texels), texels))[:2]


def frame_gradient(sums: Float[Array, "x b g 16"], frames: Float[Array, "b 12 g"]) -> Array:
    """Gradient of the frames from the copies of their sums."""
    return jax.vmap(reference.frame_gradient)(jnp.sum(sums, axis=0)[..., :12], frames)


def backward(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    ids: Int[Array, "b k r"],
    dfeatures: Float[Array, "b c r"],
    dtotal: Float[Array, "b r"],
    *,
    options: BlendOptions,
    interpret: bool,
) -> tuple[Float[Array, "b 3 r"], Float[Array, "b 12 g"], Float[Array, "b n m"]]:
    """Gradients of points, frames and texels, given those of features and Σ g."""
    zeros = no_gradients(frames, texels)
    dpoints, sums, dtexels = _run(
        functools.partial(_backward_kernel, options=options, interpret=interpret),
        (points, frames, texels, ids, dfeatures, dtotal, *zeros),
        tuple(dispatch.like(points, a.shape) for a in (points, *zeros)),
        size=block_of(channels_of(texels, options), options.neighbors, gradient=True),
        interpret=interpret,
        aliases={6: 1, 7: 2},
    )
    return dpoints, frame_gradient(sums, frames), dtexels
