import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from headjax.train.gan import lazy


def written_out_adam(gradients, *, rate, b1, b2, eps):
    """Adam of Kingma and Ba on a number, in float64."""
    x = m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x -= rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return x


@pytest.mark.parametrize("interval", [None, 1, 4, 16])
@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_adam_is_the_one_with_rate_and_decays_corrected(interval, b1):
    gradients = np.random.default_rng(0).standard_normal(30)
    optimizer = lazy.lazy_adam(0.0025, interval=interval, b1=b1)
    params = jnp.float32(0.0)
    state = optimizer.init(params)
    for g in gradients:
        made = lazy.update(optimizer, jnp.float32(g), params=params, opt_state=state)
        params, state = made.params, made.opt_state
    r = 1.0 if interval is None else interval / (interval + 1)
    expected = written_out_adam(gradients, rate=0.0025 * r, b1=b1**r, b2=0.99**r, eps=1e-8)
    np.testing.assert_allclose(params, expected, rtol=1e-4)


def test_k_plus_one_lazy_updates_go_as_far_as_k_plain_ones():
    """Under a steady gradient the corrected rate makes up for the additional update."""

    def distance(optimizer, updates):
        params, state = jnp.float32(0.0), optimizer.init(jnp.float32(0.0))
        for _ in range(updates):
            made = lazy.update(optimizer, jnp.float32(1.0), params=params, opt_state=state)
            params, state = made.params, made.opt_state
        return float(params)

    plain = distance(lazy.lazy_adam(0.01, interval=None), 12)
    np.testing.assert_allclose(distance(lazy.lazy_adam(0.01, interval=4), 15), plain, rtol=1e-5)


def test_an_interval_is_at_least_one():
    with pytest.raises(ValueError, match="at least 1"):
        lazy.lazy_adam(0.1, interval=0)


def test_broken_gradients_are_replaced_and_counted():
    gradients = {"a": jnp.asarray([1.0, jnp.nan, jnp.inf]), "b": jnp.asarray([-jnp.inf, 3e7])}
    np.testing.assert_array_equal(lazy.clean(gradients)["a"], np.float32([1, 0, 1e5]))
    np.testing.assert_array_equal(lazy.clean(gradients)["b"], np.float32([-1e5, 3e7]))
    made = lazy.update(
        optax.sgd(1.0), gradients, params=jax.tree.map(jnp.zeros_like, gradients),
        opt_state=optax.sgd(1.0).init(gradients),
    )  # fmt: skip
    assert made.norms["broken"] == 3
    np.testing.assert_array_equal(made.params["b"], np.float32([1e5, -3e7]))


def test_main_and_regulariser_update_one_after_the_other_by_the_same_adam():
    """Two updates on steps 0, k, 2k, one on others: as loops over numbers in float64."""
    interval, steps = 3, 8
    optimizer = lazy.lazy_adam(0.1, interval=interval)

    def phase(slope):
        def run(state):
            params, opt_state = state
            grads = jax.grad(lambda p: slope(p))(params)
            made = lazy.update(optimizer, grads, params=params, opt_state=opt_state)
            return (made.params, made.opt_state), {"value": slope(params)}

        return run

    main = phase(lambda p: jnp.square(p - 1.0))
    regulariser = phase(lambda p: interval * 0.5 * p)
    state = (jnp.float32(2.0), optimizer.init(jnp.float32(2.0)))
    terms = lazy.unmeasured(regulariser, state)
    assert terms == {"value": 0.0}

    @jax.jit
    def one(state, terms, step):
        state, _ = main(state)
        return lazy.every(interval, regulariser, state, step=step, terms=terms)

    x, v, t, b2, measured = 2.0, 0.0, 0, 0.99**0.75, None
    for step in range(steps):
        state, terms = one(state, terms, jnp.int32(step))
        for slope in [lambda x: 2 * (x - 1), lambda x: 1.5][: 2 if step % interval == 0 else 1]:
            t, g = t + 1, slope(x)
            measured = 1.5 * x if t > 1 and slope(0) == 1.5 else measured
            v = b2 * v + (1 - b2) * g * g
            x -= 0.075 * g / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        np.testing.assert_allclose(state[0], x, rtol=1e-5)
        np.testing.assert_allclose(terms["value"], measured, rtol=1e-5)
    assert t == steps + 3
