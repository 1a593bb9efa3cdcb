"""Checkpoints of states that lie on several devices, and on the devices of several processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from headjax.errors import UserError
from headjax.train import checkpoint, exchange
from tests import processes
from tests.train.test_checkpoint import KINDS, Counter, damage_file

ROOT = Path(__file__).resolve().parents[2]
SPECS = {
    "rows": PartitionSpec("fsdp"),
    "columns": PartitionSpec(None, "fsdp"),
    "half": PartitionSpec(("data", "fsdp")),
    "everywhere": PartitionSpec(),
    "key": PartitionSpec(),
    "keys": PartitionSpec("fsdp"),
    "step": PartitionSpec(),
}


def values_at(step: int) -> dict:
    """The state's values, unlike those of any other step."""
    drawn = np.random.default_rng(step).normal(size=(16, 24)).astype(np.float32)
    return {
        "rows": drawn,
        "columns": drawn[:, ::-1].copy(),
        "half": drawn.astype(jnp.bfloat16),
        "everywhere": drawn[0],
        "key": jax.random.key(step),
        "keys": jax.random.split(jax.random.key(step), 8),
        "step": np.int32(step),
    }


def make_mesh(count: int) -> jax.sharding.Mesh:
    shape = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}[count]
    return jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:count]
    )


def state_at(step: int, mesh) -> dict:
    places = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    return jax.jit(lambda: jax.tree.map(jnp.asarray, values_at(step)), out_shardings=places)()


def abstract(mesh, **dtypes) -> dict:
    return {
        name: jax.ShapeDtypeStruct(
            value.shape, dtypes.get(name, value.dtype), sharding=NamedSharding(mesh, SPECS[name])
        )
        for name, value in values_at(0).items()
    }


def assert_holds(state: dict, step: int) -> None:
    """Every part that this process holds is that of the step, converted."""
    for name, value in values_at(step).items():
        held = state[name]
        if jax.dtypes.issubdtype(held.dtype, jax.dtypes.prng_key):
            held, value = jax.random.key_data(held), jax.random.key_data(value)
        whole = np.asarray(value).astype(held.dtype)
        for shard in held.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), whole[shard.index])


def save(folder, steps, mesh, **options) -> None:
    with checkpoint.Checkpoints(folder, **options) as saves:
        for step in steps:
            counter = Counter()
            counter.at = step
            saves.save(step, state_at(step, mesh), iterator=counter, seed=7)


def restore(folder, form, counter=None):
    with checkpoint.Checkpoints(folder) as saves:
        return saves.restore_latest(form, iterator=counter, seed=7)


# Run in a process of eight devices.
TRIES = {"flip": 12, "truncate": 4}


def assert_any_mesh_and_precision_is_restored(folder) -> None:
    save(folder, [3], make_mesh(8))
    for count in (8, 4, 1):
        mesh, counter = make_mesh(count), Counter()
        form = abstract(mesh, rows=jnp.bfloat16, half=jnp.float32)
        state = restore(folder, form, counter)
        assert counter.at == 3
        for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(form), strict=True):
            assert leaf.dtype == wanted.dtype
            assert leaf.sharding == wanted.sharding, (leaf.sharding, wanted.sharding)
        assert_holds(state, 3)
    save(folder, [4], make_mesh(1))
    assert_holds(restore(folder, abstract(make_mesh(8))), 4)


def assert_damage_is_noticed(folder, devices: str, tries: str) -> None:
    """Damages files of the newest of two checkpoints in turn: all of them, or a few."""
    mesh, whole = make_mesh(int(devices)), Path(folder) / "whole"
    save(whole, [1, 2], mesh)
    files = [p.relative_to(whole) for p in sorted((whole / "2").rglob("*")) if p.is_file()]
    rng = np.random.default_rng(0)
    cases = [(f, k) for f in files for k in KINDS for _ in range(TRIES.get(k, 1))]
    if tries != "all":
        cases = [cases[i] for i in rng.choice(len(cases), int(tries), replace=False)]
    fell_back = 0
    for number, (file, kind) in enumerate(cases):
        copy = Path(folder) / f"copy{number}"
        shutil.copytree(whole, copy)
        damage_file(copy / file, kind, rng)
        counter = Counter()
        state = restore(copy, abstract(mesh), counter)
        assert counter.at in (1, 2), (file, kind)
        assert_holds(state, counter.at)
        fell_back += counter.at == 1
        shutil.rmtree(copy)
    print(f"{len(cases)} damages to {len(files)} files, {fell_back} times back to the older one")
    assert fell_back > len(cases) // 3


