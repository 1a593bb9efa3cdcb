"""Textures of any mesh: nothing overlaps, nothing leaks, colours are where they belong."""

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry import unwrap
from tests.shapes import cube, sphere


def linear(points):
    return np.clip(points / 0.5 + 0.5, 0, 1)


def lookup(texture, uvs):
    """Bilinear, texel centres at (k + ½)/size, as all graphics hardware does it."""
    size = texture.shape[0]
    x, y = uvs[:, 0] * size - 0.5, (1 - uvs[:, 1]) * size - 0.5
    j, i = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - j)[:, None], (y - i)[:, None]
    t = texture.astype(np.float64) / 255
    top = t[i, j] * (1 - fx) + t[i, j + 1] * fx
    bottom = t[i + 1, j] * (1 - fx) + t[i + 1, j + 1] * fx
    return top * (1 - fy) + bottom * fy


def spread(mesh, count):
    """Random points of the surface with their texture coordinates, corners and edges included."""
    rng = np.random.default_rng(0)
    face = rng.integers(0, len(mesh.faces), count)
    weights = rng.dirichlet([0.4, 0.4, 0.4], count)
    weights[: count // 4] = np.eye(3)[rng.integers(0, 3, count // 4)]
    points = np.einsum("nk,nkx->nx", weights, mesh.vertices[mesh.faces[face]])
    return points, np.einsum("nk,nkx->nx", weights, mesh.uvs[mesh.uv_faces[face]])


@pytest.mark.parametrize("size", [None, 192, 251, 512])
def test_a_lookup_anywhere_on_the_surface_gives_the_fields_colour_there(size):
    textured, texture = unwrap.bake_texture(sphere(16, radius=0.24), linear, size=size)
    points, uvs = spread(textured, 20_000)
    # A linear colour is reproduced by bilinear lookup up to rounding, inside the gutters too.
    atlas = unwrap.plan_atlas(len(textured.faces), size=size)
    span = np.abs(np.diff(textured.vertices[textured.faces], axis=1)).max() / 0.5 / atlas.leg
    np.testing.assert_allclose(lookup(texture, uvs), linear(points), atol=0.5 * span + 0.5 / 255)


def test_a_neighbours_colour_never_leaks_in():
    mesh = sphere(12)
    paint = np.random.default_rng(1).integers(0, 2, (len(mesh.faces), 3))
    atlas = unwrap.plan_atlas(len(mesh.faces))
    uvs, uv_faces = unwrap.atlas_uvs(atlas, len(mesh.faces))
    # Every face is painted with its own colour over all texels that are its own.
    _, second = unwrap._cell_weights(atlas)
    texture = np.zeros((atlas.size, atlas.size, 3), np.uint8)
    for face, color in enumerate(paint):
        row, column = (k * atlas.cell for k in divmod(face // 2, atlas.columns))
        cell = texture[row : row + atlas.cell, column : column + atlas.cell]
        cell[second == bool(face % 2)] = 255 * color
    rng = np.random.default_rng(2)
    face = rng.integers(0, len(mesh.faces), 20_000)
    weights = rng.dirichlet([0.3, 0.3, 0.3], len(face))
    seen = lookup(texture, np.einsum("nk,nkx->nx", weights, uvs[uv_faces[face]]))
    np.testing.assert_allclose(seen, paint[face], atol=1e-3)


@pytest.mark.parametrize("faces", [1, 2, 3, 12, 97, 5000])
def test_triangles_do_not_overlap_and_stay_inside(faces):
    atlas = unwrap.plan_atlas(faces)
    uvs, uv_faces = unwrap.atlas_uvs(atlas, faces)
    assert uvs.shape == (3 * faces, 2) and 0 < uvs.min() and uvs.max() < 1
    corners = uvs[uv_faces].astype(np.float64) * atlas.size
    (ux, uy), (vx, vy) = (np.moveaxis(corners[:, k] - corners[:, 0], -1, 0) for k in (1, 2))
    np.testing.assert_allclose(ux * vy - uy * vx, atlas.leg**2, rtol=1e-3)
    # Each in its own half of its own cell; both counted from the texture's top left.
    middle = corners.mean(axis=1) * [1, -1] + [0, atlas.size]
    cell = np.floor(middle / atlas.cell)
    half = (middle - cell * atlas.cell).sum(-1) > atlas.cell
    keys = np.concatenate([cell, half[:, None]], axis=1)
    assert len(np.unique(keys, axis=0)) == faces


def test_the_cells_triangles_keep_to_their_sides():
    for cell in (6, 7, 8, 13):
        atlas = unwrap.Atlas(size=cell, columns=1, cell=cell)
        weights, second = unwrap._cell_weights(atlas)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-12)
        assert weights.min() > -1e-12
        exact = np.isclose(weights, 1).any(-1)
        # The corners themselves are texels: each triangle has its three.
        first = [(1, 1), (1 + atlas.leg, 1), (1, 1 + atlas.leg)]
        for i, j in first:
            assert exact[i, j] and not second[i, j]
            assert exact[cell - 1 - i, cell - 1 - j] and second[cell - 1 - i, cell - 1 - j]


def test_all_pieces_are_asked_with_one_size_and_bounded():
    sizes = set()

    def counted(points):
        sizes.add(len(points))
        return linear(points)

    mesh = sphere(20)
    unwrap.bake_texture(mesh, counted, chunk=300)
    assert len(sizes) == 1 and 150 < max(sizes) <= 300


def test_too_many_triangles_for_a_texture_are_refused():
    with pytest.raises(UserError, match="12 triangles do not fit a texture of 16 x 16 texels"):
        unwrap.bake_texture(cube(), linear, size=16)
    assert unwrap.plan_atlas(8, size=16).cell == 8
