"""EG3D's and PanoHead's networks, small: their parts, options, layouts and weights files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import label_from_camera, orbit
from headjax.io.weight_files import Weights, read_weights, write_weights
from headjax.nets import stylegan2_discriminator as discriminators
from headjax.nets import triplane_gan_weights
from headjax.nets.stylegan2 import state_dict_from_variables, variables_from_state_dict
from headjax.nets.stylegan2_mapping import MappingNetwork, truncate, w_avg_update
from headjax.nets.superresolution import FORMS, Form, Superresolution
from headjax.nets.triplane_gan import Generator, GeneratorConfig, panohead_config
from headjax.render.triplane import TriplaneOptions
from tests.nets.filling import filled

SMALL = {
    "z_dim": 8, "w_dim": 16, "channel_base": 128, "channel_max": 16, "plane_resolution": 16,
    "plane_features": 4, "decoder_hidden": 8, "neural_resolution": 8,
    "superresolution": Form(16, (12, 8), (False, True)),
}  # fmt: skip
FEW = {"samples": 6, "importance": 6}
CONFIGS = {
    "eg3d": GeneratorConfig(rendering=TriplaneOptions(**FEW), **SMALL),
    "panohead": panohead_config(
        rendering=TriplaneOptions(axes="panohead", color="none", crop=0.1, **FEW),
        background_resolution=8, **SMALL,
    ),
}  # fmt: skip
D_SMALL = {"resolution": 16, "channel_base": 128, "channel_max": 16, "mapping_layers": 2}


def labels(count):
    return jnp.asarray(label_from_camera(orbit(np.linspace(-0.4, 0.4, count, dtype=np.float32))))


@pytest.fixture(scope="module", params=["eg3d", "panohead"])
def made(request):
    """(generator, variables, z, c) of a kind."""
    generator = Generator(CONFIGS[request.param])
    z, c = jax.random.normal(jax.random.key(1), (2, 8)), labels(2)
    return generator, jax.tree.map(jnp.asarray, filled(generator, z, c)), z, c


@pytest.fixture(scope="module")
def apply(made):
    generator, variables, _, _ = made

    def run(method, *args, **options):
        def call(variables, *args):
            return generator.apply(variables, *args, method=method, **options)

        return jax.jit(call)(variables, *args)

    return run


def test_a_call_is_mapping_camera_correction_planes_rendering_and_super_resolution(made, apply):
    generator, variables, z, c = made
    whole = jax.jit(generator.apply)(variables, z, c)
    ws = apply("mapping", z, c)
    background = None
    if generator.config.kind == "panohead":
        c, _ = apply("adapted", z, c)
        background = apply("background", ws)
    seen = apply("render", apply("planes", ws), c, ws=ws, background=background)
    np.testing.assert_allclose(whole.image_raw, seen.raw, atol=1e-5)
    np.testing.assert_allclose(whole.image, apply("superresolved", seen, ws), atol=1e-5)
    assert whole.image.shape == (2, 32, 32, 3) and whole.image_raw.shape == (2, 8, 8, 3)
    assert whole.depth.shape == whole.mask.shape == (2, 8, 8, 1)
    near, far = generator.config.rendering.near, generator.config.rendering.far
    step = (far - near) / (generator.config.rendering.samples - 1)
    assert float(whole.depth.min()) >= near and float(whole.depth.max()) <= far + step


def test_every_parameter_reaches_the_picture(made):
    generator, variables, z, c = made

    def total(params):
        seen = generator.apply(variables | {"params": params}, z, c)
        return sum(jnp.sum(jnp.sin(3 * part)) for part in (seen.image, seen.image_raw))

    gradient = jax.jit(jax.grad(total))(variables["params"])
    for name, value in state_dict_from_variables({"params": gradient}).items():
        # Noise of the super-resolution is off, as in the public code.
        off = name.startswith("superresolution") and name.endswith("noise_strength")
        assert np.any(value) != off, name


def test_planes_hold_the_backbones_channels_plane_major_then_features_then_slices(made, apply):
    generator, variables, z, c = made
    cfg = generator.config
    ws = apply("mapping", z, c)
    drawn = apply(lambda self, ws: self.backbone.synthesis(ws, noise="const"), ws)
    planes = apply("planes", ws)
    depth = max(cfg.plane_depth, 1)
    for plane, feature, piece in ((0, 0, 0), (1, 3, depth - 1), (2, 2, 0)):
        channel = (plane * cfg.plane_features + feature) * depth + piece
        part = planes[:, plane, piece] if cfg.plane_depth else planes[:, plane]
        np.testing.assert_allclose(part[..., feature], drawn[..., channel], rtol=1e-5, atol=1e-5)


def test_truncation_goes_to_the_average_and_spares_the_layers_behind_the_cutoff(apply, made):
    _, variables, z, c = made
    average = variables["buffers"]["backbone"]["mapping"]["w_avg"]
    free = apply("mapping", z, c)
    none = apply("mapping", z, c, truncation_psi=0.0)
    half = apply("mapping", z, c, truncation_psi=0.5, truncation_cutoff=3)
    np.testing.assert_allclose(none, jnp.broadcast_to(average, none.shape), atol=1e-6)
    np.testing.assert_allclose(half[:, :3], 0.5 * (free[:, :3] + average), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(half[:, 3:], free[:, 3:], rtol=1e-6)
    np.testing.assert_array_equal(truncate(free, average, psi=1.0), average + (free - average))


def test_the_average_of_styles_moves_by_two_thousandths():
    w = jax.random.normal(jax.random.key(0), (4, 3))
    moved = w_avg_update(jnp.ones(3), w)
    np.testing.assert_allclose(moved, 0.998 + 0.002 * np.asarray(w).mean(0), rtol=1e-6)
    gradient = jax.grad(lambda w: jnp.sum(w_avg_update(jnp.ones(3), w)))(w)
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_background_shows_where_the_head_is_not(made, apply):
    generator, _, z, c = made
    if generator.config.kind != "panohead":
        pytest.skip("EG3D's background is part of the head's field")
    ws = apply("mapping", z, c)
    planes = apply("planes", ws)
    behind = jnp.ones((2, 8, 8, 4))
    bare = apply("render", planes, c, ws=ws)
    seen = apply("render", planes, c, ws=ws, background=behind)
    np.testing.assert_allclose(seen.features, bare.features + 1.0 - bare.alpha, atol=1e-6)
    np.testing.assert_allclose(seen.foreground, bare.features, atol=1e-6)
    off = apply("synthesis", ws, c, planes=planes, draw_background=False)
    np.testing.assert_allclose(off.features, bare.features, atol=1e-6)
    drawn = jax.random.normal(jax.random.key(3), ws.shape)
    other = apply("synthesis", ws, c, planes=planes, ws_background=drawn)
    own = apply("synthesis", ws, c, planes=planes)
    assert np.abs(other.features - own.features).max() > 1e-3


def test_colours_of_points_are_those_of_the_raw_image(made, apply):
    """Of a field that is dense everywhere, a ray sees the colour at its first samples."""
    generator, variables, z, c = made
    decoder = variables["params"]["decoder"]["net"]["2"]
    bias = decoder["bias"].at[0].set(1e4)
    dense = jax.tree.map(lambda x: x, variables)
    dense["params"]["decoder"]["net"]["2"] = decoder | {"bias": bias}
    ws = apply("mapping", z, c)
    planes = apply("planes", ws)
    options = dataclasses.replace(generator.config.rendering, crop=None, samples=200, near=2.25)
    generator = Generator(dataclasses.replace(generator.config, rendering=options))
    seen = jax.jit(
        lambda: generator.apply(dense, planes, c, ws=ws, neural_resolution=4, method="render")
    )()
    position = c[:, jnp.array([3, 7, 11])]
    forward = c[:, jnp.array([2, 6, 10])]
    # No pixel's ray is the axis itself: compare the middle of the four about it.
    middle = 0.5 * (seen.raw[:, 1:3, 1:3].mean((1, 2)) + 1.0)
    points = (position + 2.2553 * forward)[:, None]
    colors = generator.apply(dense, ws, planes, points, method="colors")[:, 0]
    np.testing.assert_allclose(colors, jnp.clip(middle, 0, 1), atol=0.05)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_super_resolution_ends_at_its_forms_resolution(name):
    form = FORMS[name]
    network = Superresolution(form)
    inputs = jnp.zeros((1, 16, 16, 8)), jnp.zeros((1, 16, 16, 3))
    run = lambda key: network.init_with_output(key, *inputs, w=jnp.zeros((1, 4)))  # noqa: E731
    image, variables = jax.eval_shape(run, jax.random.key(0))
    factor = {"2x": 128, "4x": 256, "8x": 512, "8xdc": 512}[name]
    assert image.shape == (1, factor, factor, 3) == (1, form.resolution, form.resolution, 3)
    widths = [variables["params"][f"block{i}"]["conv1"]["bias"].shape[0] for i in range(2)]
    assert tuple(widths) == form.features


def test_minibatch_std_is_the_spread_of_samples_that_share_a_group():
    x = np.asarray(jax.random.normal(jax.random.key(0), (6, 2, 3, 4)))
    y = np.asarray(discriminators.minibatch_std(jnp.asarray(x), group=3, channels=2))
    assert y.shape == (6, 2, 3, 6)
    np.testing.assert_array_equal(y[..., :4], x)
    for first in (0, 1):
        members = x[first::2]
        spread = np.sqrt(members.var(0) + 1e-8)
        for channel, chosen in ((4, slice(0, 2)), (5, slice(2, 4))):
            value = spread[..., chosen].mean()
            np.testing.assert_allclose(y[first::2, ..., channel], value, rtol=1e-5)


def test_a_group_that_does_not_divide_the_batch_becomes_the_next_smaller_that_does():
    x = jax.random.normal(jax.random.key(0), (6, 2, 2, 4))
    four, three = (discriminators.minibatch_std(x, group=n) for n in (4, 3))
    np.testing.assert_array_equal(four, three)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_discriminators_blur_is_a_convolution_with_the_public_filter(stride):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    kernel = jnp.asarray(np.repeat(taps[:, :, None, None], 3, axis=3))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((2, 2), (2, 2)), dimension_numbers=numbers,
        feature_group_count=3,
    )  # fmt: skip
    np.testing.assert_allclose(
        discriminators.blur(x, padding=2, stride=stride), expected, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
def test_a_discriminator_sees_all_its_pictures_and_the_label(kind):
    config = discriminators.DiscriminatorConfig(kind=kind, **D_SMALL)
    network = discriminators.Discriminator(config)
    keys = jax.random.split(jax.random.key(0), 3)
    images = {
        "image": jax.random.normal(keys[0], (4, 16, 16, 3)),
        "image_raw": jax.random.normal(keys[1], (4, 8, 8, 3)),
    }
    if kind == "panohead":
        images["mask"] = jax.random.uniform(keys[2], (4, 8, 8, 1))
    c = labels(4)
    variables = jax.tree.map(jnp.asarray, filled(network, images, c))
    first = variables["params"]["b16"]["fromrgb"]["weight"]
    assert first.shape[2] == {"eg3d": 6, "panohead": 7}[kind]
    gradient = jax.grad(lambda images, c: network.apply(variables, images, c).sum(), (0, 1))
    for leaf in jax.tree.leaves(jax.jit(gradient)(images, c)):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)
    with pytest.raises(ValueError, match=r"image is \(4, 8, 8, 3\); \[batch, 16, 16, 3\]"):
        network.apply(variables, images | {"image": images["image_raw"]}, c)


def test_a_mapping_says_what_it_lacks():
    network = MappingNetwork(8, 25, 16)
    with pytest.raises(ValueError, match=r"c is missing; \[batch, 25\] was expected"):
        network.init(jax.random.key(0), jnp.zeros((1, 8)), None)
    with pytest.raises(ValueError, match=r"z is of shape \(1, 7\); \[batch, 8\] was expected"):
        network.init(jax.random.key(0), jnp.zeros((1, 7)), jnp.zeros((1, 25)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plane_depth": 3}, "tri-grids have a depth of at least 1"),
        ({"raw_torgb": True}, "belong to kind 'panohead'"),
    ],
)
def test_an_impossible_generator_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        GeneratorConfig(**changes)


def test_layouts_go_both_ways(made):
    _, variables, _, _ = made
    state = state_dict_from_variables(variables)
    again = variables_from_state_dict(state)
    jax.tree.map(np.testing.assert_array_equal, again, dict(variables))
    assert state["backbone.synthesis.b8.conv0.weight"].shape == (16, 16, 3, 3)
    assert state["backbone.mapping.embed.weight"].shape == (16, 25)


def test_a_weights_file_gives_the_network_back(made, tmp_path):
    generator, variables, z, c = made
    path = tmp_path / "g.safetensors"
    triplane_gan_weights.save(path, variables, config=generator.config)
    config, loaded = triplane_gan_weights.load(path)
    assert config == generator.config
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_a_file_that_lacks_a_tensor_or_has_another_shape_is_told_by_name(made, tmp_path):
    generator, variables, _, _ = made
    path = tmp_path / "g.safetensors"
    triplane_gan_weights.save(path, variables, config=generator.config)
    good = read_weights(path)
    name = "decoder.net.0.bias"
    broken = {
        "lacks decoder.net.0.bias": {k: v for k, v in good.tensors.items() if k != name},
        "decoder.net.0.bias has the shape": dict(good.tensors) | {name: np.zeros(9, np.float32)},
        "has extra.weight": dict(good.tensors) | {"extra.weight": np.zeros(2, np.float32)},
    }
    for sentence, tensors in broken.items():
        write_weights(path, dataclasses.replace(good, tensors=tensors))
        with pytest.raises(UserError, match=sentence):
            triplane_gan_weights.load(path)


RENDERING = {
    "depth_resolution": 48, "depth_resolution_importance": 48, "ray_start": 2.25, "ray_end": 3.3,
    "box_warp": 1, "superresolution_module": "training.superresolution.SuperresolutionHybrid8XDC",
    "superresolution_noise_mode": "none", "sr_antialias": True, "decoder_lr_mul": 1.0,
    "c_gen_conditioning_zero": False, "c_scale": 1.0,
}  # fmt: skip
ARGUMENTS = {
    "z_dim": 512, "c_dim": 25, "w_dim": 512, "img_resolution": 512, "img_channels": 3,
    "channel_base": 32768, "channel_max": 512, "mapping_kwargs": {"num_layers": 2},
    "rendering_kwargs": RENDERING,
}  # fmt: skip


def configured(kind="eg3d", which="G_ema", rendering=None, **changes):
    fields = ARGUMENTS | {"rendering_kwargs": RENDERING | (rendering or {})} | changes
    return triplane_gan_weights.config_of(Weights(kind, which, fields, {}))


def test_the_public_arguments_give_the_papers_networks():
    assert configured() == GeneratorConfig()
    grid = {"triplane_depth": 3, "triplane_size": 256, "use_torgb_raw": True,
            "use_background": True, "decoder_activation": "none"}  # fmt: skip
    assert configured("panohead", rendering=grid) == panohead_config()
    half = configured(sr_num_fp16_res=4)
    assert half.sr_clamp == 256 and half.clamp is None
    assert configured(rendering={"c_gen_conditioning_zero": True}).c_scale == 0
    layers = {"mapping_kwargs": {}, "epilogue_kwargs": {"mbstd_group_size": 2}, "conv_clamp": 256}
    assert configured(which="D", **layers) == discriminators.DiscriminatorConfig(group=2, clamp=256)


@pytest.mark.parametrize(
    ("rendering", "sentence"),
    [
        ({"ray_start": "auto"}, "rays from 'auto'"),
        ({"superresolution_module": "a.Other"}, "super-resolution 'Other'"),
        ({"decoder_activation": "tanh"}, "decoder_activation='tanh'"),
        ({"disparity_space_sampling": True}, "evenly spaced in disparity"),
    ],
)
def test_what_is_not_known_of_an_architecture_is_said(rendering, sentence):
    with pytest.raises(ValueError, match=sentence):
        configured(rendering=rendering)
