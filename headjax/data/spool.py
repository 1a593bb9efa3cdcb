"""Rendered heads on their way to the data set: one file a head and split, made by workers.

Workers are fresh interpreters that run `headjax.data.worker`; they neither see the accelerator nor
re-run the caller's main module. Worker w of n renders heads w, w + n, …, so that the result does
not depend on n. They report on their standard output in JSON lines and end by themselves when the
parent is gone.
"""

import contextlib
import errno
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headjax.data.config import SPLITS, HeadViewsConfig, record_counts, split_heads
from headjax.data.rendering import Arrays, render_head
from headjax.data.sources import make_source
from headjax.errors import UserError
from headjax.io.workers import worker_environment

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Progress:
    """How far the rendering is.

    Attributes:
        done, total: views.
        rate: views a second so far.
        eta: seconds to go at that rate, infinite before the first view.
    """

    done: int
    total: int
    rate: float
    eta: float


ProgressCallback = Callable[[Progress], None]


def default_workers() -> int:
    """HEADJAX_WORKERS if set, otherwise one a core, at most 16."""
    text = os.environ.get("HEADJAX_WORKERS", "")
    if not text:
        usable = getattr(os, "sched_getaffinity", None)  # Not on every system.
        return min(16, len(usable(0)) if usable else os.cpu_count() or 1)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"HEADJAX_WORKERS is {text!r}; it must be a whole number from 1 on")
    return int(text)


def all_heads(config: HeadViewsConfig) -> range:
    """All identities of a data set."""
    return range(split_heads(config, SPLITS[0]).start, split_heads(config, SPLITS[-1]).stop)


def head_file(folder: Path, split: str, identity: int) -> Path:
    """Where the spool keeps a head's records of one split."""
    return folder / f"{split}-{identity:07d}.npz"


def render_to_spool(
    config: HeadViewsConfig, identity: int, *, folder: Path, on_views: Callable[[int], None]
) -> None:
    """Renders one head and leaves its files in the spool, each complete or not there."""
    head = render_head(config, identity, source=make_source(config), on_views=on_views)
    for split, arrays in head:
        path = head_file(folder, split, identity)
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)


class Spool:
    """The heads of a data set, rendered ahead by `workers` processes, taken out in any order.

    With one worker the rendering happens in this process, when a head is asked for. Use as a
    context manager: leaving it ends the workers.
    """

    def __init__(
        self,
        config: HeadViewsConfig,
        folder: Path,
        *,
        workers: int,
        progress: ProgressCallback | None = None,
    ):
        self._config, self._folder = config, folder
        self._progress = progress or (lambda _: None)
        self._total = sum(record_counts(config).values())
        self._done, self._started = 0, time.perf_counter()
        count = min(workers, len(all_heads(config)))
        numbers = range(count if count > 1 else 0)
        self._workers = [_Worker(config, folder, number, count) for number in numbers]

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def records(self, split: str) -> Iterator[tuple[int, Arrays]]:
        """The heads of a split in order, each with its records stacked; files are consumed."""
        for identity in split_heads(self._config, split):
            path = head_file(self._folder, split, identity)
            if not self._workers and not path.exists():
                render_to_spool(self._config, identity, folder=self._folder, on_views=self._count)
            while not path.exists():
                self._listen()
                if all(worker.finished for worker in self._workers) and not path.exists():
                    raise RuntimeError(f"the rendering workers ended without {path.name}")
            with np.load(path, allow_pickle=False) as arrays:
                yield identity, dict(arrays)
            path.unlink()

    def finish(self) -> None:
        """Waits for the workers' last reports; call it when all records have been taken."""
        while not all(worker.finished for worker in self._workers):
            self._listen()

    def _count(self, views: int) -> None:
        self._done += views
        seconds = max(time.perf_counter() - self._started, 1e-9)
        rate = self._done / seconds
        left = self._total - self._done
        eta = left / rate if self._done else float("inf")
        self._progress(Progress(done=self._done, total=self._total, rate=rate, eta=eta))

    def _listen(self) -> None:
        """Takes the workers' messages; raises if one of them failed."""
        views = sum(worker.take() for worker in self._workers)
        if views:
            self._count(views)
        else:
            time.sleep(0.01)


class _Worker:
    """One rendering process and the thread that reads its reports."""

    def __init__(self, config: HeadViewsConfig, folder: Path, number: int, count: int):
        job = {"config": config.to_dict(), "folder": str(folder), "first": number, "step": count}
        self._log = folder / f"worker-{number}.log"
        self.finished = False
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headjax.data.worker", json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=worker_environment(),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._messages.put(json.loads(line))
        self._messages.put({"exit": self._process.wait()})

    def take(self) -> int:
        """The number of views rendered since the last call; raises what the worker raised."""
        views = 0
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._messages.get_nowait()
                views += message.get("views", 0)
                if "user_error" in message:
                    raise UserError(message["user_error"])
                if "errno" in message:
                    raise OSError(message["errno"], os.strerror(message["errno"]))
                self.finished = message.get("exit") == 0
                if message.get("exit"):
                    tail = self._log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"a rendering worker ended with {message['exit']}:\n{tail}")
        return views

    def stop(self) -> None:
        """Ends the process, if it still runs, and waits for it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
