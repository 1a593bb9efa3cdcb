"""Compositing sample by sample, front to back: what the kernels' loops over samples do.

`reference.py` is the definition; here nothing of a ray is kept but running sums, so that a sample's
features can be made, added and forgotten. Arrays are vectors over rays, of any shape; features may
have axes before it.

Backwards a ray is walked twice with its densities and the gains p_s = dL/dW_s of its samples: once
for the total L = Σ w_i p_i, and once more for

  dL/dτ_i = T_{i+1} p_i − Σ_{j>i} w_j p_j,   Σ_{j>i} w_j p_j = L − Σ_{j≤i} w_j p_j,

p_i being the interval's gain. Nothing here is differentiated by JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.ray_march.types import MarchOptions


def softplus(x: Array) -> Array:
    """log(1 + eˣ), of operations that kernels have."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), for any x."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0.0, 1.0, e) / (1.0 + e)


def opacity(optical: Array) -> Array:
    """1 − e^−τ, as exact for small τ as for large: by tanh, which kernels have and expm1 not."""
    half = jnp.tanh(0.5 * optical)
    return 2.0 * half / (1.0 + half)


def activated(sigma: Array, options: MarchOptions) -> Array:
    return softplus(sigma - 1.0) if options.density == "softplus" else sigma


def _slope(sigma: Array, options: MarchOptions) -> Array:
    """The derivative of `activated`."""
    return sigmoid(sigma - 1.0) if options.density == "softplus" else jnp.ones_like(sigma)


def _mean(options: MarchOptions, first: Array, second: Array) -> Array:
    """An interval's value, from those of the samples at its ends."""
    return 0.5 * (first + second) if options.rule == "midpoint" else first


class Sums(NamedTuple):
    """Σ w·features, Σ w·t, Σ w, and the optical depth so far."""

    features: Array
    distance: Array
    alpha: Array
    optical: Array


def _passed(sums: Sums, sigma, features, depth, delta, options: MarchOptions) -> Sums:
    """The sums behind one more interval."""
    optical = activated(sigma, options) * delta
    weight = opacity(optical) * jnp.exp(-sums.optical)
    return Sums(
        sums.features + weight * features,
        sums.distance + weight * depth,
        sums.alpha + weight,
        sums.optical + optical,
    )


def forward(
    samples: int,
    *,
    depth: Callable[[Array | int], Array],
    sample: Callable[[Array | int], tuple[Array, Array]],
    options: MarchOptions,
) -> tuple[Array, Array, Array]:
    """(Σ w·features, Σ w·t, Σ w) of rays; samples are asked for once each, in order.

    Args:
      samples: how many there are, at least 2.
      depth: the distances of sample s.
      sample: density and features of sample s.
      options: see `MarchOptions`.
    """
    first, (sigma, features) = depth(0), sample(0)
    nothing = jnp.zeros_like(sigma)
    start = Sums(jnp.zeros_like(features), nothing, nothing, nothing)

    def step(s, carry):
        sums, t, sigma, features = carry
        t_next, (sigma_next, features_next) = depth(s), sample(s)
        sums = _passed(
            sums,
            _mean(options, sigma, sigma_next),
            _mean(options, features, features_next),
            _mean(options, t, t_next),
            t_next - t,
            options,
        )
        return sums, t_next, sigma_next, features_next

    carry = (start, first, sigma, features)
    sums, t, sigma, features = jax.lax.fori_loop(1, samples, step, carry)
    if options.rule == "left":
        delta = (t - first) / (samples - 1)
        sums = _passed(sums, sigma, features, t, delta, options)
    return sums.features, sums.distance, sums.alpha


class _Interval(NamedTuple):
    """What an interval gives its samples: its weight, and the gradients of its σ and δ."""

    weight: Array
    dsigma: Array
    ddelta: Array


