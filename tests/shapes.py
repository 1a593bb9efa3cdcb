"""Simple meshes for tests."""

import numpy as np

from headjax.geometry.meshes import Mesh, triangulate


def sphere(
    rings: int, *, radius: float = 0.2, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Mesh:
    """A latitude-longitude sphere with a seam at the back and uvs."""
    theta = np.linspace(0, np.pi, rings + 1)
    phi = np.linspace(-np.pi, np.pi, 2 * rings + 1)
    t, p = np.meshgrid(theta, phi, indexing="ij")
    points = np.stack([np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)], axis=-1)
    uvs = np.stack([p / (2 * np.pi) + 0.5, 1 - t / np.pi], axis=-1).reshape(-1, 2)
    i, j = np.meshgrid(np.arange(rings), np.arange(2 * rings), indexing="ij")
    a = (i * (2 * rings + 1) + j).reshape(-1)
    b = a + 2 * rings + 1
    faces = triangulate(np.stack([a, b, b + 1, a + 1], axis=-1))
    vertices = points.reshape(-1, 3) * radius + np.asarray(centre)
    return Mesh(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        uvs=uvs.astype(np.float32),
        uv_faces=faces.astype(np.int32),
    )


def cube(size: float = 1.0) -> Mesh:
    """Eight vertices, twelve outward triangles, centred."""
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T - 0.5
    quads = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    )
    return Mesh(
        vertices=(corners * size).astype(np.float32), faces=triangulate(quads).astype(np.int32)
    )


def square(size: float, *, z: float = 0.0) -> Mesh:
    """A square facing +z, of two triangles, with uvs from 0 to 1."""
    half = size / 2
    vertices = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh(vertices=vertices.astype(np.float32), faces=faces, uvs=uvs, uv_faces=faces)
