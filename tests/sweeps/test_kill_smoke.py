"""The smoke preset of a real system, killed with -9 at random moments of every stage."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
CONFIGS = ("g3diff", "eg3d", "head3d")

pytestmark = pytest.mark.sweep


def start(name, workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "headjax.main", f"--config=configs/{name}.py:smoke",
         f"--workdir={workdir}"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(name, workdir):
    """Runs to the end; returns how long it took."""
    began = time.monotonic()
    process = start(name, workdir)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return time.monotonic() - began


def results(workdir):
    """What must not depend on interruptions: every weights file, and metrics.json where it is."""
    files = [*workdir.rglob("*.safetensors"), *workdir.glob("metrics.json")]
    return {file.relative_to(workdir): file.read_bytes() for file in files}


def killed_within(name, workdir, *, seconds):
    """Starts the run and kills it after so long; returns False if it ended before that."""
    process = start(name, workdir)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, process.stderr.read()
    return False


@pytest.mark.parametrize("name", CONFIGS)
def test_smoke_killed_at_ten_random_moments_ends_bit_for_bit_the_same(name, tmp_path):
    seed = int(os.environ.get("HEADJAX_KILL_SEED", time.time_ns() % 2**32))
    print(f"HEADJAX_KILL_SEED={seed}")
    chance = random.Random(seed)
    whole = tmp_path / "whole"
    seconds = finish(name, whole)
    expected = results(whole)
    assert len(expected) > 1 and json.loads(expected.get(Path("metrics.json"), b"{}")) is not None

    kills, rounds, stages_hit = 0, 0, []
    while kills < KILLS:
        # A round ends when a run outlives its kill; the next one begins from nothing.
        rounds += 1
        workdir = tmp_path / f"round{rounds}"
        while kills < KILLS and killed_within(name, workdir, seconds=chance.uniform(2, seconds)):
            kills += 1
            stages_hit.append(len(list((workdir / "stages").glob("*.json"))))
        finish(name, workdir)
        assert results(workdir) == expected, f"round {rounds}, kills at stages {stages_hit}"
        assert not [p for p in workdir.rglob("*") if p.name.endswith(".tmp") or ".tmp." in p.name]
    print(f"{kills} kills in {rounds} rounds; finished stages at each: {stages_hit}")
