"""Where a run's state lives on the mesh: by ordered rules on the paths of its arrays.

Activations follow by the names of their axes: `headjax.nets.activations`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from headjax.render.devices import dividing
from headjax.train.mesh import FSDP, MODEL

# Smaller arrays are not worth a collective each.
LEAST = 128

Rules = Sequence[tuple[str, str]]


def _whole(shape: tuple[int, ...], mesh: Mapping[str, int]) -> list:
    return [None] * len(shape)


def _largest(shape, mesh, *, among: Sequence[int] | None = None, spec: list | None = None) -> list:
    """The largest axis that fsdp divides (the last of equal ones) is split along it."""
    spec = [None] * len(shape) if spec is None else spec
    among = range(len(shape)) if among is None else among
    fits = [i for i in among if shape[i] % mesh[FSDP] == 0]
    if fits and mesh[FSDP] > 1 and np.prod(shape) >= LEAST:
        spec[max(fits, key=lambda i: (shape[i], i))] = FSDP
    return spec


def _columns(shape, mesh) -> list:
    """Kernels: the output channels along model, the largest other axis along fsdp."""
    spec = [None] * len(shape)
    if len(shape) < 2 or mesh[MODEL] == 1 or shape[-1] % mesh[MODEL] or np.prod(shape) < LEAST:
        return _largest(shape, mesh)
    spec[-1] = MODEL
    return _largest(shape, mesh, among=range(len(shape) - 1), spec=spec)


def _rows(shape, mesh) -> list:
    """Tables: whole rows along fsdp and model, where these divide their number."""
    if shape and (axes := dividing(mesh, shape[0], among=(FSDP, MODEL))):
        return [axes, *[None] * (len(shape) - 1)]
    return _largest(shape, mesh)


TACTICS: dict[str, Callable[[tuple[int, ...], Mapping[str, int]], list]] = {
    "whole": _whole, "largest": _largest, "columns": _columns, "rows": _rows,
}  # fmt: skip
RULES: Rules = ((r"(^|/)(kernel|weight)$", "columns"), (r"", "largest"))


def specs(tree: Any, mesh: Mesh | AbstractMesh, *, rules: Rules = ()) -> Any:
    """The PartitionSpec of every leaf: the tactic of the first rule that its path matches.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s; paths look like `params/up0/conv1/kernel`.
      mesh: with the axes of this module; it may be abstract.
      rules: (regular expression, tactic) pairs, asked before `RULES`.
    """

    def spec(path, leaf) -> PartitionSpec:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        tactic = next(tactic for pattern, tactic in (*rules, *RULES) if re.search(pattern, name))
        axes = TACTICS[tactic](tuple(leaf.shape), dict(mesh.shape))
        while axes and axes[-1] is None:
            axes.pop()
        return PartitionSpec(*axes)

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(tree: Any, mesh: Mesh | AbstractMesh, *, rules: Rules = ()) -> Any:
    """As `specs`, as NamedShardings."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs(tree, mesh, rules=rules),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
