"""Unrolled atlases: seam, poles and the order of faces."""

import numpy as np

from headjax.head import atlas
from headjax.render.uv import rasterize_uv


def _cylinder(columns: int, rows: int):
    """An open cylinder with its angle and height, and triangles seen from outside."""
    angle = 2 * np.pi * np.arange(columns) / columns
    height = np.linspace(0, 1, rows)
    points = np.stack(
        [
            np.tile(np.sin(angle), rows),
            np.repeat(height, columns),
            np.tile(np.cos(angle), rows),
        ],
        -1,
    )
    row, col = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    right = (col + 1) % columns
    a, b, c, d = (
        r * columns + k for r, k in ((row, col), (row, right), (row + 1, right), (row + 1, col))
    )
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    return points, faces.astype(np.int32)


def test_an_unrolled_cylinder_fills_the_atlas_and_each_texel_finds_its_point():
    points, faces = _cylinder(48, 6)
    u = np.mod(np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi) + 0.5, 1.0)
    uvs, uv_faces = atlas.unroll(u, points[:, 1], faces=faces)
    assert uvs.min() >= 0 and uvs.max() <= 1 and uv_faces.shape == faces.shape
    positions, valid = rasterize_uv(points, faces, uvs=uvs, uv_faces=uv_faces, size=32)
    assert valid.all()
    centre = (np.arange(32) + 0.5) / 32
    angle = 2 * np.pi * (centre - 0.5)
    np.testing.assert_allclose(
        positions[..., 1], np.broadcast_to(1 - centre[:, None], (32, 32)), atol=1e-5
    )
    np.testing.assert_allclose(positions[0, :, 0], np.sin(angle), atol=0.01)


def test_a_face_across_the_seam_keeps_to_one_side():
    u, v = np.array([0.98, 0.02, 0.99]), np.array([0.0, 0.5, 1.0])
    uvs, uv_faces = atlas.unroll(u, v, faces=np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(uvs[uv_faces[0]], [[0.98, 0.0], [1.0, 0.5], [0.99, 1.0]], atol=1e-6)


def test_a_pole_takes_the_longitude_of_each_face():
    u, v = np.array([0.1, 0.2, 0.7, 0.8, 0.0]), np.array([0.5, 0.5, 0.5, 0.5, 1.0])
    faces = np.array([[0, 1, 4], [4, 2, 3]], np.int32)
    uvs, uv_faces = atlas.unroll(u, v, faces=faces, poles=(4,))
    np.testing.assert_allclose(uvs[uv_faces[0, 2]], [0.15, 1.0], atol=1e-6)
    np.testing.assert_allclose(uvs[uv_faces[1, 0]], [0.75, 1.0], atol=1e-6)


def test_of_two_shells_the_outer_one_is_in_the_atlas():
    inner, faces = _cylinder(24, 3)
    points = np.concatenate([2 * inner * (1, 0.5, 1), inner])
    both = np.concatenate([faces, faces + len(inner)])
    both = both[atlas.inside_out(points, both, axis=(0.0, 0.0))]
    u = np.mod(np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi) + 0.5, 1.0)
    uvs, uv_faces = atlas.unroll(u, points[:, 1], faces=both)
    positions, valid = rasterize_uv(points, both, uvs=uvs, uv_faces=uv_faces, size=16)
    radius = np.hypot(positions[..., 0], positions[..., 2])
    assert valid.all() and radius.min() > 1.9
