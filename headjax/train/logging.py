"""What a run tells while it goes: lines and progress bars on stderr, metrics in two files.

`metrics.jsonl` in the work directory has one JSON object a line and is only ever appended to; times
and rates stand there and nowhere else, so that every other artefact of a run is reproducible.
TensorBoard's event files lie beside it in `tensorboard/`.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorboardX
import tqdm

LINE_EVERY_SECONDS = 20.0


class Logger:
    """The voice of one run; use as a context manager, or call `close`.

    Args:
        workdir: where the files go; None for a run that leaves none.
        stream: where lines and bars go, stderr by default.
    """

    def __init__(self, workdir: Path | None, *, stream: io.TextIOBase | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._metrics = None if workdir is None else _open_lines(Path(workdir) / "metrics.jsonl")
        self._board_folder = None if workdir is None else Path(workdir) / "tensorboard"
        self._board = None

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        tqdm.tqdm.write(text, file=self._stream)
        self._stream.flush()

    def metrics(self, stage: str, step: int, *, values: Mapping[str, float]) -> None:
        """Writes the values of one step."""
        if self._metrics is None:
            return
        line = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        self._write_line(line | {name: float(value) for name, value in values.items()})
        board = self._open_board()
        for name, value in values.items():
            board.add_scalar(f"{stage}/{name}", float(value), step)

    def event(self, stage: str, name: str, **details: Any) -> None:
        """Notes in `metrics.jsonl` that something happened (started, resumed, finished)."""
        if self._metrics is not None:
            self._write_line(
                {"stage": stage, "event": name, "time": round(time.time(), 3)} | details
            )

    def progress(self, label: str, *, total: int, start: int = 0, unit: str = "step") -> "Progress":
        """A progress bar with rate and remaining time; a context manager."""
        return Progress(label, total=total, start=start, unit=unit, stream=self._stream)

    @contextlib.contextmanager
    def telling(self, label: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar that opens when the total is known: `tell(done, total)`."""
        with contextlib.ExitStack() as stack:
            bars: list[Progress] = []
            counted = [0]

            def tell(done: int, total: int) -> None:
                if not bars:
                    bars.append(stack.enter_context(self.progress(label, total=total, unit=unit)))
                bars[0].advance(done - counted[0])
                counted[0] = done

            yield tell

    def close(self) -> None:
        """Writes what is still buffered and closes the files."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write_line(self, line: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()

    def _open_board(self) -> tensorboardX.SummaryWriter:
        if self._board is None:
            self._board = tensorboardX.SummaryWriter(str(self._board_folder))
        return self._board


class Progress:
    """How far a loop is: a bar on a terminal, a line every so often elsewhere."""

    def __init__(self, label: str, *, total: int, start: int, unit: str, stream: io.TextIOBase):
        self._label, self._total, self._unit, self._stream = label, total, unit, stream
        self._done, self._note = start, ""
        self._last_line = time.monotonic()
        # The rate counts from the first step's end: that step may have waited for the compiler.
        self._from, self._began = start, None
        self._bar = None
        if not stream.isatty():
            self._print()
        else:
            self._bar = tqdm.tqdm(
                desc=label, total=total, initial=start, unit=unit, file=stream,
                dynamic_ncols=True, smoothing=0.1,
            )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error[0] is None:
            self._print()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Counts `count` more; a note (such as the loss) stays until the next one."""
        self._done += count
        if self._began is None:
            self._from, self._began = self._done, time.monotonic()
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._print()

    def _print(self) -> None:
        self._last_line = time.monotonic()
        parts = [f"{self._label}: {self._done}/{self._total} {self._unit}s"]
        if self._began is not None and self._done > self._from:
            rate = (self._done - self._from) / max(self._last_line - self._began, 1e-9)
            parts.append(_rate(rate, self._unit))
            if self._done < self._total:
                parts.append(f"about {duration((self._total - self._done) / rate)} left")
        if self._note:
            parts.append(self._note)
        print(", ".join(parts), file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _rate(rate: float, unit: str) -> str:
    return f"{rate:.3g} {unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{unit}"


def _open_lines(path: Path) -> io.TextIOBase:
    """The file, ready to append to, without the half line that a killed run may have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        whole = path.read_bytes()
        if whole and not whole.endswith(b"\n"):
            with open(path, "r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
    return open(path, "a", encoding="utf-8")
