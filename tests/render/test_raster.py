"""The visibility buffer against geometry done slowly."""

import numpy as np
import pytest

from headjax.geometry import rays
from headjax.geometry.cameras import Camera, orbit
from headjax.render.raster import rasterize
from tests.shapes import cube, sphere, square


def random_triangles(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.random.default_rng(seed).uniform(-0.3, 0.3, (count * 3, 3))
    return vertices.astype(np.float32), np.arange(count * 3, dtype=np.int32).reshape(-1, 3)


def slow(vertices: np.ndarray, faces: np.ndarray, camera: Camera, resolution: int) -> tuple:
    """Every ray against every triangle (Möller and Trumbore), in double precision."""
    camera = Camera(camera.cam2world.astype(float), camera.intrinsics.astype(float))
    origins, directions = rays.pixel_rays(camera, resolution=resolution)
    face_index = np.full(resolution**2, -1)
    barycentric, depth = np.zeros((resolution**2, 3)), np.full(resolution**2, np.inf)
    margin = np.full(resolution**2, np.inf)
    for pixel, (o, d) in enumerate(zip(origins, directions, strict=True)):
        for index, (a, b, c) in enumerate(vertices.astype(float)[faces]):
            normal = np.cross(b - a, c - a)
            t = np.dot(a - o, normal) / np.dot(d, normal)
            point = o + t * d
            parts = [np.cross(c - b, point - b), np.cross(a - c, point - c)]
            parts.append(np.cross(b - a, point - a))
            weights = np.array([np.dot(part, normal) for part in parts]) / np.dot(normal, normal)
            margin[pixel] = min(margin[pixel], np.abs(weights).min())
            if weights.min() >= 0 and t < depth[pixel]:
                face_index[pixel], barycentric[pixel], depth[pixel] = index, weights, t
    shape = (resolution, resolution)
    depth[face_index < 0] = 0
    return (
        face_index.reshape(shape),
        barycentric.reshape(*shape, 3),
        depth.reshape(shape),
        (margin > 1e-4).reshape(shape),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_sees_what_a_ray_against_every_triangle_sees(seed):
    vertices, faces = random_triangles(12, seed=seed)
    camera = orbit(0.5 * seed, 0.2, radius=1.2, focal=1.5)
    got = rasterize(vertices, faces, camera, resolution=24)
    face_index, barycentric, depth, firm = slow(vertices, faces, camera, 24)
    assert firm.mean() > 0.95
    np.testing.assert_array_equal(got.face_index[firm], face_index[firm])
    np.testing.assert_allclose(got.barycentric[firm], barycentric[firm], atol=2e-4)
    np.testing.assert_allclose(got.depth[firm], depth[firm], atol=1e-5)


def test_neighbours_neither_overlap_nor_leave_a_hole():
    # Fans about points on and off the pixel centres; many edges run through centres.
    camera = orbit(0.0, focal=2.7)  # One world unit at z = 0 is the image's width.
    size = 16
    for centre in ([0.0, 0.0], [0.5 / size, 0.5 / size], [0.013, -0.029]):
        rim = np.linspace(-0.25, 0.25, 9)
        edge = np.full(9, 0.25)
        outline = np.concatenate(
            [
                np.stack([rim, -edge], axis=1)[:-1],
                np.stack([edge, rim], axis=1)[:-1],
                np.stack([-rim, edge], axis=1)[:-1],
                np.stack([-edge, -rim], axis=1)[:-1],
            ]
        )
        flat = np.concatenate([[centre], outline])
        vertices = np.pad(flat, ((0, 0), (0, 1))).astype(np.float32)
        index = np.arange(32)
        faces = np.stack([0 * index, index + 1, (index + 1) % 32 + 1], axis=1).astype(np.int32)
        hits = sum(
            (rasterize(vertices, faces[i : i + 1], camera, resolution=size).face_index >= 0)
            for i in range(32)
        )
        np.testing.assert_array_equal(np.unique(hits[4:12, 4:12]), [1])
        assert hits.sum() == 64


def test_a_square_covers_exactly_the_pixel_centres_inside_it():
    camera = orbit(0.0, focal=2.7)
    mesh = square(0.5)
    face_index = rasterize(mesh.vertices, mesh.faces, camera, resolution=64).face_index
    expected = np.zeros((64, 64), bool)
    expected[16:48, 16:48] = True
    np.testing.assert_array_equal(face_index >= 0, expected)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_of_two_overlapping_triangles_wins_in_any_order(order):
    near, far = square(0.3, z=0.1), square(0.5, z=-0.1)
    pair = [near, far][::order]
    vertices = np.concatenate([mesh.vertices for mesh in pair])
    faces = np.concatenate([pair[0].faces, pair[1].faces + 4])
    got = rasterize(vertices, faces, orbit(0.0), resolution=32)
    near_faces = (0, 1) if order == 1 else (2, 3)
    assert set(np.unique(got.face_index[8:24, 8:24])) <= {*near_faces}
    np.testing.assert_allclose(got.depth[16, 16], 2.6, atol=1e-3)


def test_crossing_triangles_cut_each_other_along_their_line():
    a = square(0.5).vertices
    tilt = a @ np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 1]], np.float32)
    tilt[:, 2] = 0.5 * tilt[:, 0]
    faces = square(0.5).faces
    camera = orbit(0.0, focal=2.7)
    got = rasterize(np.concatenate([a, tilt]), np.concatenate([faces, faces + 4]), camera,
                    resolution=32)  # fmt: skip
    inside = got.face_index[10:22]
    assert np.all(inside[:, 17:22] >= 2) and np.all(
        (inside[:, 10:15] >= 0) & (inside[:, 10:15] < 2)
    )


