"""Every shipped preset of EG3D and PanoHead: its step traces, and keeps the state's form."""

import jax
import jax.numpy as jnp
import pytest

from headjax.nets import triplane_gan_weights
from headjax.systems import gan3d
from headjax.systems.gan3d import settings
from headjax.train import config as configs
from headjax.train.gan.step import AdversarialStep

PRESETS = [
    (name, preset) for name in ("eg3d", "panohead") for preset in ("default", "smoke", "paper")
]


def load(name, preset):
    return configs.load(f"{name}:{preset}").values


def parameters(config):
    shapes = triplane_gan_weights.shapes(config)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_the_settings_of_a_preset_can_work_together(name, preset):
    config = load(name, preset)
    names = [stage.name for stage in gan3d.stages(config)]
    assert names == [
        "data",
        *(["regression"] if preset != "paper" else []),
        "adversarial",
        "samples",
        "evaluation",
    ]
    assert config.generator.kind == name


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("eg3d", (30_662_136, 31_359_744)), ("panohead", (53_741_548, 31_359_808))],
)
def test_the_paper_presets_have_the_papers_networks(name, numbers):
    config = load(name, "paper")
    sizes = settings.generator_config(config), settings.discriminator_config(config)
    assert tuple(map(parameters, sizes)) == numbers


def test_the_paper_preset_has_eg3ds_recipe():
    config = load("eg3d", "paper")
    recipe = settings.recipe(config)
    assert (recipe.lr_generator, recipe.lr_discriminator) == (2.5e-3, 2e-3)
    assert (recipe.generator_interval, recipe.discriminator_interval) == (4, 16)
    assert (recipe.gamma, recipe.density_weight, recipe.density_spread) == (1.0, 0.25, 0.004)
    assert (recipe.blur, recipe.blur_kimg, recipe.ema_kimg, recipe.ema_ramp) == (
        10,
        None,
        None,
        0.05,
    )
    assert recipe.batch_size * config.adversarial.steps == 25_000_000


def test_the_paper_preset_has_panoheads_recipe():
    config = load("panohead", "paper")
    recipe, rendering = settings.recipe(config), config.generator.rendering
    assert (rendering.box, rendering.crop, rendering.near, rendering.far) == (1.0, 0.1, 2.25, 3.3)
    assert (recipe.gamma, recipe.gamma_mask, recipe.swap) == (1.0, 1.0, 0.7)
    assert (recipe.translation, recipe.background_swap) == (10.0, 0.2)
    assert (recipe.density_noise, recipe.density_noise_kimg) == (1.0, 200.0)
    assert recipe.generator_interval == 0 and config.data.back_repeat == 4


@pytest.mark.parametrize("name", ["eg3d", "panohead"])
def test_the_papers_step_traces_and_keeps_the_states_form(name):
    config = load(name, "paper")
    step = AdversarialStep(
        settings.generator_config(config), settings.discriminator_config(config),
        recipe=settings.recipe(config), neural_resolution=settings.ladder(config)[0],
    )  # fmt: skip
    count, side = config.adversarial.batch_size, config.data.resolution

    def array(*shape, dtype=jnp.uint8):
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    batch = {"image": array(side, side, 3), "mask": array(side, side, 1),
             "camera": array(25, dtype=jnp.float32)}  # fmt: skip
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(step.init, key)
    after, terms = jax.eval_shape(step, state, batch, key)

    def forms(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert forms(after) == forms(state)
    assert all(term.shape == () for term in terms.values())
