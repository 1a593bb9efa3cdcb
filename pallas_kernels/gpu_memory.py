"""How the GPU kernels address memory: Triton loads, stores and atomic adds at computed indices.

A kernel's operands are whole arrays in global memory. An index is one entry per axis, integers and
integer arrays that broadcast against each other; what is read or written has the arrays' shape.
Triton wants every such shape to be a power of two, so the odd ends are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jaxtyping import Array

try:
    from jax.experimental.pallas import triton

    from pallas_kernels import gpu_atomics
except ImportError:
    # JAX for Windows comes without; the references run there.
    triton = gpu_atomics = None

# A kernel's operand: a reference to an array in global memory.
Ref = Any


def parameters(warps: int) -> Any:
    """How a kernel is compiled: its threads, 32 a warp. Loops are not pipelined: loads are few."""
    return triton.CompilerParams(num_warps=warps, num_stages=1)


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def rowwise(mask: Array | None) -> Array | None:
    """A mask of points [t] as [t 1], for rows of numbers."""
    return None if mask is None else mask[:, None]


def both(*masks: Array | None) -> Array | None:
    """The conjunction of masks, each of which may be absent; the arrays broadcast."""
    present = [mask for mask in masks if mask is not None]
    if not present:
        return None
    shape = jnp.broadcast_shapes(*(mask.shape for mask in present))
    result = jnp.broadcast_to(present[0], shape)
    for mask in present[1:]:
        result = result & jnp.broadcast_to(mask, shape)
    return result


def _index(index: Sequence) -> tuple:
    """Whole numbers as arrays: JAX's interpreter of loads asks each part of an index its shape."""
    return tuple(np.int32(part) if isinstance(part, int) else part for part in index)


def _masked(index: Sequence, mask: Array | None) -> Array | None:
    """The mask in the shape that the index addresses."""
    if mask is None:
        return None
    return jnp.broadcast_to(mask, jnp.broadcast_shapes(*(jnp.shape(i) for i in index)))


def load(ref: Ref, *index, mask: Array | None = None) -> Array:
    """ref[index], 0 where the mask is off."""
    mask = _masked(index, mask)
    return triton.load(ref.at[_index(index)], mask=mask, other=None if mask is None else 0)


def store(ref: Ref, *index, value: Array, mask: Array | None = None) -> None:
    """ref[index] = value where the mask is on."""
    triton.store(ref.at[_index(index)], value, mask=_masked(index, mask))


def add(ref: Ref, *index, value: Array, mask: Array | None, interpret: bool) -> None:
    """ref[index] += value where the mask is on, every addend counted.

    Atomic on the device. JAX's interpreter of `atomic_add` knows no masks and of equal indices
    counts one only (jax 0.10–0.12), so an interpreted kernel adds to the whole array instead.
    """
    mask = _masked(index, mask)
    if not interpret:
        gpu_atomics.add(ref, index, value, mask=mask)
        return
    if mask is not None:
        value = jnp.where(mask, value, jnp.zeros_like(value))
    ref[...] = ref[...].at[index].add(value)


def block(axis: int, size: int, *, count: int) -> tuple[Array, Array | None]:
    """A program's share of `count` things, and a mask of those that exist (None: they all do)."""
    positions = pl.program_id(axis) * size + jnp.arange(size, dtype=jnp.int32)
    return positions, None if count % size == 0 else positions < count


def lanes(width: int, *, least: int = 1) -> tuple[Array, Array | None]:
    """The indices of a row's `width` numbers [1, w], padded; and a mask of those that exist."""
    padded = max(least, power_of_two(width))
    positions = jax.lax.broadcasted_iota(jnp.int32, (1, padded), 1)
    return positions, None if padded == width else positions < width
