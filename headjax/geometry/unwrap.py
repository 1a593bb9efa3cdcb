"""A texture for any triangle mesh: two triangles a cell, cells in a grid, colours asked in space.

No chart is sought, so no mesh fails: each pair of triangles, as they follow each other in the list,
shares a square cell of s × s texels. One has its right angle at the cell's first texel, the other,
turned by 180°, at its last:

    a a a a a a .      One texel of gutter runs around each, so that bilinear lookups inside a
    a A A A a b b      triangle (capitals) meet texels that were asked for it only. The legs are
    a A A a b b b      s − 5 texels long. Texels outside a triangle carry the colour of the
    a A a b b B b      nearest point on it.
    a a b b B B b
    . b b B B B b
    . b b b b b b

Alphabet: f faces; s the cell's side; i, j a texel's row (down) and column in its cell.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from headjax.errors import UserError
from headjax.geometry.isosurface import CHUNK, evaluate
from headjax.geometry.meshes import Mesh

GUTTER = 1
SMALLEST_CELL, GOOD_CELL = 6, 8
LARGEST = 8192


@dataclasses.dataclass(frozen=True)
class Atlas:
    """Where faces lie in a square texture.

    Attributes:
        size: of the texture, texels.
        columns: cells in a row.
        cell: side of a cell, texels; what `columns` cells leave of the texture stays unused.
    """

    size: int
    columns: int
    cell: int

    @property
    def leg(self) -> int:
        """Length of a triangle's legs, texels."""
        return self.cell - 3 - 2 * GUTTER


def plan_atlas(faces: int, *, size: int | None = None) -> Atlas:
    """An atlas for so many faces.

    Args:
        faces: at least 1.
        size: of the texture; None takes the least power of two from 64 that gives cells of
            `GOOD_CELL` texels, and at most `LARGEST`.

    Raises:
        UserError: the faces do not fit.
    """
    columns = int(np.ceil(np.sqrt(np.ceil(faces / 2))))
    if size is None:
        wanted = max(64, columns * GOOD_CELL)
        size = min(LARGEST, 1 << (wanted - 1).bit_length())
    if size // columns < SMALLEST_CELL:
        raise UserError(
            f"{faces} triangles do not fit a texture of {size} x {size} texels, which takes "
            f"{2 * (size // SMALLEST_CELL) ** 2}; give a larger texture or a coarser mesh"
        )
    return Atlas(size=size, columns=columns, cell=size // columns)


def atlas_uvs(atlas: Atlas, faces: int) -> tuple[Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """Texture coordinates of all corners, three a face in order, and the faces that index them.

    v is up; triangles are counter-clockwise in (u, v).
    """
    # Rows and columns of the corners: the right angle, down, right.
    near, far = GUTTER, GUTTER + atlas.leg
    first = np.array([[near, near], [far, near], [near, far]], np.float64)
    corners = np.stack([first, atlas.cell - 1 - first])
    face = np.arange(faces)
    row, column = np.divmod(face // 2, atlas.columns)
    texels = np.stack([row, column], axis=-1)[:, None] * atlas.cell + corners[face % 2] + 0.5
    uvs = np.stack([texels[..., 1], atlas.size - texels[..., 0]], axis=-1) / atlas.size
    index = np.arange(3 * faces, dtype=np.int32).reshape(faces, 3)
    return uvs.reshape(-1, 2).astype(np.float32), index


def _cell_weights(atlas: Atlas) -> tuple[Float[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """Barycentric coordinates of a cell's texels, and which belong to the second triangle."""
    i, j = np.meshgrid(*[np.arange(atlas.cell)] * 2, indexing="ij")
    second = i + j >= atlas.cell
    last = atlas.cell - 1
    i, j = np.where(second, last - i, i), np.where(second, last - j, j)
    down, right = ((k - GUTTER) / atlas.leg for k in (i, j))
    # The nearest point of the right triangle: onto the hypotenuse, then onto the legs.
    over = np.maximum(down + right - 1, 0) / 2
    down, right = np.clip(down - over, 0, 1), np.clip(right - over, 0, 1)
    right = np.minimum(right, 1 - down)
    return np.stack([1 - down - right, down, right], axis=-1), second


def bake_texture(
    mesh: Mesh,
    color_fn: Callable[[np.ndarray], Float[np.ndarray, "p 3"]],
    *,
    size: int | None = None,
    chunk: int = CHUNK,
) -> tuple[Mesh, UInt8[np.ndarray, "h w 3"]]:
    """The mesh with texture coordinates, and its texture, asked from a field at the texels.

    Args:
        mesh: its own texture coordinates and colours are dropped.
        color_fn: points [p, 3] on the surface -> colour [p, 3] in [0, 1].
        size: of the texture, see `plan_atlas`.
        chunk: points asked at a time; a row of cells is worked on at once.

    Returns:
        mesh: the same vertices and faces, with `uvs` [3f, 2] and `uv_faces`.
        texture: [size, size, 3], row 0 at v = 1; mid-grey where no face lies.
    """
    atlas = plan_atlas(len(mesh.faces), size=size)
    uvs, uv_faces = atlas_uvs(atlas, len(mesh.faces))
    weights, second = _cell_weights(atlas)
    texture = np.full((atlas.size, atlas.size, 3), 128, np.uint8)
    side, width = atlas.cell, atlas.columns * atlas.cell
    per_row = 2 * atlas.columns
    for row in range(-(-len(mesh.faces) // per_row)):
        # Cells past the last face repeat it, so that all rows have one size.
        face = np.minimum(row * per_row + np.arange(per_row), len(mesh.faces) - 1)
        corners = mesh.vertices[mesh.faces[face]].reshape(atlas.columns, 2, 3, 3)
        a, b = (np.einsum("ijk,ckx->icjx", weights, corners[:, half]) for half in (0, 1))
        points = np.where(second[:, None, :, None], b, a).reshape(-1, 3)
        colors = np.clip(evaluate(color_fn, points, chunk=chunk), 0, 1)
        band = np.rint(255 * colors).astype(np.uint8).reshape(side, width, 3)
        texture[row * side : (row + 1) * side, :width] = band
    return Mesh(mesh.vertices, mesh.faces, uvs=uvs, uv_faces=uv_faces), texture
