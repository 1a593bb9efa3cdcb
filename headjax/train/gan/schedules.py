"""What changes while a GAN trains, as functions of the images that it has seen.

"Seen" are the real images of the steps made before this one, all devices together; a kimg is a
thousand of them. Numbers are EG3D's and PanoHead's. All but the rendering resolution, which shapes
the program, can be traced.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

REFERENCE_BATCH = 32


def progress(seen: ArrayLike, *, kimg: float) -> Float[Array, ""]:
    """How much of `kimg` thousand images is over, in [0, 1]; 1 throughout where kimg is 0."""
    if kimg <= 0:
        return jnp.float32(1.0)
    return jnp.minimum(jnp.asarray(seen, jnp.float32) / (kimg * 1000.0), 1.0)


def ema_decay(
    seen: ArrayLike, *, batch: int, kimg: float | None = None, ramp: float | None = 0.05
) -> Float[Array, ""]:
    """The decay of the generator's average at this step: half of it forgotten every `kimg`.

        beta = 0.5 ** (batch / max(half_life, 1e-8)),  half_life = min(1000 kimg, ramp seen)

    Args:
        seen: images before this step; with a ramp the first step copies the parameters.
        batch: images a step.
        kimg: the half-life; None for 10 batch / 32, which averages over equally many steps.
        ramp: the half-life is at most this share of the images seen; None for no ramp.
    """
    half_life = 1000.0 * (10.0 * batch / REFERENCE_BATCH if kimg is None else kimg)
    if ramp is not None:
        half_life = jnp.minimum(half_life, ramp * jnp.asarray(seen, jnp.float32))
    return jnp.asarray(0.5 ** (batch / jnp.maximum(half_life, 1e-8)), jnp.float32)


def ema_update(ema: Any, params: Any, *, decay: ArrayLike) -> Any:
    """params + decay (ema - params), leaf by leaf. Buffers (`w_avg`) are copied, not averaged."""
    return jax.tree.map(lambda e, p: p + jnp.asarray(decay, p.dtype) * (e - p), ema, params)


def swap_probability(
    seen: ArrayLike, *, final: float = 0.5, kimg: float = 1000.0
) -> Float[Array, ""]:
    """With what probability the generator is told another sample's camera: from 1 to `final`.

    The original's `gpc_reg_prob`: 0.5, or 0.8 for rebalanced FFHQ and AFHQ; PanoHead 0.7.
    """
    done = progress(seen, kimg=kimg)
    return 1.0 + done * (final - 1.0)


def blur_sigma(
    seen: ArrayLike, *, batch: int, initial: float = 10.0, kimg: float | None = None
) -> Float[Array, ""]:
    """Blur of what the discriminator sees, in pixels: from `initial` to 0 over `kimg`.

    None for `kimg` is 200 batch / 32.
    """
    kimg = 200.0 * batch / REFERENCE_BATCH if kimg is None else kimg
    return initial * (1.0 - progress(seen, kimg=kimg))


def density_noise(
    seen: ArrayLike, *, initial: float = 1.0, kimg: float = 200.0
) -> Float[Array, ""]:
    """Standard deviation of the noise on raw densities: PanoHead's, from `initial` to 0."""
    return initial * (1.0 - progress(seen, kimg=kimg))


def neural_resolution(
    seen: int, *, initial: int, final: int | None = None, kimg: float = 1000.0, multiple: int = 1
) -> int:
    """The side of the volume-rendered image: from `initial` to `final` over `kimg`, rounded.

    Rounds half to even, as the original. Every value is a program of its own to compile:
    `multiple` keeps to multiples of it between the ends (1 is the original).

    Args:
        seen: images before this step, a Python integer.
        initial, final: pixels; None for `final` stays at `initial`.
        kimg: thousand images of the change; at most 0 stays at `initial`.
        multiple: granularity in pixels.
    """
    if final is None or kimg <= 0:
        return initial
    done = min(seen / (kimg * 1000.0), 1.0)
    if done == 1.0:
        return final
    exact = initial * (1.0 - done) + final * done
    rounded = multiple * round(exact / multiple)
    return min(max(rounded, min(initial, final)), max(initial, final))
