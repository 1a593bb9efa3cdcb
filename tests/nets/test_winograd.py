"""Winograd's convolution beside the ordinary one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets import stylegan2
from headjax.nets.winograd import pays, winograd_conv

# The smallest that goes by Winograd, but for the channels.
LARGE = (1, 256, 256, 2)


def drawn(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def ordinary(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.fixture
def few_channels(monkeypatch):
    monkeypatch.setattr("headjax.nets.winograd.CHANNELS", 1)


@pytest.mark.parametrize(("b", "h", "w"), [(1, 8, 4), (2, 16, 12)])
def test_it_is_the_ordinary_convolution(b, h, w):
    with jax.enable_x64():
        x, kernel = drawn((b, h, w, 3), (3, 3, 3, 5))
        ours = jax.jit(winograd_conv)(x, kernel)
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, ordinary(x, kernel), rtol=0, atol=1e-12)


def test_rounding_errors_are_far_below_the_bar_of_reproduction():
    x, kernel = drawn((1, 32, 32, 128), (3, 3, 128, 128))
    expected = ordinary(x, kernel)
    error = jax.jit(winograd_conv)(x, kernel) - expected
    assert np.sqrt(np.square(error).mean()) < 1e-5 * expected.std()


def test_large_convolutions_take_it_and_their_gradients_are_the_ordinary_ones(few_channels):
    x, kernel = drawn(LARGE, (3, 3, 2, 3))
    assert pays(x, kernel)

    def gradients(function):
        total = jax.jit(jax.grad(lambda *of: jnp.sin(function(*of)).mean(), (0, 1)))
        return total(x, kernel)

    assert "scan" in str(jax.make_jaxpr(stylegan2.same_conv)(x, kernel))
    result = jax.jit(stylegan2.same_conv)(x, kernel)
    np.testing.assert_allclose(result, ordinary(x, kernel), atol=2e-4)
    for a, b in zip(gradients(stylegan2.same_conv), gradients(ordinary), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("change", ["pixels", "columns", "taps", "type"])
def test_what_it_cannot_do_or_does_not_pay_is_left_to_the_ordinary_one(change, few_channels):
    x, kernel = drawn(LARGE, (3, 3, 2, 3))
    changed = {
        "pixels": (x[:, :128], kernel),
        "columns": (jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0))), kernel),
        "taps": (x, kernel[:1, :1]),
        "type": (x.astype(jnp.bfloat16), kernel),
    }
    assert not pays(*changed[change])


def test_few_channels_do_not_pay():
    x, kernel = drawn(LARGE, (3, 3, 2, 3))
    assert not pays(x, kernel)
