"""Checkpoints of training runs (Orbax V1), of one process or of several that share a file system.

Nothing else of headjax imports Orbax. A checkpoint holds the state, the position of the data
iterator and the seed, with a fingerprint of each array: Orbax's own files carry none for the
values. It is read onto any mesh and, for real numbers, into any precision; what was written is
verified before it is converted.

With several processes each of them makes the same calls. Orbax writes and reads the parts that a
process holds; process 0 alone lists, removes and renames, and a checkpoint is good only if every
process could read its part, so all of them go on from the same one.
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from headjax.errors import UserError
from headjax.io import atomic
from headjax.train import exchange
from headjax.train.fingerprint import fingerprints

SCHEMA_VERSION = 2
_STATE = "state"
# How long the processes of a run wait for each other's part of a save; Orbax has 20 minutes.
_SAVE_SECONDS = 2 * 3600
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run, one folder a step.

    Use it as a context manager: leaving it waits for the last save.

    Args:
        folder: where they are, for this run alone; all processes see it.
        keep: how many of the latest stay.
        keep_every: those of every so many steps stay for ever; 0 for none.
    """

    def __init__(self, folder: Path, *, keep: int = 2, keep_every: int = 0):
        # Not `ocp.training.Checkpointer`: it reads the description of every step when it starts,
        # so one damaged step, however old, would stop a run that has a good one.
        if keep < 1 or keep_every < 0:
            raise ValueError(f"keep={keep} must be at least 1, keep_every={keep_every} at least 0")
        self._folder = Path(folder).absolute()
        self._keep, self._keep_every = keep, keep_every
        self._pending: ocp.AsyncResponse | None = None
        exchange.on_first(self._make_folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_error) -> None:
        self.wait()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, readable or not, in ascending order."""
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())

    def save(self, step: int, state: Any, *, iterator: Any = None, seed: int = 0) -> None:
        """Writes a checkpoint in the background; the state may be donated as soon as this returns.

        Args:
            step: the number of updates made.
            state: a tree of JAX arrays.
            iterator: the data iterator, standing before the batch of this very step; its position
                is the same on all processes.
            seed: the run's seed; a resumed run must have the same.

        Raises:
            UserError: values that are not finite, which would spoil the checkpoint; or no room on
                the disk (then, or at the next call).
        """
        _check_leaves(state)
        prints = fingerprints(state)
        self._check_finite(step, state, prints.finite)
        notes = {
            "schema_version": SCHEMA_VERSION,
            "seed": seed,
            "iterator": None if iterator is None else _jsonable(iterator.get_state()),
            "form": _form(state),
            "fingerprints": prints.text(),
        }
        self.wait()
        exchange.gather("")  # Orbax waits five minutes for one that still removes files
        context = ocp.Context()
        context.asynchronous.timeout_secs = _SAVE_SECONDS
        with _telling_no_room(self._folder), context:
            self._pending = ocp.save_checkpointables_async(
                self._folder / str(step),
                {_STATE: state},
                custom_metadata=notes | {"digest": _digest(notes)},
            )

    def restore_latest(self, abstract: Any, *, iterator: Any = None, seed: int = 0) -> Any | None:
        """The state of the newest readable checkpoint, or None where there is none at all.

        Newer checkpoints that cannot be read are named in a warning and moved aside.

        Args:
            abstract: the state's form, `jax.ShapeDtypeStruct`s with shardings; real numbers may be
                of another precision than those saved.
            iterator: a data iterator, which is set to the checkpoint's position.
            seed: the seed of the run.

        Raises:
            UserError: there are checkpoints and none can be read, one is of another headjax's
                schema, or the seed is another.
        """
        unreadable: dict[int, str] = {}
        for step in reversed(exchange.on_first(self.steps)):
            try:
                state, notes = self._read(step, abstract, seed=seed)
            except _Unreadable as error:
                unreadable[step] = str(error)
                _count_operations_alike()
                continue
            exchange.on_first(functools.partial(self._set_aside, unreadable, using=step))
            if iterator is not None:
                iterator.set_state(_from_jsonable(notes["iterator"]))
            return state
        if unreadable:
            listing = "; ".join(f"step {step}: {why}" for step, why in unreadable.items())
            raise UserError(
                f"none of the checkpoints in {self._folder} can be read ({listing}); "
                f"delete that folder to train this stage from its start"
            )
        return None

    def wait(self) -> None:
        """Returns when the last save is on the disk, and removes checkpoints that are too old."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with _telling_no_room(self._folder):
            pending.result()
        # The others do not wait for it: one that leaves in trouble must not wait for anyone.
        if jax.process_index() == 0:
            for step in self.steps()[: -self._keep]:
                if not self._keep_every or step % self._keep_every:
                    shutil.rmtree(self._folder / str(step))

    def _make_folder(self) -> None:
        with atomic.telling_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for cut_off in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(cut_off)

    def _read(self, step: int, abstract: Any, *, seed: int) -> tuple[Any, dict]:
        """The state and the notes; raises the same on all processes."""
        path = self._folder / str(step)
        notes = _agreed(lambda: self._read_notes(path, abstract, seed=seed), digest=_digest)
        stored = _as_stored(abstract, notes["form"])
        state = _agreed(lambda: _load(path, stored))
        if fingerprints(state).text() != notes["fingerprints"]:
            raise _Unreadable("ValueError: its values do not match their checksums")
        return jax.tree.map(_converted, state, abstract), notes

    def _read_notes(self, path: Path, abstract: Any, *, seed: int) -> dict:
        with _alone():
            notes = dict(ocp.checkpointables_metadata(path).custom_metadata or {})
        if notes.pop("digest", None) != _digest(notes):
            raise ValueError("its description is damaged")
        version = notes["schema_version"]
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} was written by a newer headjax (schema "
                f"{version}, this one reads up to {SCHEMA_VERSION}); update headjax"
            )
        if version < SCHEMA_VERSION:
            raise UserError(
                f"{path} was written by an older headjax (schema {version}, this one reads "
                f"{SCHEMA_VERSION}); finish with that one, or delete {self._folder} to train this "
                f"stage from its start"
            )
        if notes["seed"] != seed:
            raise UserError(
                f"{self._folder} was made with seed {notes['seed']}, this run has seed {seed}; "
                f"give it another work directory"
            )
        _check_form(notes["form"], abstract)
        return notes

    def _set_aside(self, unreadable: Mapping[int, str], *, using: int) -> None:
        for step, why in unreadable.items():
            path = self._folder / str(step)
            aside = path.with_name(f"{step}.unreadable")
            _log.warning(
                "%s cannot be read (%s): it is now %s, going on from step %d",
                path, why, aside.name, using,
            )  # fmt: skip
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def _check_finite(self, step: int, state: Any, finite: np.ndarray) -> None:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        for path, good in zip(paths, finite, strict=True):
            if not good:
                last = self.steps()[-1:] or "none"
                raise UserError(
                    f"at step {step} {jax.tree_util.keystr(path)} is not finite, so nothing was "
                    f"saved; the last good checkpoint in {self._folder} is {last}"
                )