def on_eight_devices(call: str, *arguments) -> None:
    code = f"import sys, tests.train.test_checkpoint_meshes as t; t.{call}(*sys.argv[1:])"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | flags, cwd=ROOT, timeout=1500, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert not done.returncode, done.stderr[-8000:]


def test_a_state_of_eight_devices_is_restored_on_any_mesh_in_any_precision(tmp_path):
    on_eight_devices("assert_any_mesh_and_precision_is_restored", tmp_path)


def test_damage_to_a_sharded_checkpoint_never_goes_unnoticed(tmp_path):
    on_eight_devices("assert_damage_is_noticed", tmp_path, 8, 12)


@pytest.mark.sweep
@pytest.mark.parametrize("devices", (1, 8))
def test_no_damage_to_any_file_of_a_checkpoint_goes_unnoticed(devices, tmp_path):
    on_eight_devices("assert_damage_is_noticed", tmp_path, devices, "all")


# Run in a process of a group.


def train_together(folder) -> None:
    """Two processes save; one cannot read its part of the newest; both take the one before."""
    processes.join_group()
    index = jax.process_index()
    texts = [exchange.gather(f"{i} of {index}") for i in range(3)]
    assert texts[2] == ["2 of 0", "2 of 1"], texts
    mesh = make_mesh(4)
    save(folder, [1, 2, 3, 4], mesh, keep=2, keep_every=3)
    exchange.gather("")  # process 0 has removed what is too old when it comes here
    with checkpoint.Checkpoints(folder) as saves:
        assert saves.steps() == [3, 4]
    assert_holds(restore(folder, abstract(mesh)), 4)

    load = checkpoint._load

    def load_with_trouble(path, stored):
        if index == 1 and path.name == "4":
            raise OSError("a disk of this process")
        return load(path, stored)

    checkpoint._load, counter = load_with_trouble, Counter()
    assert_holds(restore(folder, abstract(mesh), counter), 3)
    assert counter.at == 3
    checkpoint._load = load
    save(folder, [5], mesh)
    exchange.gather("")
    with checkpoint.Checkpoints(folder) as saves:
        assert saves.steps() == [3, 5]
        try:
            saves.restore_latest(abstract(mesh), seed=8)
        except UserError as error:
            assert "made with seed 7" in str(error)
        else:
            raise AssertionError("another seed was taken")
    print("all is well")


def leave_in_a_save(folder) -> None:
    """One process ends while the other still writes."""
    processes.join_group()
    mesh = make_mesh(4)
    save(folder, [6], mesh)
    saves = checkpoint.Checkpoints(folder)
    saves.save(7, state_at(7, mesh), iterator=Counter(), seed=7)
    if jax.process_index() == 1:
        os._exit(9)
    print("alone", flush=True)
    saves.wait()


def run_together(call: str, folder, **options):
    code = f"import tests.train.test_checkpoint_meshes as t; t.{call}({str(folder)!r})"
    return processes.starting(code, count=2, devices_each=2, **options)


def test_two_processes_go_on_from_the_newest_that_both_can_read(tmp_path):
    with run_together("train_together", tmp_path) as group:
        ends = group.finish(timeout=400)
    processes.assert_all_succeed(ends)
    assert all("all is well" in end.stdout for end in ends)
    assert "4 cannot be read (OSError: a disk of this process)" in ends[0].stderr
    assert "cannot be read" not in ends[1].stderr
    assert (tmp_path / "4.unreadable").is_dir()
    # One process goes on where two have stopped.
    counter = Counter()
    assert_holds(restore(tmp_path, abstract(make_mesh(1)), counter), 5)
    assert counter.at == 5


def test_a_save_that_a_process_did_not_finish_is_no_good_checkpoint(tmp_path):
    with run_together("leave_in_a_save", tmp_path) as group:
        assert group.processes[1].wait(timeout=400) == 9
        group.kill()
    counter = Counter()
    assert_holds(restore(tmp_path, abstract(make_mesh(1)), counter), 6)
    assert counter.at == 6
    assert {path.name for path in tmp_path.iterdir()} == {"6"}
