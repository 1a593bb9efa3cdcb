"""The plan command: mistakes in one sentence, a plan for GPUs, one for a TPU slice."""

import json

import pytest

from headjax.tools import plan
from tests.train.planning import example

SMOKE = "--config=g3diff:smoke"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        ([SMOKE], "--topology is missing"),
        ([SMOKE, "--topology=v5e"], "must be a chip and its numbers"),
        ([SMOKE, "--topology=v9:2x2"], "the chip 'v9' is unknown"),
        (["--config=g4diff", "--topology=v5e:2x2"], "did you mean 'g3diff'?"),
        ([SMOKE, "--topology=v5e:2x2", "--stage=difusion"], "did you mean 'diffusion'?"),
        ([SMOKE, "--topology=v5e:2x2", "--toplogy=v5e:2x2"], "unknown flag"),
        ([SMOKE, "--topology=v5e:2x2", "--batch=many"], "--batch"),
        ([SMOKE, "--topology=v5e:2x2", "--config.diffusion.bacth_size=3"], "bacth_size"),
        ([SMOKE, "--topology=v5e:2x2", "--batch=9999"], "lower it"),
    ],
)
def test_mistakes_are_told_in_one_sentence(capsys, arguments, message):
    assert plan.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help_names_every_flag(capsys):
    assert plan.main(["--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("config", "topology", "stage", "batch", "sweep", "output", "cache"):
        assert f"--{flag}" in text


def test_a_system_without_workloads_is_told():
    with pytest.raises(plan.UserError, match="no training stages that can be planned"):
        plan._workloads("nothing")


def test_a_plan_for_gpus_is_an_estimate_from_simulated_devices(tmp_path, capfd):
    output = tmp_path / "plan.json"
    arguments = [SMOKE, "--topology=h100:2", "--stage=diffusion", "--config.mesh.preset=fsdp",
                 "--config.diffusion.unet.base=8", f"--output={output}",
                 f"--cache={tmp_path / 'cache'}"]  # fmt: skip
    assert plan.main(arguments) == 0
    shown = capfd.readouterr()
    assert "An estimate" in shown.out and "it fits" in shown.out
    assert "compiling for h100:2" in shown.err
    (made,) = json.loads(output.read_text())["plans"]
    assert made["mesh"] == {"data": 1, "fsdp": 2, "model": 1} and made["estimate"]
    assert made["wire_bytes"] > 0 and made["flops"] > 0
    assert list((tmp_path / "cache").iterdir())


def test_a_sweep_names_the_best_that_fits_and_how_to_set_it(monkeypatch, capsys):
    def plan_of(stage, where, *, options, say, folder):
        sharing = options.preset == "fsdp"
        small = stage.notes["remat"] == "block" and stage.batch_size <= 8
        if not sharing or not small:
            return example.too_large()
        return example.plan(examples_per_second=100.0 * stage.batch_size)

    monkeypatch.setattr(plan.measure, "plan", plan_of)
    arguments = [SMOKE, "--topology=v5e:2x2", "--stage=diffusion", "--sweep",
                 "--config.data.train_identities=64"]  # fmt: skip
    assert plan.main(arguments) == 0
    shown = capsys.readouterr()
    assert "best that fits: batch 8, remat block, mesh fsdp=4" in shown.out
    assert "--config.diffusion.batch_size=8 --config.diffusion.unet.remat=block" in shown.out
    assert "left out, a smaller one does not fit" in shown.err


@pytest.mark.tpu_backend
def test_a_plan_for_a_slice_is_the_compiled_program_s(tmp_path, capsys):
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, comes with the extra 'tpu'")
    output = tmp_path / "plan.json"
    arguments = [SMOKE, "--topology=v5e:2x4", "--stage=diffusion", "--batch=8",
                 "--config.data.train_identities=8", "--config.mesh.preset=fsdp",
                 f"--output={output}", f"--cache={tmp_path}"]  # fmt: skip
    assert plan.main(arguments) == 0
    assert "it fits" in capsys.readouterr().out
    (made,) = json.loads(output.read_text())["plans"]
    assert made["chips"] == 8 and not made["estimate"]
    # Nearly all of the work is matrix products, each done on one chip only.
    assert 0.9 < made["flops"] / made["flops_traced"] < 1.3
    assert made["unknown_loops"] == 0
