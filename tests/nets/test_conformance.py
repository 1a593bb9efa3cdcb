"""What every network must do: one line a network in CASES joins it."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets.payload_decoder import PayloadDecoderConfig, payload_decoder
from headjax.nets.stylegan2 import SynthesisNetwork
from headjax.nets.unet import UNet, UNetConfig
from tests.nets.filling import filled


@dataclass(frozen=True)
class Case:
    """A small network: its builder for a compute dtype, its inputs' shapes, its output's."""

    build: Callable[..., nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]


def _grid(dtype):
    return payload_decoder(
        PayloadDecoderConfig(grid=4, patch=2, code_dim=8, width=16, blocks=2, dtype=dtype)
    )


def _stylegan2_decoder(dtype):
    config = PayloadDecoderConfig(
        kind="stylegan2", grid=4, patch=2, code_dim=8, channel_base=128, channel_max=16, dtype=dtype
    )
    return payload_decoder(config)


def _synthesis(dtype):
    return SynthesisNetwork(8, 3, w_dim=8, channel_base=128, channel_max=16, dtype=dtype)


def _unet(dtype, multipliers=(1, 2), **options):
    config = UNetConfig(
        channels=5,
        base=16,
        multipliers=multipliers,
        blocks=1,
        attention=(4,),
        heads=2,
        head_channels=8,
        groups=8,
        dtype=dtype,
        **options,
    )
    return UNet(config)


CASES = {
    "grid decoder": Case(_grid, ((2, 8),), (2, 8, 8, 24)),
    "stylegan2 decoder": Case(_stylegan2_decoder, ((2, 8),), (2, 8, 8, 24)),
    "synthesis": Case(_synthesis, ((2, 4, 8),), (2, 8, 8, 3)),
    "unet": Case(_unet, ((2, 8, 8, 5), (2,)), (2, 8, 8, 5)),
    "patchified unet": Case(
        lambda dtype: _unet(dtype, (1,), patch=2), ((2, 8, 8, 5), (2,)), (2, 8, 8, 5)
    ),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def network(request):
    """(case, inputs, variables with nothing left at zero, compiled apply in float32)."""
    case = CASES[request.param]
    draw = np.random.default_rng(1).standard_normal
    inputs = tuple(draw(shape, dtype=np.float32) for shape in case.inputs)
    module = case.build(jnp.float32)
    variables = filled(module, *inputs)
    return case, inputs, variables, jax.jit(module.apply)


def test_outputs_are_float32_of_the_stated_shape(network):
    case, inputs, variables, apply = network
    out = apply(variables, *inputs)
    assert out.shape == case.output and out.dtype == jnp.float32
    assert np.isfinite(out).all() and np.std(out) > 1e-3


def test_parameters_are_float32_in_any_compute_dtype(network):
    case, inputs, variables, _ = network
    shapes = jax.eval_shape(case.build(jnp.bfloat16).init, jax.random.key(0), *inputs)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


def test_samples_of_a_batch_do_not_see_each_other(network):
    _, inputs, variables, apply = network
    whole = apply(variables, *inputs)
    swapped = apply(variables, *(x[::-1] for x in inputs))
    np.testing.assert_allclose(swapped[::-1], whole, rtol=1e-4, atol=1e-4)


def test_vmap_over_a_leading_axis_is_a_larger_batch(network):
    _, inputs, variables, apply = network
    stacked = tuple(np.stack([x, x[::-1]]) for x in inputs)
    out = jax.jit(jax.vmap(apply, (None, *(0 for _ in inputs))))(variables, *stacked)
    np.testing.assert_allclose(out[0], apply(variables, *inputs), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out[1], out[0][::-1], rtol=1e-4, atol=1e-4)


def test_every_parameter_and_input_gets_a_finite_gradient(network):
    _, inputs, variables, apply = network

    def total(params, first):
        return jnp.square(apply({**variables, "params": params}, first, *inputs[1:])).sum()

    params, first = jax.jit(jax.grad(total, (0, 1)))(variables["params"], inputs[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params, "input": first}):
        assert np.isfinite(leaf).all(), path
        # No noise is asked for in these cases.
        assert np.abs(leaf).max() > 0 or "noise_strength" in str(path), path


def test_bfloat16_stays_near_float32(network):
    case, inputs, variables, apply = network
    exact = np.asarray(apply(variables, *inputs))
    coarse = np.asarray(jax.jit(case.build(jnp.bfloat16).apply)(variables, *inputs))
    assert coarse.dtype == np.float32
    assert np.sqrt(np.mean((coarse - exact) ** 2)) < 0.05 * np.std(exact)


def test_large_inputs_stay_finite(network):
    _, inputs, variables, apply = network
    assert np.isfinite(apply(variables, *(1e4 * x for x in inputs))).all()
