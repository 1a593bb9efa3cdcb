"""EG3D's and PanoHead's networks at full size against the public implementations' numbers.

Parameters and inputs are by formula (`tests.parity_values`); `tests/data/parity/*.npz` hold what
the public PyTorch code made of them on a CPU in float32.
"""

import contextlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import camera_from_label
from headjax.geometry.rays import pixel_rays
from headjax.nets import triplane_gan
from headjax.nets.stylegan2 import variables_from_state_dict
from headjax.nets.stylegan2_discriminator import Discriminator, DiscriminatorConfig
from tests import parity_values as values

FOLDER = Path(__file__).parents[1] / "data" / "parity"
CONFIGS = {"eg3d": triplane_gan.GeneratorConfig(), "panohead": triplane_gan.panohead_config()}
PARAMETERS = {"eg3d": (30_662_136, 31_359_744), "panohead": (53_741_548, 31_359_808)}
# Behind the importance sampling's search, where a rounding may move a sample.
SEARCHED = {"feature_sub", "weights_sum", "image_raw", "image_depth", "image_sub", "image_mask",
            "grad_ws_image_raw"}  # fmt: skip


# One activation of PanoHead's background, (head, row, column, channel) behind b64/conv1, lies at
# -2.5e-7 before its rectifier in float64, as here in float32; the public code's rounding put it
# above zero, where the slope is five times as large. It is 4e-4 of the gradient's spread.
UNIT, UNIT_LAYER, UNIT_SLOPE = (0, 19, 5, 25), ("bcg_synthesis", "b64", "conv1"), 5.0


@contextlib.contextmanager
def unit_moved(by):
    """Adds to that activation; yields a list with the layer's output before that."""
    seen = []

    def intercept(call, inputs, options, context):
        output = call(*inputs, **options)
        if context.module.path == UNIT_LAYER and context.method_name == "__call__":
            seen.append(output)
            return output.at[UNIT].add(by)
        return output

    with nn.intercept_methods(intercept):
        yield seen


def by_formula(shapes):
    """Variables of these shapes, every array by the rule that its public name has."""
    state = values.state_by_gan_rules(shapes)
    return jax.tree.map(jnp.asarray, variables_from_state_dict(state))


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def public_planes(planes):
    """[b, n, (d,) h, w, f] -> the backbone's own channels: plane-major, slices fastest."""
    planes = np.asarray(planes)
    order = (0, 1, 5, 2, 3, 4) if planes.ndim == 6 else (0, 1, 4, 2, 3)
    return planes.transpose(order).reshape(len(planes), -1, *planes.shape[-3:-1])


@pytest.fixture(scope="module", params=["eg3d", "panohead"])
def network(request):
    """(kind, generator, variables, goldens), one at a time."""
    kind = request.param
    golden = jax.tree.map(jnp.asarray, dict(np.load(FOLDER / f"{kind}.npz")))
    generator = triplane_gan.Generator(CONFIGS[kind])
    shapes = jax.eval_shape(
        lambda: generator.init(jax.random.key(0), golden["z"], golden["c"], neural_resolution=8)
    )
    assert count(shapes) == PARAMETERS[kind][0]
    return kind, generator, by_formula(shapes), golden


