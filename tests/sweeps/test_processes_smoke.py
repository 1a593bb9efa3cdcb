"""The smoke config on several real processes, as `launch/local.sh` starts them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headjax.train.weights import load_weights

pytestmark = pytest.mark.sweep

ROOT = Path(__file__).resolve().parents[2]
LAST = 30  # step of every stage
STAGES = {"surface": "params", "autodecoder": "params", "diffusion": "params"}


def start(workdir, data_dir, *, count, flags=()):
    environment = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        ["launch/local.sh", str(count), "--config=g3diff:smoke", f"--workdir={workdir}",
         f"--data_dir={data_dir}", "--config.log_every=1", *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, *, code=0, timeout=900):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, output
    return output


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


def weights(workdir, stage):
    def numbers(tree):
        return [n for v in tree.values() for n in numbers(v)] if isinstance(tree, dict) else [tree]

    tree, _ = load_weights(workdir / f"{stage}.safetensors")
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in numbers(tree["params"])])


def pids(workdir):
    """The processes of the run in this work directory, by number."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().decode()
        except (OSError, ValueError):
            continue
        if f"--workdir={workdir}".encode() in words and b"-m" in words:
            number = re.search(r"HEADJAX_PROCESS=(\d+)", environment)
            if number:
                found[int(number[1])] = int(folder.name)
    return found


def wait_for_step(workdir, process, *, stage, step):
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and (stage, step) in losses(workdir):
            return
        time.sleep(0.05)
    raise AssertionError(f"{stage} did not come to step {step}")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """Undisturbed runs by their number of processes."""
    folders = {count: tmp_path_factory.mktemp(f"undisturbed{count}") for count in (1, 2, 4)}
    for count, folder in folders.items():
        finish(start(folder, data_dir, count=count))
    return folders


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_what_one_trains(runs, count):
    one, several = losses(runs[1]), losses(runs[count])
    assert one.keys() == several.keys()
    np.testing.assert_allclose([several[key] for key in one], [*one.values()], rtol=1e-5)
    for stage in STAGES:
        a, b = weights(runs[1], stage), weights(runs[count], stage)
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a), stage


@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_is_named_and_a_restart_ends_bit_for_bit(runs, data_dir, tmp_path, victim):
    process = start(tmp_path, data_dir, count=2)
    wait_for_step(tmp_path, process, stage="autodecoder", step=random.randint(11, 25))
    os.kill(pids(tmp_path)[victim], signal.SIGKILL)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.monotonic() - began < 60
    assert re.search(rf"process {victim} .*(has died|was killed)", output), output
    finish(start(tmp_path, data_dir, count=2))
    for stage in STAGES:
        np.testing.assert_array_equal(weights(tmp_path, stage), weights(runs[2], stage))


def terminated_at_a_random_step(workdir, data_dir):
    """Starts or goes on, stops it by one of its processes; returns the seconds that this took."""
    process = start(workdir, data_dir, count=2)
    done = losses(workdir) if (workdir / "metrics.jsonl").exists() else {}
    stage = random.choice([s for s in STAGES if (s, LAST) not in done])
    last = max((step for name, step in done if name == stage), default=0)
    wait_for_step(workdir, process, stage=stage, step=min(LAST, last + random.randint(1, 4)))
    os.kill(pids(workdir)[random.randrange(2)], signal.SIGTERM)
    began = time.monotonic()
    finish(process, timeout=120)
    return time.monotonic() - began


def test_sigterm_at_random_steps_loses_no_step(runs, data_dir, tmp_path):
    seconds, rounds = [], 0
    while len(seconds) < 10:
        # A round ends when its last stage is trained; the next one begins from nothing.
        rounds += 1
        workdir = tmp_path / f"round{rounds}"
        while len(seconds) < 10 and not (
            (workdir / "metrics.jsonl").exists() and ("diffusion", LAST) in losses(workdir)
        ):
            seconds.append(terminated_at_a_random_step(workdir, data_dir))
        finish(start(workdir, data_dir, count=2))
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        trained = [(line["stage"], line["step"]) for line in lines if "loss" in line]
        for stage in STAGES:
            steps = [step for name, step in trained if name == stage]
            assert steps == list(range(1, LAST + 1)), stage
            np.testing.assert_array_equal(weights(workdir, stage), weights(runs[2], stage))
    print(f"{rounds} rounds; seconds from signal to end: {[round(s, 1) for s in seconds]}")
    assert max(seconds) < 20
