"""Rendering on several devices: heads, or else rays, are divided among those of the mesh.

Kernels are not partitioned by the compiler, so the operations of `pallas_kernels` run inside
`jax.shard_map` wherever a mesh is set (`jax.set_mesh`, as the training loop does).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

# The mesh axes along which batches are split.
BATCH_AXES = ("data", "fsdp")


def _batch_axes() -> tuple[tuple[str, ...], int]:
    """The mesh's axes for batches that are still the compiler's, and their size."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(name for name in BATCH_AXES if types.get(name) == AxisType.Auto)
    return axes, math.prod(mesh.shape[name] for name in axes)


def split(function: Callable, shared: Any, *, heads: Any, rays: Any) -> Any:
    """`function(shared, heads, rays)`, divided among the devices of the mesh that is set.

    Args:
      function: its results are arrays [b, r, …], each ray's from that ray alone.
      shared: arrays that every head uses.
      heads: arrays [b, …]; divided where the devices divide b.
      rays: arrays [b, r, …]; divided by head, else by ray where the devices divide r.

    Returns:
      what `function` returns. Without a mesh, on one device, or where nothing divides, it is
      simply called.
    """
    axes, size = _batch_axes()
    count, lengths = jax.tree.leaves(heads)[0].shape[0], jax.tree.leaves(rays)[0].shape[1]
    if size == 1 or (count % size and lengths % size):
        return function(shared, heads, rays)
    by_head = count % size == 0
    of_heads = PartitionSpec(axes) if by_head else PartitionSpec()
    of_rays = PartitionSpec(axes) if by_head else PartitionSpec(None, axes)
    divided = jax.shard_map(
        function, in_specs=(PartitionSpec(), of_heads, of_rays), out_specs=of_rays
    )
    return divided(shared, heads, rays)
