"""Preparation: whole or not at all, reused, refused when it is another data set's place."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headjax.data import load_split, preparation, prepare
from headjax.data.preparation import MANIFEST
from headjax.errors import UserError
from headjax.geometry.cameras import camera_from_label
from tests.datasets.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]


def everything(folder):
    """All files below `folder` with their bytes, the description of the writing run aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_prepared_can_be_read_back(stand_in, tmp_path):
    ticks = []
    made = prepare(SMALL, tmp_path / "set", workers=1, progress=ticks.append)
    assert not made.reused
    assert made.records == {"train": 30, "val_views": 20, "val_identities": 14}
    assert stand_in.made == 7
    done = [tick.done for tick in ticks]
    assert done == sorted(done) and done[-1] == 64
    assert ticks[-1].total == 64 and ticks[-1].rate > 0 and ticks[-1].eta == 0
    assert len(load_split(tmp_path / "set", "val_views")) == 20
    assert os.listdir(tmp_path) == ["set"]


def test_the_same_settings_again_reuse_it(stand_in, small_set):
    before = everything(small_set)
    assert prepare(SMALL, small_set, workers=1).reused
    assert stand_in.made == 0
    assert everything(small_set) == before


def test_preparation_is_deterministic(stand_in, small_set, tmp_path):
    prepare(SMALL, tmp_path / "again", workers=1)
    for split in ("train", "val_identities"):
        first, second = load_split(small_set, split), load_split(tmp_path / "again", split)
        for index in range(len(first)):
            for name, value in first[index].items():
                np.testing.assert_array_equal(value, second[index][name])


def test_other_settings_are_refused_by_the_names_of_the_fields(stand_in, small_set):
    other = dataclasses.replace(SMALL, seed=3, resolution=32)
    with pytest.raises(UserError, match=r"resolution: 16 there, 32 wanted; seed: 0 there, 3"):
        prepare(other, small_set)


def test_a_set_from_before_frontal_ones_is_a_full_circle(stand_in, small_set, tmp_path):
    shutil.copytree(small_set, tmp_path / "old")
    path = tmp_path / "old" / MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["config"].pop("max_yaw") == 180
    path.write_text(json.dumps(manifest))
    assert prepare(SMALL, path.parent).reused
    first, second = (load_split(folder, "val_identities") for folder in (small_set, path.parent))
    np.testing.assert_array_equal(first.view_numbers, second.view_numbers)
    with pytest.raises(UserError, match=r"max_yaw: 180.0 there, 60 wanted"):
        prepare(dataclasses.replace(SMALL, max_yaw=60), path.parent)


def test_a_frontal_set_is_prepared_and_read_back(stand_in, tmp_path):
    frontal = dataclasses.replace(SMALL, max_yaw=50.0, train_identities=2, val_identities=1)
    made = prepare(frontal, tmp_path / "set", workers=1)
    assert made.records == {"train": 12, "val_views": 8, "val_identities": 5}
    held_out = load_split(tmp_path / "set", "val_identities")
    assert held_out.config == frontal and len(held_out) == 5
    positions = camera_from_label(np.stack([held_out[i]["camera"] for i in range(5)])).position
    yaw = np.rad2deg(np.arctan2(positions[:, 0], positions[:, 2]))
    assert np.abs(yaw).max() <= 50.001 and abs(yaw[0]) < 1e-3


def test_another_version_of_headjax_is_refused(stand_in, small_set, monkeypatch):
    monkeypatch.setattr("headjax.__version__", "99.0")
    with pytest.raises(UserError, match=r"headjax version: '.+' there, '99.0' wanted"):
        prepare(SMALL, small_set)


def test_a_folder_with_other_things_is_left_alone(stand_in, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no prepared data set"):
        prepare(SMALL, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="is a file"):
        prepare(SMALL, tmp_path / "thesis.tex")


def test_an_empty_folder_may_be_used(stand_in, tmp_path):
    (tmp_path / "set").mkdir()
    assert not prepare(SMALL, tmp_path / "set", workers=1).reused


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "x"}'])
def test_a_damaged_manifest_is_named(stand_in, tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="manifest.json is not a readable manifest"):
        prepare(SMALL, tmp_path)


@pytest.mark.parametrize("schema", [1, 3])
def test_another_schema_is_refused_in_one_sentence(stand_in, tmp_path, schema):
    content = {"kind": "headjax.head_views", "schema": schema}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    for use in (lambda: load_split(tmp_path, "train"), lambda: prepare(SMALL, tmp_path)):
        with pytest.raises(UserError, match=f"schema {schema}; .* schema 2: delete the folder"):
            use()


def test_an_unfinished_preparation_is_discarded_and_redone(stand_in, tmp_path):
    partial = tmp_path / "set.partial" / "procedural_heads"
    partial.mkdir(parents=True)
    (partial / "debris").write_bytes(b"half a record")
    assert not prepare(SMALL, tmp_path / "set", workers=1).reused
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("after", [6, 46, 57])
def test_a_failure_leaves_nothing_behind(stand_in, tmp_path, after):
    def fail(progress):
        if progress.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(SMALL, tmp_path / "set", workers=1, progress=fail)
    assert os.listdir(tmp_path) == []


def test_too_little_room_is_told_before_the_work(stand_in, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="no room on the disk for .*set: at least"):
        prepare(SMALL, tmp_path / "set", workers=1)
    assert stand_in.made == 0
    assert os.listdir(tmp_path) == []


def test_two_at_once_take_turns_and_share_the_result(stand_in, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(prepare, SMALL, tmp_path / "set", workers=1) for _ in range(2)]
    assert sorted(run.result().reused for run in runs) == [False, True]
    assert stand_in.made == 7


FULL_DISK = """
import resource, sys
from headjax.data import prepare, sources
from headjax.errors import UserError
from headjax.geometry.cameras import camera_from_label
from tests.datasets.conftest import SMALL
from tests.datasets.stand_in import StandInSource
sources._source = lambda kind, folder: StandInSource()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    prepare(SMALL, sys.argv[1], workers=1)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 2_000, 40_000])
def test_a_disk_that_fills_up_is_told_in_one_sentence(tmp_path, limit):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "set"), str(limit)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "no room on the disk for" in result.stdout, result.stderr
    assert result.returncode == 0
    assert os.listdir(tmp_path) == []
