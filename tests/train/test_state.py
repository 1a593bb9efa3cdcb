import jax
import jax.numpy as jnp
import numpy as np

from headjax.train import state


def test_the_average_is_the_plain_recursion():
    """e <- d e + (1 - d) p with d = min(decay, (1 + n) / (ramp + n)), in float64."""
    values = np.random.default_rng(0).standard_normal(60)
    average, expected = jnp.float32(values[0]), values[0]
    for n, value in enumerate(values):
        average = state.ema_update(average, jnp.float32(value), step=jnp.int32(n), decay=0.8)
        d = min(0.8, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    np.testing.assert_allclose(average, expected, rtol=1e-5)


def test_the_decay_rises_to_its_final_value():
    steps = jnp.arange(0, 100_000, 997)
    decays = np.asarray(jax.vmap(lambda n: state.ema_decay(n, decay=0.999))(steps))
    assert np.all(np.diff(decays) >= 0)
    np.testing.assert_allclose(decays[[0, -1]], [0.1, 0.999], rtol=1e-6)


def test_a_ramp_of_one_is_no_ramp():
    np.testing.assert_allclose(state.ema_decay(jnp.int32(0), decay=0.99, ramp=1.0), 0.99)


def test_streams_differ_by_name_and_seed_and_repeat():
    def draw(seed, name):
        return np.asarray(jax.random.normal(state.stream_key(seed, name), (4,)))

    np.testing.assert_array_equal(draw(1, "a/step"), draw(1, "a/step"))
    assert not np.array_equal(draw(1, "a/step"), draw(1, "b/step"))
    assert not np.array_equal(draw(1, "a/step"), draw(2, "a/step"))


def test_the_first_average_is_a_copy_of_the_parameters():
    params = {"w": jnp.ones(3)}
    first = state.new_state(params, (), ema=True)
    assert first.ema["w"] is not params["w"]
    np.testing.assert_array_equal(first.ema["w"], params["w"])
    assert first.step.dtype == jnp.int32 and state.new_state(params, ()).ema is None
