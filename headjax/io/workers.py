"""Batches loaded ahead by other processes: `load(request(step))` for step after step, in order.

Processes are fresh interpreters that run `headjax.io.worker`; they neither see the accelerator nor
re-run the caller's main module, and they leave stopping to it: signals to the whole group do not
reach them, they end when their connection does, even if the caller is killed. A batch's arrays
come through memory that has no name, so that nothing is left behind.
"""

import collections
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Pipe
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from headjax.errors import UserError
from headjax.io.worker import Failure, Place, replaced

_HELD_BACK = (signal.SIGTERM, signal.SIGINT)


class LoadedAhead:
    """An iterator over `load(request(step))`, step = 0, 1, …; its state is the step.

    The state is that of a grain iterator over a `MapDataset`, {"next_index": step}.

    Args:
        load: request -> a tree of arrays; must be picklable, and runs in the processes.
        request: step -> what `load` is given; small, runs here.
        steps: how many there are.
        workers: processes.
        ahead: steps that are loaded or ready, at least `workers`.

    Raises:
        UserError: `load` cannot be pickled. On `next`: what `load` raises.
    """

    def __init__(
        self,
        load: Callable[[Any], Any],
        request: Callable[[int], Any],
        *,
        steps: int,
        workers: int,
        ahead: int,
    ):
        self._request, self._steps, self._ahead, self._step = request, steps, ahead, 0
        self._asked: collections.deque[_Worker] = collections.deque()
        function = _pickled(load)
        self._workers: list[_Worker] = []
        self.close = weakref.finalize(self, _stop, self._workers)
        try:
            for _ in range(workers):
                self._workers.append(_Worker(slots=-(-ahead // workers)))
            for worker in self._workers:
                worker.send_bytes(function)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> "LoadedAhead":
        return self

    def __next__(self) -> Any:
        if self._step >= self._steps:
            raise StopIteration
        with self._whole():
            self._ask()
            answer = self._asked.popleft().take()
        if isinstance(answer, Failure):
            with contextlib.suppress(RuntimeError):  # This error is the one to tell.
                self._forget()
            answer.error.add_note(f"In a process that loads batches:\n{answer.where}")
            raise answer.error
        self._step += 1
        with self._whole():
            self._ask()
        return answer

    def get_state(self) -> dict[str, int]:
        """The position."""
        return {"next_index": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position."""
        self._forget()
        self._step = int(state["next_index"])

    @property
    def processes(self) -> tuple[int, ...]:
        """The processes' numbers."""
        return tuple(worker.process.pid for worker in self._workers)

    def _ask(self) -> None:
        """Keeps as many steps under way as there may be."""
        if not self.close.alive:
            raise RuntimeError("these batches are closed")
        for step in range(self._step + len(self._asked), self._steps):
            if len(self._asked) >= self._ahead:
                break
            worker = self._workers[step % len(self._workers)]
            worker.send_bytes(ForkingPickler.dumps(self._request(step)))
            self._asked.append(worker)

    def _forget(self) -> None:
        """Throws away what is under way."""
        with self._whole():
            while self._asked:
                self._asked.popleft().take()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Ends all if a message was cut off: by a signal's exception, or a process that died."""
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Worker:
    """One process, its connection and the memory that both see."""

    def __init__(self, *, slots: int):
        self._connection, theirs = Pipe()
        self._file = _nameless_file()
        self._memory: mmap.mmap | None = None
        files = theirs.fileno(), self._file
        command = [sys.executable, "-m", "headjax.io.worker", *map(str, files), str(slots)]
        with theirs, _signals_held_back():
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=worker_environment(), pass_fds=files
            )

    def send_bytes(self, message: bytes | memoryview) -> None:
        """Sends a pickled message; RuntimeError if the process is gone."""
        try:
            self._connection.send_bytes(message)
        except ConnectionError as error:
            raise self._died() from error

    def take(self) -> Any:
        """The next answer, its arrays copied; RuntimeError if the process is gone."""
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error
        return replaced(answer, kind=Place, by=self._copied)

    def stop(self) -> None:
        """Ends the process, which has nothing to lose."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        os.close(self._file)

    def _copied(self, place: Place) -> np.ndarray:
        if self._memory is None or place.end > len(self._memory):
            self._memory = mmap.mmap(self._file, 0)
        return place.view(self._memory).copy()

    def _died(self) -> RuntimeError:
        code = self.process.wait()
        return RuntimeError(f"a process that loads batches ended with {code}; was memory short?")


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()


def _pickled(load: Callable[[Any], Any]) -> memoryview:
    try:
        return ForkingPickler.dumps(load)
    except Exception as error:  # Of any kind: every class may refuse in its own way.
        raise UserError(
            f"the batches cannot be loaded by other processes ({error}); source and transform "
            "must be picklable, or set workers to 0"
        ) from error


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("headjax-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that is started in here never gets the signals; for this one they come later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_environment() -> dict[str, str]:
    """This process's environment, less the accelerator, and with one thread a worker."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
