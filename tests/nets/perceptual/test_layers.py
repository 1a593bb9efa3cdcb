"""The small operations of the ported networks, against slow definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets.perceptual import arcface, inception, layers, lpips
from tests.parity_values import normal, uniform


@pytest.mark.parametrize(("length", "size"), [(188, 112), (512, 256), (7, 7), (5, 3)])
def test_adaptive_pooling_is_the_mean_of_each_rows_span(length, size):
    x = normal("adaptive", (1, length, length, 2))
    spans = [(k * length // size, math.ceil((k + 1) * length / size)) for k in range(size)]
    rows = np.stack([x[:, a:b].mean(axis=1) for a, b in spans], axis=1)
    wanted = np.stack([rows[:, :, a:b].mean(axis=2) for a, b in spans], axis=2)
    pool = jax.jit(layers.adaptive_average_pool, static_argnames="size")
    pooled = pool(jnp.asarray(x), size=size)
    np.testing.assert_allclose(pooled, wanted, atol=1e-6)


def test_the_average_pool_does_not_count_what_lies_outside():
    x = np.ones((1, 5, 4, 2), np.float32)
    pooled = layers.average_pool_same(jnp.asarray(x), window=3)
    np.testing.assert_allclose(pooled, x, rtol=1e-6)


@pytest.mark.parametrize("length", [64, 299, 512])
def test_tensorflows_resize_reads_row_k_at_k_times_the_ratio(length):
    image = uniform("resize", (1, length, 3, 1)) * np.float32(255)
    resized = np.asarray(jax.jit(inception.resize_tf1)(jnp.asarray(image)))
    for row in (0, 1, 150, 297, 298):
        place = row * length / inception.SIZE
        low = int(place)
        high, weight = min(low + 1, length - 1), place - low
        wanted = (1 - weight) * image[0, low, 0, 0] + weight * image[0, high, 0, 0]
        np.testing.assert_allclose(resized[0, row, 0, 0], wanted, rtol=1e-4)


def test_features_have_length_one_and_dead_ones_a_finite_gradient():
    x = normal("unit", (2, 3, 3, 8))
    x[0, 0, 0] = 0.0
    x = jnp.asarray(x)
    lengths = np.linalg.norm(jax.jit(lpips.unit_channels)(x), axis=-1)
    np.testing.assert_allclose(lengths, np.where(np.arange(18).reshape(2, 3, 3) == 0, 0, 1), 1e-5)
    gradient = jax.jit(jax.grad(lambda x: (lpips.unit_channels(x) ** 3).sum()))(x)
    assert np.isfinite(gradient).all()


def test_the_face_is_cut_out_at_the_public_place():
    crop = jax.jit(arcface.crop_face)
    image = np.zeros((1, 256, 256, 3), np.float32)
    image[:, 35:223, 32:220] = 1.0
    np.testing.assert_allclose(crop(jnp.asarray(image)), 1.0, rtol=1e-5)
    wider = np.zeros((1, 512, 512, 3), np.float32)
    wider[:, 70:446, 64:440] = 1.0
    np.testing.assert_allclose(crop(jnp.asarray(wider)), 1.0, rtol=1e-5)
    assert float(crop(jnp.asarray(1 - image)).max()) < 1e-6
