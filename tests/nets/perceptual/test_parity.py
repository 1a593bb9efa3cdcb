"""The ported networks give what the public PyTorch code gives, with weights by formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets.perceptual import arcface, inception, lpips, weights
from tests import parity_values
from tests.nets.perceptual import states

FORWARD, GRADIENT = 2e-4, 1e-3  # of an array's standard deviation


@pytest.fixture(scope="module", params=["vgg", "alex"])
def compared(request):
    """The trunk's name, the distance of the two pictures, and its gradient by the first."""
    trunk = request.param
    state = states.state_dict(f"lpips_{trunk}") | weights.lpips_heads(trunk)
    variables = weights.variables_from_state_dict(state)
    a, b = states.pictures()

    def total(a, b, variables):
        distance = lpips.LPIPS(trunk).apply(variables, a, b)
        return distance.total.sum(), distance

    gradient, distance = jax.jit(jax.grad(total, has_aux=True))(
        jnp.asarray(a), jnp.asarray(b), variables
    )
    return trunk, distance, gradient


def test_lpips_and_its_levels_are_the_public_codes(compared):
    trunk, distance, _ = compared
    wanted = states.golden()
    assert states.relative_error(distance.total, wanted[f"lpips_{trunk}"]) < FORWARD
    assert states.relative_error(distance.levels, wanted[f"lpips_{trunk}_layers"]) < FORWARD


def test_the_gradient_of_lpips_is_the_public_codes(compared):
    trunk, _, gradient = compared
    shown = np.asarray(gradient)[:, ::4, ::4].transpose(0, 3, 1, 2)
    assert states.relative_error(shown, states.golden()[f"lpips_{trunk}_grad_sub"]) < GRADIENT


def test_inception_is_the_fid_weights_network():
    variables = weights.variables_from_state_dict(states.state_dict("inception"))
    a, _ = states.pictures()
    images = np.clip((a + 1) * 127.5, 0, 255).astype(np.uint8)
    seen = jax.jit(inception.InceptionV3().apply)(variables, jnp.asarray(images))
    keys = {
        "64": seen.pool1,
        "192": seen.pool2,
        "768": seen.mixed_6e,
        "2048": seen.pool3,
        "logits_unbiased": seen.logits_unbiased,
        "logits": seen.logits,
    }
    wanted = states.golden()
    errors = {k: states.relative_error(v, wanted[f"inception_{k}"]) for k, v in keys.items()}
    assert max(errors.values()) < FORWARD, errors


@pytest.fixture(scope="module")
def arcface_run():
    """Embeddings of the golden faces, in the precision asked for."""
    state = states.state_dict("ir_se50")
    variables = weights.variables_from_state_dict(state, flattened=arcface.FLATTENED)
    faces = np.tanh(parity_values.normal("input.face", (2, 3, 112, 112)))
    faces = states.channels_last(faces)

    def run(dtype):
        with jax.enable_x64(dtype == np.float64):
            cast = jax.tree.map(lambda x: x.astype(dtype), variables)
            return np.asarray(jax.jit(arcface.IRSE50().apply)(cast, jnp.asarray(faces, dtype)))

    return run


def test_arcface_is_the_public_network_to_float64s_rounding(arcface_run):
    """`ir_se50_float64.npz` is the public network, whose float32 run is `ir_se50` to the bit."""
    wanted = np.load(states.FOLDER / "ir_se50_float64.npz")["ir_se50_float64"]
    assert states.relative_error(arcface_run(np.float64), wanted) < 1e-8


def test_arcface_in_float32_is_as_near_to_the_truth_as_the_public_run(arcface_run):
    """With weights by formula the gates of squeeze-and-excitation are switches of huge values,
    and rounding is amplified: the public float32 run is 1.1e-2 from its own float64 run."""
    truth = np.load(states.FOLDER / "ir_se50_float64.npz")["ir_se50_float64"]
    public = states.golden()["ir_se50"]
    mine = arcface_run(np.float32)
    np.testing.assert_allclose(np.linalg.norm(mine, axis=-1), 1.0, rtol=1e-6)
    assert states.relative_error(mine, truth) < 2 * states.relative_error(public, truth)
    assert states.relative_error(mine, public) < 3e-2
