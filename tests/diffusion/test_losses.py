"""The training loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.diffusion import losses
from headjax.diffusion import schedule as sch

KINDS = ("epsilon", "v", "x0")
SCHEDULE = sch.cosine(1000, zero_terminal_snr=True)


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(3), 3)
    x0, noise, wrong = (jax.random.normal(k, (6, 4, 4, 5)) for k in keys)
    return {"x0": x0, "noise": noise, "wrong": wrong, "t": jnp.array([0, 5, 100, 400, 800, 990])}


def loss(denoise, batch, **options):
    given = {"t": batch["t"], "noise": batch["noise"], "schedule": SCHEDULE, **options}
    return losses.diffusion_loss(denoise, batch["x0"], key=jax.random.key(0), **given)


def answering(kind, batch, x0):
    """A denoiser whose answer of any kind stands for the estimate x0."""

    def denoise(x, t):
        noise = sch.implied_noise(SCHEDULE, x0=x0, x=x, t=t)
        return sch.prediction_target(kind, SCHEDULE, x0=x0, noise=noise, t=t)

    return denoise


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_denoiser_has_no_loss(kind, batch):
    terms = loss(answering(kind, batch, batch["x0"]), batch, prediction=kind)
    assert terms["loss"] < 1e-7


def test_min_snr_weighs_an_error_alike_whatever_the_network_predicts(batch):
    values = [
        loss(answering(kind, batch, batch["wrong"]), batch, prediction=kind, weighting="min_snr")
        for kind in KINDS
    ]
    expected = float(values[2]["loss"])
    np.testing.assert_allclose([float(v["loss"]) for v in values], expected, rtol=1e-4)


def test_min_snr_is_the_papers_formula(batch):
    ratio = np.asarray(sch.snr(SCHEDULE, t=batch["t"]), np.float64)
    expected = {"x0": np.minimum(ratio, 5), "epsilon": np.minimum(ratio, 5) / ratio}
    expected["v"] = np.minimum(ratio, 5) / (ratio + 1)
    for kind in KINDS:
        ours = losses.loss_weight("min_snr", SCHEDULE, prediction=kind, t=batch["t"])
        np.testing.assert_allclose(ours, expected[kind], rtol=1e-5)


def test_the_plain_loss_is_the_mean_squared_error_of_the_noise(batch):
    terms = loss(lambda x, t: batch["wrong"], batch)
    expected = np.mean((np.asarray(batch["wrong"]) - np.asarray(batch["noise"])) ** 2)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(terms["mse"], expected, rtol=1e-6)


def test_groups_are_logged_by_name_and_weighted_in_the_sum(batch):
    groups = (losses.ChannelGroup("geometry", 0, 2, 10.0), losses.ChannelGroup("payload", 2, 5))
    terms = loss(lambda x, t: batch["wrong"], batch, groups=groups)
    error = (np.asarray(batch["wrong"]) - np.asarray(batch["noise"])) ** 2
    np.testing.assert_allclose(terms["geometry"], error[..., :2].mean(), rtol=1e-6)
    np.testing.assert_allclose(terms["payload"], error[..., 2:].mean(), rtol=1e-6)
    expected = (10 * 2 * terms["geometry"] + 3 * terms["payload"]) / 5
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)


def test_masked_cells_do_not_count(batch):
    mask = jnp.zeros((4, 4, 1)).at[1, 2].set(1.0)
    terms = loss(lambda x, t: batch["wrong"], batch, mask=mask)
    error = (np.asarray(batch["wrong"]) - np.asarray(batch["noise"])) ** 2
    np.testing.assert_allclose(terms["loss"], error[:, 1, 2].mean(), rtol=1e-6)


@pytest.mark.parametrize("stratified", [False, True])
def test_steps_are_uniform(stratified):
    keys = jax.random.split(jax.random.key(1), 2000)
    drawn = jax.vmap(lambda k: losses.draw_steps(k, batch=8, steps=1000, stratified=stratified))(
        keys
    )
    counts = np.bincount(np.asarray(drawn).ravel() // 100, minlength=10)
    assert drawn.min() >= 0 and drawn.max() <= 999
    np.testing.assert_allclose(counts / drawn.size, 0.1, atol=0.01)


def test_stratified_steps_put_one_in_each_stretch_of_a_batch():
    drawn = losses.draw_steps(jax.random.key(5), batch=10, steps=1000)
    np.testing.assert_array_equal(np.asarray(drawn) // 100, np.arange(10))


@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_finite_at_every_noise_level(kind, weighting, batch):
    t = jnp.array([0, 1, 500, 997, 998, 999])

    @jax.jit
    def total(scale):
        options = {"prediction": kind, "weighting": weighting, "t": t}
        return loss(lambda x, t: x * scale, batch, **options)["loss"]

    for scale in (0.0, 1e6):
        value, gradient = jax.value_and_grad(total)(scale)
        assert np.isfinite(value) and np.isfinite(gradient)


def test_the_same_key_draws_the_same_loss(batch):
    def draw(seed):
        return losses.diffusion_loss(
            lambda x, t: x, batch["x0"], key=jax.random.key(seed), schedule=SCHEDULE
        )["loss"]

    assert draw(1) == draw(1) and draw(1) != draw(2)
