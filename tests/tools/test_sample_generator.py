"""Sampling from the real generators, tiny: what it shows is what the generator gives."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry import orbits
from headjax.geometry.cameras import label_from_camera
from headjax.geometry.meshes import is_watertight
from headjax.io.images import read_image, to_uint8
from headjax.io.weight_files import Weights, write_weights
from headjax.nets import triplane_gan_weights
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.triplane_gan import Generator, GeneratorConfig, panohead_config
from headjax.render.triplane import TriplaneOptions
from headjax.tools import sample
from headjax.tools.sampling import heads as heads_module
from headjax.tools.sampling import pictures
from headjax.tools.sampling.heads import GeneratorHeads
from headjax.tools.sampling.shapes import head_shape
from tests.nets.filling import filled

TINY = {
    "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "plane_resolution": 8,
    "plane_features": 4, "decoder_hidden": 8, "superresolution": None, "neural_resolution": 8,
}  # fmt: skip
RAYS = {"samples": 6, "importance": 0}
CONFIGS = {
    "eg3d": GeneratorConfig(**TINY, rendering=TriplaneOptions(**RAYS)),
    "panohead": panohead_config(
        **TINY,
        background_resolution=8,
        rendering=TriplaneOptions(axes="panohead", color="none", crop=0.1, **RAYS),
    ),
}
FRONT = label_from_camera(orbits.look_at(0.0))[None]


@pytest.fixture(scope="module", params=list(CONFIGS))
def heads(request):
    config = CONFIGS[request.param]
    z = np.zeros((1, config.z_dim), np.float32)
    variables = filled(Generator(config), z, FRONT, spread=1.0)
    made = GeneratorHeads(config, variables)
    made.generator, made.variables = Generator(config), variables
    return made


@pytest.fixture(scope="module")
def head(heads):
    ws = heads.styles(pictures.latent(3, heads.z_dim), FRONT, psi=0.5, cutoff=None)
    return ws, heads.planes(ws)


def test_pictures_densities_and_colours_are_the_generators(heads, head):
    ws, planes = head
    apply, variables = heads.generator.apply, heads.variables
    z = pictures.latent(3, heads.z_dim)
    mapping = jax.jit(partial(apply, truncation_psi=0.5, method="mapping"))
    expected = mapping(variables, z, FRONT)
    np.testing.assert_allclose(ws, expected, rtol=1e-4, atol=1e-4)
    side = label_from_camera(orbits.look_at(0.4))[None]
    seen = jax.jit(partial(apply, method="synthesis"))(variables, ws, side)
    got = heads.picture(ws, planes, label=side)
    np.testing.assert_allclose(got.image, seen.image[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got.depth, seen.depth[0, ..., 0], rtol=1e-4)
    np.testing.assert_array_equal(got.inside, np.asarray(seen.mask)[0, ..., 0] > 0.5)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (7, 3)).astype(np.float32)
    sigma, _ = jax.jit(partial(apply, method="query"))(variables, planes, points[None])
    np.testing.assert_allclose(heads.density(planes, points=points), sigma[0], rtol=1e-4, atol=1e-4)
    colors = heads.colors(ws, planes, points=points)
    assert colors.shape == (7, 3) and colors.min() >= 0 and colors.max() <= 1


def test_the_mesh_lies_where_the_generators_density_passes_the_level(heads, head):
    ws, planes = head
    grid = np.stack(np.meshgrid(*[np.linspace(-0.35, 0.35, 8)] * 3), -1).reshape(-1, 3)
    level = float(np.quantile(heads.density(planes, points=grid.astype(np.float32)), 0.8))
    mesh = head_shape(heads, ws, planes=planes, resolution=24, level=level, colored=True)
    assert is_watertight(mesh.faces)
    inner = np.abs(mesh.vertices).max(axis=1) < 0.5 - 3.5 / 23
    assert inner.sum() > 50
    sigma = heads.density(planes, points=mesh.vertices[inner])
    spread = np.ptp(heads.density(planes, points=grid.astype(np.float32)))
    assert np.quantile(np.abs(sigma - level), 0.9) < 0.1 * spread
    assert mesh.vertex_colors.shape == mesh.vertices.shape


def test_broken_weights_are_told(heads):
    broken = {**heads.variables, "params": dict(heads.variables["params"])}
    backbone = {**broken["params"]["backbone"]}
    backbone["mapping"] = {
        name: {key: value * np.nan for key, value in layer.items()}
        for name, layer in backbone["mapping"].items()
    }
    broken["params"]["backbone"] = backbone
    again = GeneratorHeads(CONFIGS[heads.kind], broken)
    with pytest.raises(UserError, match="NaN or infinite"):
        again.styles(pictures.latent(0, heads.z_dim), FRONT, psi=1.0, cutoff=None)


def test_the_command_shows_the_generators_pictures(heads, tmp_path):
    arguments = ["--weights=w", "--seeds=3", f"--outdir={tmp_path}", "--trunc=0.5", "--orbit=face"]
    assert sample.main(arguments, load=lambda *_, **__: heads) == 0
    strip = np.split(read_image(tmp_path / "seed0003.png").astype(int), 3, axis=1)
    stand = pictures.Stand("face", (0.0, 0.0, 0.2), 2.7)
    focal = orbits.focal_from_fov(18.837)
    cameras = orbits.picture_views("face", focal=focal)
    ws = heads.styles(
        pictures.latent(3, heads.z_dim),
        label_from_camera(orbits.look_at(0.0, pivot=stand.pivot, focal=focal))[None],
        psi=0.5,
        cutoff=None,
    )
    planes = heads.planes(ws)
    for view, label in zip(strip, label_from_camera(cameras), strict=True):
        expected = to_uint8(heads.picture(ws, planes, label=label[None]).image)
        assert np.abs(view - expected.astype(int)).max() <= 1


def test_without_labels_the_mapping_gets_none():
    config = dataclasses.replace(CONFIGS["eg3d"], c_dim=0)
    z = np.zeros((1, config.z_dim), np.float32)
    generator = Generator(config)
    variables = filled(generator, z, FRONT)
    heads = GeneratorHeads(config, variables)
    got = heads.styles(pictures.latent(1, config.z_dim), FRONT, psi=1.0, cutoff=None)
    mapping = jax.jit(partial(generator.apply, method="mapping"))
    expected = mapping(variables, pictures.latent(1, config.z_dim))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    config = CONFIGS["eg3d"]
    z = np.zeros((1, config.z_dim), np.float32)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    variables = filled(Generator(config), z, FRONT, spread=1.0)
    triplane_gan_weights.save(path, variables, config=config)
    return path


def test_the_whole_command_runs_on_a_weights_file(weights_file, tmp_path, capsys):
    arguments = ["--seeds=0,1", f"--weights={weights_file}", f"--outdir={tmp_path}"]
    more = ["--grid=1x1", "--video", "--frames=2", "--depth", "--nrr=6", "--noise-mode=none"]
    shape = ["--shapes", "--shape-res=16", "--shape-level=-5", "--shape-format=glb", "--texture"]
    assert sample.main([*arguments, *more, *shape]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grid.png", "interpolation.mp4", "seed0000.glb", "seed0000.png", "seed0000_depth.png",
        "seed0001.glb", "seed0001.png", "seed0001_depth.png",
    ]  # fmt: skip
    assert read_image(tmp_path / "seed0000.png").shape == (6, 18, 3)
    assert (tmp_path / "seed0000.glb").read_bytes().startswith(b"glTF")


def test_a_file_that_is_none_or_holds_a_discriminator_is_refused(tmp_path, capsys, monkeypatch):
    arguments = ["--seeds=0", f"--outdir={tmp_path / 'out'}"]
    assert sample.main([*arguments, f"--weights={tmp_path / 'none.safetensors'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(triplane_gan_weights, "load", lambda path: (DiscriminatorConfig(), {}))
    assert sample.main([*arguments, "--weights=d.safetensors"]) == 2
    assert "holds a discriminator" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rendering", "expected"),
    [
        ({"avg_camera_pivot": [0, 0, -0.06], "avg_camera_radius": 1.7}, ((0.0, 0.0, -0.06), 1.7)),
        ({}, (None, 2.7)),
        (None, (None, 2.7)),
    ],
)
def test_cameras_come_from_the_stored_architecture(tmp_path, rendering, expected):
    path = tmp_path / "w.safetensors"
    weights = Weights("eg3d", "G_ema", {"rendering_kwargs": rendering}, {"a": np.zeros(1)})
    write_weights(path, weights)
    assert heads_module.stored_camera(path) == expected


@pytest.mark.parametrize("pivot", [[0, 0], "here", [0, 0, None]])
def test_a_broken_stored_camera_is_told(tmp_path, pivot):
    path = tmp_path / "w.safetensors"
    architecture = {"rendering_kwargs": {"avg_camera_pivot": pivot}}
    write_weights(path, Weights("eg3d", "G_ema", architecture, {"a": np.zeros(1)}))
    with pytest.raises(UserError, match="three numbers"):
        heads_module.stored_camera(path)
