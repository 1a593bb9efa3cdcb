"""The shipped presets: the paper's numbers, and that every step of each can be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.render import gaussian_field as field
from headjax.systems import g3diff
from headjax.systems.g3diff import autodecoder, diffusion
from headjax.systems.g3diff.workloads import autodecoder_workload
from tests.systems.g3diff import tiny

# Supplement §1.1–1.3 and table 1: the field of the config and the paper's value.
PAPER = {
    "field.neighbors": 3,
    "field.metric": "euclidean",
    "field.density_scale": 1.0,
    "decoder.kind": "stylegan2",
    "decoder.channels": 3 * 8,
    "data.train_identities": 10_000,
    "data.resolution": 64,
    "autodecoder.steps": 250_000,
    "autodecoder.batch_identities": 30,
    "autodecoder.patches": 1,
    "autodecoder.patch_side": 36,
    "autodecoder.code_init": "random",
    "autodecoder.z_std": 0.01,
    "autodecoder.warmup.steps": 0,
    "autodecoder.lr.z": 0.05,
    "autodecoder.lr.decoder": 0.0025,
    "autodecoder.lr.gaussians": 1e-5,
    "autodecoder.lr.mlp": 5e-2,
    "autodecoder.schedule.decay": "halve",
    "autodecoder.schedule.decay_steps": 100_000,
    "autodecoder.loss.l1": 1.0,
    "autodecoder.loss.multiscale_l1": 1.0,  # in the place of LPIPS, whose weight is 1
    "autodecoder.loss.depth": 0.1,
    "autodecoder.loss.silhouette": 1.0,
    "autodecoder.loss.coverage": 0.001,
    "autodecoder.loss.volume": 1.0,
    "autodecoder.loss.tv": 0.1,
    "autodecoder.loss.mesh": 0.01,
    "autodecoder.loss.code": 1e-4,
    "autodecoder.loss.tanh": 0.1,
    "diffusion.steps": 500_000,
    "diffusion.batch_size": 96,
    "diffusion.timesteps": 1000,
    "diffusion.schedule": "cosine",
    "diffusion.zero_terminal_snr": False,
    "diffusion.prediction": "epsilon",
    "diffusion.weighting": "uniform",
    "diffusion.standardise": "none",
    "diffusion.lr": 2e-5,
    "diffusion.clip": 1.0,
    "diffusion.unet.base": 256,
    "diffusion.unet.multipliers": (1, 1, 2, 2, 4, 4),
    "diffusion.unet.blocks": 2,
    "diffusion.unet.attention": (32, 16, 8),
    "diffusion.unet.heads": 4,
    "diffusion.unet.head_channels": 64,
    "diffusion.unet.patch": 1,
}


def value(config, name):
    for part in name.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_preset_has_the_papers_value(name):
    assert value(tiny.load("paper"), name) == PAPER[name]


def test_the_papers_state_is_33_by_256_by_256():
    config = tiny.load("paper")
    assert diffusion.state_side(config) == 256
    assert diffusion.unet_config(config).channels == 33
    assert config.field.grid**2 == 1024


def test_pixels_are_drawn_uniformly_in_the_paper_preset():
    assert set(tiny.load("paper").autodecoder.part_weights.to_dict().values()) == {1.0}


def test_the_dry_run_counts_the_papers_parameters():
    rows = {row.what: row for row in g3diff.describe(tiny.load("paper"))}
    assert rows["payload decoder"].parameters == 17_293_045
    assert rows["rendering MLP"].parameters == 420
    assert rows["U-Net"].parameters == 464_073_761
    # A code of 512, and 3 + 3 + 3 numbers for each of 1,024 Gaussians.
    assert rows["codes and Gaussian maps"].parameters == 10_000 * (512 + 9 * 1024)


def test_the_papers_learning_rate_of_the_diffusion_is_constant():
    standard = diffusion.Standard(jnp.zeros((1, 1, 33)), jnp.ones((33,)))
    optimizer = diffusion.DiffusionStep(tiny.load("paper"), standard).optimizer()
    params = {"w": jnp.ones((2,))}
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.array([3.0, -0.1])}, state, params)
        np.testing.assert_allclose(updates["w"], [-2e-5, 2e-5], rtol=1e-4)


def shape(*size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype)


def forms(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


# The smoke preset is run, and the ICT preset differs from the default in its heads only.
TRACED = ["default", "paper"]


@pytest.mark.parametrize("preset", TRACED)
@pytest.mark.parametrize("warm", [True, False])
def test_the_auto_decoders_step_traces_and_keeps_the_states_form(preset, warm):
    config = tiny.load(preset)
    if warm and not config.autodecoder.warmup.steps:
        pytest.skip("this preset has no warm-up")
    stage = autodecoder_workload(config)

    def update(state, views, key):
        return autodecoder.AutoDecoderStep(config, warm=warm)(state, views, key)

    key = jax.random.key(0)
    before = jax.eval_shape(stage.init, key)
    after, metrics = jax.eval_shape(update, before, stage.batch, key)
    assert forms(after) == forms(before)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("preset", TRACED)
def test_the_diffusions_step_and_sampler_trace(preset):
    config = tiny.load(preset)
    side, grid = diffusion.state_side(config), config.field.grid
    channels = 9 + config.decoder.channels
    standard = diffusion.Standard(shape(side, side, channels), shape(channels))

    def update(standard, batch, key):
        step = diffusion.DiffusionStep(config, standard)
        state = step.init(key)
        new, metrics = step(state, batch, key)
        heads = diffusion.sample_heads(
            new.ema, key=key, count=2, standard=standard,
            valid=jnp.ones((grid, grid), bool), config=config,
        )  # fmt: skip
        return state, new, metrics, heads

    batch = {"state": shape(config.diffusion.batch_size, side, side, channels)}
    before, after, metrics, heads = jax.eval_shape(update, standard, batch, jax.random.key(0))
    assert forms(after) == forms(before)
    assert set(metrics) == {
        "loss", "loss/mse", "loss/geometry", "loss/payload", "grad_norm", "update_norm",
    }  # fmt: skip
    assert isinstance(heads, field.GaussianHeads)
    assert heads.payload.shape == (2, side, side, config.decoder.channels)


def test_the_ict_preset_is_the_demo_on_other_heads():
    default, ict = (tiny.load(preset).to_dict() for preset in ("default", "ict"))
    assert ict["data"].pop("source") == "ict"
    default["data"].pop("source")
    assert ict == default | {"warm_start": ""}
