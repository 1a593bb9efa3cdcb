import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.train import loop
from headjax.train.logging import Logger
from headjax.train.signals import Interrupted
from headjax.train.weights import load_weights
from tests.toy import config as toy_config
from tests.toy import system as toy

X = np.random.default_rng(0).standard_normal((50, toy.WIDTH)).astype(np.float32)


@pytest.fixture
def settings():
    return ml_collections.FrozenConfigDict(toy_config.get_config()).train


@pytest.fixture
def task(settings):
    return toy.linear_task(X, X[:, ::-1].copy(), settings=settings)


def fit(task, folder, **changes):
    arguments = dict(seed=1, steps=20, checkpoint_every=6, log_every=5)
    with Logger(folder) as logger:
        return loop.fit(task, folder=folder / "ck", logger=logger, **(arguments | changes))


def changed(task, **changes):
    return dataclasses.replace(task, **changes)


def same(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss_and_logs_every_term(task, tmp_path):
    state = fit(task, tmp_path, steps=200)
    assert int(state.step) == 200
    logged = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in logged] == list(range(5, 201, 5))
    assert logged[-1]["loss"] < 0.2 * logged[0]["loss"]
    assert {"grad_norm", "speed/steps_per_second", "time", "stage"} <= set(logged[0])
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_same_seed_gives_the_same_state_and_another_seed_another(task, tmp_path):
    first = fit(task, tmp_path / "a")
    assert same(first, fit(task, tmp_path / "b"))
    assert not same(first.params, fit(task, tmp_path / "c", seed=2).params)


def test_going_on_equals_never_having_stopped(task, tmp_path):
    """Stopped at 9 by a limit, at 13 by an error between two checkpoints, then run to the end."""
    whole = fit(task, tmp_path / "whole")
    cut = tmp_path / "cut"
    fit(task, cut, steps=9)

    failing = changed(task, batches=lambda rows: Failing(task.batches(rows), after=4))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(failing, cut)
    assert same(whole, fit(task, cut))
    assert [line["step"] for line in lines(cut) if line.get("event") == "resumed"][0] == 9


class Failing:
    """An iterator that breaks after a few batches."""

    def __init__(self, inner, *, after):
        self.inner, self.left = inner, after
        self.get_state, self.set_state = inner.get_state, inner.set_state

    def __iter__(self):
        return self

    def __next__(self):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("power cut")
        return next(self.inner)


def test_a_finished_run_returns_at_once(task, tmp_path):
    state = fit(task, tmp_path)
    before = sorted(p.name for p in (tmp_path / "ck").iterdir())
    assert same(state, fit(task, tmp_path))
    assert sorted(p.name for p in (tmp_path / "ck").iterdir()) == before


