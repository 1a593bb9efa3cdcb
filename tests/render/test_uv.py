"""UV maps."""

import jax
import jax.numpy as jnp
import numpy as np

from headjax.render import uv as uv_maps
from tests.shapes import sphere, square


def slow(values, faces, uvs, uv_faces, size):
    """Every texel against every face; the last face that holds the texel's centre wins."""
    out, valid = np.zeros((size, size, values.shape[1])), np.zeros((size, size), bool)
    for i in range(size):
        for j in range(size):
            point = np.array([(j + 0.5) / size, 1 - (i + 0.5) / size])
            for face, uv_face in zip(faces, uv_faces, strict=True):
                a, b, c = uvs[uv_face].astype(float)
                matrix = np.stack([b - a, c - a], axis=1)
                if abs(np.linalg.det(matrix)) < 1e-12:
                    continue
                s, t = np.linalg.solve(matrix, point - a)
                if min(s, t, 1 - s - t) >= 0:
                    weights = np.array([1 - s - t, s, t])
                    out[i, j], valid[i, j] = weights @ values[face], True
    return out, valid


def test_a_uv_map_is_what_a_loop_over_texels_gives():
    rng = np.random.default_rng(0)
    uvs = rng.uniform(0.02, 0.98, (12, 2)).astype(np.float32)
    uv_faces = rng.permutation(12).reshape(4, 3).astype(np.int32)
    faces = rng.integers(0, 9, (4, 3)).astype(np.int32)
    values = rng.normal(size=(9, 5)).astype(np.float32)
    got, valid = uv_maps.rasterize_uv(values, faces, uvs=uvs, uv_faces=uv_faces, size=23)
    expected, expected_valid = slow(values, faces, uvs, uv_faces, 23)
    np.testing.assert_array_equal(valid, expected_valid)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_uv_square_is_covered_whole_with_v_up():
    mesh = square(2.0)
    got, valid = uv_maps.rasterize_uv(
        mesh.vertices, mesh.faces, uvs=mesh.uvs, uv_faces=mesh.uv_faces, size=8
    )
    assert valid.all()
    centres = (np.arange(8) + 0.5) / 4 - 1
    np.testing.assert_allclose(got[..., 0], np.tile(centres, (8, 1)), atol=1e-6)
    np.testing.assert_allclose(got[..., 1], np.tile(-centres[:, None], (1, 8)), atol=1e-6)


def test_a_spheres_position_map_lies_on_the_sphere():
    mesh = sphere(40)
    positions, valid = uv_maps.rasterize_uv(
        mesh.vertices, mesh.faces, uvs=mesh.uvs, uv_faces=mesh.uv_faces, size=32
    )
    assert valid.all()
    np.testing.assert_allclose(np.linalg.norm(positions, axis=-1), 0.2, rtol=2e-3)


def test_gathering_is_linear_batched_and_differentiable():
    mesh = sphere(8)
    lookup = uv_maps.uv_lookup(mesh.uvs[:90], mesh.uv_faces[:64], size=16)
    assert lookup.valid.any() and not lookup.valid.all()
    batch = np.stack([mesh.vertices, 2 * mesh.vertices])
    expected = uv_maps.gather_uv(lookup, batch, faces=mesh.faces[:64])
    np.testing.assert_allclose(expected[1], 2 * expected[0], atol=1e-6)
    np.testing.assert_array_equal(expected[0][~lookup.valid], 0)

    def total(vertices):
        return uv_maps.gather_uv(lookup, vertices, faces=mesh.faces[:64]).sum()

    gradient = jax.jit(jax.grad(total))(jnp.asarray(mesh.vertices))
    np.testing.assert_allclose(gradient.sum(), 3 * lookup.valid.sum(), rtol=1e-5)


def test_dilation_grows_by_the_mean_of_valid_neighbours_and_keeps_what_is_valid():
    values, valid = np.zeros((5, 5, 1), np.float32), np.zeros((5, 5), bool)
    values[2, 1:3, 0], valid[2, 1:3] = [1.0, 3.0], True
    grown, mask = uv_maps.dilate(values, valid, steps=1)
    np.testing.assert_array_equal(mask[1:4, 0:4], True)
    assert not mask[0].any() and not mask[:, 4].any()
    np.testing.assert_allclose(grown[1, :4, 0], [1, 2, 2, 3])
    np.testing.assert_array_equal(grown[2, 1:3, 0], [1, 3])
    assert not valid[1].any()
