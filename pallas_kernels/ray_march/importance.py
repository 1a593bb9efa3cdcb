"""Where a second pass looks: distances drawn from the weights of a first (inverse transform).

Alphabet: `s` samples of the first pass, `n` = s − 1 intervals between them, `m` new samples.
No gradient flows through any of this.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ray_march.types import no_gradient

Importance = Literal["plain", "eg3d"]


def _take(values: Array, index: Array) -> Array:
    return jnp.take_along_axis(values, index, axis=-1)


def _at_most(edges: Float[Array, "*b e"], uniform: Float[Array, "*b m"]) -> Int[Array, "*b m"]:
    """How many edges are ≤ u, for each u."""
    below = edges[..., None, :] <= uniform[..., :, None]
    return jnp.sum(below, axis=-1, dtype=jnp.int32)


def _plain(depths: Array, weights: Array, uniform: Array) -> Array:
    """Piecewise constant between the samples, 1e-3 everywhere."""
    cumulative = jnp.cumsum(weights + 1e-3, axis=-1)
    cumulative = cumulative / cumulative[..., -1:]
    index = jnp.minimum(_at_most(cumulative, uniform), weights.shape[-1] - 1)
    cumulative = jnp.concatenate([jnp.zeros_like(cumulative[..., :1]), cumulative], axis=-1)
    low, high = _take(cumulative, index), _take(cumulative, index + 1)
    start, end = _take(depths, index), _take(depths, index + 1)
    fraction = (uniform - low) / jnp.maximum(high - low, 1e-8)
    return start + (end - start) * jnp.clip(fraction, 0.0, 1.0)


def _eg3d(depths: Array, weights: Array, uniform: Array) -> Array:
    """EG3D's: weights blurred by a maximum and a mean of two, 0.01 everywhere.

    Edges are the intervals' middles; the first and the last weight are left out, and the last
    middle is never reached (a half-interval's shift that the official weights were trained with).
    """
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(1, 1)])
    peaks = jnp.maximum(padded[..., 1:], padded[..., :-1])
    smooth = 0.5 * (peaks[..., 1:] + peaks[..., :-1]) + 0.01
    inner = smooth[..., 1:-1] + 1e-5
    cumulative = jnp.cumsum(inner / jnp.sum(inner, axis=-1, keepdims=True), axis=-1)
    cumulative = jnp.concatenate([jnp.zeros_like(cumulative[..., :1]), cumulative], axis=-1)
    above = _at_most(cumulative, uniform)
    low, high = jnp.maximum(above - 1, 0), jnp.minimum(above, inner.shape[-1])
    edges = 0.5 * (depths[..., 1:] + depths[..., :-1])
    start, span = _take(cumulative, low), _take(cumulative, high) - _take(cumulative, low)
    span = jnp.where(span < 1e-5, 1.0, span)
    begin, end = _take(edges, low), _take(edges, high)
    return begin + (uniform - start) / span * (end - begin)


def even(shape: tuple[int, ...], samples: int) -> Float[Array, "*b m"]:
    """Numbers in [0, 1), evenly spaced: what takes the place of random ones."""
    middle = (jnp.arange(samples, dtype=jnp.float32) + 0.5) / samples
    return jnp.broadcast_to(middle, (*shape, samples))


def resample(
    depths: Float[Array, "*b s"],
    weights: Float[Array, "*b n"],
    *,
    uniform: Float[Array, "*b m"],
    kind: Importance = "plain",
) -> Float[Array, "*b m"]:
    """Distances where the weights of a first pass lie, in the order of `uniform`.

    Args:
      depths: the first pass' samples, ascending.
      weights: of its S − 1 intervals (midpoint rule).
      uniform: numbers in [0, 1).
      kind: 'plain', or 'eg3d' for EG3D's blurred and shifted density.
    """
    function = _eg3d if kind == "eg3d" else _plain
    return function(*no_gradient((depths, weights, uniform)))


def merged_ranks(
    ascending: Float[Array, "*b s"], more: Float[Array, "*b m"]
) -> Int[Array, "*b n"]:
    """Places of all values, `ascending` then `more`, in ascending order; equal ones as given.

    By counting: for the hundred samples of a ray that is a few vector loops, where sorting is a
    comparison at a time.
    """
    index = jnp.arange(more.shape[-1])
    own, other = more[..., :, None], more[..., None, :]
    before = (other < own) | ((other == own) & (index[None, :] < index[:, None]))
    below = ascending[..., :, None] <= other
    among = jnp.sum(before, axis=-1, dtype=jnp.int32) + jnp.sum(below, axis=-2, dtype=jnp.int32)
    later = jnp.sum(~below, axis=-1, dtype=jnp.int32)
    places = jnp.arange(ascending.shape[-1], dtype=jnp.int32) + later
    return jnp.concatenate([places, among], axis=-1)


def inverse(rank: Int[Array, "*b n"]) -> Int[Array, "*b n"]:
    """The permutation that puts values of these ranks in order."""
    places = jnp.broadcast_to(jnp.arange(rank.shape[-1], dtype=jnp.int32), rank.shape)
    return jnp.put_along_axis(jnp.zeros_like(rank), rank, places, axis=-1, inplace=False)
