"""Triangle meshes."""

import jax.numpy as jnp
import numpy as np

from headjax.geometry import meshes
from tests.shapes import cube, sphere


def test_a_spheres_normals_point_outwards():
    mesh = sphere(24)
    normals = meshes.vertex_normals(mesh.vertices, mesh.faces)
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    used = np.linalg.norm(normals, axis=1) > 0
    cosine = np.sum(normals * outward, axis=1)[used]
    assert np.all(cosine > 0.99)


def test_normals_agree_between_numpy_and_jax_with_batch_axes():
    mesh = cube()
    batch = np.stack([mesh.vertices, mesh.vertices * np.array([1, 2, 1], np.float32)])
    expected = meshes.vertex_normals(batch, mesh.faces)
    got = meshes.vertex_normals(jnp.asarray(batch), jnp.asarray(mesh.faces))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(
        expected[0], meshes.vertex_normals(mesh.vertices, mesh.faces), atol=1e-6
    )


def test_a_vertex_without_faces_has_a_zero_normal():
    vertices = np.concatenate([cube().vertices, np.ones((1, 3), np.float32)])
    np.testing.assert_array_equal(meshes.vertex_normals(vertices, cube().faces)[-1], 0)


def test_face_normals_are_twice_the_area_long():
    lengths = np.linalg.norm(meshes.face_normals(cube().vertices, cube().faces), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)


def test_a_cube_is_watertight_and_stops_to_be_when_a_face_goes_or_turns():
    faces = cube().faces
    assert meshes.is_watertight(faces)
    assert len(meshes.boundary_edges(faces)) == 0
    assert not meshes.is_watertight(faces[1:])
    assert len(meshes.boundary_edges(faces[1:])) == 3
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert not meshes.is_watertight(turned)


def test_a_closed_mesh_obeys_eulers_formula():
    faces = cube().faces
    assert len(cube().vertices) - len(meshes.unique_edges(faces)) + len(faces) == 2


def test_welding_closes_a_sphere_cut_at_its_seam():
    mesh = sphere(10)
    assert not meshes.is_watertight(mesh.faces)
    vertices, faces, index = meshes.weld(mesh.vertices, mesh.faces, tolerance=1e-5)
    assert meshes.is_watertight(faces)
    np.testing.assert_allclose(vertices[index], mesh.vertices, atol=1e-5)


def test_polygons_become_fans():
    np.testing.assert_array_equal(
        meshes.triangulate(np.array([[0, 1, 2, 3], [4, 5, 6, 7]])),
        [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]],
    )


def test_splitting_seams_keeps_every_corner():
    mesh = meshes.Mesh(
        vertices=cube().vertices,
        faces=cube().faces,
        uvs=np.random.default_rng(0).uniform(size=(9, 2)).astype(np.float32),
        uv_faces=np.random.default_rng(0).integers(0, 9, (12, 3)),
    )
    split = meshes.split_seams(mesh)
    np.testing.assert_array_equal(split.vertices[split.faces], mesh.vertices[mesh.faces])
    np.testing.assert_array_equal(split.uvs[split.uv_faces], mesh.uvs[mesh.uv_faces])
    np.testing.assert_array_equal(split.faces, split.uv_faces)


def test_concatenation_keeps_every_triangle():
    both = meshes.concatenate([sphere(5), sphere(7)])
    count = len(sphere(5).faces)
    np.testing.assert_array_equal(
        both.vertices[both.faces[count:]], sphere(7).vertices[sphere(7).faces]
    )
    np.testing.assert_array_equal(both.uvs[both.uv_faces[:count]], sphere(5).uvs[sphere(5).faces])
    assert meshes.concatenate([sphere(5), cube()]).uvs is None
