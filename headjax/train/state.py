"""What a training run carries from step to step, and the named streams of random keys."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key


@struct.dataclass
class TrainState:
    """One moment of a training run; every leaf is a JAX array, so that it can be checkpointed.

    Attributes:
        step: int32 scalar, the number of updates made; the loop counts it.
        params: what is trained.
        opt_state: the optimiser's state.
        ema: a moving average of `params` (`ema_update`), or None.
        extras: whatever else a task carries (a dict of arrays); empty for most.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any = None
    extras: Any = struct.field(default_factory=dict)


def new_state(params: Any, opt_state: Any, *, ema: bool = False, extras: Any = None) -> TrainState:
    """The state before the first update; with `ema` the average starts at the parameters."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=opt_state,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        extras=extras or {},
    )


def ema_update(ema: Any, params: Any, *, step: Array, decay: float, ramp: float = 10.0) -> Any:
    """`ema + (1 - d) (params - ema)`, whose decay d rises to `decay` as training goes on.

    d = min(decay, (1 + step) / (ramp + step)): early averages forget the initial values quickly.

    Args:
        ema: the average so far, a tree.
        params: the parameters after the update, a tree of the same form.
        step: int32 scalar, updates made before this one.
        decay: the final decay, in [0, 1).
        ramp: steps after which about half of the memory is older than the run's start; 1 turns
            the ramp off.
    """
    rate = 1.0 - ema_decay(step, decay=decay, ramp=ramp)
    return jax.tree.map(lambda e, p: e + rate.astype(e.dtype) * (p - e), ema, params)


def ema_decay(step: Array, *, decay: float, ramp: float = 10.0) -> Float[Array, ""]:
    """The decay of `ema_update` at `step`: min(decay, (1 + step) / (ramp + step))."""
    count = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + count) / (ramp + count))


def stream_key(seed: int, name: str) -> Key[Array, ""]:
    """The key of the random stream `name`: the same for a seed and name, whatever else is drawn."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
