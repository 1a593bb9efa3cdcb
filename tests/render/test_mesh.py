"""Pictures of scenes."""

import time

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import Camera, orbit
from headjax.geometry.rays import pixel_rays
from headjax.render import mesh as render
from headjax.render.mesh import Lamp, Light, Scene, Surface, View, render_scene, render_views
from headjax.render.parts import FACE_PARTS, PART_COLORS, PART_IDS, PART_NAMES
from tests.shapes import sphere, square

FLAT = Light(sky=(1.0, 1.0, 1.0), ground=(1.0, 1.0, 1.0), lamps=())


def surface_of(mesh, color=(0.5, 0.6, 0.7), **looks) -> Surface:
    albedo = np.broadcast_to(np.asarray(color, np.float32), mesh.vertices.shape)
    return Surface(vertices=mesh.vertices, faces=mesh.faces, albedo=albedo, **looks)


def sphere_scene(**looks) -> Scene:
    return Scene(surfaces=(surface_of(sphere(60), **looks),))


def test_flat_light_shows_the_albedo_on_white():
    scene = Scene(surfaces=(surface_of(square(0.25)),), light=FLAT)
    view = render_scene(scene, orbit(0.0, focal=2.7), resolution=32)
    np.testing.assert_allclose(view.color[16, 16], [0.5, 0.6, 0.7], atol=1e-3)
    np.testing.assert_array_equal(view.color[0, 0], 1)
    assert view.color.dtype == np.float32


def test_coverage_and_colour_are_averages_over_the_samples():
    scene = Scene(surfaces=(surface_of(square(0.25)),), light=FLAT)
    camera = orbit(0.0, focal=2.7)
    fine = render_scene(scene, camera, resolution=40, supersample=1)
    coarse = render_scene(scene, camera, resolution=10, supersample=4)
    expected = fine.mask.reshape(10, 4, 10, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse.mask, expected, atol=1e-6)
    color = fine.color.reshape(10, 4, 10, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse.color, color, atol=1e-6)
    np.testing.assert_allclose(coarse.mask.sum() / 100, 0.25**2, atol=1e-6)
    assert 0 < np.sum((coarse.mask > 0) & (coarse.mask < 1))


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_spheres_depth_and_normals_are_the_analytic_ones(supersample):
    camera = orbit(0.6, -0.2)
    view = render_scene(sphere_scene(), camera, resolution=48, supersample=supersample)
    origins, directions = pixel_rays(camera, resolution=48)
    half = -np.sum(origins * directions, axis=-1)
    root = half**2 - np.sum(origins**2, axis=-1) + 0.2**2
    depth = half - np.sqrt(np.maximum(root, 0))
    normals = ((origins + depth[:, None] * directions) / 0.2).reshape(48, 48, 3)
    inside = (root > 6e-3).reshape(48, 48)
    assert inside.sum() > 500
    # Facets of 120 segments lie up to 7e-5 inside the sphere; tangent planes up to 3e-4 outside.
    bound = 1.2e-3
    np.testing.assert_allclose(view.depth[inside], depth.reshape(48, 48)[inside], atol=bound)
    cosine = np.sum(view.normals * normals, axis=-1)[inside]
    assert cosine.min() > 0.998


def test_nothing_but_colour_is_told_where_coverage_is_below_one_half():
    view = render_scene(sphere_scene(part=17), orbit(0.2), resolution=40, supersample=3)
    empty = view.mask < 0.5
    assert np.any(empty & (view.mask > 0))
    for channel in (view.depth, view.parts, view.normals, view.uv):
        np.testing.assert_array_equal(channel[empty], 0)
    np.testing.assert_array_equal(view.surface[empty], -1)
    np.testing.assert_array_equal(view.parts[~empty], 17)
    assert np.all(view.depth[~empty] > 2.4)


def test_an_empty_view_is_white():
    away = orbit(np.pi, target=(0.0, 0.0, 9.0))
    view = render_scene(sphere_scene(), away, resolution=8)
    np.testing.assert_array_equal(view.color, 1)
    np.testing.assert_array_equal(view.mask, 0)


