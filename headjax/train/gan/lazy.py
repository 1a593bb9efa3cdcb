"""Lazy regularisation (StyleGAN2, appendix B): a regulariser every k-th step, k times as strong.

A network has one Adam and two kinds of updates. Each step makes an update by the main loss; each
k-th step (steps 0, k, 2k, ...) makes a second one by k times the regulariser, with the same Adam.
So there are (k + 1) / k updates a step, and Adam's rate and memories are those of a run with one:

    r = k / (k + 1)      rate -> r rate      beta_1 -> beta_1^r      beta_2 -> beta_2^r

One update by the sum would be another algorithm: Adam's normalisation is not linear. The order
within a step is the original's: generator main, generator regulariser, discriminator main,
discriminator regulariser; each sees what those before it have made.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

State = TypeVar("State")
Terms = dict[str, Float[Array, ""]]

# What an infinite gradient counts as.
LIMIT = 1e5


@struct.dataclass
class Update:
    """What one update leaves behind.

    Attributes:
        params: the new parameters.
        opt_state: the optimiser's new state.
        norms: "grad_norm" after cleaning, "update_norm", and "broken", how many numbers of the
            gradient were not finite.
    """

    params: Any
    opt_state: Any
    norms: Terms


def lazy_adam(
    rate: float, *, interval: int | None, b1: float = 0.0, b2: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam for a network whose regulariser acts every `interval` steps; None: it has none.

    Args:
        rate: learning rate of the recipe, before the correction (EG3D: G 0.0025, D 0.002).
        interval: k (EG3D: G 4, D 16).
        b1, b2: decays of the first and second moment, before the correction.
        eps: added to the root of the second moment.

    Raises:
        ValueError: an interval below 1.
    """
    if interval is None:
        return optax.adam(rate, b1=b1, b2=b2, eps=eps)
    if interval < 1:
        raise ValueError(f"interval {interval}: at least 1, or None for no regulariser")
    ratio = interval / (interval + 1)
    return optax.adam(rate * ratio, b1=b1**ratio, b2=b2**ratio, eps=eps)


def clean(gradients: Any) -> Any:
    """Gradients with 0 for NaN and ±1e5 for ±infinity; finite numbers of any size stay."""
    return jax.tree.map(
        lambda g: jnp.nan_to_num(g, nan=0.0, posinf=LIMIT, neginf=-LIMIT), gradients
    )


def broken(gradients: Any) -> Float[Array, ""]:
    """How many numbers of the tree are NaN or infinite."""
    counts = [jnp.sum(~jnp.isfinite(g)) for g in jax.tree.leaves(gradients)]
    return sum(counts, jnp.int32(0)).astype(jnp.float32)


def update(
    optimizer: optax.GradientTransformation, gradients: Any, *, params: Any, opt_state: Any
) -> Update:
    """One update of a network by cleaned gradients."""
    cleaned = clean(gradients)
    steps, opt_state = optimizer.update(cleaned, opt_state, params)
    norms = {
        "grad_norm": optax.tree.norm(cleaned),
        "update_norm": optax.tree.norm(steps),
        "broken": broken(gradients),
    }
    return Update(params=optax.apply_updates(params, steps), opt_state=opt_state, norms=norms)


def every(
    interval: int,
    phase: Callable[[State], tuple[State, Terms]],
    state: State,
    *,
    step: Int[Array, ""],
    terms: Terms,
) -> tuple[State, Terms]:
    """`phase(state)` on steps 0, interval, 2 interval, ...; on others nothing is computed.

    The caller multiplies its regulariser by `interval` inside the phase.

    Args:
        interval: k.
        phase: state -> (new state, what was measured).
        state: any tree.
        step: updates made before this step.
        terms: what the phase measured last, returned on the steps between; a part of what a
            checkpoint keeps. `unmeasured(phase, state)` before the first.
    """
    return jax.lax.cond(step % interval == 0, phase, lambda unchanged: (unchanged, terms), state)


def unmeasured(phase: Callable[[State], tuple[State, Terms]], state: State) -> Terms:
    """Zeros of the form that the phase measures."""
    _, terms = jax.eval_shape(phase, state)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), terms)
