"""Resizing against PyTorch.

`torch_resize.npz` was made with PyTorch 2.15 on a CPU: x = normal (1, 6, 8, 2) of NumPy's
default_rng(0), and `{antialias|plain}_{h}_{w}` = interpolate(x, size=(h, w), mode="bilinear",
align_corners=False, antialias=...), channels last.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets.resize import resize

GOLDEN = dict(np.load(Path(__file__).parents[1] / "data" / "torch_resize.npz"))
IMAGES = GOLDEN.pop("x")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_it_is_pytorchs_bilinear_resize(name):
    mode, rows, columns = name.split("_")
    size = (int(rows), int(columns))
    ours = resize(jnp.asarray(IMAGES), size, antialias=mode == "antialias")
    np.testing.assert_allclose(ours, GOLDEN[name], atol=2e-6)


def test_the_plain_rule_written_as_loops():
    def triangle_rule(n, n2):
        scale = max(n / n2, 1.0)
        weights = np.zeros((n2, n))
        for j in range(n2):
            for i in range(n):
                weights[j, i] = max(0.0, 1.0 - abs(i + 0.5 - (j + 0.5) * n / n2) / scale)
        return weights / weights.sum(axis=1, keepdims=True)

    for size in [(4, 3), (13, 8), (17, 5)]:
        rows, columns = triangle_rule(6, size[0]), triangle_rule(8, size[1])
        expected = np.einsum("ai,bj,nijc->nabc", rows, columns, IMAGES)
        np.testing.assert_allclose(resize(jnp.asarray(IMAGES), size), expected, atol=2e-6)


def test_leading_axes_dtypes_and_gradients_pass_through():
    stack = jnp.asarray(IMAGES, jnp.bfloat16)[None]
    assert resize(stack, 12).shape == (1, 1, 12, 12, 2)
    assert resize(stack, 12).dtype == jnp.bfloat16
    assert resize(stack, (6, 8)) is stack
    gradient = jax.grad(lambda x: resize(x, 3).sum())(jnp.asarray(IMAGES))
    np.testing.assert_allclose(gradient.sum(), 3 * 3 * 2, rtol=1e-5)
