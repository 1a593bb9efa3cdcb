"""The adversarial step: who is updated when, what is carried along, that it can go on anywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import orbit_labels
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.superresolution import Form
from headjax.nets.triplane_gan import GeneratorConfig, panohead_config
from headjax.render.triplane import TriplaneOptions
from headjax.train.gan.step import AdversarialStep, Recipe
from tests.nets.filling import filled

SIZES = {
    "z_dim": 6, "w_dim": 8, "channel_base": 64, "channel_max": 8, "plane_resolution": 8,
    "plane_features": 4, "decoder_hidden": 4, "neural_resolution": 4,
    "superresolution": Form(4, (6, 6), (False, True)),
}  # fmt: skip
RAYS = {"samples": 4, "importance": 4}
GENERATORS = {
    "eg3d": GeneratorConfig(rendering=TriplaneOptions(**RAYS), **SIZES),
    "panohead": panohead_config(
        rendering=TriplaneOptions(axes="panohead", color="none", crop=0.1, **RAYS),
        background_resolution=4, **SIZES,
    ),
}  # fmt: skip
RECIPE = Recipe(
    batch_size=4, lr_generator=1e-3, lr_discriminator=1e-3, generator_interval=2,
    discriminator_interval=3, gamma=1.0, gamma_mask=1.0, density_weight=0.25,
    density_spread=0.004, density_points=16, translation=10.0, swap=0.5, swap_kimg=0.1,
    background_swap=0.5, blur=1.0, blur_kimg=0.02, density_noise=0.0, density_noise_kimg=0.008,
    ema_kimg=0.01, ema_ramp=None, augment="none", augment_start=0.0, augment_target=0.6,
    augment_kimg=0.1, mirror=False,
)  # fmt: skip


def batch_of(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(draw.integers(0, 256, (4, 8, 8, 3)), jnp.uint8),
        "mask": jnp.asarray(draw.integers(0, 256, (4, 8, 8, 1)), jnp.uint8),
        "camera": jnp.asarray(orbit_labels(draw.uniform(-40, 40, 4))),
    }


def make(kind, **changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    config = GENERATORS[kind]
    judge = DiscriminatorConfig(kind=kind, resolution=8, channel_base=64, channel_max=8,
                                mapping_layers=1)  # fmt: skip
    step = AdversarialStep(config, judge, recipe=recipe, neural_resolution=4)
    return step


def quickly_compiled(step):
    """The step, compiled without the passes that make it fast: it runs a few times only."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(step, compiler_options=options)


def started(step):
    """A state whose generator has nothing at zero."""
    z, c = jnp.zeros((1, 6)), jnp.zeros((1, 25))
    variables = jax.tree.map(jnp.asarray, filled(step.generator, z, c))
    return jax.jit(lambda key: step.init(key, variables))(jax.random.key(0))


@pytest.fixture(scope="module", params=["eg3d", "panohead"])
def run(request):
    """(states before each of seven steps and after the last, terms of each), of a kind."""
    step = make(request.param, density_noise=1.0 if request.param == "panohead" else 0.0)
    update = quickly_compiled(step)
    states, terms = [started(step)], []
    for i in range(7):
        state, found = update(states[-1], batch_of(i), jax.random.fold_in(jax.random.key(1), i))
        states.append(state.replace(step=state.step + 1))
        terms.append(found)
    return request.param, states, terms


def changed(before, after):
    return any(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after),
                                              strict=True))  # fmt: skip


def test_every_step_moves_both_networks_the_average_and_nothing_that_is_constant(run):
    _, states, terms = run
    for before, after in zip(states, states[1:], strict=False):
        assert changed(before.params["g"], after.params["g"])
        assert changed(before.params["d"], after.params["d"])
        assert changed(before.ema, after.ema)
        old, new = (s.extras["buffers"]["backbone"] for s in (before, after))
        assert changed(old["mapping"], new["mapping"])
        assert not changed(old["synthesis"], new["synthesis"])
    for found in terms:
        assert all(np.isfinite(value) for value in found.values())
        assert all(found[name] == 0 for name in found if name.endswith("/broken"))


def test_regularisers_are_measured_on_their_steps_and_kept_between(run):
    _, _, terms = run
    for name, interval in (("regularisers/density", 2), ("r1/penalty", 3)):
        values = [float(found[name]) for found in terms]
        for i in range(1, 7):
            assert (values[i] != values[i - 1]) == (i % interval == 0), (name, i)


def test_schedules_follow_the_images_seen(run):
    _, _, terms = run
    blur = [float(found["blur"]) for found in terms]
    np.testing.assert_allclose(blur, [max(0.0, 1 - 4 * i / 20) for i in range(7)], atol=1e-6)
    swap = [float(found["swap"]) for found in terms]
    np.testing.assert_allclose(swap, [1 - 0.5 * 4 * i / 100 for i in range(7)], atol=1e-6)


def test_the_average_follows_with_its_half_life(run):
    _, states, _ = run
    decay = 0.5 ** (4 / 10)
    for before, after in zip(states, states[1:], strict=False):
        expected = jax.tree.map(lambda e, p: p + decay * (e - p), before.ema, after.params["g"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            expected, after.ema,
        )  # fmt: skip


def test_panoheads_camera_correction_is_held_to_zero_on_average(run):
    kind, _, terms = run
    if kind == "panohead":
        assert all(found["generator/translation"] > 0 for found in terms)
        assert terms[-1]["generator/loss"] > terms[-1]["generator/adversarial"]
    else:
        assert "generator/translation" not in terms[0]


def test_a_sure_discriminator_tells_real_from_generated_and_is_augmented_more():
    """The generator standing still, real images all alike."""
    step = make(
        "eg3d", augment="c", augment_target=0.1, lr_generator=0.0, lr_discriminator=3e-3,
        blur=0.0, generator_interval=0,
    )  # fmt: skip
    update, state = quickly_compiled(step), started(step)
    terms = {}
    for i in range(40):
        state, terms = update(state, batch_of(0), jax.random.fold_in(jax.random.key(2), i))
        state = state.replace(step=state.step + 1)
    assert float(terms["discriminator/real"]) < 0.6 and float(terms["discriminator/fake"]) < 0.6
    assert float(terms["discriminator/sign"]) == 1.0
    assert float(state.extras["strength"].p) > 0.05
