import io
import json

import ml_collections
import pytest

from headjax.errors import UserError
from headjax.io import atomic
from headjax.train import stages
from headjax.train.logging import Logger
from headjax.train.stages import Context, Stage, run_stages


def context(folder, **values):
    config = ml_collections.FrozenConfigDict({"steps": 3, "rates": (0.1, 1), **values})
    logger = Logger(None, stream=io.StringIO())
    return Context(config=config, workdir=folder, data_dir=folder, logger=logger, seed=0)


def recording(names, calls, *, failing=()):
    def run(name):
        def stage(_context):
            calls.append(name)
            if name in failing:
                raise RuntimeError(name)

        return stage

    return [Stage(name, run(name)) for name in names]


def test_stages_run_in_order_and_once(tmp_path):
    calls = []
    every = recording("abc", calls)
    assert run_stages(every, context(tmp_path)) == ["a", "b", "c"]
    assert run_stages(every, context(tmp_path)) == []
    assert calls == ["a", "b", "c"]


def test_a_cut_off_stage_is_run_again_and_those_before_it_are_not(tmp_path):
    calls = []
    with pytest.raises(RuntimeError, match="b"):
        run_stages(recording("abc", calls, failing="b"), context(tmp_path))
    assert run_stages(recording("abc", calls), context(tmp_path)) == ["b", "c"]
    assert calls == ["a", "b", "b", "c"]


def test_a_stage_is_run_again_where_a_file_of_its_is_gone_and_no_other_is(tmp_path):
    def write(_context):
        (tmp_path / "b.txt").write_text("b")
        calls.append("b")

    calls = []
    every = [*recording("a", calls), Stage("b", write, outputs=("b.txt",)), *recording("c", calls)]
    run_stages(every, context(tmp_path))
    assert run_stages(every, context(tmp_path)) == []
    (tmp_path / "b.txt").unlink()
    assert run_stages(every, context(tmp_path)) == ["b"]
    assert calls == ["a", "b", "c", "b"]


def test_a_marker_of_another_config_is_refused(tmp_path):
    run_stages(recording("a", []), context(tmp_path))
    with pytest.raises(UserError, match="a.json was written for another config"):
        run_stages(recording("a", []), context(tmp_path, steps=4))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"config_hash": "x"}'])
def test_a_damaged_marker_is_named(tmp_path, text):
    run_stages(recording("a", []), context(tmp_path))
    (tmp_path / "stages" / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json is damaged"):
        run_stages(recording("a", []), context(tmp_path))


def test_a_marker_of_a_newer_schema_is_refused(tmp_path):
    run_stages(recording("a", []), context(tmp_path))
    marker = tmp_path / "stages" / "a.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="newer headjax"):
        run_stages(recording("a", []), context(tmp_path))


def test_the_fingerprint_sees_values_and_not_their_order_or_kind_of_sequence():
    one = stages.config_hash({"a": 1, "b": {"c": (1, 2.5)}})
    assert one == stages.config_hash({"b": {"c": [1, 2.5]}, "a": 1})
    assert one != stages.config_hash({"b": {"c": [1, 2.25]}, "a": 1})


def test_one_work_directory_serves_one_run_at_a_time(tmp_path):
    workdir = tmp_path / "new" / "run"
    with stages.locked(workdir):
        with pytest.raises(UserError, match=r"another run \(process \d+\) is working in"):
            with stages.locked(workdir):
                pass
    with stages.locked(workdir):
        pass


def test_a_work_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), stages.locked(tmp_path / "file"):
        pass


def test_what_a_killed_write_left_behind_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    kept = [tmp_path / name for name in (".lock", "a.tmp", ".mine.tmp", "deep/.x.0123.tmp.png")]
    for path in kept:
        path.write_text("")

    debris = tmp_path / "deep" / ".samples.0123456789ab.tmp.png"
    debris.write_text("")
    stages.clear_debris(tmp_path)
    assert not debris.exists() and all(path.exists() for path in kept)


def test_the_debris_looks_as_the_atomic_writer_names_it(tmp_path):
    with pytest.raises(RuntimeError), atomic.replacing(tmp_path / "metrics.json") as temporary:
        temporary.write_text("half")
        copy = temporary.read_text(), temporary.name
        raise RuntimeError("cut off")
    (tmp_path / copy[1]).write_text(copy[0])
    stages.clear_debris(tmp_path)
    assert list(tmp_path.iterdir()) == []
