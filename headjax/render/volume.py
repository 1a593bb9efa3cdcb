"""Volume rendering along rays: sampling, compositing, importance resampling.

Alphabet: `r` rays, `s` samples; `t` distance along a unit ray; `sigma` density per world unit.
Invariants: sample distances are sorted; compositing weights are ≥ 0 and sum to at most 1.
"""

from __future__ import annotations

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class Composite:
    """What a ray saw.

    Attributes:
      features: Σ w·features, plus the background.
      depth: Σ w·t / Σ w, the distance along the ray; 0 where nothing was hit.
      alpha: Σ w, the silhouette.
      weights: w of each interval ('midpoint': s − 1 of them) or sample ('left').
    """

    features: Float[Array, "*b c"]
    depth: Float[Array, "*b"]
    alpha: Float[Array, "*b"]
    weights: Float[Array, "*b n"]


def stratified(
    near: Float[Array, "*b"],
    far: Float[Array, "*b"],
    *,
    samples: int,
    jitter: Float[Array, "*b s"] | None = None,
) -> Float[Array, "*b s"]:
    """One distance in each of `samples` equal strata of [near, far].

    Args:
      near, far: ends of the range.
      samples: S, number of strata.
      jitter: position inside each stratum in [0, 1); None takes the middle.
    """
    offset = 0.5 if jitter is None else jitter
    steps = (jnp.arange(samples, dtype=jnp.float32) + offset) / samples
    return near[..., None] + (far - near)[..., None] * steps


def interval_weights(sigma: Float[Array, "*b n"], delta: Float[Array, "*b n"]):
    """w_i = T_i (1 − exp(−σ_i δ_i)), T_i = exp(−Σ_{j<i} σ_j δ_j)."""
    optical = sigma * delta
    before = jnp.cumsum(optical, axis=-1) - optical
    return -jnp.expm1(-optical) * jnp.exp(-before)


def march(
    features: Float[Array, "*b s c"],
    sigma: Float[Array, "*b s"],
    *,
    depths: Float[Array, "*b s"],
    rule: Literal["midpoint", "left"] = "midpoint",
    background: float | None = None,
) -> Composite:
    """Composites samples front to back.

    'midpoint' is the rule of EG3D's MipRayMarcher2 (density, colour and distance of an interval
    are the mean of its two ends; S − 1 intervals; EG3D takes the mean before the density's
    activation, here `sigma` is what is given), 'left' gives each sample the interval to the
    next one (the last sample gets the mean interval). `background` is added as (1 − Σw)·value.
    """
    if depths.shape[-1] < 2:
        raise ValueError(f"march needs at least 2 samples a ray, got {depths.shape[-1]}")
    delta = depths[..., 1:] - depths[..., :-1]
    if rule == "midpoint":
        sigma = 0.5 * (sigma[..., 1:] + sigma[..., :-1])
        features = 0.5 * (features[..., 1:, :] + features[..., :-1, :])
        depths = 0.5 * (depths[..., 1:] + depths[..., :-1])
    elif rule == "left":
        delta = jnp.concatenate([delta, jnp.mean(delta, -1, keepdims=True)], axis=-1)
    else:
        raise ValueError(f"unknown rule {rule!r}: expected 'midpoint' or 'left'")
    weights = interval_weights(sigma, delta)
    alpha = jnp.sum(weights, axis=-1)
    color = jnp.sum(weights[..., None] * features, axis=-2)
    depth = jnp.sum(weights * depths, axis=-1) / jnp.maximum(alpha, 1e-6)
    if background is not None:
        color = color + (1.0 - alpha)[..., None] * background
    return Composite(features=color, depth=depth, alpha=alpha, weights=weights)


def resample(
    depths: Float[Array, "*b s"],
    weights: Float[Array, "*b n"],
    *,
    samples: int,
    uniform: Float[Array, "*b k"] | None = None,
) -> Float[Array, "*b k"]:
    """`samples` distances drawn where the weights of a first pass lie (inverse transform).

    Args:
      depths: edges of the intervals of the first pass (its S sample distances).
      weights: weights of the S − 1 intervals ('midpoint' rule).
      samples: how many to draw.
      uniform: numbers in [0, 1), ascending for sorted results; None takes evenly spaced ones.
    """
    density = jax.lax.stop_gradient(weights) + 1e-3
    cumulative = jnp.cumsum(density, axis=-1)
    cumulative = jnp.concatenate([jnp.zeros_like(cumulative[..., :1]), cumulative], axis=-1)
    cumulative = cumulative / cumulative[..., -1:]
    if uniform is None:
        middle = (jnp.arange(samples, dtype=jnp.float32) + 0.5) / samples
        uniform = jnp.broadcast_to(middle, (*depths.shape[:-1], samples))
    above = uniform[..., :, None] >= cumulative[..., None, 1:]
    index = jnp.minimum(jnp.sum(above, axis=-1), weights.shape[-1] - 1)
    low = jnp.take_along_axis(cumulative, index, axis=-1)
    high = jnp.take_along_axis(cumulative, index + 1, axis=-1)
    start = jnp.take_along_axis(depths, index, axis=-1)
    end = jnp.take_along_axis(depths, index + 1, axis=-1)
    fraction = (uniform - low) / jnp.maximum(high - low, 1e-8)
    return start + (end - start) * jnp.clip(fraction, 0.0, 1.0)
