import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from headjax.train import rows

RATES = {"codes": 0.05, "maps": 1e-3}
BETAS = {"b1": 0.9, "b2": 0.99}


def tables(count=6):
    rng = np.random.default_rng(0)
    return {
        "codes": jnp.asarray(rng.standard_normal((count, 4)), jnp.float32),
        "maps": jnp.asarray(rng.standard_normal((count, 2, 2, 3)), jnp.float32),
    }


def gradients(ids, step):
    rng = np.random.default_rng([7, step])
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal((len(ids), *leaf.shape[1:])), jnp.float32),
        tables(),
    )


@jax.jit
def update(values, state, grads, ids):
    return rows.update_rows(values, state, grads=grads, ids=ids, learning_rates=RATES, **BETAS)


def run(values, state, *, steps):
    """One update a list of rows."""
    for step, ids in enumerate(steps):
        values, state = update(values, state, gradients(ids, step), jnp.asarray(ids))
    return values, state


def test_with_every_row_in_every_batch_it_is_adam_on_the_whole_table():
    values = dense = tables()
    state = rows.init_rows(values)
    adam = {name: optax.adam(rate, **BETAS) for name, rate in RATES.items()}
    optimizer = optax.multi_transform(adam, {name: name for name in RATES})

    @jax.jit
    def dense_update(dense, dense_state, grads):
        updates, dense_state = optimizer.update(grads, dense_state)
        return optax.apply_updates(dense, updates), dense_state

    dense_state = optimizer.init(dense)
    for step, order in enumerate([[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 1, 0, 5, 4, 3]]):
        grads = gradients(order, step)
        values, state = update(values, state, grads, jnp.asarray(order))
        back = np.argsort(order)
        dense, dense_state = dense_update(
            dense, dense_state, jax.tree.map(lambda leaf, i=back: leaf[i], grads)
        )
    for name in RATES:
        np.testing.assert_allclose(values[name], dense[name], rtol=2e-5, atol=1e-6)


def test_rows_that_are_not_in_the_batch_stay_as_they_are_to_the_bit():
    before = run(tables(), rows.init_rows(tables()), steps=[[0, 1, 4], [1, 2, 5]])
    after = run(*before, steps=[[0, 2, 3]])
    stay, move = [1, 4, 5], [0, 2, 3]
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(new)[stay], np.asarray(old)[stay])
        assert np.all(np.asarray(new)[move] != np.asarray(old)[move])


def test_each_row_is_corrected_for_its_own_count_not_the_runs():
    # Row 3 is first seen at the run's third step; it moves as if it were its own first step:
    # Adam's first step is the learning rate times the gradient's sign.
    start = run(tables(), rows.init_rows(tables()), steps=[[0, 1], [1, 2]])
    np.testing.assert_array_equal(start[1].count, [1, 2, 1, 0, 0, 0])
    after, state = update(*start, gradients([3, 0], 9), jnp.array([3, 0]))
    np.testing.assert_array_equal(state.count, [2, 2, 1, 1, 0, 0])
    for name, rate in RATES.items():
        first = np.asarray(after[name] - start[0][name])[3]
        sign = np.sign(np.asarray(gradients([3, 0], 9)[name])[0])
        np.testing.assert_allclose(first, -rate * sign, rtol=1e-3)


def test_a_row_moves_alike_whoever_shares_its_batches():
    alone = run(tables(), rows.init_rows(tables()), steps=[[4], [4]])
    values, state = tables(), rows.init_rows(tables())
    for step, ids in enumerate([[4, 0], [4, 2]]):
        others = gradients(ids, 50 + step)
        mine = gradients([4], step)
        grads = jax.tree.map(lambda a, b: a.at[0].set(b[0]), others, mine)
        values, state = update(values, state, grads, jnp.asarray(ids))
    np.testing.assert_array_equal(values["codes"][4], alone[0]["codes"][4])


def test_taking_rows_takes_them_from_every_leaf():
    taken = rows.take_rows(tables(), jnp.array([5, 0]))
    for name, leaf in tables().items():
        np.testing.assert_array_equal(taken[name], np.asarray(leaf)[[5, 0]])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e8, 1e18])
def test_steps_are_finite_and_bounded_by_the_learning_rate_whatever_the_gradients(size):
    ids = jnp.array([1, 2])
    grads = jax.tree.map(lambda leaf: jnp.full((2, *leaf.shape[1:]), size), tables())
    values, state = update(tables(), rows.init_rows(tables()), grads, ids)
    for name, rate in RATES.items():
        moved = np.asarray(values[name] - tables()[name])
        assert np.isfinite(moved).all() and np.abs(moved).max() <= rate * 1.001
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_tables_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"leading axis, got lengths \[3, 6\]"):
        rows.init_rows({"a": jnp.zeros((6, 2)), "b": jnp.zeros((3,))})


def test_the_learning_rates_may_be_traced():
    scheduled = jax.jit(functools.partial(rows.update_rows, **BETAS))
    state, ids = rows.init_rows(tables()), jnp.array([1])
    rates = {name: jnp.float32(0.0) for name in RATES}
    still, _ = scheduled(
        tables(), state, grads=gradients([1], 0), ids=ids, learning_rates=rates
    )
    for name, leaf in tables().items():
        np.testing.assert_array_equal(still[name], leaf)
