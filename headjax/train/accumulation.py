"""Gradients of a batch, some of its examples at a time: less memory for more, shorter passes.

    grad mean_b loss_b = (1/n) sum_p grad mean_{b in part p} loss_b        n parts of equal size

The loss must be a mean over the examples of what it is given (a ratio of sums takes the whole
batch's sums), and whatever is random must be drawn for the whole batch beforehand: then the result
is the whole batch's, whatever the number of parts, but for the rounding of float32 sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def value_and_grad(
    loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    params: Any,
    batch: Any,
    *,
    parts: int,
    rows: Any = None,
) -> tuple[tuple[jax.Array, Any], Any]:
    """`jax.value_and_grad(loss, has_aux=True)(params, batch)`, in `parts` passes.

    Args:
        loss: (params, batch) -> (mean over the batch's examples, tree of such means).
        params: what all examples share.
        batch: a tree whose leaves lead with the examples' axis.
        parts: passes, each over an equal share of the examples; it divides their number. 1 is
            the plain gradient.
        rows: what belongs to one example each, leaves led by the examples' axis: then `loss` gets
            `(params, rows)` for `params`, and the gradients are such a pair.
    Returns:
        ((value, aux), gradients), all of the whole batch.
    """
    if parts == 1:
        whole = params if rows is None else (params, rows)
        return jax.value_and_grad(loss, has_aux=True)(whole, batch)

    def one(total, part):
        some, own = part
        if rows is None:
            out, grads = jax.value_and_grad(loss, has_aux=True)(params, some)
            own_grads = None
        else:
            pair = jax.value_and_grad(loss, has_aux=True)((params, own), some)
            out, (grads, own_grads) = pair
        return jax.tree.map(jnp.add, total, grads), (out, own_grads)

    split = jax.tree.map(lambda leaf: split_examples(leaf, parts=parts), (batch, rows))
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, (outs, row_grads) = jax.lax.scan(one, zeros, split)
    out = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), outs)
    grads = jax.tree.map(lambda leaf: leaf / parts, total)
    if rows is None:
        return out, grads
    # An example counts for 1/(b/n) of its part's mean, for 1/b of the batch's.
    return out, (grads, jax.tree.map(lambda leaf: join_examples(leaf) / parts, row_grads))


def split_examples(x: Shaped[Array, "b *d"], *, parts: int) -> Shaped[Array, "n m *d"]:
    """Part p of n takes the examples p, p + n, p + 2n, ...

    A batch that lies on its devices in contiguous stretches stays where it is, and every part is
    spread over all devices; contiguous parts would each lie on a few of them.
    """
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def join_examples(x: Shaped[Array, "n m *d"]) -> Shaped[Array, "b *d"]:
    """The inverse of `split_examples`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