class _Unreadable(Exception):
    """A checkpoint that one of the processes cannot read, with the reason in one line."""


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """How one process fared: a user's mistake, another trouble, or neither; and what it found."""

    mistake: str = ""
    trouble: str = ""
    digest: str = ""


def _agreed(work: Callable[[], Any], *, digest: Callable[[Any], str] = lambda _: "") -> Any:
    """What `work` returns, if no process had trouble with it and all results have one `digest`.

    Raises:
        UserError, _Unreadable: on all of them what the first that failed met.
    """
    result, own = None, _Outcome()
    try:
        result = work()
        own = _Outcome(digest=digest(result))
    except UserError as error:
        own = _Outcome(mistake=str(error))
    except Exception as error:  # a damaged file may fail in any of Orbax's layers
        own = _Outcome(trouble=_one_line(error))
    texts = exchange.gather(json.dumps(dataclasses.asdict(own)))
    outcomes = [_Outcome(**json.loads(text)) for text in texts]
    for mistake in filter(None, (outcome.mistake for outcome in outcomes)):
        raise UserError(mistake)
    for trouble in filter(None, (outcome.trouble for outcome in outcomes)):
        raise _Unreadable(trouble)
    if len({outcome.digest for outcome in outcomes}) > 1:
        raise _Unreadable("ValueError: the processes read different descriptions of it")
    return result


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Orbax works for this process without waiting for others, who may have met trouble."""
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        yield


def _count_operations_alike() -> None:
    """Orbax numbers its operations, and processes meet under a number at the next save.

    One that failed early has counted fewer of them than the others.
    """
    if jax.process_count() == 1:
        return
    # The count has no public name.
    from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator

    while True:
        counts = [int(n) for n in exchange.gather(OperationIdGenerator.get_current_operation_id())]
        if len(set(counts)) == 1:
            return
        if counts[jax.process_index()] < max(counts):
            OperationIdGenerator.next_operation_id()


def _load(path: Path, stored: Any) -> Any:
    """This process' part of the state, in the form in which it was written."""
    with _alone():
        state = ocp.load_checkpointables(path, {_STATE: stored})[_STATE]
    _check_form(_form(state), stored)
    jax.block_until_ready(state)
    return state


