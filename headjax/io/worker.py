"""A loading process: `python -m headjax.io.worker CONNECTION MEMORY SLOTS`, see `io.workers`.

It gets a function, then requests, and answers each with what the function makes of it. Arrays go
into the shared memory, where slot k of `SLOTS` is written again after as many answers; the rest of
the answer goes through the connection. It ends when the connection does, however its parent ended.
This file imports little, so that processes start quickly; the function brings what it needs.
"""

import mmap
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from headjax.errors import UserError

_ALIGNED = 64


@dataclass(frozen=True)
class Place:
    """Where an array lies in the shared memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def view(self, memory: mmap.mmap) -> np.ndarray:
        """The array in place."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset)

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Failure:
    """What the function raised, and where."""

    error: Exception
    where: str


def replaced(tree: Any, *, kind: type, by: Callable[[Any], Any]) -> Any:
    """The tree of dicts, lists and tuples with each leaf of a class replaced."""
    if type(tree) is dict:
        return {name: replaced(value, kind=kind, by=by) for name, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(replaced(value, kind=kind, by=by) for value in tree)
    return by(tree) if type(tree) is kind else tree


class _Slots:
    """Writes trees of arrays into the slots of a growing file in turn."""

    def __init__(self, file: int, count: int):
        self._file, self._count = file, count
        self._begin = self._room = self._turn = 0
        self._memory: mmap.mmap | None = None

    def put(self, tree: Any) -> Any:
        """The tree with a `Place` for each array."""
        sizes: list[int] = []
        replaced(tree, kind=np.ndarray, by=lambda array: sizes.append(_padded(array.nbytes)))
        if sum(sizes) > self._room:
            self._grow(sum(sizes))
        offset = self._begin + self._turn % self._count * self._room
        self._turn += 1

        def placed(array: np.ndarray) -> Any:
            nonlocal offset
            if array.dtype.hasobject or not array.nbytes:
                return array
            place = Place(offset, array.shape, array.dtype)
            place.view(self._memory)[...] = array
            offset += _padded(array.nbytes)
            return place

        return replaced(tree, kind=np.ndarray, by=placed)

    def _grow(self, room: int) -> None:
        """Larger slots, behind those that may not have been read."""
        self._begin += self._count * self._room
        self._room = room
        size = self._begin + self._count * room
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _failure(error: Exception) -> Failure:
    where = "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # Of any kind: it has a form of its own, but what it says can travel.
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, where)


def _function(connection: Connection) -> Callable[[Any], Any]:
    """The function; one that raises, if it cannot be had in this process."""
    text = connection.recv_bytes()
    try:
        return ForkingPickler.loads(text)
    except Exception as error:
        reason = error

    def failing(_request: Any) -> Any:
        if isinstance(reason, UserError | OSError):
            raise reason
        raise UserError(
            f"a process that loads batches could not take the source ({reason}); its classes and "
            "functions must be importable from a module, or set workers to 0"
        ) from reason

    return failing


def main(connection: Connection, slots: _Slots) -> None:
    """Answers requests until the connection ends."""
    try:
        function = _function(connection)
        while True:
            request = connection.recv()
            try:
                answer = slots.put(function(request))
            except Exception as error:
                answer = _failure(error)
            connection.send(answer)
    except (EOFError, ConnectionError):  # The parent has closed it, or is gone.
        return


if __name__ == "__main__":
    # Not this module but the one that the parent knows has the classes that are exchanged.
    from headjax.io import worker

    number, file, count = map(int, sys.argv[1:])
    worker.main(Connection(number), worker._Slots(file, count))
