import json
import logging
import sys

import pytest

from headjax import main as cli
from headjax.errors import UserError
from headjax.train.signals import Interrupted
from tests.toy import config as toy_config
from tests.toy import system as toy

TOY = f"--config={toy_config.__file__}"


@pytest.fixture(autouse=True)
def toy_system(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "headjax.systems.toy", toy)
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments):
    """Exit code, and what was printed to stdout and stderr."""
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_says_what_it_will_do_and_the_same_command_again_does_nothing(capsys, tmp_path):
    code, _, told = run(capsys, TOY)
    assert code == 0, told
    start = told.splitlines()[0]
    assert "config:plain in runs/config-plain: data → train → report, on " in start
    assert "about 6 s on two CPU cores" in start
    workdir = tmp_path / "runs" / "config-plain"
    assert {p.name for p in workdir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "data", "map.safetensors", "metrics.json",
        "metrics.jsonl", "stages", "tensorboard",
    }  # fmt: skip
    before = contents(workdir)
    code, _, told = run(capsys, TOY)
    assert code == 0 and "all 3 stages are done, nothing to do" in told
    assert contents(workdir) == before


def test_the_resolved_config_is_kept_beside_the_results(capsys, tmp_path):
    assert run(capsys, TOY, "--workdir=w", "--config.train.steps=3")[0] == 0
    kept = json.loads((tmp_path / "w" / "config.json").read_text())
    assert kept["values"]["train"]["steps"] == 3 and kept["schema_version"] == 1
    assert (kept["config"], kept["preset"]) == ("config", "plain")


def test_data_goes_where_data_dir_says(capsys, tmp_path):
    assert run(capsys, TOY, "--workdir=w", "--data_dir=d")[0] == 0
    assert (tmp_path / "d" / "pairs.npz").exists() and not (tmp_path / "w" / "data").exists()


def test_another_config_in_the_same_work_directory_is_refused(capsys, tmp_path):
    run(capsys, TOY, "--workdir=w")
    before = contents(tmp_path / "w")
    code, _, told = run(capsys, TOY + ":long", "--workdir=w", "--config.seed=9")
    assert code == 2
    assert "seed: 3 → 9; train.steps: 40 → 200" in told and told.count("\n") == 1
    assert contents(tmp_path / "w") == before


def test_a_dry_run_prints_stages_and_sizes_and_writes_nothing(capsys, tmp_path):
    code, printed, _ = run(capsys, TOY, "--dry_run")
    assert code == 0
    assert "train: 40 steps (about 6 s)" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("train  ")] == [
        ["train", "map", "36", "0.0", "MiB"]
    ]
    assert list(tmp_path.iterdir()) == []


def test_help_lists_flags_systems_and_presets(capsys):
    code, printed, _ = run(capsys, "--help")
    assert code == 0
    for word in ("--workdir", "--data_dir", "--dry_run", "--config.FIELD=VALUE", "examples:"):
        assert word in printed
    assert "g3diff" in printed and ":smoke" in printed
    assert len(printed.splitlines()) < 50
    assert max(len(line) for line in printed.splitlines()) <= 110


def test_help_for_a_config_lists_its_fields(capsys):
    code, printed, _ = run(capsys, TOY, "--config.train.steps=5", "--help")
    assert code == 0 and "  train.steps = 5\n" in printed and "  seed = 3\n" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--config is missing"),
        (["--config=g3dif"], "no config file g3dif (did you mean 'g3diff'?)"),
        (["--confg=x"], "unknown flag '--confg=x' (did you mean '--config'?)"),
        ([TOY, "--work-dir=x"], "unknown flag '--work-dir=x' (did you mean '--workdir'?)"),
        ([TOY, "--dry_run=maybe"], "--dry_run=maybe: give true or false"),
        (
            [TOY, "--config.train.stps=1"],
            "config.train has no field 'stps' (did you mean 'steps'?)",
        ),
        ([TOY, "stray"], "unexpected argument 'stray'"),
        ([TOY, "--config.system=to"], "there is no system 'to'"),
        (["--workdir"], "workdir"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_code_2(capsys, tmp_path, arguments, sentence):
    code, printed, told = run(capsys, *arguments)
    assert (code, printed) == (2, "")
    assert sentence in told and told.startswith("headjax: ") and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_meets_a_mistake_ends_in_code_2(capsys, monkeypatch):
    def broken(_context):
        raise UserError("heads.zip: the picture a.png is truncated; replace it")

    monkeypatch.setattr(toy, "make_pairs", broken)
    code, _, told = run(capsys, TOY, "--workdir=w")
    assert code == 2
    assert told.splitlines()[-1] == "headjax: heads.zip: the picture a.png is truncated; replace it"


def test_a_full_disk_ends_in_one_sentence(capsys, monkeypatch):
    def full(_context):
        raise OSError(28, "No space left on device", "w/pairs.npz")

    monkeypatch.setattr(toy, "make_pairs", full)
    code, _, told = run(capsys, TOY, "--workdir=w")
    assert code == 2 and "no room on the disk" in told.splitlines()[-1]


def test_an_interrupted_stage_exits_with_0_and_says_how_to_go_on(capsys, monkeypatch):
    def stopped(_context):
        raise Interrupted("SIGTERM: train is saved at step 3")

    monkeypatch.setattr(toy, "train", stopped)
    code, _, told = run(capsys, TOY, "--workdir=w")
    assert code == 0
    assert told.splitlines()[-1].endswith(
        "SIGTERM: train is saved at step 3; the same command goes on from there"
    )


def test_a_work_directory_that_cannot_be_made_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, told = run(capsys, TOY, "--workdir=file/w")
    assert code == 2 and "file/w: cannot be written" in told


def test_a_run_says_which_kernels_it_uses(capsys, monkeypatch):
    def report(*args, **kwargs):
        logging.getLogger("pallas_kernels").info("blend: reference, because it is small")

    monkeypatch.setattr(cli, "_run", report)
    assert "blend: reference, because it is small\n" in run(capsys, TOY)[2]
    report()
    assert capsys.readouterr().err == ""
