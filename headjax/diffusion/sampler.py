"""Samplers: from noise to data through a denoiser, one step at a time.

Steps go from t to an earlier s, with s = -1 for the clean state; nothing asks them to be
neighbours, so every sampler takes any number of steps. With a_t = alpha_t / alpha_s:

    ddpm   x_s ~ N( alpha_s (1 - a_t^2) / sigma_t^2  x_0  +  a_t sigma_s^2 / sigma_t^2  x_t,
                    sigma_s^2 / sigma_t^2 (1 - a_t^2) )          (Ho et al. 2020, eq. 6-7)
    ddim   x_s = alpha_s x_0 + sqrt(sigma_s^2 - d^2) eps + d n,
           d = eta sigma_s / sigma_t sqrt(1 - a_t^2)             (Song et al. 2021, eq. 12, 16)

Both work on the estimate of x_0, clipped if asked for; eps is what leads from it to x_t. A zero
terminal SNR (alpha_t = 0) needs no special case then: x_s depends on x_0 and sigma_t = 1.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from headjax.diffusion.schedule import (
    Prediction,
    Schedule,
    coefficients,
    implied_noise,
    predicted_x0,
)

SamplerName = Literal["ddpm", "ddim"]
Spacing = Literal["trailing", "leading"]
Key = PRNGKeyArray | UInt32[Array, "2"]
Step = Int[Array, ""] | int


def timesteps(
    steps: int, *, total: int, spacing: Spacing = "trailing", offset: int = 0
) -> Int[np.ndarray, "n"]:
    """The `steps` descending steps that a sampler visits out of 0 .. total-1.

    "trailing" begins at total-1, pure noise, as a zero terminal SNR needs. "leading" takes the
    multiples of total // steps, plus `offset`: Stable Diffusion's, with offset 1.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampling steps; between 1 and {total} were expected")
    if spacing == "leading":
        visited = np.arange(steps)[::-1] * (total // steps) + offset
        return np.minimum(visited, total - 1).astype(np.int32)
    if spacing != "trailing":
        raise ValueError(f"spacing {spacing!r} is unknown; one of 'trailing', 'leading'")
    return (np.round(np.arange(steps, 0, -1) * (total / steps)) - 1).astype(np.int32)


def ddpm_step(
    x: Float[Array, "*d"],
    x0: Float[Array, "*d"],
    *,
    schedule: Schedule,
    t: Step,
    s: Step,
    noise: Float[Array, "*d"],
) -> Float[Array, "*d"]:
    """Ancestral step from t to s given the estimate x0, with the posterior's ("small") variance."""
    (alpha, sigma), (alpha_s, sigma_s), spread = _pair(schedule, t, s)
    ratio = jnp.square(sigma_s / sigma)
    mean = alpha_s * spread / jnp.square(sigma) * x0 + alpha / alpha_s * ratio * x
    return mean + jnp.sqrt(ratio * spread) * noise


def ddim_step(
    x: Float[Array, "*d"],
    x0: Float[Array, "*d"],
    *,
    schedule: Schedule,
    t: Step,
    s: Step,
    noise: Float[Array, "*d"] | float = 0.0,
    eta: float = 0.0,
) -> Float[Array, "*d"]:
    """Step from t to s given the estimate x0; eta 0 is deterministic, 1 as random as ddpm."""
    (_, sigma), (alpha_s, sigma_s), spread = _pair(schedule, t, s)
    deviation = eta * sigma_s / sigma * jnp.sqrt(spread)
    rest = jnp.sqrt(jnp.maximum(jnp.square(sigma_s) - jnp.square(deviation), 0.0))
    epsilon = implied_noise(schedule, x0=x0, x=x, t=jnp.asarray(t))
    return alpha_s * x0 + rest * epsilon + deviation * noise


def _pair(schedule: Schedule, t: Step, s: Step) -> tuple:
    """(alpha, sigma) at t and at s, and the variance 1 - (alpha_t / alpha_s)^2 between them.

    That difference of nearly equal numbers is taken as (sigma_t^2 - sigma_s^2) / alpha_s^2, with
    the squares' difference factored, so that it keeps its digits at little noise.
    """
    at, before = coefficients(schedule, t=jnp.asarray(t)), coefficients(schedule, t=jnp.asarray(s))
    spread = (at[1] - before[1]) * (at[1] + before[1]) / jnp.square(before[0])
    return at, before, spread


def sample(
    denoise: Callable[[Array, Array], Array],
    *,
    key: Key,
    shape: tuple[int, ...],
    schedule: Schedule,
    prediction: Prediction = "epsilon",
    sampler: SamplerName = "ddpm",
    steps: int | None = None,
    clip: float | None = 1.0,
    eta: float = 0.0,
    spacing: Spacing = "trailing",
    initial: Float[Array, "*d"] | None = None,
    noises: Float[Array, "n *d"] | None = None,
) -> Float[Array, "*d"]:
    """Draws clean states of `shape` [b, ...], all steps in one `lax.scan`.

    Args:
        denoise: (x [b, ...], t [b] int32) -> prediction [b, ...], of the kind `prediction`.
        key: draws the initial noise and the steps' noises, unless they are given.
        steps: number of denoiser calls; None for one a step of the schedule.
        clip: bound of the estimates of x_0 at every step; None for none (paper: 1).
        eta: randomness of "ddim".
        initial: state at the first step, standard normal noise by default.
        noises: [steps, *shape], the noise that each step adds.
    Returns:
        The last state, at noise level 0.
    Raises:
        ValueError: on an unknown sampler, spacing or prediction, or a wrong number of steps.
    """
    if sampler not in ("ddpm", "ddim"):
        raise ValueError(f"sampler {sampler!r} is unknown; one of 'ddpm', 'ddim'")
    steps = schedule.steps if steps is None else steps
    visited = timesteps(steps, total=schedule.steps, spacing=spacing)
    initial_key, noise_key = jax.random.split(key)
    if initial is None:
        initial = jax.random.normal(initial_key, shape)

    def advance(x: jax.Array, stage: tuple) -> tuple[jax.Array, None]:
        i, t, s = stage
        every = jnp.full(shape[:1], t)
        answer = denoise(x, every).astype(x.dtype)
        x0 = predicted_x0(prediction, schedule, prediction=answer, x=x, t=every)
        x0 = x0 if clip is None else jnp.clip(x0, -clip, clip)
        drawn = jax.random.normal(jax.random.fold_in(noise_key, i), shape)
        noise = drawn if noises is None else noises[i]
        common = {"schedule": schedule, "t": t, "s": s, "noise": noise}
        if sampler == "ddpm":
            return ddpm_step(x, x0, **common), None
        return ddim_step(x, x0, eta=eta, **common), None

    stages = (np.arange(steps, dtype=np.int32), visited, np.append(visited[1:], np.int32(-1)))
    last, _ = jax.lax.scan(advance, initial, jax.tree.map(jnp.asarray, stages))
    return last
