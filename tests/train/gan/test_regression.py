"""The warm start: thinned pictures, the mapping's own rate, and that both phases learn."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from headjax.geometry.cameras import camera_from_label, orbit_labels
from headjax.geometry.rays import pixel_rays
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.render.triplane import TriplaneOptions
from headjax.train.gan import regression
from tests.train.gan.test_surface import sphere

GENERATOR = GeneratorConfig(
    z_dim=6, w_dim=8, c_scale=0.0, channel_base=128, channel_max=8, plane_resolution=16,
    plane_features=4, decoder_hidden=8, neural_resolution=32, superresolution=None,
    rendering=TriplaneOptions(
        axes="xy_xz_yz", near=2.25, far=3.15, samples=6, importance=6, white_back=True
    ),
)  # fmt: skip


def section(**changes):
    shared = dict(
        batch_size=2, warmup_steps=1, final=1.0, b1=0.9, b2=0.99, clip_norm=1.0, ema=0.9,
        mapping_factor=100.0, feature_weight=4.0, points=64, stride=2,
    )  # fmt: skip
    shared["surface"] = dict(steps=40, lr=3e-2, loss=dict(opacity=1.0, color=1.0))
    shared["pictures"] = dict(steps=40, lr=1e-2, loss=dict(image=2.0, raw=0.0, mask=0.5, depth=1.0))
    return ml_collections.FrozenConfigDict(shared | changes)


def batch():
    views = sphere()
    parts = jnp.where(views["mask"] > 0, 1, 0).astype(jnp.uint8)
    return views | {"parts": parts, "latent": jnp.asarray([[1.0, -1.0, 0.5, 0.2]] * 2)}


def test_a_thinned_pictures_rays_go_through_the_pixels_that_it_keeps():
    labels = jnp.asarray(orbit_labels([0.0, 40.0]))
    _, full = pixel_rays(camera_from_label(labels), resolution=12)
    full = full.reshape(2, 12, 12, 3)
    for seed in range(6):
        thin, kept = regression.thinned(
            jax.random.key(seed), labels, {"directions": full}, stride=3
        )
        _, directions = pixel_rays(camera_from_label(thin), resolution=4)
        np.testing.assert_allclose(directions.reshape(2, 4, 4, 3), kept["directions"], atol=1e-6)


def test_all_first_pixels_are_chosen():
    labels, fields = jnp.zeros((1, 25)), {"n": jnp.arange(16.0).reshape(1, 4, 4, 1)}
    firsts = set()
    for seed in range(40):
        _, kept = regression.thinned(jax.random.key(seed), labels, fields, stride=2)
        firsts.add(float(kept["n"][0, 0, 0, 0]))
    assert firsts == {0.0, 1.0, 4.0, 5.0}


@pytest.mark.parametrize("phase", regression.PHASES)
def test_a_phase_learns(phase):
    step = regression.RegressionStep(GENERATOR, section=section(), phase=section()[phase])
    state, views = step.init(jax.random.key(0)), batch()
    update = jax.jit(step)
    losses = []
    for number in range(40):
        state, terms = update(state, views, jax.random.key(number))
        losses.append(float(terms["loss"]))
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    assert set(section()[phase].loss) - {"raw"} <= set(terms)
    assert ("mask" in terms) == (phase == "pictures")


def test_the_mapping_moves_by_its_own_factor():
    def moved(factor):
        step = regression.RegressionStep(
            GENERATOR, section=section(mapping_factor=factor), phase=section().surface
        )
        before = step.init(jax.random.key(0))
        # The first step of the warm-up has a rate of 0.
        state = before
        for _ in range(2):
            state, _ = jax.jit(step)(state, batch(), jax.random.key(1))
        change = optax.tree.sub(state.params, before.params)
        return change["backbone"]["mapping"]["fc0"]["weight"], change["decoder"]

    (mapping, decoder), (faster, same) = moved(1.0), moved(50.0)
    np.testing.assert_allclose(faster, 50.0 * mapping, rtol=1e-3, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, decoder, same)


def test_a_latent_is_followed_by_fresh_numbers():
    latent = jnp.ones((3, 4))
    z = regression.latents_to_z(latent, jax.random.key(0), z_dim=6)
    np.testing.assert_array_equal(z[:, :4], 1.0)
    assert len(np.unique(z[:, 4:])) == 6
    np.testing.assert_array_equal(regression.latents_to_z(latent, jax.random.key(0), z_dim=4), 1.0)
