"""What a run would take on a pod that is not there: memory, time, traffic, chip-hours.

    python -m headjax.tools.plan --config=configs/g3diff.py:paper --topology=v5e:4x4

Compiles the real training step for the real topology with libtpu's compiler on a CPU; docs/pods.md
says how to read the result.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import flags

from headjax.errors import UserError
from headjax.tools import command
from headjax.train import config as configs
from headjax.train.logging import duration
from headjax.train.mesh import MeshOptions
from headjax.train.planning import cache, measure, report, sweep, topology
from headjax.train.stages import write_json
from headjax.train.workload import Workload

_HELP = """\
headjax plan: what a training run would take on machines that are not there.

usage: python -m headjax.tools.plan --config=NAME[:PRESET] --topology=CHIP:SHAPE [flags]
                                    [--config.FIELD=VALUE ...]

  --config=NAME[:PRESET]    as for headjax.main
  --topology=CHIP:SHAPE     TPUs: v5e:4x4, v5e:16x16, v6e:8x8, v5p:4x4x4 (needs libtpu, no TPU);
                            GPUs: h100:8, h200:8, a100:8, l4:4, t4:1 (an estimate)
  --stage=NAME              one stage; all training stages by default
  --batch=N                 rows of the whole batch; the config's by default
  --sweep                   try batch, remat and mesh, name the best that fits
  --output=FILE.json        also write the plans there
  --cache=FOLDER            keep plans there; {cache} by default
  --config.FIELD=VALUE      override any field, as for headjax.main

A large step takes minutes to compile; what was compiled once is kept."""

_CHILD = "HEADJAX_PLAN_DEVICES"
_EVERY_SECONDS = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    return command.run(_plan, argv, help_text=_HELP.format(cache=cache.default_folder()))


def _plan(arguments: list[str]) -> int:
    parser, overrides = _parse(arguments)
    where = topology.parse(parser.topology)
    build = _builder(parser.config, overrides)
    stages = _chosen(build([])[0], parser.stage)
    if not where.is_tpu and os.environ.get(_CHILD) != str(where.chips):
        return _with_devices(where.chips, arguments)
    # The compiler is all that is needed, and a TPU of this machine must stay free for others.
    jax.config.update("jax_platforms", "cpu")
    folder = Path(parser.cache) if parser.cache else cache.default_folder()

    def plan_of(name: str, more: list[str]) -> dict[str, Any]:
        every, options = build(more)
        stage = next(stage for stage in every if stage.name == name)
        with _telling_time() as say:
            return measure.plan(stage, where, options=options, say=say, folder=folder)

    plans = []
    for stage in stages:
        more = [_batch(stage, parser.batch)] if parser.batch else []
        if parser.sweep:
            plans += _sweep(stage, where, more, lambda m, s=stage: plan_of(s.name, m), parser.batch)
        else:
            plans.append(plan_of(stage.name, more))
            print(report.text(plans[-1]), end="\n\n", flush=True)
    if parser.output:
        write_json(Path(parser.output), {"plans": plans})
    return 0


def _sweep(
    stage: Workload,
    where: topology.Topology,
    more: list[str],
    plan_of: Callable[[list[str]], dict[str, Any]],
    batch: int | None,
) -> list[dict[str, Any]]:
    """Prints what was tried and the best; returns the plans."""

    def fields(choice: sweep.Choice) -> list[str]:
        preset, fsdp = choice.mesh
        named = {"mesh.preset": preset, "mesh.fsdp": fsdp, stage.fields["batch"]: choice.batch}
        if choice.remat:
            named[stage.fields["remat"]] = choice.remat
        return [f"--config.{name}={value}" for name, value in named.items()]

    every = sweep.choices(
        batch or stage.batch_size, remat="remat" in stage.fields, chips=where.chips
    )
    made = sweep.run(every, lambda choice: plan_of([*more, *fields(choice)]), say=_say)
    print(f"{stage.name} on {where.name}\n\n{sweep.table(made)}\n", flush=True)
    if (found := sweep.best(made)) is None:
        print(f"none of them fits on {where.name}\n")
    else:
        print(f"best that fits: {found[0]}\n  {' '.join(fields(found[0]))}\n")
        print(report.text(found[1]), end="\n\n", flush=True)
    return [plan for _, plan in made]


def _parse(arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    parser = flags.FlagValues()
    parser.set_gnu_getopt(True)
    for name in ("config", "topology", "stage", "output", "cache"):
        flags.DEFINE_string(name, None, "", flag_values=parser)
    flags.DEFINE_integer("batch", None, "", 1, flag_values=parser)
    flags.DEFINE_bool("sweep", False, "", flag_values=parser)
    rest = configs.parsed(parser, arguments)
    for argument in rest:
        if not argument.startswith(("--config.", "--noconfig.")):
            raise UserError(f"unknown flag {argument!r}; --help lists all flags")
    for name in ("config", "topology"):
        if not parser[name].value:
            raise UserError(f"--{name} is missing (--help lists all flags)")
    return parser, rest


def _builder(
    spec: str, overrides: list[str]
) -> Callable[[list[str]], tuple[list[Workload], MeshOptions]]:
    """From more overrides to the workloads and the mesh of the config."""

    def build(more: list[str]) -> tuple[list[Workload], MeshOptions]:
        values = configs.load(spec, overrides=[*overrides, *more]).values
        options = MeshOptions(**values.mesh) if "mesh" in values else MeshOptions()
        return _workloads(values.system).workloads(values), options

    return build


def _workloads(system: str) -> ModuleType:
    name = f"headjax.systems.{system}.workloads"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise UserError(f"the system {system!r} has no training stages that can be planned") from (
            error
        )


def _chosen(stages: list[Workload], name: str | None) -> list[Workload]:
    chosen = [stage for stage in stages if name in (None, stage.name)]
    if not chosen:
        names = [stage.name for stage in stages]
        guess = configs.did_you_mean(name or "", names)
        raise UserError(f"--stage={name} is unknown{guess}; choose one of {', '.join(names)}")
    return chosen


def _batch(stage: Workload, batch: int) -> str:
    if "batch" not in stage.fields:
        raise UserError(f"the stage {stage.name} has no batch that --batch could set")
    return f"--config.{stage.fields['batch']}={batch}"


def _with_devices(count: int, arguments: list[str]) -> int:
    """Runs the same command in a process with so many simulated devices."""
    xla = f"{os.environ.get('XLA_FLAGS', '')} {topology.device_flag(count)}".strip()
    environment = os.environ | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", _CHILD: str(count)}
    command = [sys.executable, "-m", "headjax.tools.plan", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def _say(line: str) -> None:
    print(f"headjax plan: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _telling_time() -> Iterator[Callable[[str], None]]:
    """Says what is being done, and while it goes on, how long it has taken."""
    began, doing, done = time.monotonic(), [""], threading.Event()

    def say(line: str) -> None:
        doing[0] = line
        _say(line)

    def tick() -> None:
        while not done.wait(_EVERY_SECONDS):
            _say(f"{doing[0]} ... {duration(time.monotonic() - began)}")

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield say
    finally:
        done.set()
        ticking.join()


if __name__ == "__main__":
    sys.exit(main())
