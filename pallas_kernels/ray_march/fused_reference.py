"""Marching through a field in plain JAX, a tile of rays at a time: the path on CPUs.

A tile's samples are looked up, decoded and composited before the next tile begins, so nothing of a
sample outlives its tile but its density and what the field saves of a look-up. The backward pass
walks the same tiles, finds the tile's features again, and adds to one gradient of the field.

Alphabet: `b` heads, `r` rays, `s` samples, `x` tiles of `q` rays, `t` = q·s points of a tile,
`k` numbers that a field saves of a point, `c` features of the field, `o` of the decoder.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ray_march import importance
from pallas_kernels.ray_march.fields import Field
from pallas_kernels.ray_march.reference import contract, interval_weights, sample_weights
from pallas_kernels.ray_march.types import (
    Decoder,
    DecoderOptions,
    MarchOptions,
    Rays,
    points_of,
)

# The margin of a 'sigmoid' colour at both ends.
COLOR_MARGIN = 0.001
# The density outside the crop.
CROPPED = -1e3


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static choices of a march, together."""

    march: MarchOptions
    decoder: DecoderOptions
    importance: importance.Importance = "plain"


def color_of(out: Array, options: DecoderOptions) -> Array:
    """Features from the MLP's outputs behind the first."""
    if options.color == "sigmoid":
        return jax.nn.sigmoid(out) * (1.0 + 2.0 * COLOR_MARGIN) - COLOR_MARGIN
    if options.color == "leaky_relu":
        return jax.nn.leaky_relu(out, 0.2) * 2.0**0.5
    return out


def density_of(out: Array, reach: Array, points: tuple | None, options: DecoderOptions) -> Array:
    """Density from the MLP's first output; `points` are (x, z), needed where there is a crop."""
    sigma = jax.nn.softplus(out - 1.0) if options.density == "softplus" else out
    sigma = sigma * options.scale
    if options.gate is not None:
        sigma = sigma * jnp.minimum(1.0, options.gate * reach)
    if options.crop is not None:
        x, z = points
        inside = (jnp.abs(x) <= options.crop) & (jnp.abs(z) <= options.crop)
        sigma = jnp.where(inside, sigma, CROPPED)
    return sigma


def decode(
    decoder: Decoder,
    features: Float[Array, "*t c"],
    *,
    reach: Float[Array, "*t"],
    points: Float[Array, "*t 3"],
    options: DecoderOptions,
) -> tuple[Float[Array, "*t"], Float[Array, "*t o"]]:
    """Density and colour (or features) of samples: softplus MLP, then as `options` say.

    Args:
      decoder: the MLP.
      features, reach: the field's features and RBF values at the points.
      points: world units; only a crop asks for them.
    """
    hidden = jnp.matmul(features, decoder.w0, precision="highest") + decoder.b0
    out = jnp.matmul(jax.nn.softplus(hidden), decoder.w1, precision="highest") + decoder.b1
    sigma = density_of(out[..., 0], reach, (points[..., 0], points[..., 2]), options)
    return sigma, color_of(out[..., 1:], options)


def _composited(decoder, features, reach, depths, *, points, plan: Plan):
    """(Σ w·colour [q o], Σ w·t, Σ w, Σ_s reach [q]) of a tile, and its densities [q s]."""
    q, s = depths.shape
    sigma, color = decode(decoder, features, reach=reach, points=points, options=plan.decoder)
    sigma = sigma.reshape(q, s)
    weights = sample_weights(sigma, depths, options=plan.march)
    sums = jnp.sum(weights * depths, -1), jnp.sum(weights, -1), jnp.sum(reach.reshape(q, s), -1)
    return (contract(weights, color.reshape(q, s, -1)), *sums), sigma


def _tile_points(rays: Rays, depths: Array) -> Array:
    return points_of(rays, depths).reshape(-1, 3)


