"""A whole run of EG3D's smoke preset, even smaller; stopping and going on; its weights."""

import shutil

import jax
import numpy as np
import pytest

from headjax import main
from headjax.errors import UserError
from headjax.nets import triplane_gan_weights
from headjax.systems import gan3d
from headjax.train import config as configs

SMALL = [
    "--config.data.train_identities=4", "--config.data.train_views=3",
    "--config.regression.surface.steps=2", "--config.regression.checkpoint_every=2",
    "--config.adversarial.steps=5", "--config.adversarial.checkpoint_every=2",
    "--config.adversarial.batch_size=2", "--config.samples.count=2",
    "--config.samples.turntable_frames=2", "--config.evaluation.identities=3",
]  # fmt: skip


def command(workdir, *more):
    return ["--config=eg3d:smoke", f"--workdir={workdir}", *SMALL, *more]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan3d") / "run"
    assert main.main(command(folder)) == 0
    return folder


def test_every_artefact_is_there(workdir):
    assert {p.name for p in workdir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "data", "data_sheet.png",
        "discriminator.safetensors", "generator.safetensors", "metrics.json", "metrics.jsonl",
        "regressed.safetensors", "samples.png", "stages", "tensorboard", "turntable.mp4",
    }  # fmt: skip
    assert {p.stem for p in (workdir / "stages").iterdir()} == {
        "data", "regression", "adversarial", "samples", "evaluation",
    }  # fmt: skip


def test_the_weights_are_the_last_states_average_and_discriminator(workdir):
    config, variables = triplane_gan_weights.load(workdir / "generator.safetensors")
    judge, judged = triplane_gan_weights.load(workdir / "discriminator.safetensors")
    assert config.resolution == judge.resolution == 16
    _, before = triplane_gan_weights.load(workdir / "regressed.safetensors")
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables, before)
    assert moved["buffers"]["backbone"]["mapping"]["w_avg"]
    assert not moved["buffers"]["backbone"]["synthesis"]["b4"]["conv1"]["noise_const"]
    assert moved["params"]["decoder"]["net"]["0"]["weight"]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((variables, judged)))


def results(workdir):
    names = ("generator.safetensors", "discriminator.safetensors", "regressed.safetensors")
    return {name: (workdir / name).read_bytes() for name in names}


def test_a_run_that_lost_its_end_makes_the_same_networks_again(workdir, tmp_path):
    """From the checkpoint before the last: what a kill leaves behind."""
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    for path in ("stages/adversarial.json", "stages/samples.json", "generator.safetensors",
                 "discriminator.safetensors", "metrics.json"):  # fmt: skip
        (again / path).unlink()
    steps = sorted(int(p.name) for p in (again / "checkpoints/adversarial16").iterdir()
                   if p.name.isdigit())  # fmt: skip
    assert len(steps) > 1
    shutil.rmtree(again / "checkpoints/adversarial16" / str(steps[-1]))
    assert main.main(command(again)) == 0
    assert results(again) == results(workdir)


def test_a_dry_run_tells_both_networks(capsys, tmp_path):
    assert main.main(command(tmp_path / "none", "--dry_run")) == 0
    told = capsys.readouterr().out
    assert "generator" in told and "discriminator" in told and "adversarial" in told


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.data.resolution=32", "data.resolution is 32, but the generator draws 16 x 16"),
        ("--config.generator.kind=stylegan", "generator.kind is 'stylegan'; one of eg3d, panohead"),
        ("--config.generator.plane_depth=3", "tri-grids have a depth of at least 1"),
        ("--config.adversarial.neural_resolutions=(16,8)", "they must ascend"),
        ("--config.generator.z_dim=64", "generator.z_dim is 64, but a person's latent has 84"),
        ("--config.data.source=folder", "set regression.surface.steps and regression.pictures"),
        ("--config.regression.stride=3", "regression.stride is 3; it must divide 16"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(override, sentence):
    config = configs.load("eg3d:smoke", overrides=[override])
    with pytest.raises(UserError) as caught:
        gan3d.stages(config.values)
    assert sentence in str(caught.value)


def test_a_phase_that_weighs_nothing_is_refused():
    nothing = [f"--config.regression.surface.loss.{name}=0.0" for name in ("opacity", "color")]
    config = configs.load("eg3d:smoke", overrides=nothing)
    with pytest.raises(UserError, match="regression.surface.loss weighs nothing; weigh some of"):
        gan3d.stages(config.values)
