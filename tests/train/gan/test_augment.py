import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.gan.augment import augment
from headjax.train.gan.augment_settings import Augmentation, preset


@functools.partial(jax.jit, static_argnames="settings")
def run(key, images, p, settings):
    return augment(key, images, p=p, settings=settings)


def pictures(*shape):
    return jax.random.uniform(jax.random.key(7), shape, minval=-1.0, maxval=1.0)


@pytest.mark.parametrize("channels", [3, 6, 7])
def test_strength_zero_is_the_identity(channels):
    x = pictures(3, 16, 16, channels)
    np.testing.assert_allclose(run(jax.random.key(0), x, 0.0, preset("all")), x, atol=5e-6)


def test_nothing_is_computed_for_what_never_happens():
    x = pictures(1, 8, 8, 3)
    np.testing.assert_array_equal(run(jax.random.key(0), x, 1.0, preset("none")), x)
    program = jax.jit(lambda x: run(jax.random.key(0), x, 0.5, preset("c"))).lower(x).as_text()
    assert "gather" not in program and "dot_general" in program


def test_image_and_raw_image_are_augmented_alike_and_a_mask_only_moves():
    x = pictures(8, 16, 16, 3)
    stack = jnp.concatenate([x, x, x[..., :1]], axis=-1)
    out = run(jax.random.key(1), stack, 0.8, preset("bgc"))
    np.testing.assert_array_equal(out[..., :3], out[..., 3:6])
    moved = run(jax.random.key(1), stack, 0.8, preset("bg"))
    np.testing.assert_array_equal(out[..., 6], moved[..., 6])
    assert np.abs(out[..., 0] - moved[..., 0]).max() > 0.1


def test_samples_differ_and_a_key_repeats():
    x = jnp.broadcast_to(pictures(1, 16, 16, 3), (8, 16, 16, 3))
    out = np.asarray(run(jax.random.key(2), x, 1.0, preset("bgc")))
    assert all(np.abs(out[i] - out[j]).max() > 0.05 for i in range(8) for j in range(i))
    np.testing.assert_array_equal(out, run(jax.random.key(2), x, 1.0, preset("bgc")))
    assert np.abs(out - run(jax.random.key(3), x, 1.0, preset("bgc"))).max() > 0.05


@pytest.mark.parametrize("name", ["bgc", "all"])
def test_it_is_affine_in_the_images_so_its_gradients_are_finite_and_right(name):
    """All transformations are affine in the image: A(x + h d) - A(x) = h dA d for any h."""
    x, way = pictures(4, 16, 16, 6), jnp.cos(9 * pictures(4, 16, 16, 6))
    function = functools.partial(run, jax.random.key(4), p=0.9, settings=preset(name))
    out, slope = jax.jvp(function, (x,), (way,))
    np.testing.assert_allclose(function(x + 3.0 * way) - out, 3.0 * slope, atol=1e-3)
    gradient = jax.grad(lambda x: (function(x) * way).sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(jnp.vdot(gradient, way), jnp.vdot(slope, way), rtol=1e-3)


def test_r1_goes_through_it():
    x = pictures(2, 12, 12, 3)

    def penalty(w):
        def judge(images):
            return jnp.tanh(augment(jax.random.key(0), images, p=0.9, settings=preset("bgc")) * w)

        return jnp.square(jax.grad(lambda y: judge(y).sum())(x)).sum()

    assert np.isfinite(jax.jit(jax.grad(penalty))(jnp.ones(3))).all()


def test_presets_are_the_papers_groups():
    used = {f.name for f in dataclasses.fields(Augmentation)}
    bgc = preset("bgc")
    on = {name for name in used if getattr(bgc, name) == 1.0 and not name.endswith(("std", "max"))}
    assert on == {
        "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
        "brightness", "contrast", "lumaflip", "hue", "saturation",
    }  # fmt: skip
    everything = preset("all")
    assert everything.imgfilter == everything.noise == everything.cutout == 1.0
    assert preset("none") == Augmentation()
    with pytest.raises(ValueError, match="one of none, b, g"):
        preset("xyz")


def assert_devices_agree():
    """A batch over four devices: the same result, and no device sees the others' images."""
    x, key = pictures(4, 8, 8, 6), jax.random.key(0)

    def loss(x):
        return jnp.sin(augment(key, x, p=0.9, settings=preset("bgc"))).sum()

    differentiate = jax.jit(jax.value_and_grad(loss))
    one = differentiate(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    program = jax.jit(jax.value_and_grad(loss), in_shardings=batch).lower(x).compile()
    for a, b in zip(one, program(jax.device_put(x, batch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    text = program.as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text


def test_a_batch_may_be_divided_among_devices():
    call = "import tests.train.gan.test_augment as m; m.assert_devices_agree()"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", call],
        check=True,
        env=os.environ | flags,
        cwd=Path(__file__).parents[3],
        timeout=300,
    )
