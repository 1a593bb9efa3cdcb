"""Checkpoints of training runs (Orbax V1) and the weights that finished stages leave behind.

Nothing else of headjax imports Orbax. A checkpoint holds the state, the position of the data
iterator and the seed, with a checksum of each array: Orbax's own files carry none for the values.
"""

import base64
import contextlib
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from orbax.checkpoint import v1 as ocp

from headjax.errors import UserError
from headjax.io import atomic

SCHEMA_VERSION = 1
_STATE = "state"
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run, one folder a step; the latest few are kept.

    Use it as a context manager: leaving it waits for the last save.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        # Not `ocp.training.Checkpointer`: it reads the description of every step when it starts,
        # so one damaged step, however old, would stop a run that has a good one.
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._pending: ocp.AsyncResponse | None = None
        with atomic.telling_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for cut_off in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(cut_off)

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
            iterator: the data iterator, standing before the batch of this very step.
            seed: the run's seed; a resumed run must have the same.

        Raises:
            UserError: values that are not finite, which would spoil the checkpoint; or no room on
                the disk (then, or at the next call).
        """
        _check_leaves(state)
        self._check_finite(step, state)
        notes = {
            "schema_version": SCHEMA_VERSION,
            "seed": seed,
            "iterator": None if iterator is None else _jsonable(iterator.get_state()),
            "form": _form(state),
            "checksums": _checksums(state),
        }
        self.wait()
        with _telling_no_room(self._folder):
            self._pending = ocp.save_checkpointables_async(
                self._folder / str(step),
                {_STATE: state},
                custom_metadata=notes | {"digest": _digest(notes)},
            )

    def restore_latest(self, abstract: Any, *, iterator: Any = None, seed: int = 0) -> Any | None:
        """The state of the newest readable checkpoint, or None where there is none at all.

        Newer checkpoints that cannot be read are named in a warning and moved aside.

        Args:
            abstract: the state's form, `jax.ShapeDtypeStruct`s with shardings.
            iterator: a data iterator, which is set to the checkpoint's position.
            seed: the seed of the run.

        Raises:
            UserError: there are checkpoints and none can be read, or the seed is another.
        """
        unreadable: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state, notes = self._read(step, abstract)
            except UserError:
                raise
            except Exception as error:  # a damaged file may fail in any of Orbax's layers
                unreadable[step] = _one_line(error)
                continue
            if notes["seed"] != seed:
                raise UserError(
                    f"{self._folder} was made with seed {notes['seed']}, this run has seed {seed}; "
                    f"give it another work directory"
                )
            self._set_aside(unreadable, using=step)
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
        if jax.process_index() == 0:
            for step in self.steps()[: -self._keep]:
                shutil.rmtree(self._folder / str(step))

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict]:
        path = self._folder / str(step)
        notes = dict(ocp.checkpointables_metadata(path).custom_metadata or {})
        if notes.pop("digest", None) != _digest(notes):
            raise ValueError("its description is damaged")
        if notes["schema_version"] > SCHEMA_VERSION:
            raise UserError(
                f"{path} was written by a newer headjax (schema "
                f"{notes['schema_version']}, this one reads up to {SCHEMA_VERSION}); update headjax"
            )
        _check_form(notes["form"], abstract)
        state = ocp.load_checkpointables(path, {_STATE: abstract})[_STATE]
        _check_form(_form(state), abstract)
        if _checksums(state) != notes["checksums"]:
            raise ValueError("its values do not match their checksums")
        return state, notes

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

    def _check_finite(self, step: int, state: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            values = _host(leaf)
            if values is not None and not np.isfinite(values).all():
                last = self.steps()[-1:] or "none"
                raise UserError(
                    f"at step {step} {jax.tree_util.keystr(path)} is not finite, so nothing was "
                    f"saved; the last good checkpoint in {self._folder} is {last}"
                )


def save_weights(path: Path, tree: Any, *, metadata: Mapping[str, Any]) -> None:
    """Writes a finished stage's arrays as safetensors, whole or not at all.

    Names are the tree's keys joined by '/'; the metadata is JSON, with `schema_version` added, and
    names where the weights come from (`config_hash` and the like). The same arguments give the
    same bytes.

    Args:
        path: where to; the ending is `.safetensors`.
        tree: nested dicts, dataclasses or lists of arrays.
        metadata: anything that JSON can hold.

    Raises:
        UserError: the place cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(tree), sep="/")
    arrays = {name: np.ascontiguousarray(jax.device_get(array)) for name, array in flat.items()}
    notes = json.dumps(dict(metadata) | {"schema_version": SCHEMA_VERSION}, sort_keys=True)
    atomic.write_bytes(path, safetensors.numpy.save(arrays, metadata={"headjax": notes}))


def load_weights(path: Path) -> tuple[dict, dict]:
    """The arrays (nested dicts, NumPy) and the metadata that `save_weights` wrote.

    Raises:
        UserError: no such file, not safetensors, not headjax's, or of a newer schema.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            notes = json.loads((file.metadata() or {}).get("headjax", "null"))
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such weights file") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_one_line(error)})") from error
    if not isinstance(notes, dict):
        raise UserError(f"{path}: these weights were not written by headjax (no metadata of its)")
    if notes["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"{path}: weights of schema {notes['schema_version']}, this headjax reads up to "
            f"{SCHEMA_VERSION}; update headjax"
        )
    return flax.traverse_util.unflatten_dict(flat, sep="/"), notes


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
    """Raises ValueError naming the first leaf that is not as expected."""
    expected = _form(abstract)
    for name in sorted({*form, *expected}):
        if form.get(name) != expected.get(name):
            raise ValueError(f"{name} is {form.get(name)}, this run needs {expected.get(name)}")


def _host(leaf: jax.Array) -> np.ndarray | None:
    """The array's values in host memory, or None if other processes hold a part of them."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return np.asarray(leaf) if leaf.is_fully_addressable else None


def _checksums(state: Any) -> list[int | None]:
    """CRC-32 of each leaf's bytes, in the tree's order."""
    return [
        None if (values := _host(leaf)) is None else _crc(values) for leaf in jax.tree.leaves(state)
    ]


def _crc(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8))


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