def test_the_update_is_compiled_once(task, tmp_path, caplog):
    traces = []

    def step(state, batch, key):
        traces.append(1)
        return task.step(state, batch, key)

    fit(changed(task, step=step), tmp_path, steps=7)
    assert len(traces) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(task, tmp_path):
    def step(state, batch, key):
        state, metrics = task.step(state, batch, key)
        bad = jnp.where(state.step == 14, jnp.nan, 1.0)
        return state.replace(params=jax.tree.map(lambda p: p * bad, state.params)), metrics

    broken = changed(task, step=step)
    with pytest.raises(UserError, match="train: at step 20 these are not finite: grad_norm, loss"):
        fit(broken, tmp_path, checkpoint_every=12)
    with pytest.raises(UserError, match="at step 18 .*not finite, so nothing was saved.*12"):
        fit(broken, tmp_path, checkpoint_every=6)
    assert [p.name for p in (tmp_path / "ck").iterdir()] == ["12"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_between_two_steps(task, tmp_path, number):
    whole = fit(task, tmp_path / "whole")
    calls = iter(range(100))

    class Signalling(Failing):
        def __next__(self):
            if next(calls) == 7:
                signal.raise_signal(number)
            return next(self.inner)

    handlers = signal.getsignal(number)
    stopped = changed(task, batches=lambda rows: Signalling(task.batches(rows), after=99))
    with pytest.raises(Interrupted, match="0") as caught:
        fit(stopped, tmp_path / "cut")
    assert "train is saved at step 8" in caught.value.message
    assert signal.getsignal(number) is handlers
    assert (tmp_path / "cut" / "ck" / "8").is_dir()
    assert same(whole, fit(task, tmp_path / "cut"))


def test_a_signal_during_the_last_step_stops_the_run_behind_it(task, tmp_path):
    """What follows the training would begin otherwise, and be killed when the grace is over."""
    calls = iter(range(100))

    class Signalling(Failing):
        def __next__(self):
            if next(calls) == 19:
                signal.raise_signal(signal.SIGTERM)
            return next(self.inner)

    stopped = changed(task, batches=lambda rows: Signalling(task.batches(rows), after=99))
    with pytest.raises(Interrupted) as caught:
        fit(stopped, tmp_path)
    assert "train is saved at step 20" in caught.value.message and caught.value.agreed
    assert int(fit(task, tmp_path).step) == 20


def test_a_run_in_a_thread_works_without_signal_handlers(task, tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(fit(task, tmp_path, steps=3)))
    thread.start()
    thread.join()
    assert int(states[0].step) == 3


def toy_run(workdir, *flags, pause=0.0):
    environment = {**os.environ, "HEADJAX_TOY_PAUSE": str(pause)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-m", "tests.toy.main", "--config=tests/toy/config.py"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        env=environment, cwd=os.path.join(os.path.dirname(__file__), "..", ".."),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition, process, *, seconds=300):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def kill_and_repeat(workdir, *, delays):
    """Kills the toy run at each delay after its first checkpoint, then lets it end."""
    checkpoints = workdir / "checkpoints" / "train"
    for delay in delays:
        process = toy_run(workdir, pause=0.01)
        wait_for(lambda: checkpoints.is_dir() and any(checkpoints.iterdir()), process)
        time.sleep(delay)
        process.kill()
        process.communicate()
    process = toy_run(workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def assert_runs_equal(a, b):
    assert (a / "map.safetensors").read_bytes() == (b / "map.safetensors").read_bytes()
    assert (a / "metrics.json").read_bytes() == (b / "metrics.json").read_bytes()
    assert not [p for p in b.rglob("*") if p.suffix == ".tmp" or ".tmp." in p.name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    process = toy_run(workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return workdir


def test_a_run_killed_with_9_ends_bit_for_bit_as_an_undisturbed_one(undisturbed, tmp_path):
    rng = np.random.default_rng()
    kill_and_repeat(tmp_path, delays=rng.uniform(0.0, 0.4, 2))
    assert_runs_equal(undisturbed, tmp_path)


@pytest.mark.sweep
def test_many_kills_change_nothing(undisturbed, tmp_path):
    rng = np.random.default_rng()
    kill_and_repeat(tmp_path, delays=rng.uniform(0.0, 0.5, 10))
    assert_runs_equal(undisturbed, tmp_path)


def test_sigterm_saves_exits_with_0_and_says_how_to_go_on(undisturbed, tmp_path):
    process = toy_run(tmp_path, pause=0.2)
    metrics = tmp_path / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"loss"' in metrics.read_text(), process)
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "SIGTERM: train is saved at step" in output
    assert "the same command goes on from there" in output
    process = toy_run(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "1 done already" in output, output
    assert_runs_equal(undisturbed, tmp_path)


def test_two_runs_in_one_work_directory_refuse(tmp_path):
    first = toy_run(tmp_path, pause=0.2)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists(), first)
    second = toy_run(tmp_path)
    output, _ = second.communicate(timeout=300)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert f"another run (process {first.pid}) is working in" in output
    assert "Traceback" not in output


def test_the_weights_of_a_run_name_their_config(undisturbed):
    _, notes = load_weights(undisturbed / "map.safetensors")
    marker = json.loads((undisturbed / "stages" / "train.json").read_text())
    assert notes["config_hash"] == marker["config_hash"]


def test_utilisation_counts_the_models_operations_and_only_where_the_peak_is_known(
    task, tmp_path, monkeypatch
):
    fit(task, tmp_path / "a")
    assert not any("speed/mfu" in line for line in lines(tmp_path / "a"))
    for module in (loop, loop.throughput):
        monkeypatch.setattr(module, "peak_flops", lambda devices: 1e9)

    def twice(state, batch, key):
        _, again = task.step(state, batch, key)
        state, metrics = task.step(state, batch, key)
        return state, metrics | {"loss": metrics["loss"] + 0 * again["loss"]}

    for name, changes in {"b": {}, "c": {"step": twice, "counted": task.step}}.items():
        fit(changed(task, **changes), tmp_path / name)
        told = [line for line in lines(tmp_path / name) if "speed/mfu" in line][-1]
        # Forward and the gradient of the weights, 2 · batch · inputs · outputs each.
        share = told["speed/steps_per_second"] * 2 * 2 * 8 * toy.WIDTH**2 / 1e9
        np.testing.assert_allclose(told["speed/mfu"], share, rtol=1e-6)
