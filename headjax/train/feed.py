"""Batches on their way to the devices and results on their way back, on several processes too."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Int

from headjax.errors import UserError
from headjax.nets.activations import AxisRules
from headjax.train.sharding import replicated


@functools.lru_cache(maxsize=16)
def batch_sharding(mesh: Mesh | AbstractMesh, size: int) -> NamedSharding:
    """Batches of `size`: along as many of (data, fsdp) as divide it; whole on all others."""
    return NamedSharding(mesh, AxisRules().spec(dict(mesh.shape), batch=size))


@functools.lru_cache(maxsize=16)
def local_rows(mesh: Mesh, size: int) -> Int[np.ndarray, "n"]:
    """Which rows of a batch of `size` this process' devices hold, ascending and read-only."""
    held = batch_sharding(mesh, size).addressable_devices_indices_map((size,))
    rows = np.unique(np.concatenate([np.arange(size)[index] for index in held.values()]))
    rows.flags.writeable = False
    return rows


def put_batch(batch: Any, mesh: Mesh, *, size: int) -> Any:
    """Moves this process' rows of a batch of `size` (`local_rows`) to its devices.

    Raises:
      UserError: an array with another number of rows.
    """
    sharding, rows = batch_sharding(mesh, size), local_rows(mesh, size)

    def put(array):
        array = np.asarray(array)
        if array.ndim == 0 or len(array) != len(rows):
            raise UserError(
                f"a batch of {size} was announced, so this process needs {len(rows)} rows, "
                f"but there is an array of shape {array.shape}"
            )

        def part(index):
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return array[first : first + stop - start]

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)

    return jax.tree.map(put, batch)


def to_host(tree: Any) -> Any:
    """The tree as whole NumPy arrays on every process, gathered an array at a time.

    A collective where several processes hold parts: all of them must call it.
    """

    def whole(leaf):
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        mesh = leaf.sharding.mesh
        return np.asarray(jax.jit(lambda x: x, out_shardings=replicated(mesh))(leaf))

    return jax.tree.map(whole, tree)
