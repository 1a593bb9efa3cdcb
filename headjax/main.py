"""The command line: runs the stages of a system as a config says.

    python -m headjax.main --config=configs/g3diff.py:smoke --workdir=runs/mine

`--help` lists the flags, the configs and their presets.
"""

import contextlib
import errno
import importlib
import io
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from absl import flags

import headjax
from headjax.errors import UserError
from headjax.train import compilation, distributed, stages
from headjax.train import config as configs
from headjax.train.distributed import Group
from headjax.train.logging import Logger, duration
from headjax.train.signals import Interrupted, stopping_at_once

_HELP_FLAGS = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
_HELP = """\
headjax {version}: trains and runs a system of 3D heads as a config says.

usage: python -m headjax.main --config=NAME[:PRESET] [flags] [--config.FIELD=VALUE ...]

  --config=NAME[:PRESET]    a shipped config (g3diff:smoke) or a file (configs/g3diff.py:smoke)
  --workdir=FOLDER          where everything goes; runs/NAME-PRESET by default
  --data_dir=FOLDER         where prepared data is kept; WORKDIR/data by default
  --dry_run                 print stages, parameter counts and memory, train nothing
  --distributed=MODE        several processes as one run: on, off, or auto (where SLURM, a TPU pod
                            or HEADJAX_PROCESSES say so); all need the same files
  --compilation_cache=DIR   keep compiled programs there for later runs; whoever can write there
                            can have their code run by you
  --config.FIELD=VALUE      override any field: --config.diffusion.steps=500
  --help                    this text; with --config, also every field and its value

The same command goes on after a cut-off, and does nothing once all is done.

examples:
  python -m headjax.main --config=g3diff:smoke
  python -m headjax.main --config=configs/g3diff.py --workdir=runs/mine --config.seed=1
  python -m headjax.main --config=g3diff --dry_run

systems: {systems}
configs and their presets:
{configs}"""


class _Arguments(NamedTuple):
    config: str | None
    workdir: str | None
    data_dir: str | None
    compilation_cache: str | None
    distributed: str
    dry_run: bool
    overrides: list[str]


class _ToStderr(logging.Handler):
    """Prints a line a record, to whatever standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


@contextlib.contextmanager
def _telling_which_kernels_run() -> Iterator[None]:
    kernels, handler = logging.getLogger("pallas_kernels"), _ToStderr()
    before = kernels.level, kernels.propagate
    kernels.addHandler(handler)
    kernels.setLevel(logging.INFO)
    kernels.propagate = False
    try:
        yield
    finally:
        kernels.removeHandler(handler)
        kernels.level, kernels.propagate = before


class _Ending(NamedTuple):
    """How a run ends: exit code, what to say, and whether all of its processes end here."""

    code: int = 0
    text: str = ""
    together: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Orbax and others report through absl what headjax says in its own words, or need not say.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    group, ending = Group(), _Ending()
    try:
        with stopping_at_once(), _telling_which_kernels_run():
            parsed = _parse([a for a in arguments if a not in _HELP_FLAGS])
            if not _HELP_FLAGS.isdisjoint(arguments):
                print(_help(parsed))
                return 0
            group = distributed.join(parsed.distributed)
            _main(parsed, group)
    except BaseException as error:
        ending = _ending(error)
        if ending is None:
            group.explain(error)
            if group.count > 1:
                traceback.print_exc()
                group.fail(1, repr(error))
            raise
    if ending.text:
        print(f"headjax: {ending.text}", file=sys.stderr)
    if not ending.together:
        group.fail(ending.code, ending.text)
    group.leave()
    return ending.code


def _ending(error: BaseException) -> _Ending | None:
    """How a run ends that `error` cut off; None for errors that are ours, not the user's."""
    if isinstance(error, UserError):
        return _Ending(2, str(error), together=False)
    if isinstance(error, Interrupted):
        text = f"{error.message}; the same command goes on from there"
        return _Ending(_stopped_code(), text, together=error.agreed)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"no room on the disk ({error}); free some space and run the same command again"
        return _Ending(2, text, together=False)
    return None


def _stopped_code() -> int:
    """The exit code of a run that was stopped and is not done: 0, or what the launcher asks for.

    Kubernetes takes a 0 for a finished job and would not start it again.
    """
    text = os.environ.get("HEADJAX_STOPPED_CODE", "")
    return int(text) if text.isdigit() else 0


def _main(parsed: _Arguments, group: Group) -> None:
    if not parsed.config:
        raise UserError(
            "--config is missing; for example --config=g3diff:smoke (--help lists all flags)"
        )
    if parsed.compilation_cache:
        compilation.use_cache(Path(parsed.compilation_cache))
    config = configs.load(parsed.config, overrides=parsed.overrides)
    system = _system(config.values.system)
    if parsed.dry_run:
        print(_dry_run(config, system))
    else:
        _run(config, system, parsed, group)


