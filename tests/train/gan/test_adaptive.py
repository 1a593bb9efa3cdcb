import jax
import jax.numpy as jnp
import numpy as np

from headjax.train.gan import adaptive


def run(logits, *, batch=8, steps=40, p=0.0, **options):
    strength, history = adaptive.start(p), []

    @jax.jit
    def step(strength, done):
        strength = adaptive.observe(strength, logits)
        return adaptive.adapt(strength, done=done, batch=batch, kimg=1.0, **options)

    for done in range(1, steps + 1):
        strength = step(strength, jnp.int32(done))
        history.append(float(strength.p))
    return np.array(history)


def test_it_grows_while_the_discriminator_overfits_every_fourth_step():
    history = run(jnp.ones(8))
    moves = np.flatnonzero(np.diff(history, prepend=0.0)) + 1
    np.testing.assert_array_equal(moves, np.arange(4, 41, 4))
    np.testing.assert_allclose(history[-1], 40 * 8 / 1000, rtol=1e-5)


def test_it_shrinks_to_zero_and_no_further():
    history = run(-jnp.ones(8), p=0.1)
    assert history[-1] == 0.0 and (np.diff(history) <= 0).all()


def test_it_judges_the_mean_sign_against_the_target():
    mostly = jnp.asarray([5.0, 0.1, 3.0, 9.0, -0.2])  # r = 0.6
    assert (run(mostly, target=0.6) == 0).all()
    assert run(mostly, target=0.59)[-1] > 0


def test_what_was_counted_is_forgotten_after_a_move():
    strength = adaptive.observe(adaptive.start(), -jnp.ones(6))
    strength = adaptive.adapt(strength, done=jnp.int32(4), batch=6)
    assert strength.count == 0 and strength.signs == 0
    strength = adaptive.observe(strength, jnp.ones(6))
    kept = adaptive.adapt(strength, done=jnp.int32(5), batch=6)
    assert kept.count == 6 and kept.signs == 6
    assert adaptive.adapt(strength, done=jnp.int32(8), batch=6).p > 0


def test_the_speed_is_that_of_the_papers_half_million_images():
    strength = adaptive.observe(adaptive.start(), jnp.ones(4))
    moved = adaptive.adapt(strength, done=jnp.int32(4), batch=64)
    np.testing.assert_allclose(moved.p, 64 * 4 / 500_000, rtol=1e-6)
