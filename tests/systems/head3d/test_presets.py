"""The shipped presets: the paper's numbers, and that the steps of its size can be traced."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from headjax.nets import triplane_gan_weights
from headjax.nets.perceptual import lpips
from headjax.nets.perceptual.weights import Network
from headjax.systems.head3d import pipeline, settings
from headjax.systems.head3d.step import DistillStep
from headjax.train import config as configs
from headjax.train.gan import sections

# §4.1 and §4.2.
PAPER = {
    "method": "head3d",
    "heads.train_identities": 50,
    "heads.resolution": 512,
    "faces.source": "folder",
    "generator.neural_resolution": 128,
    "finetune.batch_size": 16,
    "finetune.lr_generator": 0.0025,
    "finetune.lr_discriminator": 0.002,
    "finetune.gamma": 20.0,
    "finetune.augment": "bgc",
    "finetune_regression.surface.steps": 0,
    "finetune_regression.pictures.steps": 0,
    "distill.lr_generator": 0.001,
    "distill.lr_discriminator": 0.0005,
    "distill.gamma": 1.0,
    "distill.gamma_back": 20.0,
    "distill.tau": 60.0,
    "distill.planes": "xy",
    "distill.dual": True,
    "distill.perceptual": "lpips_vgg",
    "distill.loss.kd": 0.5,
    "distill.loss.map": 1.0,
    "distill.loss.rgb": 1.0,
    "distill.loss.perceptual": 1.0,
    "distill.loss.gan_front": 1.0,
    "distill.loss.gan_back": 10.0,
    "evaluation.images": 50_000,
    "evaluation.identities": 10_000,
    "evaluation.consistency_heads": 50,
    "evaluation.consistency_views": 100,
    "analysis.identities": 100,
}
# What differs from the default, in each baseline and ablation.
CHANGES = {
    "dft": {"method": "dft"},
    "fh": {"method": "fh"},
    "no_kd": {"distill.loss.kd": 0.0},
    "no_gan_front": {"distill.loss.gan_front": 0.0},
    "no_rgb_lpips": {"distill.loss.rgb": 0.0, "distill.loss.perceptual": 0.0},
    "all_planes": {"distill.planes": "all"},
    "one_discriminator": {"distill.dual": False},
}


def load(preset, *overrides):
    return configs.load(f"head3d:{preset}", overrides=list(overrides)).values


def flat(preset):
    return configs.flatten(load(preset).to_dict())


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_preset_has_the_papers_value(name):
    assert flat("paper")[name] == PAPER[name]


@pytest.mark.parametrize("preset", CHANGES)
def test_an_ablation_differs_from_the_default_in_what_it_leaves_out_alone(preset):
    before, after = (flat(name) for name in ("default", preset))
    assert {name: value for name, value in after.items() if value != before[name]} == (
        CHANGES[preset]
    )


# The paper's folders and weights are the user's; its steps are traced below.
@pytest.mark.parametrize("preset", [p for p in configs.presets("head3d") if p != "paper"])
def test_every_preset_has_its_stages(preset):
    phases = {"dft": ["mixed"], "fh": ["finetune", "mixed"]}.get(preset, ["finetune", "distill"])
    names = [stage.name for stage in pipeline.stages(load(preset))]
    assert names == ["data", "teacher", *phases, "samples", "evaluation", "analysis"]


def test_the_papers_networks_have_the_public_codes_sizes():
    generator = settings.generator_config(load("paper"))
    judge = settings.discriminator_config(load("paper"), generator)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(triplane_gan_weights.shapes(network)["params"]))
        for network in (generator, judge)
    ]
    assert counts == [30_662_136, 31_359_744]


def test_the_student_is_the_teachers_network_with_the_rays_of_whole_heads():
    config = load("default")
    given = dataclasses.replace(settings.generator_config(config), w_dim=32, sr_clamp=256.0)
    student = settings.student_config(config, given)
    assert (given.rendering.near, given.rendering.far) == (2.25, 3.15)
    assert (student.rendering.near, student.rendering.far) == (2.2, 3.2)
    assert (student.w_dim, student.sr_clamp) == (32, 256.0)


def shape(*size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype)


def forms(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def abstract_lpips():
    module = lpips.LPIPS("vgg")
    picture = shape(1, 64, 64, 3)
    return Network(module, jax.eval_shape(module.init, jax.random.key(0), picture, picture))


def test_the_papers_distillation_can_be_traced():
    config = load("paper")
    teacher = settings.generator_config(config)
    student = settings.student_config(config, teacher)
    judge = settings.discriminator_config(config, student)
    networks = functools.partial(
        DistillStep, student, judge, teacher=teacher, lessons=settings.lessons(config),
        recipe=sections.recipe(config.distill), neural_resolution=128,
    )  # fmt: skip
    views = {"image": shape(16, 512, 512, 3, dtype=jnp.uint8), "camera": shape(16, 25)}
    both = views | {f"back_{name}": form for name, form in views.items()}
    network = abstract_lpips()

    def begin(key, variables):
        return networks(perceptual=network.replace(variables=variables)).init(key)

    state = jax.eval_shape(begin, jax.random.key(0), network.variables)
    after, terms = jax.eval_shape(networks(perceptual=network), state, both, jax.random.key(0))
    assert forms(after) == forms(state)
    assert "generator/lpips" in terms and "generator/multiscale_gradients" not in terms
