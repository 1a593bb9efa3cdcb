"""A whole run of Head3D's smoke preset, even smaller; going on; other teachers; refusals."""

import json
import shutil

import jax
import numpy as np
import pytest

from headjax import main
from headjax.errors import UserError
from headjax.nets import triplane_gan_weights
from headjax.systems import head3d
from headjax.train import config as configs

SMALL = [
    "--config.faces.train_identities=4", "--config.faces.train_views=3",
    "--config.heads.train_identities=4", "--config.heads.train_views=4",
    "--config.teacher_regression.pictures.steps=1", "--config.teacher_adversarial.steps=1",
    "--config.finetune_regression.pictures.steps=1", "--config.finetune_regression.faces=9",
    "--config.finetune.steps=2",
    "--config.finetune.batch_size=2", "--config.distill.steps=5", "--config.distill.batch_size=2",
    "--config.teacher_adversarial.batch_size=2", "--config.distill.checkpoint_every=2",
    "--config.samples.identities=2", "--config.samples.turntable_frames=2",
    "--config.evaluation.identities=3",
    # One program for all warm starts, and one for all adversarial phases: those of EG3D's tests.
    "--config.head_rays.near=2.25", "--config.head_rays.far=3.15",
    "--config.finetune.lr_discriminator=0.002", "--config.finetune.gamma=1.0",
    "--config.mixed.steps=1", "--config.mixed.batch_size=2",
]  # fmt: skip


def command(workdir, *more):
    return ["--config=head3d:smoke", f"--workdir={workdir}", *SMALL, *more]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head3d") / "run"
    assert main.main(command(folder)) == 0
    return folder


def test_every_artefact_is_there(workdir):
    assert {p.name for p in workdir.iterdir()} == {
        ".lock", "analysis.json", "analysis.png", "back_discriminator.safetensors", "checkpoints",
        "comparison.png", "config.json", "data", "data_sheet.png", "finetuned.safetensors",
        "finetuned_discriminator.safetensors", "front_discriminator.safetensors",
        "generator.safetensors", "metrics.json", "metrics.jsonl", "samples.png", "stages",
        "teacher.safetensors", "teacher_discriminator.safetensors", "tensorboard", "turntable.mp4",
    }  # fmt: skip


def networks(workdir, *names):
    return [triplane_gan_weights.load(workdir / f"{name}.safetensors") for name in names]


def test_every_phase_moves_its_networks(workdir):
    loaded = networks(
        workdir, "teacher", "finetuned", "generator", "teacher_discriminator",
        "finetuned_discriminator", "front_discriminator", "back_discriminator",
    )  # fmt: skip
    teacher, finetuned, student, faces, heads, front, back = (v["params"] for _, v in loaded)
    assert all(np.all(np.isfinite(x)) for _, v in loaded for x in jax.tree.leaves(v))

    def distance(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return sum(float(np.abs(x - y).sum()) for x, y in pairs)

    assert distance(teacher, finetuned) > 0 and distance(finetuned, student) > 0
    # Each began with its own: D_front with the teacher's, D_back with the fine-tuned.
    assert 0 < distance(front, faces) < distance(front, heads)
    assert 0 < distance(back, heads) < distance(back, faces)


def test_scores_are_written_with_what_is_missing_and_what_stands_in(workdir):
    told = json.loads((workdir / "metrics.json").read_text())
    assert 0.0 <= told["identity_kept"] <= 1.0 and told["identity_latents"] == 3
    assert told["perceptual"] == "multiscale_gradients"
    assert "weights.judge" in told["back_faceless"]
    assert "weights.arcface" in told["id"] and "weights.inception" in told["fid_back"]
    table = json.loads((workdir / "analysis.json").read_text())["table_1"]
    assert set(table) == {"xy", "xz", "yz", "none", "all"}
    assert table["none"]["color_distance1"] == pytest.approx(0.0, abs=1e-5)


def results(workdir):
    return {file.name: file.read_bytes() for file in workdir.glob("*.safetensors")} | {
        "metrics.json": (workdir / "metrics.json").read_bytes()
    }


def test_a_run_that_lost_its_end_makes_the_same_networks_again(workdir, tmp_path):
    """From the checkpoint before the last: what a kill between two turns leaves behind."""
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    for name in ("distill", "samples", "evaluation", "analysis"):
        (again / "stages" / f"{name}.json").unlink()
    for name in ("generator", "front_discriminator", "back_discriminator"):
        (again / f"{name}.safetensors").unlink()
    (again / "metrics.json").unlink()
    folder = again / "checkpoints" / "distill"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    assert len(steps) > 1
    shutil.rmtree(folder / str(steps[-1]))
    assert main.main(command(again)) == 0
    assert results(again) == results(workdir)


def test_a_baseline_trains_on_both_sets_from_a_teacher_that_is_given(workdir, tmp_path, capsys):
    """DFT, from a teacher that comes as a file without its discriminator."""
    baseline = tmp_path / "dft"
    more = ["--config.method=dft", f"--config.teacher={workdir / 'teacher.safetensors'}",
            "--config.analysis.identities=0"]  # fmt: skip
    shutil.copytree(workdir / "data", baseline / "data")
    assert main.main(command(baseline, *more)) == 0
    assert "it came without its discriminator" in capsys.readouterr().err
    assert (baseline / "discriminator.safetensors").exists()
    assert not (baseline / "finetuned.safetensors").exists()
    (config, one), (other, two) = (networks(f, "teacher")[0] for f in (workdir, baseline))
    assert config == other
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_dry_run_tells_the_networks_of_each_phase(capsys, tmp_path):
    assert main.main(command(tmp_path / "none", "--dry_run")) == 0
    told = capsys.readouterr().out
    assert "discriminators" in told and "frozen teacher" in told and "finetune" in told


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.method=pti", "method is 'pti'; one of head3d, dft, fh"),
        ("--config.teacher=nowhere", "it must be a generator's safetensors, or the work directory"),
        ("--config.heads.resolution=32", "heads.resolution is 32, but the generator draws 16 x 16"),
        ("--config.faces.resolution=8", "faces.resolution is 8 and heads.resolution 16"),
        ("--config.distill.planes=yz", "distill.planes is 'yz'; one of xy, all"),
        ("--config.distill.perceptual=lpips_vgg", "needs vgg16-397923af.pth"),
        ("--config.finetune_regression.faces=-1", "finetune_regression.faces is -1; 0 for none"),
        ("--config.heads.source=folder", "finetune_regression has steps, but heads.source"),
        ("--config.faces.source=folder", "teacher_regression has steps, but faces.source"),
        ("--config.evaluation.identities=1", "evaluation.identities is 1; at least 2"),
        ("--config.analysis.identities=1", "0 for no analysis, or at least 2"),
        ("--config.generator.kind=panohead", "Head3D distils tri-planes: 'eg3d'"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(override, sentence):
    config = configs.load("head3d:smoke", overrides=[override])
    with pytest.raises(UserError) as caught:
        head3d.stages(config.values)
    assert sentence in str(caught.value)


def test_a_discriminator_is_no_teacher(workdir, tmp_path):
    shutil.copytree(workdir / "data", tmp_path / "run" / "data")
    path = workdir / "teacher_discriminator.safetensors"
    assert main.main(command(tmp_path / "run", f"--config.teacher={path}")) == 2
