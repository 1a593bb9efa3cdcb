"""Compositing along rays in plain JAX: the definition, and the path on CPUs.

Alphabet: `r` rays, `s` samples, `n` intervals; `t` distance along the ray; τ = σ·δ optical depth.

  w_i = T_i (1 − exp(−τ_i)),   T_i = exp(−Σ_{j<i} τ_j)

Both rules are linear in the features once the intervals' weights are known, so a ray's result is
Σ_s W_s·feature_s with one weight a sample: W_s = w_s ('left'), or the mean of the weights of the
two intervals that meet at the sample ('midpoint'). Kernels and the fused marcher use that.

Invariants: weights are ≥ 0 for densities ≥ 0 and sum to at most 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ray_march.types import MarchOptions


def activated(sigma: Array, options: MarchOptions) -> Array:
    """An interval's density, from the given one."""
    return jax.nn.softplus(sigma - 1.0) if options.density == "softplus" else sigma


def interval_weights(
    sigma: Float[Array, "*b s"], depths: Float[Array, "*b s"], *, options: MarchOptions
) -> Float[Array, "*b n"]:
    """Weights of the intervals: S − 1 of them ('midpoint') or S ('left').

    Raises:
      ValueError: fewer than two samples.
    """
    if depths.shape[-1] < 2:
        raise ValueError(f"marching needs at least 2 samples a ray, got {depths.shape[-1]}")
    delta = depths[..., 1:] - depths[..., :-1]
    if options.rule == "midpoint":
        sigma = 0.5 * (sigma[..., 1:] + sigma[..., :-1])
    else:
        delta = jnp.concatenate([delta, jnp.mean(delta, -1, keepdims=True)], axis=-1)
    optical = activated(sigma, options) * delta
    # Shifted rather than subtracted: an opaque sample must not erase the depth of those before it.
    before = jnp.cumsum(optical[..., :-1], axis=-1)
    before = jnp.concatenate([jnp.zeros_like(optical[..., :1]), before], axis=-1)
    return -jnp.expm1(-optical) * jnp.exp(-before)


def per_sample(weights: Float[Array, "*b n"], *, options: MarchOptions) -> Float[Array, "*b s"]:
    """One weight a sample from one weight an interval."""
    if options.rule == "left":
        return weights
    nothing = jnp.zeros_like(weights[..., :1])
    return 0.5 * (
        jnp.concatenate([weights, nothing], -1) + jnp.concatenate([nothing, weights], -1)
    )


def sample_weights(
    sigma: Float[Array, "*b s"], depths: Float[Array, "*b s"], *, options: MarchOptions
) -> Float[Array, "*b s"]:
    """W of each sample, so that a ray's features are Σ_s W_s·feature_s."""
    return per_sample(interval_weights(sigma, depths, options=options), options=options)


def contract(weights: Float[Array, "*b s"], features: Float[Array, "*b s c"]):
    """Σ_s W_s·feature_s."""
    return jnp.einsum("...s,...sc->...c", weights, features, precision="highest")


def forward(features, sigma, depths, *, options: MarchOptions):
    """(Σ w·features [b r c], Σ w·t [b r], Σ w [b r]) of [b r s c], [b r s], [b r s]."""
    weights = sample_weights(sigma, depths, options=options)
    distance = jnp.sum(weights * depths, axis=-1)
    return contract(weights, features), distance, jnp.sum(weights, axis=-1)


def backward(features, sigma, depths, dfeatures, ddistance, dalpha, *, options: MarchOptions):
    """Gradients of features, densities and depths from those of `forward`'s results.

    Keeps nothing but the inputs; the weights' own gradient is JAX's, of [r s] numbers.
    """

    def weights_of(sigma, depths):
        return sample_weights(sigma, depths, options=options)

    weights, pull = jax.vjp(weights_of, sigma, depths)
    per_weight = jnp.einsum("...sc,...c->...s", features, dfeatures, precision="highest")
    per_weight += ddistance[..., None] * depths + dalpha[..., None]
    dsigma, ddepths = pull(per_weight)
    dcolor = weights[..., None] * dfeatures[..., None, :]
    return dcolor, dsigma, ddepths + ddistance[..., None] * weights
