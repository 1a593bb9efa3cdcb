"""Counting a program's operations: against formulas, and XLA's own count where that is right."""

import jax
import jax.numpy as jnp
import pytest

from headjax.train import flops

NHWC = ("NHWC", "HWIO", "NHWC")


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def convolve(x, w, **options):
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=NHWC, **options)


def test_a_matrix_product_is_two_operations_for_each_triple():
    product = flops.count(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(3, 5, 7), shape(3, 7, 11)
    )
    assert product == 2 * 3 * 5 * 7 * 11


def test_a_loop_counts_as_often_as_it_runs():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    args = shape(8, 64), shape(5, 64, 64)
    once = 2 * 8 * 64 * 64
    assert flops.count(layers, *args) == 5 * once
    # The reason for counting by ourselves: XLA takes the body once.
    assert jax.jit(layers).lower(*args).cost_analysis()["flops"] < 2 * once
    # Backward: one product for the weights and one for the activations, of each layer.
    assert flops.count(jax.grad(layers, (0, 1)), *args) == 15 * once


def test_what_is_computed_again_counts_again():
    def layer(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

    args, once = (shape(8, 16), shape(16, 16)), 2 * 8 * 16 * 16
    assert flops.count(jax.grad(layer, 1), *args) == (2 + 3) * once
    assert flops.count(jax.grad(jax.checkpoint(layer), 1), *args) == (2 + 2 + 3) * once


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))},
        {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2},
        {"window_strides": (1, 1), "padding": ((2, 1), (2, 1)), "lhs_dilation": (2, 2)},
    ],
    ids=["same", "halving", "groups", "transposed"],
)
def test_convolutions_and_their_gradients_count_as_xla_counts_them(options):
    channels = 6 // options.get("feature_group_count", 1)
    args = shape(2, 8, 10, 6), shape(3, 3, channels, 4)

    def loss(x, w):
        return convolve(x, w, **options)

    def ours_and_theirs(function):
        return flops.count(function, *args), jax.jit(function).lower(*args).cost_analysis()["flops"]

    ours, theirs = ours_and_theirs(loss)
    assert ours == theirs

    def with_gradients(x, w):
        y, pull = jax.vjp(loss, x, w)
        return y, pull(y)

    ours, theirs = ours_and_theirs(with_gradients)
    # XLA counts the transposition's elementwise work, too.
    assert ours <= theirs < 1.05 * ours


def test_one_branch_of_several_runs():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert flops.count(either, jax.ShapeDtypeStruct((), jnp.bool), shape(4, 4)) == 4 * 4**3


def test_a_loop_that_asks_its_data_has_no_count():
    def power(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

    assert flops.count(power, shape(4, 4)) is None
    # Without products inside it does not matter how often it runs.
    assert (
        flops.count(
            lambda x: jax.lax.while_loop(lambda y: y < 1, lambda y: y + 1, x[0, 0]), shape(4, 4)
        )
        == 0
    )


def test_shards_add_up():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    part = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    assert flops.count(part, shape(8, 16), shape(16, 16)) == 2 * 8 * 16 * 16
