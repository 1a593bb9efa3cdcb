"""Noise schedules and the algebra of the diffusion's forward process.

Alphabet: b batch, t time steps, *d the axes of a state.

    x_t = alpha_t x_0 + sigma_t noise,   alpha^2 + sigma^2 = 1,   SNR = (alpha / sigma)^2
    v = alpha noise - sigma x_0          (Salimans & Ho 2022)

Steps are integers 0 .. T-1, from almost clean to almost noise. Tables are computed in float64 and
stored as float32, alpha and sigma apart, so that neither loses digits where it is small.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

Prediction = Literal["epsilon", "v", "x0"]
ScheduleName = Literal["cosine", "scaled_linear"]


@struct.dataclass
class Schedule:
    """Tables over the steps t of a discrete diffusion: alpha and sigma, float32 [T]."""

    alpha: Float[Array, "t"] | Float[np.ndarray, "t"]
    sigma: Float[Array, "t"] | Float[np.ndarray, "t"]

    @property
    def steps(self) -> int:
        """The number of steps T."""
        return self.alpha.shape[-1]

    @property
    def alphas_cumprod(self) -> Float[Array, "t"]:
        """The product of (1 - beta) up to each step, alpha^2."""
        return jnp.square(self.alpha)


def from_betas(betas: Float[np.ndarray, "t"], *, zero_terminal_snr: bool = False) -> Schedule:
    """Schedule of given betas (float64, in (0, 1)).

    With `zero_terminal_snr`, alpha is shifted and scaled so that its last value is 0 and its
    first is kept (Lin et al. 2024, "Common diffusion noise schedules ... are flawed", alg. 1).
    """
    log_product = np.cumsum(np.log1p(-np.asarray(betas, np.float64)))
    alpha, sigma = np.exp(log_product / 2), np.sqrt(-np.expm1(log_product))
    if zero_terminal_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        sigma = np.where(np.arange(len(alpha)) == 0, sigma, np.sqrt((1 - alpha) * (1 + alpha)))
    return Schedule(alpha=alpha.astype(np.float32), sigma=sigma.astype(np.float32))


def cosine(
    steps: int = 1000,
    *,
    offset: float = 0.008,
    max_beta: float = 0.999,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """The cosine schedule (Nichol & Dhariwal 2021, eq. 17), discretised to `steps` steps.

    beta_t = min(1 - f((t+1)/T) / f(t/T), max_beta), f(u) = cos^2(pi/2 (u + offset)/(1 + offset)).
    """
    grid = np.arange(steps + 1, dtype=np.float64) / steps
    survival = np.cos((grid + offset) / (1 + offset) * np.pi / 2) ** 2
    betas = np.minimum(1 - survival[1:] / survival[:-1], max_beta)
    return from_betas(betas, zero_terminal_snr=zero_terminal_snr)


def scaled_linear(
    steps: int = 1000,
    *,
    start: float = 0.00085,
    end: float = 0.012,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Stable Diffusion's schedule: the square roots of the betas are evenly spaced."""
    betas = np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
    return from_betas(betas, zero_terminal_snr=zero_terminal_snr)


def make_schedule(
    name: ScheduleName, *, steps: int = 1000, zero_terminal_snr: bool = False
) -> Schedule:
    """The schedule of a name ("cosine" or "scaled_linear") with its usual constants."""
    makers = {"cosine": cosine, "scaled_linear": scaled_linear}
    if name not in makers:
        raise ValueError(f"schedule {name!r} is unknown; one of {sorted(makers)}")
    return makers[name](steps, zero_terminal_snr=zero_terminal_snr)


def snr(schedule: Schedule, *, t: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Signal-to-noise ratio (alpha / sigma)^2 at steps t, in [0, inf)."""
    alpha, sigma = coefficients(schedule, t=t)
    return jnp.square(alpha / sigma)


def log_snr(schedule: Schedule, *, t: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Natural logarithm of the signal-to-noise ratio; -inf where alpha is 0."""
    alpha, sigma = coefficients(schedule, t=t)
    return 2 * (jnp.log(alpha) - jnp.log(sigma))


def coefficients(
    schedule: Schedule, *, t: Int[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """(alpha, sigma) at steps t; t = -1 stands for the clean state: (1, 0)."""
    alpha = jnp.where(t < 0, 1.0, jnp.asarray(schedule.alpha)[t])
    sigma = jnp.where(t < 0, 0.0, jnp.asarray(schedule.sigma)[t])
    return alpha, sigma


def _like(values: jax.Array, x: jax.Array) -> jax.Array:
    """Appends axes so that [*b] values broadcast against a state [*b, ...]."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def q_sample(
    schedule: Schedule,
    x0: Float[Array, "*d"],
    *,
    t: Int[Array, "*b"],
    noise: Float[Array, "*d"],
) -> Float[Array, "*d"]:
    """Noised state x_t = alpha_t x_0 + sigma_t noise; t [*b] indexes the leading axes of x0."""
    alpha, sigma = coefficients(schedule, t=t)
    return _like(alpha, x0) * x0 + _like(sigma, x0) * noise


def prediction_target(
    kind: Prediction,
    schedule: Schedule,
    *,
    x0: Float[Array, "*d"],
    noise: Float[Array, "*d"],
    t: Int[Array, "*b"],
) -> Float[Array, "*d"]:
    """What a network of this kind should answer for x_t: the noise, v or x_0."""
    _check_kind(kind)
    if kind == "epsilon":
        return noise
    if kind == "x0":
        return x0
    alpha, sigma = coefficients(schedule, t=t)
    return _like(alpha, x0) * noise - _like(sigma, x0) * x0


def predicted_x0(
    kind: Prediction,
    schedule: Schedule,
    *,
    prediction: Float[Array, "*d"],
    x: Float[Array, "*d"],
    t: Int[Array, "*b"],
) -> Float[Array, "*d"]:
    """The estimate of x_0 that a prediction at state x and steps t implies.

    A prediction of the noise says nothing of x_0 where alpha is 0: zeros are returned there.
    """
    _check_kind(kind)
    if kind == "x0":
        return prediction
    alpha, sigma = (_like(c, x) for c in coefficients(schedule, t=t))
    if kind == "v":
        return alpha * x - sigma * prediction
    safe = jnp.where(alpha > 0, alpha, 1.0)
    return jnp.where(alpha > 0, (x - sigma * prediction) / safe, 0.0)


def implied_noise(
    schedule: Schedule,
    *,
    x0: Float[Array, "*d"],
    x: Float[Array, "*d"],
    t: Int[Array, "*b"],
) -> Float[Array, "*d"]:
    """The noise that leads from x0 to the state x at steps t >= 0: (x - alpha x0) / sigma."""
    alpha, sigma = (_like(c, x) for c in coefficients(schedule, t=t))
    return (x - alpha * x0) / sigma


def _check_kind(kind: str) -> None:
    if kind not in ("epsilon", "v", "x0"):
        raise ValueError(f"prediction {kind!r} is unknown; one of 'epsilon', 'v', 'x0'")
