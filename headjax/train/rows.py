"""Adam on tables with one row per identity, touching only the rows of the batch.

Every leaf of a table leads with the identity axis, and so do its moments and step counts: a row
that is not in the batch is not read, decayed or moved, and the tables can be sharded along that
axis. For a row in the batch the update is Adam's (Kingma and Ba, 2015) with that row's own count.
"""

from __future__ import annotations

from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Table = TypeVar("Table")


@flax.struct.dataclass
class RowAdamState:
    """First and second moments like the tables, and how often each row was updated."""

    mean: object
    square: object
    count: Int[Array, "i"]


def init_rows(tables: Table) -> RowAdamState:
    """Zero moments for tables whose leaves all lead with the same axis."""
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(tables)}
    if len(lengths) != 1:
        raise ValueError(f"tables must share their leading axis, got lengths {sorted(lengths)}")
    zeros = jax.tree.map(jnp.zeros_like, tables)
    return RowAdamState(
        mean=zeros,
        square=jax.tree.map(jnp.zeros_like, tables),
        count=jnp.zeros((lengths.pop(),), jnp.int32),
    )


def take_rows(tables: Table, ids: Int[Array, "b"]) -> Table:
    """The rows `ids` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[ids], tables)


def update_rows(
    tables: Table,
    state: RowAdamState,
    *,
    grads: Table,
    ids: Int[Array, "b"],
    learning_rates: Table,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Table, RowAdamState]:
    """One Adam step on the rows `ids`.

    Args:
      tables, state: whole tables and their state.
      grads: gradients of the rows, leaves [b, ...].
      ids: distinct row numbers; a number that occurs twice would keep one of its updates.
      learning_rates: a scalar for each leaf.
    """
    count = state.count[ids] + 1

    def broadcast(values: Float[Array, "b"], like: Array) -> Array:
        return values.reshape(-1, *(1,) * (like.ndim - 1))

    mean = jax.tree.map(lambda m, g: b1 * m[ids] + (1.0 - b1) * g, state.mean, grads)
    square = jax.tree.map(lambda v, g: b2 * v[ids] + (1.0 - b2) * g * g, state.square, grads)

    def step(table, m, v, rate):
        first = m / broadcast(1.0 - b1**count, m)
        second = v / broadcast(1.0 - b2**count, v)
        # Set, not added: devices exchange the rows of the batch then, and no sums of whole tables.
        return table.at[ids].set(table[ids] - rate * first / (jnp.sqrt(second) + eps))

    def put(old, new):
        return jax.tree.map(lambda a, b: a.at[ids].set(b), old, new)

    tables = jax.tree.map(step, tables, mean, square, learning_rates)
    return tables, RowAdamState(
        mean=put(state.mean, mean),
        square=put(state.square, square),
        count=state.count.at[ids].set(count),
    )
