"""Several real processes over loopback train the toy system, die, stop and go on."""

import json
import random
import signal
import time

import numpy as np
import pytest

from headjax.train.weights import load_weights
from tests.processes import assert_all_succeed, run_processes, starting

ARGUMENTS = ["-m", "tests.toy.main", "--config=tests/toy/config.py", "--distributed=on"]
ALONE = [*ARGUMENTS[:-1], "--distributed=off"]


def arguments(workdir, base=None):
    return [*(base or ARGUMENTS), f"--workdir={workdir}", "--config.train.log_every=1"]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def weights(workdir):
    tree, _ = load_weights(workdir / "map.safetensors")
    return np.concatenate([tree["params"][name].ravel() for name in sorted(tree["params"])])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    assert_all_succeed(run_processes(arguments(workdir, ALONE), count=1, timeout=300))
    return workdir


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An undisturbed run of two processes."""
    workdir = tmp_path_factory.mktemp("pair")
    assert_all_succeed(run_processes(arguments(workdir), count=2, timeout=300))
    return workdir


def disturbed(workdir, *, victim, number, after=0.0):
    """Runs two processes, sends one a signal some time after the first checkpoint; their ends.

    What is left to train then takes at least six seconds, so that the signal meets a step.
    """
    checkpoints = workdir / "checkpoints" / "train"
    with starting(arguments(workdir), count=2, env={"HEADJAX_TOY_PAUSE": "0.4"}) as group:
        end = time.monotonic() + 200
        while time.monotonic() < end and not (checkpoints / "10").is_dir():
            time.sleep(0.02)
        time.sleep(after)
        group.processes[victim].send_signal(number)
        began = time.monotonic()
        return group.finish(120), time.monotonic() - began


def test_two_processes_train_what_one_trains(alone, pair):
    ours, theirs = losses(alone), losses(pair)
    assert sorted(ours) == sorted(theirs) == list(range(1, 41))
    np.testing.assert_allclose([*theirs.values()], [*ours.values()], rtol=1e-5)
    error = np.linalg.norm(weights(pair) - weights(alone)) / np.linalg.norm(weights(alone))
    assert error < 1e-5


def test_only_the_first_process_writes(pair):
    """One line a step, one file of TensorBoard events: nobody else has written any."""
    text = (pair / "metrics.jsonl").read_text()
    assert text.count('"event": "started"') == 1
    assert len(list((pair / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_says_which_and_a_restart_ends_as_if_nothing_had_been(
    pair, tmp_path, victim
):
    ends, seconds = disturbed(tmp_path, victim=victim, number=signal.SIGKILL)
    survivor = ends[1 - victim]
    assert ends[victim].returncode == -signal.SIGKILL
    assert survivor.returncode not in (0, -signal.SIGKILL), survivor
    assert seconds < 60
    sentences = [line for line in survivor.stderr.splitlines() if line.startswith("headjax: proc")]
    assert len(sentences) == 1 and f"process {victim} of 2" in sentences[0], survivor
    assert "has died" in sentences[0] and "goes on from the last checkpoint" in sentences[0]
    assert_all_succeed(run_processes(arguments(tmp_path), count=2, timeout=300))
    np.testing.assert_array_equal(weights(tmp_path), weights(pair))


def test_sigterm_to_one_stops_both_at_one_step_and_loses_nothing(pair, tmp_path):
    victim = random.randrange(2)
    ends, seconds = disturbed(tmp_path, victim=victim, number=signal.SIGTERM, after=random.random())
    assert_all_succeed(ends)
    assert seconds < 20
    steps = [end.stderr.partition("train is saved at step ")[2].split(";")[0] for end in ends]
    assert steps[0] == steps[1] and steps[0].isdigit(), "\n".join(map(str, ends))
    assert (tmp_path / "checkpoints" / "train" / steps[0]).is_dir()
    assert_all_succeed(run_processes(arguments(tmp_path), count=2, timeout=300))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
    np.testing.assert_array_equal(weights(tmp_path), weights(pair))


def test_a_mistake_that_one_process_finds_ends_both_with_its_sentence(pair):
    """The first process alone reads the work directory's config."""
    ends = run_processes([*arguments(pair), "--config.seed=4"], count=2, timeout=120)
    assert [end.returncode for end in ends] == [2, 2], "\n".join(map(str, ends))
    assert all("was made with another config" in end.stderr for end in ends)
    assert not any("Traceback" in end.stderr for end in ends)


def test_a_run_of_two_processes_goes_on_with_one(pair, tmp_path):
    ends, _ = disturbed(tmp_path, victim=1, number=signal.SIGTERM)
    assert_all_succeed(ends)
    assert_all_succeed(run_processes(arguments(tmp_path, ALONE), count=1, timeout=300))
    np.testing.assert_allclose(weights(tmp_path), weights(pair), rtol=1e-5, atol=1e-7)
