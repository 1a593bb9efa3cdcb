"""The training loss of a diffusion model.

    L = mean over b, d of  w(t) (prediction(x_t, t) - target)^2,   t uniform on 0 .. T-1

Alphabet: b batch, *d the axes of a state (channels last).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from headjax.diffusion.schedule import Prediction, Schedule, prediction_target, q_sample, snr

Weighting = Literal["uniform", "min_snr"]
Key = PRNGKeyArray | UInt32[Array, "2"]
Denoiser = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels start..stop of the state, logged by name, their errors multiplied by `weight`."""

    name: str
    start: int
    stop: int
    weight: float = 1.0


def loss_weight(
    weighting: Weighting,
    schedule: Schedule,
    *,
    prediction: Prediction,
    t: Int[Array, "*b"],
    gamma: float = 5.0,
) -> Float[Array, "*b"]:
    """Weight w(t) of the squared error of a prediction's own target.

    "min_snr" (Hang et al. 2023) weighs the error of x_0 by min(SNR, gamma). The errors are related
    by |eps|^2 = SNR |x_0|^2 and |v|^2 = (SNR + 1) |x_0|^2, so the same loss has the weight
    min(SNR, gamma) for x_0, min(SNR, gamma) / SNR for the noise, and min(SNR, gamma) / (SNR + 1)
    for v.
    """
    if weighting == "uniform":
        return jnp.ones(t.shape, jnp.float32)
    if weighting != "min_snr":
        raise ValueError(f"weighting {weighting!r} is unknown; one of 'uniform', 'min_snr'")
    ratio = snr(schedule, t=t)
    if prediction == "epsilon":
        return gamma / jnp.maximum(ratio, gamma)
    capped = jnp.minimum(ratio, gamma)
    return capped / (ratio + 1) if prediction == "v" else capped


def draw_steps(key: Key, *, batch: int, steps: int, stratified: bool = True) -> Int[Array, "b"]:
    """Uniform steps for a batch; stratified ones share one offset and spread evenly over 0..T-1.

    Stratified steps are each uniform too, but lower the variance of the loss.
    """
    if not stratified:
        return jax.random.randint(key, (batch,), 0, steps)
    places = (jnp.arange(batch) + jax.random.uniform(key)) / batch
    return jnp.minimum(jnp.floor(places * steps).astype(jnp.int32), steps - 1)


def draw(
    key: Key, x0: Float[Array, "b *d"], *, steps: int
) -> tuple[Int[Array, "b"], Float[Array, "b *d"]]:
    """The steps and the noise that `diffusion_loss` draws for a batch from this key."""
    step_key, noise_key = jax.random.split(key)
    t = draw_steps(step_key, batch=x0.shape[0], steps=steps)
    return t, jax.random.normal(noise_key, x0.shape, x0.dtype)


def diffusion_loss(
    denoise: Denoiser,
    x0: Float[Array, "b *d"],
    *,
    key: Key,
    schedule: Schedule,
    prediction: Prediction = "epsilon",
    weighting: Weighting = "uniform",
    groups: tuple[ChannelGroup, ...] = (),
    mask: Float[Array, "*m"] | None = None,
    t: Int[Array, "b"] | None = None,
    noise: Float[Array, "b *d"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Noises x0 to random steps and scores the denoiser's prediction.

    Args:
        denoise: (x_t [b, *d], t [b] int32) -> prediction [b, *d].
        x0: clean states, channels last, normalised to about [-1, 1].
        key: draws the steps and the noise, unless they are given as `t` and `noise`.
        groups: channels with a name and a weight each; channels in no group count as weight 1.
        mask: weight of each element, broadcast against x0 (for example [h, w, 1]: valid cells).
    Returns:
        "loss": the mean of w(t) times the squared error over all elements, groups' weights
        applied; "mse": the same without any weight but the mask; one entry for each group:
        its mean of w(t) times the squared error, its own weight not applied.
    """
    if t is None or noise is None:
        drawn = draw(key, x0, steps=schedule.steps)
        t, noise = drawn[0] if t is None else t, drawn[1] if noise is None else noise
    x = q_sample(schedule, x0, t=t, noise=noise)
    target = prediction_target(prediction, schedule, x0=x0, noise=noise, t=t)
    error = jnp.square(denoise(x, t).astype(jnp.float32) - target)
    weight = loss_weight(weighting, schedule, prediction=prediction, t=t)
    weight = weight.reshape(-1, *(1,) * (x0.ndim - 1))
    return _reduce(error, weight, groups=groups, mask=mask)


def _reduce(error, weight, *, groups, mask) -> dict[str, jax.Array]:
    mask = jnp.ones(error.shape[-1:]) if mask is None else mask
    mask = jnp.broadcast_to(mask.astype(jnp.float32), error.shape)
    weighted = error * weight
    terms, scale = {}, [1.0] * error.shape[-1]
    for group in groups:
        part = slice(group.start, group.stop)
        terms[group.name] = _mean(weighted[..., part], mask[..., part])
        scale[part] = [group.weight] * (group.stop - group.start)
    terms["mse"] = _mean(error, mask)
    terms["loss"] = _mean(weighted * jnp.asarray(scale), mask)
    return terms


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1e-8)
