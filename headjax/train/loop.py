"""The one training loop: the only place that knows of devices, checkpoints, logging and signals.

A task is three pure functions. The loop draws the key of step i as `fold_in(stream, i)` and saves
the state together with the data's position *before* the batch of that step is taken, so a run that
is killed at any moment and started again makes exactly the updates that it would have made.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Int

from headjax.errors import UserError
from headjax.train import exchange, feed, flops, sharding, throughput
from headjax.train.agreement import Agreement
from headjax.train.checkpoint import Checkpoints
from headjax.train.chips import peak_flops
from headjax.train.logging import Logger, Progress
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.signals import Interrupted, StopRequest, stopping_between_steps
from headjax.train.stages import Context
from headjax.train.state import TrainState, stream_key
from headjax.train.throughput import Throughput

Metrics = dict[str, jax.Array]
Rows = Callable[[int], Int[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a stage trains.

    Attributes:
        name: the stage's name; it also names the task's random streams.
        init: key -> the state before the first update.
        step: (state, batch, key) -> (state, metrics); pure and traceable. Metrics are scalars by
            name and include `loss`, the total. The loop counts `state.step`.
        batches: (rows) -> an iterator of trees of NumPy arrays with a leading batch axis, with
            grain's `get_state` and `set_state`. `rows` says which rows of a batch of so many this
            process loads; the position is the same number on every process.
        batch_size: of the whole batch, over all processes.
        rules: sharding rules for the state, before those that hold for every task.
        counted: `step` without rematerialisation, whose operations are those of the model; traced
            only, where the devices' peak is known. None where `step` has none.
    """

    name: str
    init: Callable[[jax.Array], TrainState]
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]
    batches: Callable[[Rows], Iterator]
    batch_size: int
    rules: sharding.Rules = ()
    counted: Callable | None = None


def fit(
    task: Task,
    *,
    folder: Path,
    seed: int,
    steps: int,
    logger: Logger,
    checkpoint_every: int = 500,
    log_every: int = 50,
    keep: int = 2,
    keep_every: int = 0,
    mesh: Mesh | None = None,
) -> TrainState:
    """Trains until `steps` updates are made, going on from the newest checkpoint in `folder`.

    Args:
        task: what to train.
        folder: where the checkpoints are, this task's alone.
        seed: the run's seed.
        steps: updates in all, those before a restart included.
        logger: where metrics and progress go.
        checkpoint_every: steps between two checkpoints.
        log_every: steps between two lines of metrics; the loss is checked at each.
        keep: how many of the latest checkpoints stay.
        keep_every: those of every so many steps stay, too; 0 for none.
        mesh: the devices, all of them by default. With several processes all of them call this.

    Returns:
        The state after the last update; it is the newest checkpoint, too.

    Raises:
        UserError: the loss or the state is no longer finite, or no checkpoint can be read.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    mesh = make_mesh() if mesh is None else mesh
    run = _Run(task, logger, log_every, Throughput(task.batch_size, None, list(mesh.devices.flat)))
    saving = Checkpoints(folder, keep=keep, keep_every=keep_every)
    with saving as saves, stopping_between_steps() as request, jax.set_mesh(mesh):
        iterator = iter(task.batches(functools.partial(feed.local_rows, mesh)))
        abstract = abstract_state(task, mesh=mesh)
        state = _start(task, abstract, saves=saves, iterator=iterator, seed=seed)
        first = step = int(state.step)
        update = jit_update(task, abstract, mesh=mesh)
        agreement = Agreement(mesh)
        key = jax.device_put(stream_key(seed, f"{task.name}/step"), sharding.replicated(mesh))
        logger.event(task.name, "resumed" if first else "started", step=first)
        if mesh.size > 1:
            logger.say(f"{task.name}: {_layout(task, mesh)}")
        with logger.progress(task.name, total=steps, start=first) as progress:
            while step < steps:
                stop = agreement.any(bool(request))
                if step > first and (stop or step % checkpoint_every == 0):
                    saves.save(step, state, iterator=iterator, seed=seed)
                if stop:
                    _stop(task, saves=saves, request=request, step=step)
                with run.speed.waiting():
                    rows = next(iterator)
                batch = feed.put_batch(rows, mesh, size=task.batch_size)
                if step == first:
                    run.speed.flops_per_step = _flops(task, mesh, state, batch, key)
                with jax.transfer_guard("disallow"):
                    state, metrics = update(state, batch, key)
                step += 1
                run.report(step, metrics, progress=progress, last=step == steps)
        if step > first:
            saves.save(step, state, iterator=iterator, seed=seed)
            # A signal of the last moment: what follows would begin in the grace period.
            if "stop" in exchange.gather("stop" if request else ""):
                _stop(task, saves=saves, request=request, step=step)
    return state


def _stop(task: Task, *, saves: Checkpoints, request: StopRequest, step: int) -> None:
    saves.wait()
    kept = f"is saved at step {step}" if step else "had not begun"
    raise Interrupted(f"{request.reason}: {task.name} {kept}", agreed=True)


def _layout(task: Task, mesh: Mesh) -> str:
    """Where the batch lies: `batch of 4 on data 2 x fsdp 4, each row on 2 devices`."""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    held = feed.batch_sharding(mesh, task.batch_size).shard_shape((task.batch_size,))[0]
    copies = mesh.size * held // task.batch_size
    spread = f", each row on {copies} devices" if copies > 1 else ""
    return f"batch of {task.batch_size} on {axes}{spread}"


def _start(
    task: Task, abstract: TrainState, *, saves: Checkpoints, iterator: Iterator, seed: int
) -> TrainState:
    """The newest checkpoint's state, the iterator set to it; the initial state where none is."""
    restored = saves.restore_latest(abstract, iterator=iterator, seed=seed)
    if restored is not None:
        return restored
    init = jax.jit(_init(task), out_shardings=_places(abstract))
    return init(stream_key(seed, f"{task.name}/init"))


