import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.systems.g3diff import autodecoder, diffusion, uv_state
from tests.systems.g3diff import tiny

IDENTITIES = 3


@functools.lru_cache
def parts():
    """Config, registration, an untrained auto-decoder of three spheres, and its states."""
    config = tiny.config(
        "decoder.width=8", "decoder.code_dim=8",
        "diffusion.sample_steps=3", "diffusion.unet.base=8", "diffusion.unet.attention=()",
        "diffusion.unet.multipliers=(1,)", "diffusion.warmup_steps=0",
    )  # fmt: skip
    registration = tiny.registration(IDENTITIES, grid=4)
    init = functools.partial(autodecoder.init_state, config=config, steps=1)
    params = jax.jit(lambda key: init(key, registration))(jax.random.key(0)).params
    params["tables"]["rpy"] += 0.3
    params["tables"]["radii"] *= jnp.array([0.5, 1.0, 1.2])[:, None, None, None]
    states = diffusion.training_states(
        params, registration=registration, config=config, chunk=2
    )
    return config, registration, params, states


@functools.lru_cache
def trained():
    """The state before and after one step, and the standardisation."""
    config, _, _, states = parts()
    standard = diffusion.standard_of(states, kind="mean_std")
    step = diffusion.DiffusionStep(config, standard)
    before = jax.jit(step.init)(jax.random.key(0))
    batch = {"state": jnp.asarray(states[:2])}
    after, metrics = jax.jit(step)(before, batch, jax.random.key(1))
    return step, before, after, metrics


def test_the_states_are_those_of_the_identities():
    config, registration, params, states = parts()
    assert states.shape == (IDENTITIES, 8, 8, 33)
    packed = jax.jit(lambda shared, tables: uv_state.pack(autodecoder.build_heads(
        shared, tables, valid=registration.valid, config=config
    )))(params["shared"], params["tables"])  # fmt: skip
    np.testing.assert_allclose(states, packed, atol=1e-5)
    assert np.abs(states).max() <= 1


def test_states_do_not_depend_on_how_they_are_chunked():
    config, registration, params, states = parts()
    whole = diffusion.training_states(params, registration=registration, config=config, chunk=5)
    np.testing.assert_allclose(whole, states, atol=1e-6)


def test_standardised_states_have_mean_zero_at_each_texel_and_unit_spread_in_each_group():
    _, _, _, states = parts()
    standard = diffusion.standard_of(states, kind="mean_std")
    x = np.asarray(standard.apply(jnp.asarray(states)))
    np.testing.assert_allclose(x.mean(0), 0.0, atol=1e-5)
    for start, stop in ((0, 3), (6, 9), (9, 33)):
        np.testing.assert_allclose(np.sqrt(np.mean(x[..., start:stop] ** 2)), 1.0, rtol=1e-4)
    # All heads have the same rotations: that group keeps its scale.
    np.testing.assert_array_equal(standard.scale[3:6], 1.0)


@pytest.mark.parametrize("kind", ["none", "mean_std"])
def test_standardisation_is_undone(kind):
    states = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 33)).astype(np.float32)
    standard = diffusion.standard_of(states, kind=kind)
    back = standard.invert(standard.apply(jnp.asarray(states)))
    np.testing.assert_allclose(back, states, atol=1e-5)


def test_the_paper_leaves_states_as_they_are():
    states = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 33)).astype(np.float32)
    standard = diffusion.standard_of(states, kind="none")
    np.testing.assert_array_equal(standard.apply(jnp.asarray(states)), states)


@pytest.mark.parametrize("kind", ["none", "mean_std"])
def test_the_data_scale_is_the_spread_that_the_network_sees(kind):
    states = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 33)).astype(np.float32)
    full, quarter = (
        diffusion.standard_of(states, kind=kind, data_scale=s).apply(jnp.asarray(states))
        for s in (1.0, 0.25)
    )
    np.testing.assert_allclose(quarter, 0.25 * full, atol=1e-6)


def test_the_source_gives_states_by_index():
    _, _, _, states = parts()
    source = diffusion.StateSource(states)
    assert len(source) == len(states)
    np.testing.assert_array_equal(source[2]["state"], states[2])


def test_a_step_moves_the_network_and_its_average_follows():
    step, before, after, metrics = trained()
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    ]
    assert max(moved) > 0 and np.isfinite(moved).all()
    for old, new, ema in zip(
        *(jax.tree.leaves(t) for t in (before.params, after.params, after.ema)), strict=True
    ):
        # The ramp's first decay is 1/10.
        np.testing.assert_allclose(ema, 0.1 * old + 0.9 * new, atol=1e-6)
    assert np.isfinite(metrics["loss"])


def test_geometry_and_payload_are_weighted_apart():
    config, _, _, states = parts()
    step, before, _, _ = trained()
    groups = {group.name: (group.start, group.stop) for group in step.groups()}
    assert groups == {"geometry": (0, 9), "payload": (9, 33)}
    heavy = tiny.config(
        *(f"diffusion.{f}" for f in ("geometry_weight=4.0", "payload_weight=0.5")),
    )
    weights = {g.name: g.weight for g in diffusion.DiffusionStep(heavy, step.standard).groups()}
    assert weights == {"geometry": 4.0, "payload": 0.5}


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    step, *_ = trained()
    config = tiny.config("diffusion.warmup_steps=5")
    optimizer = diffusion.DiffusionStep(config, step.standard).optimizer()
    section = config.diffusion
    params = {"w": jnp.zeros((1,))}
    state, sizes = optimizer.init(params), []
    for _ in range(section.steps):
        updates, state = optimizer.update({"w": jnp.ones((1,))}, state, params)
        sizes.append(-float(updates["w"][0]))
    warm = min(section.warmup_steps, section.steps // 4)
    assert sizes[0] == 0 and np.argmax(sizes) == warm
    np.testing.assert_allclose(sizes[warm], section.lr, rtol=1e-4)
    assert np.all(np.diff(sizes[warm:]) < 0)


@functools.lru_cache
def sampler(count):
    config, registration, _, _ = parts()
    step, *_ = trained()
    return jax.jit(lambda params, key: diffusion.sample_heads(
        params, key=key, count=count, standard=step.standard, valid=registration.valid[0],
        config=config,
    ))  # fmt: skip


def test_samples_are_heads_and_depend_on_their_key_alone():
    _, _, after, _ = trained()
    first, again, other = (sampler(2)(after.ema, jax.random.key(k)) for k in (0, 0, 1))
    assert first.centers.shape == first.rpy.shape == first.radii.shape == (2, 4, 4, 3)
    assert first.payload.shape == (2, 8, 8, 24) and first.valid.shape == (2, 4, 4)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(np.asarray(first.payload) != np.asarray(other.payload))
    assert not np.any(first.valid[:, -1, -1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))


def test_a_network_that_knows_only_the_mean_samples_the_mean_head():
    """Predictions start at zero: with x₀ predicted, every sample is the standardisation's mean."""
    config, registration, _, states = parts()
    _, before, _, _ = trained()
    assert config.diffusion.prediction == "x0"
    mean = uv_state.unpack(
        jnp.asarray(states.mean(0, keepdims=True)), valid=registration.valid[0]
    )
    heads = sampler(2)(before.params, jax.random.key(5))
    for i in range(2):
        np.testing.assert_allclose(heads.centers[i], mean.centers[0], atol=1e-4)
        np.testing.assert_allclose(heads.payload[i], mean.payload[0], rtol=1e-2, atol=1e-3)
