"""Where activations live: their axes by name, along the mesh that is set.

Parameters may lie anywhere (`headjax.train.sharding`). Where an activation is pinned to the batch,
the compiler gathers a layer's weights for it; unpinned, it may take a layer apart along its
channels instead and send activations around, which are much larger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from headjax.render.devices import BATCH_AXES, dividing


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """The mesh axes along which an activation's named axes are split.

    Attributes:
      batch: takes those of its axes that divide its length.
      heads: takes all of its axes whatever the length; some devices may then have less to do.
    """

    batch: tuple[str, ...] = BATCH_AXES
    heads: tuple[str, ...] = BATCH_AXES

    def spec(self, mesh: Mapping[str, int], **sizes: int) -> PartitionSpec:
        """The spec of an array whose leading axes have these names and sizes.

        Raises:
          ValueError: two axes of the array would be split along the same axis of the mesh.
        """
        axes = []
        for name, size in sizes.items():
            chosen = tuple(axis for axis in getattr(self, name) if axis in mesh)
            axes.append(dividing(mesh, size, among=chosen) if name == "batch" else chosen)
        flat = [axis for chosen in axes for axis in chosen]
        if twice := sorted({axis for axis in flat if flat.count(axis) > 1}):
            raise ValueError(f"axes {', '.join(sizes)} would share the mesh axis {twice[0]!r}")
        return PartitionSpec(*(chosen or None for chosen in axes))


def constrain(x: Array, *names: str, rules: AxisRules = AxisRules()) -> Array:
    """`x`, its leading axes split along the mesh that is set as their names say.

    The axes after those, and a batch that the mesh does not divide, are left to the compiler.
    Without a mesh, and inside `shard_map`, where the mesh's axes are taken already, `x` is
    returned as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return x
    sizes = dict(zip(names, x.shape, strict=False))
    spec = rules.spec(dict(mesh.shape), **sizes)
    free = PartitionSpec.UNCONSTRAINED
    axes = [axis or free for axis in spec] + [free] * (x.ndim - len(spec))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