def _forward_tile(field: Field, decoder: Decoder, rays: Rays, depths: Array, *, plan: Plan):
    points = _tile_points(rays, depths)
    saved = field.choose(points)
    features, reach = field.lookup(points, saved)
    seen, sigma = _composited(decoder, features, reach, depths, points=points, plan=plan)
    return seen, sigma, saved.reshape(saved.shape[0], *depths.shape)


def _forward_tile_twice(
    field: Field, decoder: Decoder, rays: Rays, depths: Array, uniform: Array, *, plan: Plan
):
    """Both passes of a tile: what the first one decoded serves the second one too.

    Samples stay in the order of their making; only scalars are put in order, to be weighed.
    """

    def evaluated(depths):
        points = _tile_points(rays, depths)
        saved = field.choose(points)
        features, reach = field.lookup(points, saved)
        sigma, color = decode(
            decoder, features, reach=reach, points=points, options=plan.decoder
        )
        saved = saved.reshape(saved.shape[0], *depths.shape)
        sigma, reach = sigma.reshape(depths.shape), reach.reshape(depths.shape)
        return color.reshape(*depths.shape, -1), sigma, reach, saved

    first = evaluated(depths)
    weights = interval_weights(first[1], depths, options=plan.march)
    intervals = depths.shape[-1] - 1
    new = importance.resample(
        depths, weights[..., :intervals], uniform=uniform, kind=plan.importance
    )
    color, sigma, reach, saved = (
        jnp.concatenate(pair, axis=axis)
        for pair, axis in zip(zip(first, evaluated(new), strict=True), (1, 1, 1, 2), strict=True)
    )
    rank = importance.merged_ranks(depths, new)
    depths = jnp.concatenate([depths, new], axis=-1)
    order = importance.inverse(rank)
    depths, sigma = (jnp.take_along_axis(a, order, axis=-1) for a in (depths, sigma))
    weights = sample_weights(sigma, depths, options=plan.march)
    seen = (
        contract(jnp.take_along_axis(weights, rank, axis=-1), color),
        jnp.sum(weights * depths, -1),
        jnp.sum(weights, -1),
        jnp.sum(reach, -1),
    )
    saved = jnp.take_along_axis(saved, order[None], axis=-1)
    return seen, sigma, saved, depths