def test_parts_come_by_face_and_by_texture_and_the_majority_of_samples_decides():
    mesh = square(0.5)
    camera = orbit(0.0, focal=2.7)
    faces = surface_of(mesh, part=np.array([10, 12], np.uint8))
    parts = render_scene(Scene(surfaces=(faces,)), camera, resolution=16).parts
    assert parts[11, 10] == 10 and parts[4, 5] == 12
    labels = np.full((8, 8), 3, np.uint8)
    labels[:3] = 17  # The upper three eighths.
    mapped = surface_of(mesh, uvs=mesh.uvs, uv_faces=mesh.uv_faces, part_texture=labels)
    parts = render_scene(Scene(surfaces=(mapped,)), camera, resolution=16, supersample=3).parts
    np.testing.assert_array_equal(parts[4:7, 4:12], 17)
    np.testing.assert_array_equal(parts[7:12, 4:12], 3)


def test_uv_runs_up_and_textures_have_row_zero_at_the_top():
    mesh = square(0.5)
    texture = np.full((2, 1, 3), 0.2, np.float32)
    texture[0] = [1.0, 0.0, 0.0]
    item = Surface(vertices=mesh.vertices, faces=mesh.faces, texture=texture, uvs=mesh.uvs,
                   uv_faces=mesh.uv_faces)  # fmt: skip
    scene = Scene(surfaces=(item,), light=FLAT)
    view = render_scene(scene, orbit(0.0, focal=2.7), resolution=16, supersample=3)
    np.testing.assert_allclose(view.color[4, 8], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(view.color[11, 8], [0.2, 0.2, 0.2], atol=1e-3)
    assert view.uv[4, 8, 1] > 0.89 and view.uv[8, 4, 0] < 0.11


def test_bilinear_lookup_meets_the_texels_at_their_centres_and_is_linear_between():
    texture = np.random.default_rng(0).uniform(size=(5, 7, 3)).astype(np.float32)
    i, j = np.mgrid[:5, :7]
    uv = np.stack([(j + 0.5) / 7, 1 - (i + 0.5) / 5], axis=-1).reshape(-1, 2)
    uv = uv.astype(np.float32)
    got = render.sample_texture(texture, uv)
    np.testing.assert_allclose(got, texture.reshape(-1, 3), atol=1e-5)
    between = render.sample_texture(texture, (uv[:1] + uv[1:2]) / 2)
    np.testing.assert_allclose(between[0], (texture[0, 0] + texture[0, 1]) / 2, atol=1e-5)
    assert render.sample_texture(texture[:1, :1], uv).shape == (35, 3)


def test_inner_sides_are_lit_towards_the_camera_unless_the_surface_is_closed():
    mesh = square(0.4)
    behind = orbit(np.pi)
    view = render_scene(Scene(surfaces=(surface_of(mesh),)), behind, resolution=16)
    np.testing.assert_allclose(view.normals[8, 8], [0, 0, -1], atol=1e-6)
    closed = Scene(surfaces=(surface_of(mesh, closed=True),))
    assert render_scene(closed, behind, resolution=16).mask.max() == 0
    assert render_scene(closed, orbit(0.0), resolution=16).mask.max() == 1


def test_a_closed_sphere_looks_the_same_as_an_open_one():
    views = [
        render_scene(sphere_scene(closed=closed), orbit(0.4, 0.3), resolution=32)
        for closed in (False, True)
    ]
    np.testing.assert_array_equal(views[0].mask, views[1].mask)
    np.testing.assert_allclose(views[0].color, views[1].color, atol=1e-6)


def test_the_side_of_a_lamp_is_brighter():
    lamp = Lamp(direction=(1.0, 0.0, 0.0), color=(0.8, 0.8, 0.8), wrap=0.0)
    light = Light(sky=(0.1, 0.1, 0.1), ground=(0.1, 0.1, 0.1), lamps=(lamp,))
    view = render_scene(Scene(sphere_scene().surfaces, light), orbit(0.0), resolution=32)
    assert view.color[16, 24].mean() > view.color[16, 8].mean() + 0.2


def test_the_default_light_shows_a_white_head_bright_but_not_burnt_out_from_every_side():
    scene = sphere_scene(color=(0.9, 0.9, 0.9))
    for yaw in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        view = render_scene(scene, orbit(yaw), resolution=32)
        level = view.color[view.mask == 1].mean()
        assert 0.55 < level < 0.95
        assert np.mean(view.color[view.mask == 1] > 0.999) < 0.05


def test_occlusion_darkens_and_highlights_brighten():
    mesh = sphere(30)
    dark = surface_of(mesh, occlusion=np.full(len(mesh.vertices), 0.3, np.float32))
    shiny = surface_of(mesh, specular=0.5, shininess=40.0)
    plain, shaded, bright = (
        render_scene(Scene(surfaces=(item,)), orbit(0.0), resolution=32).color
        for item in (surface_of(mesh), dark, shiny)
    )
    assert shaded[16, 16].mean() < plain[16, 16].mean() - 0.1
    assert (bright - plain).max() > 0.1 and (bright - plain).min() > -1e-6


def test_diffuse_colour_does_not_depend_on_the_camera():
    point = np.array([[0.0, 0.0, 0.2]], np.float32)
    colors = []
    for yaw in (-0.5, 0.0, 0.5):
        camera = orbit(yaw)
        view = render_scene(sphere_scene(), camera, resolution=64)
        pixels, _ = render_project(camera, point)
        colors.append(view.color[pixels[0, 1], pixels[0, 0]])
    np.testing.assert_allclose(colors, [colors[0]] * 3, atol=0.02)


def render_project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from headjax.geometry.cameras import project

    pixels, z = project(camera, points)
    return (pixels * 64).astype(int), z


def test_a_batch_of_views_is_the_views_one_by_one():
    cameras = orbit(np.linspace(0, 3, 3), 0.1)
    batch = render_views(sphere_scene(), cameras, resolution=16)
    assert batch.color.shape == (3, 16, 16, 3)
    for index in range(3):
        single = render_scene(sphere_scene(), cameras[index], resolution=16)
        for name in View.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(batch, name)[index], getattr(single, name))