def _parse(arguments: list[str]) -> _Arguments:
    parser = flags.FlagValues()
    parser.set_gnu_getopt(True)
    for name in ("config", "workdir", "data_dir", "compilation_cache"):
        flags.DEFINE_string(name, None, "", flag_values=parser)
    flags.DEFINE_string("distributed", "auto", "", flag_values=parser)
    flags.DEFINE_bool("dry_run", False, "", flag_values=parser)
    rest = configs.parsed(parser, arguments)
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name.partition(".")[0] not in ("config", "noconfig"):
            guess = configs.did_you_mean("--" + name, [f"--{flag}" for flag in parser])
            raise UserError(f"unknown flag {argument!r}{guess}; --help lists all flags")
    return _Arguments(*(parser[name].value for name in _Arguments._fields[:-1]), rest)


def _run(
    config: configs.Config, system: ModuleType, parsed: _Arguments, group: Group
) -> None:
    workdir = Path(parsed.workdir or f"runs/{config.name}-{config.preset}")
    data_dir = Path(parsed.data_dir or workdir / "data")
    # First: a config that cannot run must not take possession of the work directory.
    every = system.stages(config.values)
    with _writing(workdir, group) as logger:
        context = stages.Context(
            config=config.values,
            workdir=workdir,
            data_dir=data_dir,
            logger=logger,
            seed=int(config.values.get("seed", 0)),
            group=group,
        )
        left = group.decide(lambda: _stages_left(every, config, context))
        stages.check_shared(workdir / configs.FILE, group)
        title = f"headjax {headjax.__version__}: {config.name}:{config.preset} in {workdir}"
        if not left:
            logger.say(f"{title}: all {len(every)} stages are done, nothing to do")
            return
        logger.say(f"{title}: {_plan(every, left)}")
        stages.run_stages(every, context)
        logger.say(f"headjax: done, the results are in {workdir}")


@contextlib.contextmanager
def _writing(workdir: Path, group: Group) -> Iterator[Logger]:
    """The voice of the run: the leading process', who holds the work directory; mute elsewhere."""
    if not group.leads:
        with Logger(None, stream=io.StringIO()) as logger:
            yield logger
        return
    with stages.locked(workdir), Logger(workdir) as logger:
        yield logger


def _stages_left(
    every: Sequence[stages.Stage], config: configs.Config, context: stages.Context
) -> list[str]:
    """Names of the stages that are not done, the work directory being made ready for them."""
    configs.keep(context.workdir, config)
    stages.clear_debris(context.workdir)
    return [stage.name for stage in every if not stages.is_done(stage, context)]


def _plan(every: Sequence[stages.Stage], left: Sequence[str]) -> str:
    """What will run, on which devices, how long about."""
    names = " → ".join(left)
    done = f" ({len(every) - len(left)} done already)" if len(left) < len(every) else ""
    minutes = sum(stage.minutes for stage in every if stage.name in left)
    time = f", about {duration(minutes * 60)} on two CPU cores" if minutes else ""
    return f"{names}{done}, on {_devices()}{time}"


def _devices() -> str:
    import jax

    devices = jax.devices()
    kind, hosts = devices[0].device_kind, jax.process_count()
    text = f"{len(devices)} {kind} device{'s' if len(devices) > 1 else ''}"
    return f"{text} of {hosts} processes" if hosts > 1 else text


def _system(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"headjax.systems.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"headjax.systems.{name}":
            raise
        guess = configs.did_you_mean(name, _systems())
        raise UserError(
            f"there is no system {name!r}{guess}; there are: {', '.join(_systems())}"
        ) from error


def _systems() -> list[str]:
    import headjax.systems

    return [module.name for module in pkgutil.iter_modules(headjax.systems.__path__)]


def _help(parsed: _Arguments) -> str:
    lines = []
    for name in configs.shipped():
        lines.append(f"  {name}")
        lines += [f"    :{preset:<12} {line}" for preset, line in configs.presets(name).items()]
    text = _HELP.format(
        version=headjax.__version__, systems=", ".join(_systems()), configs="\n".join(lines)
    )
    if parsed.config:
        values = configs.load(parsed.config, overrides=parsed.overrides).values
        fields = [
            f"  {name} = {value!r}" for name, value in configs.flatten(stages.plain(values)).items()
        ]
        text += "\n".join([f"\n\nfields of {parsed.config}:", *fields])
    return text


def _dry_run(config: configs.Config, system: ModuleType) -> str:
    """Stages, parameter counts and memory as a table."""
    every = system.stages(config.values)
    rows = [("stage", "part", "parameters", "memory")]
    rows += [
        (row.stage, row.what, _count(row.parameters), _bytes(row.memory))
        for row in system.describe(config.values)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines = [f"{config.name}:{config.preset} (nothing is trained or written)", ""]
    for stage in every:
        time = f" (about {duration(stage.minutes * 60)})" if stage.minutes else ""
        lines.append(f"  {stage.name}: {stage.summary}{time}")
    return "\n".join([*lines, "", *(line.rstrip() for line in table), "", f"on {_devices()}"])


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _bytes(number: int | None) -> str:
    return "" if number is None else f"{number / 2**20:,.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
