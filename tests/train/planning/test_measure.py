"""A workload measured: the program that trains, its memory by part, its refusal, its cache."""

import jax
import numpy as np
import pytest

from headjax.train import workload
from headjax.train.mesh import MeshOptions, abstract_mesh, make_mesh
from headjax.train.planning import collectives, measure, topology
from tests.train.planning import example

ONE = topology.parse("t4:1")


@pytest.fixture(scope="module")
def made():
    return measure.plan(example.workload(), ONE, options=MeshOptions())


def test_a_plan_of_one_device_is_what_can_be_counted_by_hand(made):
    weights = 64 * 64 * 4
    assert made["state_bytes"] == {
        "params": weights, "opt_state": weights, "ema": weights, "extras": 0, "batch": 16 * 64 * 4,
    }  # fmt: skip
    # Forward, and the weights' gradient; the input's is not asked for.
    assert made["flops"] == 2 * 2 * 16 * 64 * 64
    assert made["collectives"] == {} and made["wire_bytes"] == 0
    assert made["fits"] and made["estimate"]
    np.testing.assert_allclose(made["roofline"]["compute"], made["flops"] / 8.1e12)
    np.testing.assert_allclose(made["examples_per_second"], 16 / made["roofline"]["seconds"])
    hours = 100 * made["roofline"]["seconds"] / 3600
    np.testing.assert_allclose(made["chip_hours"], hours)


def test_arguments_and_temporaries_make_the_total(made):
    state = sum(made["state_bytes"].values())
    assert made["arguments_bytes"] >= state
    assert made["total_bytes"] >= made["arguments_bytes"] + made["temporary_bytes"]


@pytest.mark.parametrize(
    ("options", "share"),
    [(MeshOptions("dp"), 1), (MeshOptions("fsdp"), 8), (MeshOptions("fsdp", fsdp=4), 4)],
)
def test_the_state_is_shared_as_the_mesh_says(options, share):
    parts = measure.state_bytes(example.workload(), abstract_mesh(options, 8))
    assert parts["params"] == 64 * 64 * 4 / share
    assert parts["batch"] == 16 * 64 * 4 / 8


def test_what_is_lowered_is_the_update_that_trains_at_any_number_of_devices():
    lowered = workload.lower(example.workload(batch=512), abstract_mesh(MeshOptions("fsdp"), 512))
    text = lowered.as_text()
    assert "num_partitions = 512" in text and "jit_update" in text
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text


def test_a_plan_that_was_made_is_not_compiled_again(tmp_path, monkeypatch):
    stage, said = example.workload(), []
    first = measure.plan(stage, ONE, options=MeshOptions(), folder=tmp_path)

    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(measure, "_compiled", refuse)
    again = measure.plan(stage, ONE, options=MeshOptions(), folder=tmp_path, say=said.append)
    assert again == first and "compiled before" in said[-1]


def test_what_a_run_costs_is_not_kept(tmp_path):
    """Figures of the chip and the length of the run may change without a new compilation."""
    first = measure.plan(example.workload(), ONE, options=MeshOptions(), folder=tmp_path)
    again = measure.plan(example.workload(examples=32), ONE, options=MeshOptions(), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert again["examples_per_second"] == 2 * first["examples_per_second"]


@pytest.mark.parametrize(
    ("message", "used"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
         "hbm. Used 25.32G of 15.75G hbm. Exceeded hbm capacity by 9.57G.", 25.32 * 2**30),
        ("Used 800.5M of 15.75G hbm", 800.5 * 2**20),
        ("INTERNAL: Mosaic failed", None),
    ],
)  # fmt: skip
def test_the_compiler_s_refusal_says_what_would_have_been_used(message, used):
    assert measure.bytes_refused(message) == used


def test_a_refused_program_is_a_plan_that_does_not_fit(monkeypatch):
    class Refused:
        def as_text(self):
            return "module"

        def compile(self):
            raise jax.errors.JaxRuntimeError("Used 25.0G of 15.75G hbm")

    monkeypatch.setattr(workload, "lowered", lambda *_: Refused())
    made = measure.plan(example.workload(), ONE, options=MeshOptions())
    assert not made["fits"] and made["total_bytes"] == 25 * 2**30
    assert made["state_bytes"]["params"] and "roofline" not in made


def test_a_group_s_devices_lie_along_the_axis_of_its_size():
    class Devices:
        axis_names = ("data", "fsdp", "model")
        devices = np.arange(32).reshape(2, 16, 1)

    group = measure.group_of(Devices, 16)
    assert group.flatten().tolist() == list(range(16))
    assert measure.group_of(Devices, 2).flatten().tolist() == [0, 16]
    assert measure.group_of(Devices, 32).size == 32
    assert measure.group_of(Devices, 8).tolist() == list(range(8))


def test_network_time_is_that_of_each_group_s_links():
    where = topology.parse("t4:1")
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    found = [collectives.Collective("all-gather", 4, 400.0, 2, "")]
    assert measure.network_seconds(found, where, mesh) == 2 * 300.0 / 16e9