def test_surfaces_hide_each_other_whatever_their_order():
    front = surface_of(square(0.1, z=0.25), part=11)
    back = sphere_scene().surfaces[0]
    for surfaces in ((front, back), (back, front)):
        view = render_scene(Scene(surfaces=surfaces), orbit(0.0), resolution=32)
        assert view.parts[16, 16] == 11 and view.parts[16, 8] == 1
        assert view.surface[16, 16] == surfaces.index(front)


def test_a_surface_without_a_way_to_be_coloured_is_refused():
    mesh = square(0.1)
    with pytest.raises(UserError, match="albedo per vertex or a texture"):
        Surface(vertices=mesh.vertices, faces=mesh.faces)
    with pytest.raises(UserError, match="needs uvs"):
        Surface(vertices=mesh.vertices, faces=mesh.faces, texture=np.zeros((2, 2, 3), np.float32))


def test_part_names_are_the_nineteen_of_bisenet():
    assert len(PART_NAMES) == len(PART_COLORS) == 19 == len(set(PART_NAMES))
    assert (PART_IDS["skin"], PART_IDS["eye_g"], PART_IDS["nose"], PART_IDS["hair"]) == (
        1, 6, 10, 17,
    )  # fmt: skip
    assert set(FACE_PARTS) < set(PART_NAMES)


@pytest.mark.parametrize(("resolution", "supersample", "seconds"), [(256, 2, 0.3), (64, 3, 0.06)])
def test_a_view_of_forty_thousand_triangles_is_quick(resolution, supersample, seconds):
    mesh = sphere(100)
    scene = Scene(surfaces=(surface_of(mesh, specular=0.1),))
    assert len(mesh.faces) == 40_000
    times = []
    for _ in range(5):
        start = time.process_time()
        render_scene(scene, orbit(0.3, 0.1), resolution=resolution, supersample=supersample)
        times.append(time.process_time() - start)
    assert min(times) < seconds
