"""Rendering in other processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headjax.data import HeadViewsConfig, load_split, prepare
from headjax.data.spool import Spool, default_workers
from headjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = HeadViewsConfig(
    train_identities=2,
    val_identities=1,
    train_views=3,
    val_views=2,
    resolution=16,
    supersample=1,
    uv_size=8,
)


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path):
    ticks = []
    prepare(TINY, tmp_path / "one", workers=1)
    prepare(TINY, tmp_path / "two", workers=2, progress=ticks.append)
    assert ticks[-1].done == ticks[-1].total == 15
    for split, count in (("train", 6), ("val_views", 4), ("val_identities", 5)):
        one, two = (load_split(tmp_path / name, split) for name in ("one", "two"))
        assert len(one) == len(two) == count
        for first, second in zip(one, two, strict=True):
            for name, value in first.items():
                np.testing.assert_array_equal(value, second[name])


@pytest.fixture
def worker_that(tmp_path, monkeypatch):
    """Replaces the workers by a shell script."""

    def install(script):
        program = tmp_path / "worker.sh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return Spool(TINY, tmp_path, workers=2)

    return install


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("""echo '{"user_error": "no such head"}'; exit 2""", UserError, "^no such head$"),
        ("""echo '{"errno": 28}'; exit 1""", OSError, "No space left"),
        ("echo 'it broke' >&2; exit 3", RuntimeError, "worker ended with 3:\nit broke"),
        ("kill -9 $$", RuntimeError, "worker ended with -9"),
        ("exit 0", RuntimeError, "ended without train-0000000.npz"),
    ],
)
def test_what_stops_a_worker_stops_the_preparation(worker_that, script, error, said):
    with worker_that(script) as spool, pytest.raises(error, match=said):
        next(spool.records("train"))


def test_workers_end_when_the_spool_is_left(worker_that):
    with worker_that("exec sleep 100") as spool:
        processes = [worker._process for worker in spool._workers]
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)


KILLED = """
import sys
from headjax.data import prepare
from tests.datasets.test_spool import TINY
prepare(TINY, sys.argv[1], workers=2, progress=lambda p: print(p.done, flush=True))
"""


def test_a_preparation_killed_half_way_is_redone_and_leaves_no_worker(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "set")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.kill()
    assert os.listdir(tmp_path) == ["set.partial"]
    assert not prepare(TINY, tmp_path / "set", workers=1).reused
    assert os.listdir(tmp_path) == ["set"]
    deadline = time.monotonic() + 20
    while _mentions(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _mentions(str(tmp_path))


def _mentions(text):
    """Whether a running process has `text` in its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return any(text in line for line in found)


def test_the_environment_may_set_the_number_of_workers(monkeypatch):
    monkeypatch.setenv("HEADJAX_WORKERS", "3")
    assert default_workers() == 3
    monkeypatch.setenv("HEADJAX_WORKERS", "")
    assert default_workers() >= 1
    for text in ("0", "-1", "many"):
        monkeypatch.setenv("HEADJAX_WORKERS", text)
        with pytest.raises(UserError, match="HEADJAX_WORKERS is"):
            default_workers()
