"""Volume rendering along rays: sampling, compositing, importance resampling.

Alphabet: `r` rays, `s` samples; `t` distance along a unit ray; `sigma` density per world unit.
Invariants: sample distances are sorted; compositing weights are ≥ 0 and sum to at most 1.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ray_march import Marched, MarchOptions, importance, ray_march


@flax.struct.dataclass
class Composite:
    """What a ray saw.

    Attributes:
      features: Σ w·features, plus the background.
      depth: Σ w·t / Σ w, the distance along the ray; 0 where nothing was hit.
      alpha: Σ w, the silhouette.
    """

    features: Float[Array, "*b c"]
    depth: Float[Array, "*b"]
    alpha: Float[Array, "*b"]


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


def march(
    features: Float[Array, "*b s c"],
    sigma: Float[Array, "*b s"],
    *,
    depths: Float[Array, "*b s"],
    options: MarchOptions | None = None,
    background: float | None = None,
) -> Composite:
    """Composites samples front to back.

    Args:
      features: colours or features of the samples.
      sigma: densities per world unit.
      depths: ascending distances along the rays.
      options: the rule, see `MarchOptions`; EG3D's midpoint rule by default, of densities as given
        (EG3D itself activates an interval's mean: `density='softplus'`).
      background: added as (1 − Σw)·value.

    Raises:
      ValueError: fewer than two samples a ray.
    """
    shape, samples = depths.shape[:-1], depths.shape[-1]
    rows = [a.reshape(1, -1, *a.shape[len(shape) :]) for a in (features, sigma, depths)]
    if samples == 0 or rows[2].size == 0:
        raise ValueError(f"march needs rays with samples, got depths of shape {depths.shape}")
    marched = ray_march(rows[0], rows[1], depths=rows[2], options=options or MarchOptions())
    marched = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[2:]), marched)
    return composite(marched, background=background)


def composite(marched: Marched, *, background: float | None = None) -> Composite:
    """The picture of what rays saw: the background behind it, and its mean distance."""
    features, alpha = marched.features, marched.alpha
    if background is not None:
        features = features + (1.0 - alpha)[..., None] * background
    depth = marched.distance / jnp.maximum(alpha, 1e-6)
    return Composite(features=features, depth=depth, alpha=alpha)


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
    if uniform is None:
        uniform = importance.even(depths.shape[:-1], samples)
    return importance.resample(depths, weights, uniform=uniform)
