"""A whole run of the smoke preset, even smaller, and what can be done with its work directory."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import headjax
from headjax import data, main
from headjax.errors import UserError
from headjax.geometry.cameras import orbit_labels
from headjax.systems.g3diff import artefacts, pipeline, report
from headjax.train import config as configs
from headjax.train.logging import Logger
from headjax.train.stages import Context
from headjax.train.state import stream_key
from headjax.train.weights import load_weights
from tests.io.test_video import read as read_video

IDENTITIES, SAMPLES = 3, 3
SMALL = [
    f"--config.data.train_identities={IDENTITIES}", "--config.data.val_identities=2",
    "--config.data.train_views=4", "--config.data.val_views=3", "--config.data.supersample=1",
    "--config.field.grid=4", "--config.data.uv_size=4", "--config.decoder.width=8",
    "--config.decoder.code_dim=8", "--config.autodecoder.batch_identities=2",
    "--config.autodecoder.warmup.steps=3", "--config.autodecoder.steps=3",
    "--config.autodecoder.checkpoint_every=2", "--config.render.evaluation.samples=6",
    "--config.render.evaluation.importance=0", "--config.diffusion.steps=3",
    "--config.diffusion.batch_size=2", "--config.diffusion.checkpoint_every=2",
    "--config.diffusion.unet.base=8",
    "--config.diffusion.unet.multipliers=(1,)", "--config.diffusion.sample_steps=3",
    f"--config.samples.count={SAMPLES}", "--config.samples.turntable_frames=3",
]  # fmt: skip


def command(workdir, *more):
    return ["--config=g3diff:smoke", f"--workdir={workdir}", *SMALL, *more]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("g3diff") / "run"
    assert main.main(command(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return headjax.load(workdir)


def contents(folder):
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_every_artefact_is_there(workdir):
    assert {p.name for p in workdir.iterdir()} == {
        ".lock", "autodecoder.safetensors", "checkpoints", "config.json", "data",
        "data_sheet.png", "diffusion.safetensors", "evaluation.json", "metrics.json",
        "metrics.jsonl", "reconstructions.png", "samples.png", "samples.safetensors", "stages",
        "surface.safetensors", "tensorboard", "turntable.mp4",
    }  # fmt: skip
    assert {p.stem for p in (workdir / "stages").iterdir()} == {
        "data", "surface", "autodecoder", "evaluation", "diffusion", "samples",
    }  # fmt: skip


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_pictures_have_the_sizes_that_the_config_says(workdir):
    # Two heads a row, three views and a depth each, 32 pixels and gaps of 4.
    assert size(workdir / "samples.png") == (8 * 36 - 4, 2 * 36 - 4)
    # Front, side and back of every identity: truth, prediction and depth, doubled.
    assert size(workdir / "reconstructions.png") == (9 * 68 - 4, IDENTITIES * 68 - 4)
    assert min(size(workdir / "data_sheet.png")) > 100
    _, frames = read_video(workdir / "turntable.mp4")
    assert frames.shape == (3, 32, 2 * 32, 3)


def test_metrics_hold_scores_and_say_what_is_missing(workdir):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    metrics = json.loads((workdir / "metrics.json").read_text(), parse_constant=refuse)
    assert set(metrics) == {
        "heldout_views", "identity_similarity", "lpips", "perceptual_loss", "samples",
        "schema_version", "warm_start",
    }  # fmt: skip
    assert set(metrics["heldout_views"]) == {
        "psnr", "psnr_face", "iou", "contrast_brows", "contrast_eyes", "contrast_lips",
        "psnr_mean_identity", "psnr_face_mean_identity",
    }  # fmt: skip
    assert set(metrics["samples"]) == {
        "sample_to_train", "sample_to_sample", "train_to_train", "heldout_to_train",
        "sample_to_train_relative", "sample_to_sample_relative",
    }  # fmt: skip
    assert 0 < metrics["heldout_views"]["psnr"] < 60 and 0 <= metrics["heldout_views"]["iou"] <= 1
    assert metrics["lpips"].startswith("n/a") and metrics["perceptual_loss"] == "multiscale_l1"
    assert metrics["schema_version"] == 1 and metrics["warm_start"] == ""


def test_training_is_logged_by_stage(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = {(line["stage"], line["step"]) for line in lines if "loss" in line}
    assert {("surface", 3), ("autodecoder", 3), ("diffusion", 3)} <= steps


def test_weights_say_which_run_they_come_from(workdir):
    for name in ("surface", "autodecoder", "diffusion", "samples"):
        _, notes = load_weights(workdir / f"{name}.safetensors")
        assert notes["schema_version"] == 1 and notes["system"] == "g3diff" and notes["seed"] == 0
        marker = json.loads((workdir / "stages" / "data.json").read_text())
        assert notes["config_hash"] == marker["config_hash"]


def test_the_same_command_again_says_so_and_changes_nothing(workdir, capsys):
    before = contents(workdir)
    assert main.main(command(workdir)) == 0
    assert "all 6 stages are done, nothing to do" in capsys.readouterr().err
    assert contents(workdir) == before


def test_another_config_in_the_same_place_is_refused_by_the_fields_name(workdir, capsys):
    before = contents(workdir)
    code = main.main(command(workdir, "--config.autodecoder.lr.z=0.5"))
    told = capsys.readouterr().err
    assert code == 2 and "autodecoder.lr.z: 0.002 → 0.5" in told and told.count("\n") == 1
    assert contents(workdir) == before


def test_two_runs_are_equal_to_the_bit(workdir, tmp_path):
    assert main.main(command(tmp_path / "again")) == 0
    for name in (
        "metrics.json", "evaluation.json", "surface.safetensors", "autodecoder.safetensors",
        "diffusion.safetensors", "samples.safetensors", "samples.png",
    ):  # fmt: skip
        assert (tmp_path / "again" / name).read_bytes() == (workdir / name).read_bytes(), name


def test_samples_are_the_keys(model):
    first, again, other = (model.sample(jax.random.key(k), count=2) for k in (0, 0, 1))
    equal(first, again)
    assert np.any(np.asarray(first.payload) != np.asarray(other.payload))
    assert first.centers.shape == (2, 4, 4, 3) and first.payload.shape == (2, 8, 8, 24)


def test_the_runs_samples_can_be_drawn_again(model):
    heads = model.sample(stream_key(0, "samples"), count=SAMPLES)
    for mine, kept in zip(jax.tree.leaves(heads), jax.tree.leaves(model.samples), strict=True):
        np.testing.assert_allclose(mine, kept, atol=1e-5)


def test_heads_are_found_by_name(model):
    equal(model.head("sample:2"), report.take_heads(model.samples, slice(2, 3)))
    equal(model.head("train:1"), model.reconstruct(jnp.array([1])))
    both = model.reconstruct(jnp.array([2, 0]))
    np.testing.assert_array_equal(
        both.centers, model.autodecoder.params["tables"]["centers"][jnp.array([2, 0])]
    )


@pytest.mark.parametrize("name", ["sample:3", "train:3", "train:-1", "train:", "head:0", "", "²"])
def test_unknown_heads_are_refused_with_those_that_there_are(model, name):
    with pytest.raises(UserError, match="sample:0 to sample:2.*train:0 to train:2"):
        model.head(name)


def test_pictures_of_heads_are_deterministic_and_white_where_there_is_no_head(model):
    heads = model.reconstruct(jnp.array([0, 1]))
    labels = jnp.asarray(orbit_labels([0.0, 120.0]))
    color, depth, alpha = first = model.render(heads, labels, resolution=32)
    equal(first, model.render(heads, labels, resolution=32))
    assert color.shape == (2, 32, 32, 3) and depth.shape == alpha.shape == (2, 32, 32)
    empty = np.asarray(alpha) == 0
    assert empty.any() and not empty.all()
    np.testing.assert_array_equal(np.asarray(color)[empty], 1.0)
    seen = np.asarray(depth)[np.asarray(alpha) > 0.01]
    assert seen.min() > 2.7 - 0.63 and seen.max() < 2.7 + 0.63
    assert np.asarray(alpha).min() >= 0 and np.asarray(alpha).max() <= 1 + 1e-6


def test_density_and_colour_can_be_asked_for_anywhere(model):
    head = model.head("train:0")
    inside = np.asarray(head.centers)[np.asarray(head.valid)]
    points = jnp.asarray(np.concatenate([inside, [[2.0, 2.0, 2.0]]]).astype(np.float32))
    sigma, color = model.query(head, points)
    assert sigma.shape == (len(points),) and color.shape == (len(points), 3)
    assert np.all(np.asarray(sigma)[:-1] > 0) and sigma[-1] == 0
    assert np.asarray(color).min() >= -0.002 and np.asarray(color).max() <= 1.002


def test_a_folder_without_a_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no work directory of headjax: it has no config.json"):
            headjax.load(folder)


def test_a_run_that_is_not_trained_yet_is_refused(workdir, tmp_path):
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(UserError, match="has no autodecoder.safetensors yet; run its stages"):
        headjax.load(tmp_path)


def test_a_run_without_diffusion_gives_its_training_heads_only(workdir, tmp_path):
    for name in ("config.json", "autodecoder.safetensors"):
        shutil.copy(workdir / name, tmp_path)
    half = headjax.load(tmp_path)
    with pytest.raises(UserError, match="no diffusion model yet"):
        half.sample(jax.random.key(0), count=1)
    with pytest.raises(UserError, match="no head 'sample:0'; this run has train:0 to train:2"):
        half.head("sample:0")
    assert half.head("train:2").valid.shape == (1, 4, 4)


def test_one_artefact_is_not_taken_for_another(workdir):
    with pytest.raises(UserError, match="holds 'autodecoder', but 'diffusion' is needed"):
        artefacts.load_diffusion(workdir / "autodecoder.safetensors")
    with pytest.raises(UserError, match="there is no such weights file"):
        artefacts.load_heads(workdir / "heads.safetensors")


def warm_context(workdir, *overrides):
    """A run that starts from the trained one, and what it says."""
    config = configs.load("g3diff:smoke", overrides=[
        *SMALL, f"--config.warm_start={workdir}", *overrides,
    ])  # fmt: skip
    said = io.StringIO()
    logger = Logger(None, stream=said)
    return Context(config.values, workdir, workdir / "data", logger, seed=0), said


def test_a_warm_start_takes_everything_where_the_identities_are_the_same(workdir):
    context, said = warm_context(workdir)
    registration = pipeline.registration_of(context)
    saved = artefacts.load_autodecoder(workdir / "autodecoder.safetensors").params
    equal(pipeline.warm_autodecoder(context, registration), saved)
    assert not said.getvalue()


def test_a_warm_start_for_other_identities_takes_what_they_share_and_says_so(workdir):
    context, said = warm_context(workdir)
    registration = pipeline.registration_of(context)
    others = registration.replace(identity_code=registration.identity_code + 1.0)
    saved = artefacts.load_autodecoder(workdir / "autodecoder.safetensors").params
    params = pipeline.warm_autodecoder(context, others)
    equal(params["shared"], saved["shared"])
    np.testing.assert_array_equal(params["tables"]["centers"], registration.surface)
    assert "other identities" in said.getvalue()


def test_a_warm_start_of_another_size_is_refused(workdir):
    context, _ = warm_context(workdir, "--config.decoder.width=16")
    with pytest.raises(UserError, match="holds a decoder of another size than this config's"):
        pipeline.warm_autodecoder(context, pipeline.registration_of(context))


def test_true_front_side_and_back_views_are_those_of_the_data(workdir):
    context, _ = warm_context(workdir)
    views = pipeline.canonical_views(context, "train")
    assert views.shape == (IDENTITIES, 3, 32, 32, 3)
    source = data.load_split(workdir / "data", "train")
    for record in (source[i] for i in range(len(source))):
        if int(record["view"]) < 3:  # views 0, 1 and 2 are exactly front, side and back
            np.testing.assert_allclose(
                views[int(record["identity"]), int(record["view"])], record["image"] / 255.0,
                rtol=1e-6,
            )  # fmt: skip
