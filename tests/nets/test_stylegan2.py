"""StyleGAN2's synthesis network.

Goldens: `tests/data/eg3d_planes.npz` holds the style vector `w` of one latent and every 16th texel
of the planes that the public EG3D code (PyTorch, CPU, float32; FFHQ-512 configuration) makes of it,
with parameters that are computed from their names (`tests.parity_values`).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from headjax.nets import stylegan2
from tests import parity_values as values
from tests.nets.filling import filled

GOLDEN = Path(__file__).parents[1] / "data" / "eg3d_planes.npz"
PREFIX = "backbone.synthesis."
NHWC = ("NHWC", "HWIO", "NHWC")


def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def size(tree) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def init_shapes(network):
    ws = jax.ShapeDtypeStruct((1, network.num_ws, network.w_dim), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), ws)


@pytest.fixture(scope="module")
def eg3d():
    """EG3D's backbone: (network, variables by formula, goldens)."""
    network = stylegan2.SynthesisNetwork(256, 96)
    state = values.state_by_gan_rules(init_shapes(network), prefix=PREFIX)
    variables = stylegan2.variables_from_state_dict(state, prefix=PREFIX)
    return network, variables, dict(np.load(GOLDEN))


@pytest.mark.parametrize(("noise", "key"), [("none", "planes_none_sub"), ("const", "planes_sub")])
def test_planes_are_those_of_the_public_code(noise, key, eg3d):
    network, variables, golden = eg3d
    ws = jnp.repeat(jnp.asarray(golden["w"])[:, None], network.num_ws, axis=1)
    planes = jax.jit(network.apply, static_argnames="noise")(variables, ws, noise=noise)
    ours = np.asarray(planes[:, ::16, ::16]).transpose(0, 3, 1, 2)
    expected = golden[key]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4 * expected.std())


def test_the_gaussian3diff_decoder_has_the_papers_size():
    shapes = init_shapes(stylegan2.SynthesisNetwork(256, 24, channel_base=8192, channel_max=512))
    assert size(shapes["params"]) == 17_293_045
    # The public blocks also keep one 4x4 filter each as a buffer; ours is a constant.
    assert size(shapes["buffers"]) + 7 * 16 == 174_848


def test_the_eg3d_backbone_has_the_public_size(eg3d):
    assert size(eg3d[1]["params"]) == 28_207_533


def test_a_state_dict_fills_every_variable_and_no_other(eg3d):
    network, variables, _ = eg3d
    expected = {k: jax.tree.map(jnp.shape, v) for k, v in init_shapes(network).items()}
    assert {k: jax.tree.map(np.shape, v) for k, v in variables.items()} == expected


def test_upsampling_is_zero_insertion_and_filtering_with_gain_four():
    x = normal(0, 2, 5, 7, 3)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64 * 4
    kernel = jnp.asarray(np.broadcast_to(taps[:, :, None, None], (4, 4, 1, 3)))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(2, 2), (2, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=NHWC,
        feature_group_count=3,
    )
    np.testing.assert_allclose(stylegan2.upsample(x), expected, atol=1e-5)


def test_upsampling_keeps_a_constant_inside_the_border():
    up = stylegan2.upsample(jnp.ones((1, 6, 6, 1)))
    np.testing.assert_allclose(up[:, 1:-1, 1:-1], 1.0, rtol=1e-6)


def dilated(x, kernel):
    pad = [(2, 2), (2, 2)]
    return jax.lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), pad, lhs_dilation=(2, 2), dimension_numbers=NHWC
    )