def _backward_tile(carry, field, decoder, rays, depths, saved, cotangents, *, plan: Plan):
    """Adds a tile to the gradients of field and decoder; returns those of rays and depths."""
    dfield, ddecoder = carry
    points, saved = _tile_points(rays, depths), saved.reshape(saved.shape[0], depths.size)
    features, reach = field.lookup(points, saved)

    def composited(decoder, features, reach, depths):
        return _composited(decoder, features, reach, depths, points=points, plan=plan)[0]

    _, pull = jax.vjp(composited, decoder, features, reach, depths)
    step, dfeatures, dreach, ddepths = pull(cotangents)
    dfield, dpoints = field.pull(dfield, points, saved, (dfeatures, dreach))
    dpoints = dpoints.reshape(*depths.shape, 3)
    ddepths += jnp.einsum("qsa,qa->qs", dpoints, rays.directions, precision="highest")
    drays = Rays(
        origins=jnp.sum(dpoints, axis=1),
        directions=jnp.einsum("qsa,qs->qa", dpoints, depths, precision="highest"),
    )
    return (dfield, jax.tree.map(jnp.add, ddecoder, step)), (drays, ddepths)


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """Rays cut into tiles, all alike and nearly full."""

    rays: int
    tiles: int
    size: int

    def cut(self, array: Array) -> Array:
        """[r, …] → [x, q, …], padded with zeros."""
        padding = [(0, self.tiles * self.size - self.rays)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(self.tiles, self.size, *array.shape[1:])

    def join(self, array: Array) -> Array:
        """[x, q, …] → [r, …]."""
        return array.reshape(self.tiles * self.size, *array.shape[2:])[: self.rays]


def _tiling(depths: Array, options: MarchOptions) -> _Tiling:
    count, samples = depths.shape
    tiles = max(1, -(-count * samples // options.tile))
    size = max(1, -(-count // tiles))
    return _Tiling(rays=count, tiles=-(-count // size), size=size)


def _corners(rays: Rays, depths: Array) -> tuple[Array, Array]:
    """Two corners of the box that holds every sample: rays are straight, depths ascending."""
    ends = points_of(rays, depths[:, jnp.array([0, depths.shape[-1] - 1])])
    return jnp.min(ends, axis=(0, 1)), jnp.max(ends, axis=(0, 1))


def _walk(tile_function, field: Field, decoder: Decoder, arrays: tuple, *, plan: Plan):
    """Calls a tile function on all tiles of all heads; `arrays` are rays and what goes with them.

    The function's third result has the points behind its first axis, all others before theirs.
    """
    samples = sum(a.shape[-1] for a in arrays[1:])
    count = arrays[1].shape[1] * samples

    def one_head(head, index: bool):
        field, arrays = head
        if index:
            field = field.indexed(_corners(*arrays[:2]), count)
        tiling = _tiling(arrays[1], plan.march)
        seen, sigma, saved, *more = jax.lax.map(
            lambda tile: tile_function(field, decoder, *tile, plan=plan),
            jax.tree.map(tiling.cut, arrays),
        )
        seen, sigma, *more = jax.tree.map(tiling.join, (seen, sigma, *more))
        # [x k q s] → [k s r]: the order of kernels, which have rays along their lanes.
        saved = jnp.moveaxis(tiling.join(saved.swapaxes(1, 2)), 0, -1)
        return seen, sigma, saved, *more

    def every_head(field, arrays, *, index: bool = False):
        return jax.lax.map(functools.partial(one_head, index=index), (field, arrays))

    if not field.wants_index(count):
        return every_head(field, arrays)
    indexed = functools.partial(every_head, index=True)
    return jax.lax.platform_dependent(field, arrays, cpu=indexed, default=every_head)


def forward(field: Field, decoder: Decoder, rays: Rays, depths: Array, *, plan: Plan):
    """((Σ w·colour [b r o], Σ w·t, Σ w, Σ_s reach [b r]), densities [b r s], saved [b k s r])."""
    return _walk(_forward_tile, field, decoder, (rays, depths), plan=plan)


def forward_twice(field, decoder, rays, depths, uniform, *, plan: Plan):
    """`forward` at the given distances and those that they lead to; also all of them, in order."""
    return _walk(_forward_tile_twice, field, decoder, (rays, depths, uniform), plan=plan)


def backward(field, decoder, rays, depths, sigma, saved, cotangents, *, plan: Plan):
    """Gradients of field, decoder, rays and depths from those of `forward`'s first results.

    Densities are found again with the features; they are kept for the kernels.
    """

    def one_head(ddecoder, head):
        field, rays, depths, saved, cotangents = head
        tiling = _tiling(depths, plan.march)
        saved = tiling.cut(jnp.moveaxis(saved, -1, 0)).swapaxes(1, 2)
        tiles = (*jax.tree.map(tiling.cut, (rays, depths)), saved)

        def step(carry, xs):
            tile, cotangents = xs
            return _backward_tile(carry, field, decoder, *tile, cotangents, plan=plan)

        (dfield, ddecoder), out = jax.lax.scan(
            step,
            (field.zeros(), ddecoder),
            (tiles, jax.tree.map(tiling.cut, cotangents)),
        )
        return ddecoder, (field.gradient(dfield), jax.tree.map(tiling.join, out))

    start = jax.tree.map(jnp.zeros_like, decoder)
    ddecoder, (dfield, (drays, ddepths)) = jax.lax.scan(
        one_head, start, (field, rays, depths, saved, cotangents)
    )
    return dfield, ddecoder, drays, ddepths
