"""Samplers, against public steps and against data whose best denoiser is known.

Goldens: `tests/data/diffusion_schedules.npz` holds single steps of diffusers 0.42.1 (PyTorch, CPU,
float32) from arrays that are computed from their names (`named`).
"""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.diffusion import sampler
from headjax.diffusion import schedule as sch

GOLDEN = Path(__file__).parents[1] / "data" / "diffusion_schedules.npz"


def named(name: str) -> np.ndarray:
    seed = zlib.crc32(name.encode())
    draw = np.random.Generator(np.random.PCG64(seed)).standard_normal
    return draw((2, 4, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def public_step(schedule, *, t, s, clip):
    """x, the estimate of x_0 and the noise of a public step."""
    x, epsilon = jnp.asarray(named("input.latent")), jnp.asarray(named("input.eps"))
    at = jnp.full((2,), t)
    x0 = sch.predicted_x0("epsilon", schedule, prediction=epsilon, x=x, t=at)
    x0 = jnp.clip(x0, -1, 1) if clip else x0
    return x, x0, {"schedule": schedule, "t": t, "s": s, "noise": named("input.step_noise")}


@pytest.mark.parametrize("t", [500, 0])
def test_the_ancestral_step_is_the_public_one(t, golden):
    x, x0, rest = public_step(sch.cosine(1000), t=t, s=t - 1, clip=True)
    ours = sampler.ddpm_step(x, x0, **{**rest, "noise": jnp.asarray(rest["noise"])})
    np.testing.assert_allclose(ours, golden[f"ddpm_cosine_step_{t}"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("t", [281, 981])
def test_the_deterministic_step_is_the_public_one(t, golden):
    x, x0, rest = public_step(sch.scaled_linear(1000), t=t, s=t - 20, clip=False)
    ours = sampler.ddim_step(x, x0, **{**rest, "noise": 0.0})
    np.testing.assert_allclose(ours, golden[f"ddim_step_{t}"], rtol=1e-4, atol=2e-5)


def test_leading_steps_are_stable_diffusions(golden):
    ours = sampler.timesteps(50, total=1000, spacing="leading", offset=1)
    np.testing.assert_array_equal(ours, golden["ddim_timesteps"])


@pytest.mark.parametrize("steps", [1, 7, 50, 999, 1000])
def test_trailing_steps_fall_from_the_last_without_repeating(steps):
    visited = sampler.timesteps(steps, total=1000)
    assert visited[0] == 999 and visited[-1] >= 0 and len(visited) == steps
    assert (np.diff(visited) < 0).all()


def test_ddim_with_eta_one_is_the_ancestral_step():
    x, x0, rest = public_step(sch.cosine(1000), t=700, s=640, clip=True)
    rest["noise"] = jnp.asarray(rest["noise"])
    one, other = sampler.ddim_step(x, x0, eta=1.0, **rest), sampler.ddpm_step(x, x0, **rest)
    np.testing.assert_allclose(one, other, atol=1e-5)


MEAN, DEVIATION = 0.4, 0.3


def best_denoiser(schedule, kind):
    """The posterior mean of x_0 ~ N(MEAN, DEVIATION^2) given x_t, as a prediction of a kind."""

    def denoise(x, t):
        alpha, sigma = (c[:, None] for c in sch.coefficients(schedule, t=t))
        variance = (alpha * DEVIATION) ** 2 + sigma**2
        x0 = MEAN + DEVIATION**2 * alpha / variance * (x - alpha * MEAN)
        noise = (x - alpha * x0) / sigma
        return sch.prediction_target(kind, schedule, x0=x0, noise=noise, t=t)

    return denoise


@pytest.mark.parametrize(
    ("name", "kind", "steps", "zero"),
    [
        ("ddpm", "epsilon", 1000, False),
        ("ddpm", "x0", 1000, True),
        ("ddpm", "v", 250, False),
        ("ddim", "epsilon", 200, False),
        ("ddim", "x0", 200, True),
        ("ddim", "v", 100, True),
    ],
)
def test_the_best_denoiser_of_gaussian_data_samples_that_gaussian(name, kind, steps, zero):
    schedule = sch.cosine(1000, zero_terminal_snr=zero)
    run = jax.jit(
        lambda key: sampler.sample(
            best_denoiser(schedule, kind),
            key=key,
            shape=(4000, 4),
            schedule=schedule,
            prediction=kind,
            sampler=name,
            steps=steps,
            clip=None,
        )
    )
    drawn = np.asarray(run(jax.random.key(0)))
    # 16,000 draws: the standard error of the mean is 0.0024, of the deviation 0.0017.
    np.testing.assert_allclose(drawn.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(drawn.std(), DEVIATION, rtol=0.04)


def draw(name="ddim", denoise=None, **options):
    schedule = sch.cosine(100, zero_terminal_snr=True)
    given = {"key": jax.random.key(1), "shape": (3, 4, 4, 2), "prediction": "x0", **options}
    denoise = denoise or (lambda x, t: jnp.tanh(x))
    return sampler.sample(denoise, schedule=schedule, sampler=name, **given)


@pytest.mark.parametrize("steps", [1, 3, 100])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_denoiser_that_knows_the_data_is_believed(name, steps):
    truth = jnp.linspace(-0.9, 0.9, 96).reshape(3, 4, 4, 2)
    found = draw(name, lambda x, t: truth, steps=steps)
    np.testing.assert_allclose(found, truth, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_samples_are_finite_and_clipped_even_where_no_signal_is_left(name, kind):
    found = draw(name, lambda x, t: 1e4 * x, prediction=kind, steps=10)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1.0


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_given_noises_reproduce_a_sample_under_any_key(name):
    noises = jax.random.normal(jax.random.key(7), (5, 3, 4, 4, 2))
    given = {"steps": 5, "initial": noises[0], "noises": noises, "eta": 0.5}
    one, other = (draw(name, key=jax.random.key(k), **given) for k in (1, 2))
    np.testing.assert_array_equal(one, other)


def test_samples_depend_on_the_key_alone():
    one, same, other = (draw("ddpm", key=jax.random.key(k), steps=5) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_a_denoiser_in_bfloat16_gives_float32_samples():
    found = draw("ddpm", lambda x, t: jnp.tanh(x).astype(jnp.bfloat16), steps=4)
    assert found.dtype == jnp.float32 and found.shape == (3, 4, 4, 2)


def test_gradients_pass_through_the_sampler():
    gradient = jax.grad(lambda a: draw("ddim", lambda x, t: a * x, steps=4).sum())(0.5)
    assert np.isfinite(gradient)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="between 1 and 100"):
        draw(steps=101)
