"""Steps loaded ahead by other processes: in order, with a state, and leaving nobody behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.io.workers import LoadedAhead

ROOT = Path(__file__).resolve().parents[2]


class Unusual(Exception):
    """One that cannot be made anew from its message."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def squares(step):
    """A tree whose arrays grow, so that no slot is large enough for all."""
    return {
        "step": np.asarray(step),
        "many": (np.full((3, step % 7 * 50), step, np.float32), [np.arange(step)[::-1]]),
        "process": os.getpid(),
    }


def failing(step):
    """Fails in many ways, and succeeds at other steps."""
    if step == 2:
        raise UserError("step 2 is bad")
    if step == 3:
        raise Unusual("this", "that")
    if step == 12:
        os._exit(3)
    return step


def identity(step):
    return step


def ahead(load, *, steps=20, workers=2, depth=5):
    return LoadedAhead(load, identity, steps=steps, workers=workers, ahead=depth)


def test_steps_come_in_order_whole_and_from_several_processes():
    iterator = ahead(squares)
    found = list(iterator)
    assert [int(batch["step"]) for batch in found] == list(range(20))
    for step, batch in enumerate(found):
        np.testing.assert_array_equal(batch["many"][0], squares(step)["many"][0], strict=True)
        np.testing.assert_array_equal(batch["many"][1][0], np.arange(step)[::-1], strict=True)
    processes = {batch["process"] for batch in found}
    assert processes == set(iterator.processes) and len(processes) == 2
    assert os.getpid() not in processes


def test_the_state_is_the_step_and_may_be_set_at_any_time():
    iterator = ahead(identity)
    assert [next(iterator) for _ in range(4)] == [0, 1, 2, 3]
    assert iterator.get_state() == {"next_index": 4}
    iterator.set_state({"next_index": 17})
    assert list(iterator) == [17, 18, 19]
    iterator.set_state({"next_index": 1})
    assert next(iterator) == 1


def test_what_a_step_raises_is_raised_when_its_turn_comes():
    iterator = ahead(failing)
    assert next(iterator) == 0 and next(iterator) == 1
    for _ in range(2):  # It stays at this step.
        with pytest.raises(UserError, match="step 2 is bad") as refused:
            next(iterator)
    assert "in failing" in refused.value.__notes__[0]
    iterator.set_state({"next_index": 3})
    with pytest.raises(RuntimeError, match="Unusual: this and that"):
        next(iterator)
    iterator.set_state({"next_index": 12})
    with pytest.raises(RuntimeError, match="ended with 3"):
        next(iterator)
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)


def test_what_cannot_travel_is_said_in_a_sentence():
    with pytest.raises(UserError, match="cannot be loaded by other processes.*workers to 0"):
        ahead(lambda step: step)


def exists(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def gone(processes, *, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(exists, processes)):
        time.sleep(0.05)
    return not any(map(exists, processes))


def test_processes_and_files_end_with_the_iterator():
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    iterator = ahead(squares)
    next(iterator)
    processes = iterator.processes
    del iterator
    gc.collect()
    assert not any(map(exists, processes))
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


_RUN = """
import sys, time
from headjax.io.workers import LoadedAhead
from tests.io.test_workers import identity
iterator = LoadedAhead(identity, identity, steps=9, workers=2, ahead=2)
assert next(iterator) == 0
print(*iterator.processes, flush=True)
sys.stdin.readline()
assert next(iterator) == 1  # The signal has not reached them.
print("on", flush=True)
sys.stdin.readline()
"""


def test_they_ignore_the_groups_signals_and_end_when_the_caller_is_killed():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", "import signal\nsignal.signal(15, lambda *_: None)\n" + _RUN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as caller:  # fmt: skip
        try:
            processes = [int(number) for number in caller.stdout.readline().split()]
            assert len(processes) == 2
            for process in (*processes, caller.pid):
                os.kill(process, signal.SIGTERM)
            caller.stdin.write("\n")
            caller.stdin.flush()
            assert caller.stdout.readline() == "on\n"
        finally:
            caller.kill()
    assert gone(processes, seconds=30)
