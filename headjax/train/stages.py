"""Stages: the named, resumable units that a system is made of, run in order and each once."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headjax.errors import UserError
from headjax.io import atomic
from headjax.train.distributed import Group
from headjax.train.logging import Logger

SCHEMA_VERSION = 1
# Groups of a config that say where and how fast a run runs, not what comes out of it.
HOW_IT_RUNS = ("mesh", "input")


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage is given.

    Attributes:
        config: the whole configuration, frozen (`ml_collections.FrozenConfigDict`).
        workdir: where artefacts are read and written.
        data_dir: where prepared data is.
        logger: where metrics, progress and lines go.
        seed: the run's seed.
        group: the processes of the run.
    """

    config: Any
    workdir: Path
    data_dir: Path
    logger: Logger
    seed: int
    group: Group = dataclasses.field(default_factory=Group)

    @property
    def config_hash(self) -> str:
        """The configuration's fingerprint, for the metadata of artefacts."""
        return config_hash(self.config)

    @property
    def metadata(self) -> dict[str, Any]:
        """Where an artefact comes from: configuration, system and seed."""
        return {
            "config_hash": self.config_hash, "system": self.config.system, "seed": self.seed
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stage:
    """One unit of a system.

    Attributes:
        name: unique in its system; also names its marker file and checkpoints.
        run: reads artefacts from the work directory and writes its own; called again after a
            cut-off, it must go on or start over.
        summary: what it does, in a few words.
        minutes: how long about, on two CPU cores.
        outputs: files of the work directory that it leaves; it is done only while they are there.
        everywhere: all processes of the run work on it (training does); otherwise the leading one
            does and the others wait.
    """

    name: str
    run: Callable[[Context], None]
    summary: str = ""
    minutes: float = 0.0
    outputs: tuple[str, ...] = ()
    everywhere: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a dry run: a part of a stage, with what it costs.

    Attributes:
        stage: the stage's name.
        what: the part (a network, a data set, a table of codes).
        parameters: trained numbers, or None where that makes no sense.
        memory: bytes that it takes while the stage runs (state, gradients, batch), or None.
    """

    stage: str
    what: str
    parameters: int | None = None
    memory: int | None = None


def config_hash(config: Any) -> str:
    """Fingerprint of what a configuration computes: SHA-256 of sorted JSON, 16 digits."""
    values = json.dumps(what_it_computes(config), sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def what_it_computes(config: Any) -> dict[str, Any]:
    """A configuration as `plain` gives it, without the groups that only say how it runs."""
    return {name: value for name, value in plain(config).items() if name not in HOW_IT_RUNS}


def plain(config: Any) -> Any:
    """A configuration as JSON knows it: dicts, lists, numbers, strings, booleans and None."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(name): plain(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a config holds plain values, got {type(config).__name__}: {config!r}")


def run_stages(stages: Sequence[Stage], context: Context) -> list[str]:
    """Runs the stages in order, leaving out those that are done; returns the names it ran.

    A stage's marker `stages/<name>.json` is written last of all, so a stage that was cut off is
    run again and goes on from what it finds.

    Raises:
        UserError: a marker that cannot be read or belongs to another configuration.
    """
    ran, group = [], context.group
    for stage in stages:
        if group.decide(functools.partial(is_done, stage, context)):
            continue
        context.logger.event(stage.name, "stage started")
        if group.leads or stage.everywhere:
            stage.run(context)
        if group.leads:
            marker = {"stage": stage.name, "config_hash": context.config_hash}
            write_json(_marker(stage, context.workdir), marker)
        group.wait_for_all()
        check_shared(_marker(stage, context.workdir), group)
        context.logger.event(stage.name, "stage finished")
        ran.append(stage.name)
    return ran


def check_shared(path: Path, group: Group) -> None:
    """Every process must see what the leading one wrote; some file systems take a moment.

    Raises:
        UserError: this one does not.
    """
    for _ in range(20):
        if path.exists():
            return
        time.sleep(0.5)
    raise UserError(
        f"process {group.index} does not see {path}, which process 0 wrote; --workdir and "
        "--data_dir must lie on a file system that all processes share"
    )


def is_done(stage: Stage, context: Context) -> bool:
    """Whether the stage's result is there for this very configuration."""
    path = _marker(stage, context.workdir)
    if not path.exists():
        return False
    marker = read_json(path)
    if marker.get("config_hash") != context.config_hash:
        raise UserError(
            f"{path} was written for another config; use another --workdir, or delete "
            f"{context.workdir} to start over"
        )
    return all((context.workdir / name).exists() for name in stage.outputs)


def read_json(path: Path) -> dict:
    """A JSON object that headjax wrote.

    Raises:
        UserError: it is damaged, or of a newer schema.
    """
    try:
        value = json.loads(path.read_text())
        version = value["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged (not headjax's JSON); delete it to go on") from error
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer headjax (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); update headjax"
        )
    return value


def finite(scores: Mapping[str, float | str]) -> dict[str, float | str]:
    """Scores as JSON knows them: what nothing could tell (no such pixels) is 'n/a'; text stays."""
    return {
        name: value if isinstance(value, str) or math.isfinite(value) else "n/a"
        for name, value in scores.items()
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with the schema's version, whole or not at all."""
    atomic.write_bytes(path, _json_bytes({"schema_version": SCHEMA_VERSION} | dict(values)))


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the work directory for this process; a lock dies with its process, however that ends.

    Raises:
        UserError: another run is working there, or the directory cannot be made.
    """
    with atomic.telling_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"another run (process {owner}) is working in {workdir}; wait for it or use "
                f"another --workdir"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def clear_debris(workdir: Path) -> None:
    """Removes the temporary files of `headjax.io.atomic` that a killed run left behind."""
    for path in workdir.rglob(".*.tmp*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp(\..+)?", path.name) and path.is_file():
            path.unlink()


def _marker(stage: Stage, workdir: Path) -> Path:
    return workdir / "stages" / f"{stage.name}.json"


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
