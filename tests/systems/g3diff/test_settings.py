import jax.numpy as jnp
import pytest

from headjax.errors import UserError
from headjax.systems import g3diff
from headjax.systems.g3diff import settings
from headjax.train import config as configs
from tests.systems.g3diff import tiny


@pytest.mark.parametrize("preset", ["default", "smoke", "paper"])
def test_shipped_presets_are_accepted(preset):
    settings.check(tiny.load(preset))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["autodecoder.perceptual=lpips"], "perceptual='lpips' needs network weights"),
        (["autodecoder.batch_identities=9"], "batch_identities=9 is more than .*identities=4"),
        (["data.uv_size=16"], "uv_size=16 must equal field.grid=8"),
        (["autodecoder.patch_side=36"], "patch_side=36 is larger than the 32-pixel views"),
        (["field.neighbors=65"], "neighbors=65 must lie between 1 and .* 64"),
        (["field.neighbors=0"], "neighbors=0 must lie between"),
        (["decoder.channels=8"], "channels=8 must be a multiple of 3"),
        (["decoder.kind=stylegan2", "field.patch=3"], "is 24; .* needs a power of two"),
        (["data.resolution=48"], "data.resolution=48 must be a multiple of 32"),
        (["samples.resolution=100"], "samples.resolution=100 must be a multiple of 32"),
        (["data.val_views=0"], "val_views=0 leaves nothing to score; at least 2"),
        (["data.val_identities=0"], "val_identities=0 leaves nothing to score"),
        (
            ["data.train_identities=1", "autodecoder.batch_identities=1"],
            "train_identities=1 leaves",
        ),
        (["diffusion.unet.patch=3"], "16 texels wide .* need a multiple of 6"),
        (["diffusion.unet.multipliers=(1,2,2,2,2)"], "16 texels wide .* a multiple of 32"),
        (["diffusion.batch_size=9"], "batch_size=9 is more than data.train_identities="),
        (["diffusion.sample_steps=2000"], "sample_steps=2000 .* between 1 and .*timesteps=1000"),
        (["diffusion.prediction=eps"], "diffusion.prediction='eps' is unknown; .*epsilon"),
        (["diffusion.standardise=std"], "standardise='std' is unknown; choose one of none"),
        (["autodecoder.schedule.decay=step"], "schedule.decay='step' is unknown"),
        (["autodecoder.code_init=zero"], "code_init='zero' is unknown"),
        (["decoder.remat=some"], "decoder.remat='some' is unknown; choose one of none, dots"),
        (["decoder.dtype=float16"], "decoder.dtype='float16' is unknown; .* bfloat16"),
        (["diffusion.unet.remat=all"], "unet.remat='all' is unknown; .* block"),
        (["decoder.kind=conv"], "decoder.kind='conv' is unknown; .* grid, stylegan2"),
        (["autodecoder.steps=0"], "autodecoder.steps=0 must be at least 1"),
        (["autodecoder.warmup.steps=-3"], "warmup.steps=-3 must be at least 0"),
        (["autodecoder.lr.z=nan"], "lr.z=nan must be at least 0"),
        (["autodecoder.radii_range=(0.1,0.05)"], "radii_range=.* two numbers, 0 < least"),
        (["diffusion.data_scale=0.0"], "data_scale=0.0 must be above 0"),
        (["diffusion.ema=2.0"], "ema=2.0 must be at least 0 and at most 1"),
        (["diffusion.unet.patch=0"], "unet.patch=0 must be at least 1"),
        (["diffusion.unet.base=15"], "unet.base=15 must be even"),
        (["diffusion.unet.multipliers=()"], "multipliers=.* one for each level"),
        (["seed=-1"], "seed=-1 must be at least 0"),
        (["data.source=ict"], "needs ict_folder"),
        (["field.metric=cosine"], "field.metric='cosine' is unknown"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(overrides, sentence):
    config = tiny.load("smoke", *overrides)
    for refuse in (settings.check, g3diff.stages, g3diff.describe):
        with pytest.raises(UserError, match=sentence):
            refuse(config)


def test_a_misspelt_field_is_refused_with_what_it_may_have_meant():
    with pytest.raises(UserError, match="step"):
        configs.load("g3diff:smoke", overrides=["--config.autodecoder.stepz=3"])


def test_typed_settings_carry_the_configs_values():
    config = tiny.load("paper")
    field = settings.field_options(config)
    assert (field.patch, field.neighbors, field.metric, field.extent) == (8, 3, "euclidean", 2.0)
    rays = settings.ray_options(config.render.evaluation)
    assert (rays.samples, rays.importance, rays.rule) == (48, 48, "midpoint")
    decoder = settings.decoder_config(config)
    assert (decoder.kind, decoder.grid, decoder.patch) == ("stylegan2", 32, 8)
    assert (decoder.code_dim, decoder.channels, decoder.dtype) == (512, 24, jnp.bfloat16)


def test_the_warm_up_is_a_stage_only_where_it_has_steps():
    def names(preset):
        return [stage.name for stage in g3diff.stages(tiny.load(preset))]

    every = ["data", "surface", "autodecoder", "evaluation", "diffusion", "samples"]
    assert names("default") == names("smoke") == every
    assert names("paper") == [name for name in every if name != "surface"]


def test_a_kernel_that_this_machine_cannot_run_is_refused():
    with pytest.raises(UserError, match="needs a tpu, this machine's platform is 'cpu'"):
        settings.check(tiny.load("smoke", "field.implementation=tpu"))
    with pytest.raises(UserError, match="serves up to 8 neighbours, but field.neighbors=9"):
        settings.check(
            tiny.load("smoke", "field.implementation=tpu_interpret", "field.neighbors=9")
        )


@pytest.mark.parametrize("change, sentence", [
    ("mesh.preset='ddp'", "mesh.preset='ddp' is none of dp, fsdp, fsdp_tp"),
    ("input.threads=0", "input.threads=0 must be at least 1"),
    ("input.workers=-1", "input.workers=-1 must be at least 0"),
    ("autodecoder.keep_every=-1", "autodecoder.keep_every=-1 must be at least 0"),
])  # fmt: skip
def test_how_a_run_runs_is_checked_before_it_begins(change, sentence):
    with pytest.raises(UserError, match=sentence):
        settings.check(tiny.load("smoke", change.replace("'", "")))


def test_a_mesh_that_these_devices_cannot_form_is_refused_before_any_stage():
    with pytest.raises(UserError, match="mesh.slices=3 does not divide the 1 devices"):
        g3diff.stages(tiny.load("smoke", "mesh.slices=3"))
