"""One yes or no for all processes: whether any of them wants to stop, asked between two steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from headjax.train.sharding import replicated


class Agreement:
    """Asks every process the same question at the same step, and gives all the same answer.

    A signal reaches one process, and a save needs all of them at one step. So each step carries a
    flag of every device through a collective; the answer that comes back was asked a step before,
    when its result is there already, and nothing waits for it.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._places = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._size = mesh.size
        self._or = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._asked: jax.Array | None = None

    def any(self, mine: bool) -> bool:
        """Whether any process said yes when this was last called; every process must call it."""
        if self._alone:
            return mine
        flags = jax.make_array_from_callback(
            (self._size,), self._places, lambda index: np.full(_length(index, self._size), mine)
        )
        earlier, self._asked = self._asked, self._or(flags)
        return earlier is not None and bool(earlier)


def _length(index: tuple[slice, ...], size: int) -> int:
    return len(range(*index[0].indices(size)))