def _init(task: Task) -> Callable[[jax.Array], TrainState]:
    """The task's `init` with explicit dtypes: a weak type would have the update compiled twice."""
    return lambda key: jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype=leaf.dtype), task.init(key)
    )


def abstract_state(task: Task, *, mesh: Mesh | AbstractMesh) -> TrainState:
    """The state's form before any array is made: shapes, dtypes and where each array will live."""
    form = jax.eval_shape(_init(task), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        form,
        sharding.shardings(form, mesh, rules=task.rules),
    )


def _places(abstract: TrainState) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def fit_stage(context: Context, task: Task, *, steps: int, section: Any) -> TrainState:
    """`fit` as a stage calls it, by the config.

    Args:
        context: its config has `log_every` and `mesh`.
        task: what to train; its checkpoints lie under its name.
        steps: updates in all.
        section: the stage's part of the config, with `checkpoint_every` and `keep_every`.
    """
    return fit(
        task,
        folder=context.workdir / "checkpoints" / task.name,
        seed=context.seed,
        steps=steps,
        logger=context.logger,
        checkpoint_every=section.checkpoint_every,
        keep_every=section.keep_every,
        log_every=context.config.log_every,
        mesh=make_mesh(MeshOptions(**context.config.mesh)),
    )


def jit_update(task: Task, abstract: TrainState, *, mesh: Mesh | AbstractMesh) -> Callable:
    """The program that trains: `update(state, batch, key) -> (state, metrics)`.

    It donates the state, counts the step and folds it into the key. Call or lower it where the
    mesh is set (`jax.set_mesh`). The new state lives where `abstract_state` says.
    """

    def update(state, batch, key):
        new, metrics = task.step(state, batch, jax.random.fold_in(key, state.step))
        return new.replace(step=state.step + 1), metrics

    places = _places(abstract), sharding.replicated(mesh)
    return jax.jit(update, donate_argnums=0, out_shardings=places)


def _flops(task: Task, mesh: Mesh, *arguments: Any) -> float | None:
    """The model's operations in one step, where a share of the devices' peak can be told."""
    known = peak_flops(list(mesh.devices.flat)) is not None
    return flops.count(task.counted or task.step, *arguments) if known else None


@dataclasses.dataclass
class _Run:
    """Reports the metrics of a run and keeps the host at most one step ahead of the devices."""

    task: Task
    logger: Logger
    log_every: int
    speed: Throughput
    pending: Metrics | None = None

    def report(self, step: int, metrics: Metrics, *, progress: Progress, last: bool) -> None:
        """Waits for the step before this one; on every `log_every`th, writes this one's metrics."""
        # The clock starts with the first count: that step is waited for, too.
        jax.block_until_ready(metrics if self.pending is None else self.pending)
        self.pending = metrics
        self.speed.count()
        note = ""
        if last or step % self.log_every == 0:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            _check_loss(self.task, values, step=step)
            speed = self.speed.report()
            self.logger.metrics(self.task.name, step, values=values | speed)
            if last and throughput.STEPS in speed:
                self.logger.say(f"{self.task.name}: {throughput.line(speed)}")
            note = f"loss {values['loss']:.4g}"
        progress.advance(note=note)


def _check_loss(task: Task, values: Mapping[str, float], *, step: int) -> None:
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if "loss" in bad:
        raise UserError(
            f"{task.name}: at step {step} these are not finite: {', '.join(bad)}; a lower learning "
            f"rate often helps, and the last good checkpoint is kept"
        )
