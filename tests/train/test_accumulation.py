"""Accumulated gradients are the whole batch's, and take less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from headjax.train import accumulation

BATCH = 12


def network_loss(params, batch):
    h = jnp.tanh(batch["x"] @ params["in"])
    error = jnp.square(h @ params["out"] - batch["y"])
    return error.mean(), {"mae": jnp.abs(error).mean(), "h": h.mean()}


def rows_loss(params, batch):
    shared, rows = params
    return network_loss(shared, batch | {"x": batch["x"] + rows["code"]})


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 5)
    draw = jax.random.normal
    params = {"in": draw(keys[0], (8, 16)), "out": draw(keys[1], (16, 3))}
    batch = {"x": draw(keys[2], (BATCH, 8)), "y": draw(keys[3], (BATCH, 3))}
    return params, batch, {"code": draw(keys[4], (BATCH, 8))}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_give_the_whole_batchs_value_and_gradient(parts, problem):
    params, batch, _ = problem
    whole = jax.value_and_grad(network_loss, has_aux=True)(params, batch)
    ours = accumulation.value_and_grad(network_loss, params, batch, parts=parts)
    assert jax.tree.structure(ours) == jax.tree.structure(whole)
    np.testing.assert_allclose(flat(ours), flat(whole), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_of_rows_stay_each_examples_own(parts, problem):
    params, batch, rows = problem
    whole = jax.value_and_grad(rows_loss, has_aux=True)((params, rows), batch)
    ours = accumulation.value_and_grad(rows_loss, params, batch, parts=parts, rows=rows)
    assert jax.tree.structure(ours) == jax.tree.structure(whole)
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=2e-6, atol=1e-6, err_msg=str(path))


def test_one_part_is_the_plain_gradient(problem):
    params, batch, _ = problem

    def program(function):
        return str(jax.make_jaxpr(function)(params, batch))

    plain = program(jax.value_and_grad(network_loss, has_aux=True))
    assert plain == program(functools.partial(accumulation.value_and_grad, network_loss, parts=1))


def test_parts_interleave_and_join_again():
    x = jnp.arange(24).reshape(12, 2)
    split = accumulation.split_examples(x, parts=3)
    np.testing.assert_array_equal(split[1, :, 0] // 2, [1, 4, 7, 10])
    np.testing.assert_array_equal(accumulation.join_examples(split), x)


def test_memory_goes_down_with_the_number_of_parts():
    widths = jax.ShapeDtypeStruct((4, 64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((4096, 64), jnp.float32)

    def loss(weights, x):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return jnp.square(x).mean(), {}

    def temporaries(parts):
        step = functools.partial(accumulation.value_and_grad, loss, parts=parts)
        return jax.jit(step).lower(widths, x).compile().memory_analysis().temp_size_in_bytes

    whole, quarter, sixteenth = (temporaries(parts) for parts in (1, 4, 16))
    # The batch itself, interleaved, takes one layer's room of the whole's four.
    assert quarter < 0.6 * whole
    assert sixteenth < 0.8 * quarter
