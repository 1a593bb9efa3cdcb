import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.gan import schedules

SEEN = [0, 32, 1_000, 50_000, 199_999, 200_000, 777_777, 1_000_000, 25_000_000]


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("batch", [4, 32])
def test_the_averages_decay_is_the_recipe(seen, batch):
    half_life = min(batch * 10 / 32 * 1000, 0.05 * seen)
    expected = 0.5 ** (batch / max(half_life, 1e-8))
    np.testing.assert_allclose(schedules.ema_decay(seen, batch=batch), expected, rtol=1e-5)
    fixed = schedules.ema_decay(seen, batch=batch, kimg=20.0, ramp=None)
    np.testing.assert_allclose(fixed, 0.5 ** (batch / 20_000), rtol=1e-6)


def test_a_half_life_of_images_halves_the_memory():
    ema, batch = jnp.float32(1.0), 32
    decay = schedules.ema_decay(10**9, batch=batch, kimg=1.6)
    for _ in range(1600 // batch):
        ema = schedules.ema_update(ema, jnp.float32(0.0), decay=decay)
    np.testing.assert_allclose(ema, 0.5, rtol=1e-4)


def test_the_first_average_is_a_copy():
    decay = schedules.ema_decay(0, batch=32)
    ema = schedules.ema_update({"w": jnp.full(3, 7.0)}, {"w": jnp.arange(3.0)}, decay=decay)
    np.testing.assert_array_equal(ema["w"], np.arange(3.0))


@pytest.mark.parametrize("seen", SEEN)
def test_fades_are_straight_lines_that_end(seen):
    def line(start, end, kimg):
        done = min(seen / (kimg * 1000), 1.0)
        return start + done * (end - start)

    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        schedules.swap_probability(seen, final=0.7), line(1, 0.7, 1000), **close
    )
    np.testing.assert_allclose(schedules.blur_sigma(seen, batch=32), line(10, 0, 200), **close)
    np.testing.assert_allclose(schedules.blur_sigma(seen, batch=8), line(10, 0, 50), **close)
    np.testing.assert_allclose(schedules.density_noise(seen), line(1, 0, 200), **close)


def test_no_fade_is_the_end_at_once():
    assert schedules.swap_probability(0, final=0.8, kimg=0.0) == np.float32(0.8)
    assert schedules.blur_sigma(0, batch=32, kimg=0.0) == 0.0


def test_schedules_are_traced_with_the_images_seen():
    values = jax.jit(
        lambda seen: (schedules.blur_sigma(seen, batch=32), schedules.ema_decay(seen, batch=32))
    )(jnp.int32(100_000))
    np.testing.assert_allclose(values, [5.0, 0.5 ** (32 / 5000)], rtol=1e-6)


def test_the_resolution_goes_up_pixel_by_pixel_and_ends():
    def at(kimg, **more):
        return schedules.neural_resolution(
            int(kimg * 1000), initial=64, final=128, kimg=1000.0, **more
        )

    assert [at(k) for k in (0, 500, 1000, 9000)] == [64, 96, 128, 128]
    for kimg in range(0, 1000, 7):
        assert at(kimg) == int(np.rint(64 * (1 - kimg / 1000) + 128 * kimg / 1000))
    assert {at(k, multiple=16) for k in range(1001)} == {64, 80, 96, 112, 128}
    assert schedules.neural_resolution(10**9, initial=64) == 64
    assert schedules.neural_resolution(10**9, initial=50, final=60, multiple=16) == 60
