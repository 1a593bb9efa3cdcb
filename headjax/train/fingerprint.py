"""Fingerprints of a state's arrays: the same whatever holds them, and a flipped bit changes them.

With b_i the bits of element i, i its place in the whole array in row-major order, all arithmetic
modulo 2^32 and `mix` a bijection of 32-bit words (MurmurHash3's finaliser):

    h_i = mix(b_i + (i + 1) · 0x9E3779B1),    first = Σ h_i,    second = Σ h_i · (2 i + 1)

Sums of integers may be taken in any order, so shards, devices and processes add theirs up and get
the same words. One changed element changes the first word for certain; exchanged elements and
zeroed blocks are missed once in about 2^64 cases. An element of 8 bytes counts as two.

On accelerators each device sums up its own part. On CPUs NumPy does: what a program per shape
costs to compile, it would not earn back.
"""

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, UInt32

from headjax.train import exchange

_BLOCK = 1 << 15  # elements; what NumPy makes of a block stays in the processor's cache
_u32 = np.uint32


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Of each leaf of a tree, in the tree's order.

    Attributes:
        words: the two words.
        finite: whether all values are; True for integers, flags and keys.
    """

    words: UInt32[np.ndarray, "n 2"]
    finite: Bool[np.ndarray, "n"]

    def text(self) -> list[str]:
        """Sixteen hexadecimal digits for each leaf."""
        return [f"{first:08x}{second:08x}" for first, second in self.words.tolist()]


def fingerprints(tree: Any) -> Fingerprints:
    """The fingerprints of a tree of JAX arrays; every process that holds a part must call this.

    Raises:
        TypeError: a leaf's elements do not have 1, 2, 4 or 8 bytes, or are complex.
    """
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(tree)]
    on_cpu = all(d.platform == "cpu" for leaf in leaves for d in leaf.sharding.device_set)
    return of_hosts(leaves) if on_cpu else of_devices(leaves)


def of_hosts(leaves: list[jax.Array]) -> Fingerprints:
    """`fingerprints` by NumPy, each process over the shards that it holds."""
    own = np.array([_host_sums(leaf) for leaf in leaves], np.uint32).reshape(-1, 3)
    if all(leaf.is_fully_addressable for leaf in leaves):
        total = own
    else:
        parts = [json.loads(text) for text in exchange.gather(json.dumps(own.tolist()))]
        total = np.array(parts, np.uint32).sum(axis=0, dtype=np.uint32)
    return Fingerprints(words=total[:, :2], finite=total[:, 2] == 0)


def of_devices(leaves: list[jax.Array]) -> Fingerprints:
    """`fingerprints` by the devices, a program for each shape, dtype and sharding."""
    sums = [_program(_everywhere(leaf.sharding))(leaf) for leaf in leaves]
    total = np.array(jax.device_get(sums), np.uint32).reshape(-1, 3)
    return Fingerprints(words=total[:, :2], finite=total[:, 2] == 0)


def _plain(leaf: jax.Array) -> jax.Array:
    """Keys as the integers that they are made of."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = jax.random.key_data(leaf) if is_key else leaf
    kind, size = np.dtype(plain.dtype).kind, plain.dtype.itemsize
    if kind == "c" or size not in (1, 2, 4, 8) or "int4" in plain.dtype.name:
        raise TypeError(f"no fingerprint of {plain.dtype}: elements must have 1, 2, 4 or 8 bytes")
    return plain


def _mix(bits: Any, index: Any) -> Any:
    """`h_i` of NumPy or JAX arrays of 32-bit words."""
    h = bits + (index + _u32(1)) * _u32(0x9E3779B1)
    h = (h ^ (h >> _u32(16))) * _u32(0x85EBCA6B)
    h = (h ^ (h >> _u32(13))) * _u32(0xC2B2AE35)
    return h ^ (h >> _u32(16))


def _host_sums(leaf: jax.Array) -> tuple[int, int, int]:
    """Both words of the parts that this process counts, and whether one is not finite."""
    first = second = bad = 0
    for shard in leaf.addressable_shards:
        if shard.replica_id:
            continue
        values = np.ascontiguousarray(shard.data)
        index = _places(leaf.shape, shard.index, words=max(1, leaf.dtype.itemsize // 4))
        bits, flat = _host_bits(values), values.reshape(-1)
        for start in range(0, bits.size, _BLOCK):
            place = index(start, min(start + _BLOCK, bits.size))
            h = _mix(bits[start : start + _BLOCK].astype(np.uint32), place)
            first += int(h.sum(dtype=np.uint32))
            second += int((h * (place * _u32(2) + _u32(1))).sum(dtype=np.uint32))
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            blocks = range(0, flat.size, _BLOCK)
            bad |= not all(np.isfinite(flat[start : start + _BLOCK]).all() for start in blocks)
    return first % 2**32, second % 2**32, int(bad)


def _host_bits(values: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers in one row, 8 bytes as two, the low half first."""
    width = min(values.dtype.itemsize, 4)
    return values.reshape(-1).view(f"<u{width}")


def _places(shape: tuple[int, ...], where: tuple[slice, ...], *, words: int):
    """(start, stop) -> where the words start…stop of a shard stand in the whole array."""
    spans = [range(*span.indices(size)) for span, size in zip(where, shape, strict=True)]
    strides = [math.prod(shape[axis + 1 :]) * words for axis in range(len(shape))]
    if all(len(span) == size for span, size in zip(spans[1:], shape[1:], strict=True)):
        offset = spans[0].start * strides[0] if shape else 0
        return lambda start, stop: (
            np.arange(stop - start, dtype=np.uint32) + np.array((offset + start) % 2**32, np.uint32)
        )
    whole = np.zeros((), np.uint64)
    for span, stride in zip([*spans, range(words)], [*strides, 1], strict=True):
        whole = whole[..., None] + np.arange(span.start, span.stop, dtype=np.uint64) * stride
    flat = whole.reshape(-1).astype(np.uint32)
    return lambda start, stop: flat[start:stop]


@functools.lru_cache(maxsize=64)
def _program(everywhere: NamedSharding | None):
    return jax.jit(_device_sums, out_shardings=everywhere)


def _everywhere(sharding: Any) -> NamedSharding | None:
    """Where every process can read the sums."""
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec())


def _device_sums(leaf: jax.Array) -> UInt32[jax.Array, "3"]:
    """Both words, and how many elements are not finite, one at the most."""
    finite = jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.inexact) else True
    bits = _device_bits(leaf)
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index, stride = index + place * _u32(stride % 2**32), stride * bits.shape[axis]
    h = _mix(bits, index)
    first = jnp.sum(h, dtype=jnp.uint32)
    second = jnp.sum(h * (index * _u32(2) + _u32(1)), dtype=jnp.uint32)
    return jnp.stack([first, second, jnp.logical_not(finite).astype(jnp.uint32)])


def _device_bits(leaf: jax.Array) -> UInt32[jax.Array, "..."]:
    """The elements as 32-bit words; 8 bytes give a last axis of two, the low half first."""
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