@pytest.fixture(scope="module")
def made(network):
    """Every array of the goldens, made here."""
    kind, generator, variables, golden = network
    z, c, ws = golden["z"], golden["c"], golden["ws"]
    jitter = jnp.asarray(values.uniform("input.stratified", (2, 32 * 32, 48, 1)))[..., 0]
    uniform = values.uniform("input.importance", (2 * 32 * 32, 48))
    uniform = jnp.asarray(uniform).reshape(2, 32 * 32, 48)
    probe = np.moveaxis(values.normal("input.probe", (2, 3, 32, 32)), 1, -1)
    drawn = {"neural_resolution": 32, "jitter": jitter, "uniform": uniform}

    def apply(method, *args, **options):
        return generator.apply(variables, *args, method=method, **options)

    def raw(ws, by):
        planes = apply("planes", ws)
        with unit_moved(by):
            background = apply("background", ws) if kind == "panohead" else None
        seen = apply("render", planes, c, ws=ws, background=background, **drawn)
        return jnp.sum(seen.raw * probe), (planes, background, seen)

    def unit(ws):
        with unit_moved(0.0) as outputs:
            apply("background", ws)
        return outputs[0][UNIT]

    both = jax.jit(jax.grad(raw, argnums=(0, 1), has_aux=True))
    (gradient, of_unit), (planes, background, seen) = both(ws, 0.0)
    if kind == "panohead":
        value, slope = jax.jit(jax.value_and_grad(unit))(ws)
        assert -1e-5 < value < 0
        gradient = gradient + (UNIT_SLOPE - 1) * of_unit * slope
    image = jax.jit(lambda seen: apply("superresolved", seen, ws))(seen)
    sigma, rgb = apply("query", planes, golden["points"])
    origins, directions = pixel_rays(camera_from_label(c), resolution=32)
    silent = jax.jit(lambda: apply("planes", ws, noise="none"))()
    public = public_planes(planes)
    arrays = {
        "ws": apply("mapping", z, c),
        "ws_trunc07": apply("mapping", z, c, truncation_psi=0.7, truncation_cutoff=10),
        "planes_sub": public[:, :, ::16, ::16],
        "planes_mean": public.mean((2, 3)),
        "planes_std": public.std((2, 3), ddof=1),
        "planes_none_sub": public_planes(silent)[:, :, ::16, ::16],
        "ray_origins": origins[:, :1],
        "ray_directions_sub": directions[:, ::33],
        "points_sigma": sigma[..., None],
        "points_rgb": rgb,
        "feature_sub": seen.foreground.reshape(2, 32 * 32, -1)[:, ::7],
        "weights_sum": seen.alpha.reshape(2, 32 * 32, 1),
        "image_raw": channels_first(seen.raw),
        "image_depth": channels_first(seen.depth),
        "image_sub": channels_first(image)[:, :, ::4, ::4],
        "grad_ws_image_raw": gradient,
        "d_logits": logits(kind, c),
    }
    if kind == "panohead":
        margin = triplane_gan.MASK_MARGIN
        adapted, delta = apply("adapted", z, c)
        arrays |= {
            "delta_c": delta,
            "c_adapted": adapted,
            "bcg_sub": channels_first(background)[:, :, ::8, ::8],
            "image_mask": channels_first(seen.alpha) * (1 + 2 * margin) - margin,
        }
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def logits(kind, c):
    discriminator = Discriminator(DiscriminatorConfig(kind=kind, group=2))
    images = {
        "image": values.normal("input.d_image", (2, 3, 512, 512)),
        "image_raw": values.normal("input.d_image_raw", (2, 3, 64, 64)),
        "mask": values.uniform("input.d_image_mask", (2, 1, 64, 64)),
    }
    images = {name: jnp.moveaxis(image, 1, -1) for name, image in images.items()}
    shapes = jax.eval_shape(lambda: discriminator.init(jax.random.key(0), images, c))
    assert count(shapes) == PARAMETERS[kind][1]
    return jax.jit(discriminator.apply)(by_formula(shapes), images, c)[:, None]


def test_every_array_of_the_public_implementation_is_reproduced(network, made):
    """RMS within 2e-4 of the array's standard deviation, gradients 1e-3; maxima within 2e-3."""
    kind, _, _, golden = network
    inputs = {"z", "c", "points"}
    assert set(made) == set(golden) - inputs
    for key, array in made.items():
        expected = np.asarray(golden[key], np.float64)
        assert array.shape == expected.shape, key
        error, spread = np.abs(array - expected), expected.std()
        bar = 1e-3 if key.startswith("grad") else 2e-4
        assert np.sqrt(np.mean(error**2)) <= bar * spread, key
        share = np.mean(error <= 2e-3 * spread)
        assert share == 1.0 or (key in SEARCHED and share >= 0.999), (kind, key, share)
