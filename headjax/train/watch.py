"""Watches over the other processes of a run, and ends this one with a sentence when one is gone.

Without it a process that waits for a dead one in a collective waits on, or is aborted by JAX's
runtime with a stack of its C++ frames and no word of who died.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

PULSE = 1.0
# Seconds without a sign of life after which a process on another machine counts as dead.
PATIENCE = 30.0
_GO_ON = "the same command goes on from the last checkpoint"


class Watch:
    """Each process writes a pulse into the runtime's key-value store and reads the others'.

    Args:
      store: the runtime's client.
      index, count: this process, and how many there are.
      coordinator: host:port of process 0's service.
    """

    def __init__(self, store: Any, index: int, count: int, coordinator: str):
        self._store, self._index, self._count = store, index, count
        host, _, port = coordinator.rpartition(":")
        self._coordinator = (host, int(port))
        self._stopped = threading.Event()
        self._seen: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="headjax-watch")

    def start(self) -> None:
        """Begins; from now on an abort of the runtime is explained, too."""
        self._explain_aborts()
        self._thread.start()

    def stop(self) -> None:
        """The run ends in good order: what the others do from now on is no news."""
        self._stopped.set()
        self._thread.join(timeout=5 * PULSE)

    def announce(self, code: int, reason: str) -> None:
        """Tells the others that this process ends alone, and gives them time to read it."""
        self._stopped.set()
        sys.stdout.flush()
        sys.stderr.flush()
        self._tell(code, f"process {self._index} has stopped ({reason})")

    def settle(self, *, thoroughly: bool) -> None:
        """Waits until a death that has just happened must have been noticed."""
        time.sleep(PATIENCE + 5 * PULSE if thoroughly else 4 * PULSE)

    def _run(self) -> None:
        failures, me = 0, _identity()
        beat = 0
        while not self._stopped.wait(PULSE):
            beat += 1
            try:
                pulse = json.dumps(me | {"beat": beat})
                self._store.key_value_set(
                    f"headjax/alive/{self._index}", pulse, allow_overwrite=True
                )
                ended = self._store.key_value_dir_get("headjax/ended")
                alive = self._store.key_value_dir_get("headjax/alive")
                failures = 0
            except Exception:
                failures += 1
                if failures >= 3 and not self._coordinator_answers():
                    self._end(1, f"process 0 of {self._count} has died", tell=False)
                continue
            self._read_endings(ended)
            self._read_pulses(alive, me)

    def _read_endings(self, ended: list[tuple[str, str]]) -> None:
        for key, note in ended:
            if int(key.rpartition("/")[2]) != self._index:
                self._end(**json.loads(note))

    def _read_pulses(self, alive: list[tuple[str, str]], me: dict[str, Any]) -> None:
        now = time.monotonic()
        for key, pulse in alive:
            index = int(key.rpartition("/")[2])
            if pulse != self._seen.get(index, ("", 0.0))[0]:
                self._seen[index] = (pulse, now)
            other = json.loads(pulse)
            here = other["machine"] == me["machine"]
            silent = now - self._seen[index][1] > PATIENCE
            if index != self._index and (not _exists(other["pid"]) if here else silent):
                where = f"pid {other['pid']} on {other['host']}"
                self._end(1, f"process {index} of {self._count} ({where}) has died")

    def _end(self, code: int, sentence: str, *, tell: bool = True) -> None:
        """Ends this process because of another; the sentence says which and why."""
        if not self._stopped.is_set():
            _write(f"headjax: {sentence}, so this one stops, too; {_GO_ON}")
            if tell:
                self._tell(code, sentence)
            os._exit(code)

    def _tell(self, code: int, sentence: str) -> None:
        note = json.dumps({"code": code, "sentence": sentence})
        try:
            self._store.key_value_set(f"headjax/ended/{self._index}", note)
        except Exception:
            return  # the others find out by our silence
        # With process 0 goes the store that the note is in.
        time.sleep(4 * PULSE if self._index == 0 else PULSE)

    def _explain_aborts(self) -> None:
        """When the runtime loses process 0 it aborts this one; a last sentence says why."""

        def on_abort(_number: int) -> None:
            if self._index and not self._stopped.is_set() and not self._coordinator_answers():
                self._end(1, f"process 0 of {self._count} has died", tell=False)
            signal.signal(signal.SIGABRT, signal.SIG_DFL)

        # Python's own handlers run in the main thread only, and an abort does not wait for it.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(ctypes.c_int(signal.SIGABRT), self._on_abort)

    def _coordinator_answers(self) -> bool:
        try:
            with socket.create_connection(self._coordinator, timeout=3 * PULSE):
                return True
        except OSError:
            return False


def _identity() -> dict[str, Any]:
    """Who this process is: pids mean something within one kernel and one name space only."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            machine = f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = f"{socket.gethostname()}/{os.getpid()}"
    return {"machine": machine, "pid": os.getpid(), "host": socket.gethostname()}


def _exists(pid: int) -> bool:
    """Whether there is such a process that has not ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _write(line: str) -> None:
    """To standard error, past every buffer and lock: the process ends with it."""
    os.write(2, f"{line}\n".encode())