def with_gradients(function, x, kernel, probe):
    """The function's values, its gradients, and the gradient of these gradients' norm."""

    def first(x, kernel):
        return jax.grad(lambda *of: (jnp.tanh(function(*of)) * probe).sum(), (0, 1))(x, kernel)

    def norm(x, kernel):
        return sum(jnp.square(g).sum() for g in first(x, kernel))

    second = jax.grad(norm, (0, 1))
    return [function(x, kernel), *first(x, kernel), *second(x, kernel)]


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (stylegan2.transposed_conv, dilated),
        (stylegan2.doubling_conv, lambda x, kernel: stylegan2.smooth(dilated(x, kernel))),
    ],
)
def test_a_convolution_that_doubles_is_the_dilated_one_to_the_second_gradient(ours, reference):
    with jax.enable_x64():
        x, kernel = normal(0, 2, 4, 5, 3), 0.3 * normal(1, 3, 3, 3, 6)
        probe = normal(2, *reference(x, kernel).shape)
        run = jax.jit(with_gradients, static_argnums=0)
        for a, b in zip(run(ours, x, kernel, probe), run(reference, x, kernel, probe), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_a_1x1_convolution_and_its_gradients_are_those_of_scaled_activations():
    x, weight, styles = normal(0, 2, 4, 5, 3), normal(1, 1, 1, 3, 6), normal(2, 2, 3)
    probe = normal(3, 2, 4, 5, 6)

    def scaled(x, weight, styles):
        return jnp.einsum("bhwi,io->bhwo", x * styles[:, None, None], weight[0, 0])

    def own(x, weight, styles):
        return stylegan2.modulated_conv(x, weight, styles=styles, demodulate=False)

    def both(function):
        total = jax.grad(lambda *of: (jnp.tanh(function(*of)) * probe).sum(), (0, 1, 2))
        return ravel_pytree((function(x, weight, styles), total(x, weight, styles)))[0]

    run = jax.jit(both, static_argnums=0)
    np.testing.assert_allclose(run(own), run(scaled), atol=2e-5)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulation_equals_weights_of_each_samples_own(demodulate, up):
    x, weight, styles = normal(0, 3, 4, 4, 5), normal(1, 3, 3, 5, 6), normal(2, 3, 5)
    run = jax.jit(stylegan2.modulated_conv, static_argnames=("demodulate", "up"))
    ours = run(x, weight, styles=styles, demodulate=demodulate, up=up)

    @jax.jit
    def with_own_weights(x, styles):
        own = weight * styles[None, None, :, None]
        if demodulate:
            own = own / jnp.sqrt(jnp.square(own).sum((0, 1, 2)) + 1e-8)
        if up:
            return stylegan2.smooth(dilated(x[None], own))[0]
        same = jax.lax.conv_general_dilated(x[None], own, (1, 1), "SAME", dimension_numbers=NHWC)
        return same[0]

    for b in range(3):
        np.testing.assert_allclose(ours[b], with_own_weights(x[b], styles[b]), atol=3e-5)


def test_demodulated_features_ignore_the_size_of_the_style():
    x, weight, styles = normal(0, 2, 4, 4, 5), normal(1, 3, 3, 5, 6), normal(2, 2, 5)
    run = jax.jit(stylegan2.modulated_conv)
    small, large = (run(x, weight, styles=s * styles) for s in (1.0, 1e6))
    np.testing.assert_allclose(large, small, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def small():
    network = stylegan2.SynthesisNetwork(8, 3, w_dim=4, channel_base=64, channel_max=8)
    ws = normal(1, 2, network.num_ws, 4)
    apply = jax.jit(network.apply, static_argnames="noise")
    return network, filled(network, ws, spread=0.5), ws, apply


def test_noise_is_off_fixed_or_drawn(small):
    _, variables, ws, apply = small
    off, fixed = (apply(variables, ws, noise=mode) for mode in ("none", "const"))
    one, same, other = (
        apply(variables, ws, noise="random", rngs={"noise": jax.random.key(k)}) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    for first, second in ((off, fixed), (fixed, one), (one, other)):
        assert np.abs(first - second).max() > 1e-3


def test_a_network_without_noise_needs_no_buffers(small):
    network, variables, ws, apply = small
    expected = apply(variables, ws)
    np.testing.assert_array_equal(apply({"params": variables["params"]}, ws), expected)
    assert set(init_shapes(network.clone(use_noise=False))) == {"params"}


def test_clamping_bounds_features(small):
    network, variables, ws, _ = small
    clamped = jax.jit(network.clone(clamp=1e-3).apply)
    assert np.abs(clamped(variables, ws)).max() < 5e-3


def test_mistakes_are_named(small):
    network, variables, ws, _ = small
    with pytest.raises(ValueError, match="power of two"):
        stylegan2.SynthesisNetwork(12, 3)
    with pytest.raises(ValueError, match=r"\[batch, 4, 4\] was expected"):
        network.apply(variables, ws[:, :2])
