"""Rendering on several devices: heads, or else rays, are divided among those of the mesh.

Kernels are not partitioned by the compiler, so the operations of `pallas_kernels` run inside
`jax.shard_map` wherever a mesh is set (`jax.set_mesh`, as the training loop does).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# The axes of a mesh along which heads are split, and rays along what they leave.
BATCH_AXES = ("data", "fsdp")
RAY_AXES = ("data", "fsdp", "model")
# Elements from which on an array is worth gathering from parts.
LARGE = 1 << 16


def dividing(mesh: Mapping[str, int], count: int, *, among: Sequence[str]) -> tuple[str, ...]:
    """Those of the mesh's axes along which `count` things are split evenly over most devices."""
    names = [name for name in among if mesh.get(name, 1) > 1]
    choices = [c for n in range(len(names) + 1) for c in itertools.combinations(names, n)]
    sizes = {choice: math.prod(mesh[name] for name in choice) for choice in choices}
    return max((c for c in choices if count % sizes[c] == 0), key=sizes.__getitem__)


def _free_axes() -> dict[str, int]:
    """Sizes of the mesh's axes that are still the compiler's."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return {name: mesh.shape[name] for name, kind in types.items() if kind == AxisType.Auto}


def split(function: Callable, shared: Any, *, heads: Any, rays: Any) -> Any:
    """`function(shared, heads, rays)`, divided among the devices of the mesh that is set.

    Args:
      function: its results are arrays [b, r, …], each ray's from that ray alone.
      shared: arrays that every head uses.
      heads: arrays [b, …]; divided along the axes of the mesh that divide b.
      rays: arrays [b, r, …]; divided as the heads are, and by ray along the axes that those leave
        and that divide r.

    Returns:
      what `function` returns. Without a mesh, on one device, or where nothing divides, it is
      simply called.
    """
    mesh = _free_axes()
    count, lengths = jax.tree.leaves(heads)[0].shape[0], jax.tree.leaves(rays)[0].shape[1]
    by_head = dividing(mesh, count, among=BATCH_AXES)
    by_ray = dividing(mesh, lengths, among=[a for a in RAY_AXES if a not in by_head])
    if not by_head and not by_ray:
        return function(shared, heads, rays)
    leaves, tree = jax.tree.flatten(heads)
    parts = math.prod(mesh[axis] for axis in by_ray)
    cuts = [_cut(leaf, parts) for leaf in leaves]

    def gathered(shared, leaves, rays):
        whole = [
            leaf if cut is None else jax.lax.all_gather(leaf, by_ray, axis=cut, tiled=True)
            for leaf, cut in zip(leaves, cuts, strict=True)
        ]
        return function(shared, jax.tree.unflatten(tree, whole), rays)

    of_heads = [
        PartitionSpec(by_head or None, *[None] * ((cut or 1) - 1), by_ray if cut else None)
        for cut in cuts
    ]
    of_rays = PartitionSpec(by_head or None, by_ray or None)
    divided = jax.shard_map(
        gathered, in_specs=(PartitionSpec(), of_heads, of_rays), out_specs=of_rays
    )
    return divided(shared, leaves, rays)


def spread(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """`function(rows)`, row by row, with as many rows on every device of the mesh that is set.

    Where the devices do not divide the rows, rows of zeros fill up those that share a ray's heads,
    and the results come as `split` wants them: so `function` runs on all devices, and a large
    result is exchanged between them once, part by part.

    Args:
      function: [n, …] -> [n, …], each row from that row alone.
      rows: [b, …].
    """
    mesh, count = _free_axes(), rows.shape[0]
    by_head = dividing(mesh, count, among=BATCH_AXES)
    others = tuple(a for a in BATCH_AXES if mesh.get(a, 1) > 1 and a not in by_head)
    if not others:
        return function(rows)
    groups = math.prod(mesh[axis] for axis in by_head)
    parts = math.prod(mesh[axis] for axis in others)
    own = count // groups
    full = -(-own // parts) * parts
    grouped = rows.reshape(groups, own, *rows.shape[1:])
    filled = jnp.pad(grouped, [(0, 0), (0, full - own)] + [(0, 0)] * (rows.ndim - 1))
    place = jax.lax.with_sharding_constraint
    filled = filled.reshape(groups * full, *rows.shape[1:])
    results = function(place(filled, PartitionSpec(by_head + others)))
    results = results.reshape(groups, full, *results.shape[1:])
    cut = _cut(jax.ShapeDtypeStruct((count, *results.shape[2:]), results.dtype), parts)
    between = [None] * (cut - 1) + [others] if cut else []
    results = place(results, PartitionSpec(by_head or None, None, *between))
    return results[:, :own].reshape(count, *results.shape[2:])


def _cut(leaf: jax.Array | jax.ShapeDtypeStruct, parts: int) -> int | None:
    """The axis along which a large array of heads reaches devices that share its rays.

    They gather it whole. The gradient of a gather is a scattered sum, half the traffic of the sum
    for all that an array which is whole from the start has.
    """
    fits = [axis for axis in range(1, leaf.ndim) if leaf.shape[axis] % parts == 0]
    large = parts > 1 and leaf.size >= LARGE and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return max(fits, key=lambda axis: leaf.shape[axis]) if fits and large else None