def _check_leaves(state: Any) -> None:
    """Orbax stalls on leaves that are no arrays and refuses empty ones; say which, at once."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not isinstance(leaf, jax.Array) or leaf.size == 0:
            raise TypeError(
                f"state{jax.tree_util.keystr(path)}: a checkpoint holds JAX arrays of at least one "
                f"element, got {type(leaf).__name__} of shape {np.shape(leaf)}"
            )


def _form(state: Any) -> dict[str, str]:
    """The type and shape of every leaf by its name, `float32[3, 4]`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_form(form: Mapping[str, str], abstract: Any) -> None:
    """Raises ValueError naming the first leaf that cannot become what is expected."""
    expected = _form(abstract)
    for name in sorted({*form, *expected}):
        have, want = form.get(name, "absent"), expected.get(name, "absent")
        same_shape = have.partition("[")[1:] == want.partition("[")[1:]
        if have != want and not (same_shape and _is_real(have) and _is_real(want)):
            raise ValueError(f"{name} is {have}, this run needs {want}")


def _is_real(form: str) -> bool:
    return form.startswith(("float", "bfloat"))


def _as_stored(abstract: Any, form: Mapping[str, str]) -> Any:
    """The abstract state with the dtypes in which it was written."""
    forms = [form[name] for name in _form(abstract)]
    leaves, tree = jax.tree.flatten(abstract)
    stored = [
        jax.ShapeDtypeStruct(
            leaf.shape,
            jnp.dtype(text.partition("[")[0]) if _is_real(text) else leaf.dtype,
            sharding=leaf.sharding,
        )
        for leaf, text in zip(leaves, forms, strict=True)
    ]
    return jax.tree.unflatten(tree, stored)


def _converted(leaf: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """The leaf in the wanted precision; keys come back with a sharding that only means the same."""
    if leaf.dtype == wanted.dtype and leaf.sharding == wanted.sharding:
        return leaf
    return jax.jit(lambda x: x.astype(wanted.dtype), out_shardings=wanted.sharding)(leaf)


def _digest(notes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def _jsonable(state: Any) -> Any:
    """An iterator's position as JSON: grain gives a dict or bytes."""
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def _from_jsonable(state: Any) -> Any:
    return base64.b64decode(state["base64"]) if set(state) == {"base64"} else state


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


@contextlib.contextmanager
def _telling_no_room(folder: Path) -> Iterator[None]:
    """Background writes fail with errors of several kinds; only their text tells a full disk."""
    try:
        with atomic.telling_errors(folder):
            yield
    except (ValueError, RuntimeError) as error:
        if "No space left" not in str(error):
            raise
        raise UserError(
            f"{folder}: no room on the disk for a checkpoint; free some space and run again"
        ) from error
