"""The command line that trains the judge, on a few heads and steps."""

import dataclasses

import pytest

from headjax.tools import judge
from headjax.train import part_judge


@pytest.fixture
def few(monkeypatch):
    """Two heads to learn from and one to be measured on."""
    small = dataclasses.replace(
        part_judge.VIEWS, train_identities=5, val_identities=1, train_views=3, val_views=2,
        supersample=1,
    )  # fmt: skip
    monkeypatch.setattr(part_judge, "VIEWS", small)


def test_it_writes_a_judge_and_tells_its_scores(few, tmp_path, capsys):
    output = tmp_path / "judge.safetensors"
    assert judge.main([str(output), "--steps=2"]) == 0
    told = capsys.readouterr().out
    assert "mIoU on unseen heads 0." in told and str(output) in told
    assert part_judge.load_judge(output).config == part_judge.JudgeSettings().network
    before = output.read_bytes()
    assert judge.main([str(output), "--steps=2"]) == 2
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "one OUT.safetensors was expected, not none"),
        (["a.npz"], "one OUT.safetensors was expected, not a.npz"),
        (["a.safetensors", "b.safetensors"], "not a.safetensors b.safetensors"),
        (["a.safetensors", "--steps=0"], "--steps is 0; it must be at least 1"),
        (["a.safetensors", "--steps=x"], "steps"),
        (["a.safetensors", "--stepps=1"], "stepps"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert judge.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("headjax: ") and sentence in told and "Traceback" not in told


def test_help_names_what_it_is_for(capsys):
    assert judge.main(["--help"]) == 0
    assert "--config.weights.judge" in capsys.readouterr().out