def test_barycentrics_interpolate_perspectively():
    mesh = square(1.0)
    steep = mesh.vertices.copy()
    steep[:, 2] = 1.5 * mesh.vertices[:, 1]
    camera = orbit(0.0, radius=1.5, focal=1.0)
    got = rasterize(steep, mesh.faces, camera, resolution=20)
    uv = np.einsum("hwk,hwkc->hwc", got.barycentric, mesh.uvs[mesh.faces[got.face_index]])
    origins, directions = rays.pixel_rays(camera, resolution=20)
    count = 0
    for pixel, (o, d) in enumerate(zip(origins, directions, strict=True)):
        i, j = divmod(pixel, 20)
        if got.face_index[i, j] < 0:
            continue
        t = (o[2] - 1.5 * o[1]) / (1.5 * d[1] - d[2])
        np.testing.assert_allclose(uv[i, j], (o + t * d)[:2] + 0.5, atol=1e-5)
        np.testing.assert_allclose(got.depth[i, j], t, rtol=1e-5)
        count += 1
    assert count > 100


def test_a_spheres_depth_is_the_rays_intersection_up_to_the_facets_sagitta():
    mesh = sphere(120)
    camera = orbit(0.7, 0.3)
    got = rasterize(mesh.vertices, mesh.faces, camera, resolution=64)
    origins, directions = rays.pixel_rays(camera, resolution=64)
    half = -np.sum(origins * directions, axis=-1)
    root = half**2 - np.sum(origins**2, axis=-1) + 0.2**2
    inside = (root > 2e-3).reshape(64, 64)  # Off the rim, where depth is steep.
    expected = (half - np.sqrt(np.maximum(root, 0))).reshape(64, 64)
    sagitta = 0.2 * (1 - np.cos(np.pi / 240)) * 2
    error = got.depth[inside] - expected[inside]
    assert inside.sum() > 800
    assert error.min() > -1e-6 and error.max() < 6 * sagitta
    assert np.all(got.face_index[(root > 1e-4).reshape(64, 64)] >= 0)
    assert np.all(got.face_index[(root < -1e-5).reshape(64, 64)] < 0)


def test_both_sides_of_a_face_are_seen():
    mesh = square(0.5)
    for yaw in (0.0, np.pi):
        got = rasterize(mesh.vertices, mesh.faces, orbit(yaw), resolution=16)
        assert np.all(got.face_index[4:12, 4:12] >= 0)


def test_what_is_behind_the_camera_or_off_the_image_is_not_seen():
    mesh = cube(0.2)
    for shift in ([0, 0, 4.0], [2.0, 0, 0], [0, -3.0, 0]):
        vertices = mesh.vertices + np.array(shift, np.float32)
        got = rasterize(vertices, mesh.faces, orbit(0.0), resolution=16)
        assert np.all(got.face_index == -1) and np.all(got.depth == 0)


def test_degenerate_and_broken_triangles_are_left_out():
    vertices = np.array([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [np.nan, 0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 0, 1], [0, 1, 3]], np.int32)
    got = rasterize(vertices, faces, orbit(0.0), resolution=16)
    assert np.all(got.face_index == -1)


def test_a_triangle_larger_than_the_image_fills_it():
    vertices = np.array([[-5, -5, 0], [5, -5, 0], [0, 9, 0]], np.float32)
    faces = np.array([[0, 1, 2]], np.int32)
    got = rasterize(vertices, faces, orbit(0.1, 0.1), resolution=16)
    assert np.all(got.face_index == 0)
    np.testing.assert_allclose(got.barycentric.sum(axis=-1), 1, rtol=1e-5)
