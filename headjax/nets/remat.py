"""What the backward pass finds stored, and what it computes again, by the name of a policy.

A network applies a policy to each of its blocks: what enters a block is stored, and inside it

- "none": everything that the backward pass needs is stored: fastest, and the most memory.
- "dots": results of matrix products and convolutions are stored; norms, activations and other
  cheap passes over memory are done again.
- "weights": of these, only products with weights: what attention multiplies (tokens x tokens, for
  each sample) is done again, too.
- "block": nothing is stored; the whole block runs again, a forward pass more (a third more FLOPs).

Values and gradients are the same by any policy. XLA's CPU compiler undoes rematerialisation, so
memory goes down on accelerators only.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax

Remat = Literal["none", "dots", "weights", "block"]
REMAT: tuple[str, ...] = get_args(Remat)


def _with_weights(primitive: Any, *_, **params: Any) -> bool:
    """Saves convolutions, and matrix products without batch axes."""
    if primitive.name == "dot_general":
        _, batch_axes = params["dimension_numbers"]
        return not any(batch_axes)
    return primitive.name == "conv_general_dilated"


_POLICIES: dict[str, Callable[..., Any]] = {
    "dots": jax.checkpoint_policies.dots_saveable,
    "weights": _with_weights,
    "block": jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(
    block: type[nn.Module], policy: str, *, static_argnums: tuple[int, ...] = ()
) -> type[nn.Module]:
    """The class of a block under a policy; the class itself for "none".

    Args:
        block: a module class.
        policy: one of `REMAT`.
        static_argnums: arguments of `__call__` that are no arrays, counted with `self` as 0.
    Raises:
        ValueError: no such policy.
    """
    if policy == "none":
        return block
    if policy not in _POLICIES:
        raise ValueError(f"remat {policy!r} is unknown; one of {', '.join(REMAT)}")
    return nn.remat(block, policy=_POLICIES[policy], static_argnums=static_argnums)
