import json

import pytest

from headjax.errors import UserError
from headjax.train import distributed
from headjax.train.distributed import Group

BY_HAND = {"HEADJAX_COORDINATOR": "10.0.0.1:1234", "HEADJAX_PROCESSES": "4", "HEADJAX_PROCESS": "3"}


@pytest.mark.parametrize("environment", [
    {},
    {"SLURM_NTASKS": "8"},  # a shell inside an allocation, not a step of it
    {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1"},
    {"OMPI_COMM_WORLD_SIZE": "1"},
    {"TPU_WORKER_HOSTNAMES": "localhost"},
    {"JAX_NUM_PROCESSES": "1"},
])  # fmt: skip
def test_one_process_is_no_group(environment):
    assert not distributed.is_described(environment)


@pytest.mark.parametrize("environment", [
    BY_HAND,
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]"},
    {"HEADJAX_PROCESS": "1"},
    {"OMPI_COMM_WORLD_SIZE": "2"},
    {"TPU_WORKER_HOSTNAMES": "t0,t1"},
    {"JAX_NUM_PROCESSES": "2"},
    {"MEGASCALE_COORDINATOR_ADDRESS": "t0:8080"},
])  # fmt: skip
def test_several_processes_are_recognised(environment):
    assert distributed.is_described(environment)


def test_a_group_by_hand_is_handed_to_the_runtime():
    assert distributed.by_hand(BY_HAND) == {
        "coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3,
    }  # fmt: skip
    assert distributed.by_hand({}) == {}


@pytest.mark.parametrize("changes, sentence", [
    ({"HEADJAX_PROCESS": ""}, "HEADJAX_PROCESS is not set"),
    ({"HEADJAX_COORDINATOR": ""}, "HEADJAX_COORDINATOR is not set"),
    ({"HEADJAX_COORDINATOR": "10.0.0.1"}, "must be host:port"),
    ({"HEADJAX_PROCESS": "4"}, "from 0 on and below the second"),
    ({"HEADJAX_PROCESSES": "four"}, "must be whole numbers"),
])  # fmt: skip
def test_a_group_that_is_described_wrongly_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        distributed.by_hand(BY_HAND | changes)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="--distributed=maybe is none of auto, on, off"):
        distributed.join("maybe")


def test_off_and_an_environment_that_says_nothing_are_one_process(monkeypatch):
    for name in BY_HAND:
        monkeypatch.delenv(name, raising=False)
    assert distributed.join("auto") == Group(0, 1)
    monkeypatch.setenv("HEADJAX_PROCESSES", "4")
    assert distributed.join("off") == Group(0, 1)


def test_one_process_decides_waits_and_ends_by_itself():
    group = Group()
    assert group.leads and group.decide(lambda: {"a": [1]}) == {"a": [1]}
    group.wait_for_all()
    group.fail(3, "nobody is told")
    group.leave()


def test_what_is_decided_is_json():
    assert json.dumps(Group().decide(lambda: ["surface"])) == '["surface"]'
