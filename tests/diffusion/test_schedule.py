"""Schedules and the algebra of the forward process.

Goldens: `tests/data/diffusion_schedules.npz` holds outputs of diffusers 0.42.1 (PyTorch, CPU,
float32).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.diffusion import schedule as sch

GOLDEN = Path(__file__).parents[1] / "data" / "diffusion_schedules.npz"
KINDS = ("epsilon", "v", "x0")
STEPS = jnp.array([0, 1, 10, 500, 998])


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def states():
    keys = jax.random.split(jax.random.key(0))
    shape = (len(STEPS), 4, 4, 3)
    return jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def test_the_cosine_schedule_is_the_public_one(golden):
    ours = np.asarray(sch.cosine(1000).alphas_cumprod)
    np.testing.assert_allclose(ours, golden["cosine_alphas_cumprod"], rtol=3e-6, atol=1e-9)


def test_the_scaled_linear_schedule_is_stable_diffusions(golden):
    ours = np.asarray(sch.scaled_linear(1000).alphas_cumprod)
    np.testing.assert_allclose(ours, golden["sd_alphas_cumprod"], rtol=3e-5)


def test_the_cosine_schedule_follows_the_cosine_where_beta_is_not_capped():
    ours = sch.cosine(1000)
    angle = (np.arange(1, 999) / 1000 + 0.008) / 1.008 * np.pi / 2
    start = np.cos(0.008 / 1.008 * np.pi / 2)
    np.testing.assert_allclose(ours.alpha[:998], np.cos(angle) / start, rtol=1e-6)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", ["cosine", "scaled_linear"])
def test_schedules_keep_variance_and_lose_signal_at_every_step(name, zero):
    ours = sch.make_schedule(name, steps=1000, zero_terminal_snr=zero)
    np.testing.assert_allclose(ours.alpha**2 + ours.sigma**2, 1.0, rtol=1e-6)
    t = jnp.arange(1000)
    assert (np.diff(sch.log_snr(ours, t=t)) < 0).all()
    np.testing.assert_allclose(sch.snr(ours, t=t), np.exp(sch.log_snr(ours, t=t)), rtol=1e-4)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step():
    plain, zero = sch.scaled_linear(1000), sch.scaled_linear(1000, zero_terminal_snr=True)
    assert zero.alpha[-1] == 0.0 and zero.sigma[-1] == 1.0
    assert zero.alpha[0] == plain.alpha[0] and zero.sigma[0] == plain.sigma[0]


def test_noise_is_not_rounded_away_at_the_first_step():
    before, after = (np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 for u in (0.0, 0.001))
    exact = 1 - after / before
    np.testing.assert_allclose(sch.cosine(1000).sigma[0] ** 2, exact, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_prediction_gives_back_the_data_and_the_noise(kind, states):
    x0, noise = states
    ours = sch.cosine(1000)
    x = sch.q_sample(ours, x0, t=STEPS, noise=noise)
    answer = sch.prediction_target(kind, ours, x0=x0, noise=noise, t=STEPS)
    found = sch.predicted_x0(kind, ours, prediction=answer, x=x, t=STEPS)
    # Dividing by alpha multiplies rounding by its inverse.
    slack = 1e-6 / np.asarray(ours.alpha)[np.asarray(STEPS)]
    assert (np.abs(found - x0).max((1, 2, 3)) < 10 * slack).all()
    back = sch.implied_noise(ours, x0=x0, x=x, t=STEPS)
    np.testing.assert_allclose(back, noise, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_finite_where_no_signal_is_left(kind, states):
    x0, noise = states
    ours = sch.cosine(1000, zero_terminal_snr=True)
    t = jnp.full(len(STEPS), 999)
    x = sch.q_sample(ours, x0, t=t, noise=noise)
    np.testing.assert_array_equal(x, noise)

    def total(prediction):
        return sch.predicted_x0(kind, ours, prediction=prediction, x=x, t=t).sum()

    value, gradient = jax.value_and_grad(total)(x0)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_step_minus_one_is_the_clean_state(states):
    x0, noise = states
    clean = sch.q_sample(sch.cosine(10), x0, t=jnp.full(len(STEPS), -1), noise=noise)
    np.testing.assert_array_equal(clean, x0)


def test_unknown_names_are_refused(states):
    with pytest.raises(ValueError, match="prediction 'score' is unknown"):
        sch._check_kind("score")