def _pull(state: tuple, sigma, gain, delta, total, options: MarchOptions):
    """One interval's gradients; `state` is (optical depth, Σ w·p) before it."""
    before, passed = state
    density = activated(sigma, options)
    optical = density * delta
    weight = opacity(optical) * jnp.exp(-before)
    passed = passed + weight * gain
    doptical = jnp.exp(-(before + optical)) * gain - (total - passed)
    dsigma = doptical * delta * _slope(sigma, options)
    return (before + optical, passed), _Interval(weight, dsigma, doptical * density)


def _ahead(samples: int, depth, sigma, gain, options: MarchOptions) -> tuple:
    """Of all intervals between samples: optical depth, the last sample's t, σ and p, and Σ w·p."""

    def step(s, carry):
        before, t, sigma_here, gain_here, passed = carry
        t_next, sigma_next, gain_next = depth(s), sigma(s), gain(s)
        optical = activated(_mean(options, sigma_here, sigma_next), options) * (t_next - t)
        weight = opacity(optical) * jnp.exp(-before)
        passed = passed + weight * _mean(options, gain_here, gain_next)
        return before + optical, t_next, sigma_next, gain_next, passed

    nothing = jnp.zeros_like(depth(0))
    return jax.lax.fori_loop(1, samples, step, (nothing, depth(0), sigma(0), gain(0), nothing))


def backward(
    samples: int,
    *,
    depth: Callable[[Array | int], Array],
    sigma: Callable[[Array | int], Array],
    gain: Callable[[Array | int], Array],
    emit: Callable[[Array | int, Array, Array, Array], None],
    options: MarchOptions,
) -> None:
    """Calls emit(s, W, dσ, dδ-part of dt) for each sample in order.

    Args:
      samples: how many there are, at least 2.
      depth, sigma: of sample s.
      gain: p_s = g·feature_s + ḡ_t·t_s + ḡ_α, g and ḡ being the gradients of `forward`'s results.
      emit: takes the sample's weight W, the gradient of its density, and that of its distance but
        for the term W·ḡ_t.
      options: see `MarchOptions`.
    """
    first, nothing, left = depth(0), jnp.zeros_like(depth(0)), options.rule == "left"
    before, last, sigma_last, gain_last, total = _ahead(samples, depth, sigma, gain, options)
    delta = (last - first) / (samples - 1)
    # The last interval of the left rule has the others' mean length, so all of a ray's length
    # bears on it: its gradient goes to the first and the last sample.
    mean_gradient = nothing
    if left:
        density = activated(sigma_last, options)
        total = total + opacity(density * delta) * jnp.exp(-before) * gain_last
        doptical = jnp.exp(-(before + density * delta)) * gain_last
        mean_gradient = doptical * density / (samples - 1)

    def give(s, behind: _Interval, here: _Interval, spread):
        """Sample s lies between the intervals `behind` and `here`; `spread` goes to its dt."""
        if left:
            emit(s, here.weight, here.dsigma, behind.ddelta - here.ddelta + spread)
            return
        emit(
            s,
            0.5 * (behind.weight + here.weight),
            0.5 * (behind.dsigma + here.dsigma),
            behind.ddelta - here.ddelta,
        )

    def step(s, carry):
        state, behind, t, sigma_here, gain_here = carry
        t_next, sigma_next, gain_next = depth(s), sigma(s), gain(s)
        state, here = _pull(
            state,
            _mean(options, sigma_here, sigma_next),
            _mean(options, gain_here, gain_next),
            t_next - t,
            total,
            options,
        )
        give(s - 1, behind, here, jnp.where(s == 1, -mean_gradient, 0.0))
        return state, here, t_next, sigma_next, gain_next

    none = _Interval(nothing, nothing, nothing)
    start = ((nothing, nothing), none, first, sigma(0), gain(0))
    state, behind, t, sigma_here, gain_here = jax.lax.fori_loop(1, samples, step, start)
    here = none
    if left:
        _, here = _pull(state, sigma_here, gain_here, delta, total, options)
        here = here._replace(ddelta=nothing)
    give(samples - 1, behind, here, mean_gradient)
