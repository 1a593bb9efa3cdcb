"""The adaptive strength of the augmentation: it grows while the discriminator overfits.

r_t = E[sign D(real)] is 0 for a discriminator that knows nothing and 1 for one that knows every
image by heart; p is moved so that r_t stays near a target (Karras et al. 2020, section 3).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class Strength:
    """The strength of the augmentation and what was seen since it last moved.

    Attributes:
        p: at least 0.
        signs: sum of the signs of real images' logits.
        count: how many those are.
    """

    p: Float[Array, ""]
    signs: Float[Array, ""]
    count: Float[Array, ""]


def start(p: float = 0.0) -> Strength:
    """The strength before the first step."""
    return Strength(p=jnp.float32(p), signs=jnp.float32(0), count=jnp.float32(0))


def observe(strength: Strength, real_logits: Float[Array, "*b"]) -> Strength:
    """Counts the signs of logits of real images, as augmented."""
    signs = jnp.sign(jax.lax.stop_gradient(real_logits))
    return strength.replace(
        signs=strength.signs + signs.sum(), count=strength.count + float(signs.size)
    )


def adapt(
    strength: Strength,
    *,
    done: Int[Array, ""],
    batch: int,
    target: float = 0.6,
    kimg: float = 500.0,
    interval: int = 4,
) -> Strength:
    """Moves p after every `interval`-th step, towards r_t = target, and forgets what was counted.

        p <- max(p + sign(r_t - target) batch interval / (1000 kimg), 0)

    Args:
        strength: with this step's logits counted.
        done: steps made, this one included.
        batch: images a step.
        target: r_t to be kept.
        kimg: thousand images in which p can go from 0 to 1.
        interval: steps between moves.
    """
    overfit = jnp.sign(strength.signs / jnp.maximum(strength.count, 1.0) - target)
    p = jnp.maximum(strength.p + overfit * (batch * interval / (kimg * 1000.0)), 0.0)
    moved = start().replace(p=p)
    now = done % interval == 0
    return jax.tree.map(lambda new, old: jnp.where(now, new, old), moved, strength)
