"""A training stage as a plan sees it: what a step computes, without any data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from headjax.train import feed, loop, sharding
from headjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a training stage runs.

    Attributes:
        name: the stage's name.
        init: key -> the state; only ever traced, so it may make arrays of any size.
        step: (state, batch, key) -> (state, metrics), the very step that trains.
        batch: a tree of `jax.ShapeDtypeStruct`s: the whole batch, over all devices.
        batch_size: rows of the batch, its leading axis.
        examples: examples of a step: rows, or rays where a row has many.
        unit: what an example is, "image" or "ray".
        steps: updates in the whole run.
        rules: the stage's sharding rules for the state.
        notes: settings that a plan's reader must know, by name: dtype, remat, accumulation.
        fields: the config's fields that a sweep changes: `batch` and `remat`, those that there are.
    """

    name: str
    init: Callable[[jax.Array], TrainState]
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    batch: Any
    batch_size: int
    examples: int
    unit: str
    steps: int
    rules: sharding.Rules = ()
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def task(self) -> loop.Task:
        """The stage as the training loop takes it; it has no batches."""
        return loop.Task(self.name, self.init, self.step, _no_batches, self.batch_size, self.rules)


def traced(workload: Workload, mesh: Any) -> jax.stages.Traced:
    """The program that trains (`loop.jit_update`), traced for the mesh."""
    state, batch, key = arguments(workload, mesh)
    abstract = isinstance(mesh, jax.sharding.AbstractMesh)
    with jax.sharding.use_abstract_mesh(mesh if abstract else mesh.abstract_mesh):
        return loop.jit_update(workload.task(), state, mesh=mesh).trace(state, batch, key)


def lower(workload: Workload, mesh: Any) -> jax.stages.Lowered:
    """The program that trains, lowered for the devices of `mesh`.

    Args:
        workload: what to lower.
        mesh: with the axes of `headjax.train.mesh`; an abstract one is lowered for TPUs.
    """
    return lowered(traced(workload, mesh), mesh)


def lowered(program: jax.stages.Traced, mesh: Any) -> jax.stages.Lowered:
    """As `lower`, of a program that is traced already."""
    abstract = isinstance(mesh, jax.sharding.AbstractMesh)
    return program.lower(lowering_platforms=("tpu",)) if abstract else program.lower()


def arguments(workload: Workload, mesh: Any) -> tuple[TrainState, Any, Any]:
    """State, batch and key of the update: shapes, dtypes and where each array lives."""
    rows = feed.batch_sharding(mesh, workload.batch_size)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), workload.batch
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))
    return loop.abstract_state(workload.task(), mesh=mesh), batch, key


def _no_batches(rows: Any) -> Any:
    raise NotImplementedError("a workload has shapes, not data")
