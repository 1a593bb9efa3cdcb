"""Sharding changes nothing: the smoke config's losses on one device and on several.

The stages follow each other, so what one of them changes, the next would show.
"""

import json

import numpy as np
import pytest

from tests.processes import assert_all_succeed, run_processes

PROGRAM = "tests.systems.g3diff.on_meshes"
SAMPLE = ["dp:1", "fsdp:8"]
WHOLE = ["dp:1", *(f"{preset}:{n}" for preset in ("dp", "fsdp", "fsdp_tp") for n in (2, 4, 8))]


def train(data_dir, *, steps, meshes):
    arguments = ["-m", PROGRAM, str(data_dir), str(steps), *meshes]
    ends = run_processes(arguments, count=1, devices_each=8, timeout=3600)
    assert_all_succeed(ends)
    return json.loads(ends[0].stdout.splitlines()[-1])


def assert_equal_losses(results, *, steps):
    one, *others = results.values()
    assert all(len(losses) == steps for losses in one["losses"].values())
    for other in others:
        for stage, losses in one["losses"].items():
            np.testing.assert_allclose(other["losses"][stage], losses, rtol=1e-5, err_msg=stage)


def test_eight_devices_that_share_the_state_train_what_one_trains(tmp_path):
    results = train(tmp_path, steps=6, meshes=SAMPLE)
    assert_equal_losses(results, steps=6)
    for stage, size in results["fsdp:8"]["bytes"].items():
        assert size <= 0.16 * results["dp:1"]["bytes"][stage], stage


@pytest.mark.sweep
def test_every_mesh_trains_what_one_device_trains(tmp_path):
    assert_equal_losses(train(tmp_path, steps=20, meshes=WHOLE), steps=20)
