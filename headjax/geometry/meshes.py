"""Triangle meshes on the host.

Alphabet: `vertices` [v, 3], `faces` [f, 3] indices, counter-clockwise seen from outside; `uvs`
[t, 2] with v up, indexed by `uv_faces` [f, 3], so that a seam costs texture vertices only.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headjax.geometry.backend import AnyArray, namespace


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh with optional texture coordinates and vertex colours.

    Attributes:
        vertices: [v, 3] float, world units.
        faces: [f, 3] int, indices into `vertices`.
        uvs: [t, 2] float in [0, 1], v up, or None.
        uv_faces: [f, 3] int, indices into `uvs`, or None.
        vertex_colors: [v, 3] float in [0, 1], or None.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uvs: Float[np.ndarray, "t 2"] | None = None
    uv_faces: Int[np.ndarray, "f 3"] | None = None
    vertex_colors: Float[np.ndarray, "v 3"] | None = None


def face_normals(
    vertices: Float[AnyArray, "*b v 3"], faces: Int[AnyArray, "f 3"]
) -> Float[AnyArray, "*b f 3"]:
    """(b − a) × (c − a) per face: along the outward normal, twice the face's area long."""
    xnp = namespace(vertices)
    a, b, c = (vertices[..., faces[:, i], :] for i in range(3))
    return xnp.cross(b - a, c - a)


def vertex_normals(
    vertices: Float[AnyArray, "*b v 3"], faces: Int[AnyArray, "f 3"]
) -> Float[AnyArray, "*b v 3"]:
    """Unit normals per vertex, the faces' normals weighted by area.

    A vertex of no face, or of degenerate faces only, gets the zero vector.
    """
    xnp = namespace(vertices)
    normals = face_normals(vertices, faces)
    if xnp is np:
        sums = _scatter_add(normals, faces, vertices.shape[-2])
    else:
        sums = xnp.zeros_like(vertices)
        for corner in range(3):
            sums = sums.at[..., faces[:, corner], :].add(normals)
    squared = xnp.sum(sums * sums, axis=-1, keepdims=True)
    positive = squared > 0
    length = xnp.sqrt(xnp.where(positive, squared, xnp.ones_like(squared)))
    return xnp.where(positive, sums / length, xnp.zeros_like(sums))


def _scatter_add(
    values: Float[np.ndarray, "*b f 3"], faces: Int[np.ndarray, "f 3"], count: int
) -> Float[np.ndarray, "*b v 3"]:
    """Σ over the faces of each vertex; `bincount` is several times as fast as `np.add.at`."""
    flat = values.reshape(-1, *values.shape[-2:])
    index = faces.T.reshape(-1)
    out = np.empty((flat.shape[0], count, 3), dtype=values.dtype)
    for row, item in enumerate(flat):
        for axis in range(3):
            out[row, :, axis] = np.bincount(index, np.tile(item[:, axis], 3), minlength=count)
    return out.reshape(*values.shape[:-2], count, 3)


def triangulate(polygons: Int[np.ndarray, "f n"]) -> Int[np.ndarray, "t 3"]:
    """Fans of triangles from convex polygons with n corners each, winding kept."""
    corners = polygons.shape[1]
    fan = [polygons[:, [0, i, i + 1]] for i in range(1, corners - 1)]
    return np.stack(fan, axis=1).reshape(-1, 3)


def directed_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """The 3f half-edges a→b, b→c, c→a."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def unique_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Every undirected edge once, the smaller index first, sorted."""
    return np.unique(np.sort(directed_edges(faces), axis=1), axis=0)


def is_watertight(faces: Int[np.ndarray, "f 3"]) -> bool:
    """Whether every edge belongs to exactly two faces that run it in opposite directions."""
    edges = directed_edges(faces).astype(np.int64)
    stride = int(faces.max(initial=0)) + 1
    forward = np.sort(edges[:, 0] * stride + edges[:, 1])
    backward = np.sort(edges[:, 1] * stride + edges[:, 0])
    distinct = bool(np.all(forward[1:] != forward[:-1]))
    return distinct and bool(np.array_equal(forward, backward))


def boundary_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Directed edges that no face runs in the other direction: the rim of an open mesh."""
    edges = directed_edges(faces).astype(np.int64)
    stride = int(faces.max(initial=0)) + 1
    forward = edges[:, 0] * stride + edges[:, 1]
    backward = edges[:, 1] * stride + edges[:, 0]
    return edges[~np.isin(forward, backward)].astype(faces.dtype)


def weld(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], *, tolerance: float = 1e-6
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"], Int[np.ndarray, "v"]]:
    """Vertices that round to the same multiple of `tolerance` become one.

    Returns:
        vertices: [w, 3], of each group the first.
        faces: [g, 3] without the faces that collapsed.
        index: [v], the new index of each old vertex.
    """
    keys = np.round(vertices.astype(np.float64) / tolerance).astype(np.int64)
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    index = index.reshape(-1)
    welded = index[faces]
    a, b, c = welded.T
    kept = (a != b) & (b != c) & (c != a)
    return vertices[first], welded[kept].astype(faces.dtype), index


def concatenate(meshes: list[Mesh]) -> Mesh:
    """One mesh of all; texture coordinates and colours are kept when every mesh has them."""
    textured = all(mesh.uvs is not None and mesh.uv_faces is not None for mesh in meshes)
    colored = all(mesh.vertex_colors is not None for mesh in meshes)
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=_stacked([mesh.faces for mesh in meshes], [len(mesh.vertices) for mesh in meshes]),
        uvs=np.concatenate([mesh.uvs for mesh in meshes]) if textured else None,
        uv_faces=(
            _stacked([mesh.uv_faces for mesh in meshes], [len(mesh.uvs) for mesh in meshes])
            if textured
            else None
        ),
        vertex_colors=np.concatenate([mesh.vertex_colors for mesh in meshes]) if colored else None,
    )


def _stacked(faces: list[np.ndarray], counts: list[int]) -> Int[np.ndarray, "f 3"]:
    """Index lists one after the other, each shifted past the vertices before it."""
    starts = np.cumsum([0, *counts[:-1]])
    shifted = [item + start for item, start in zip(faces, starts, strict=True)]
    return np.concatenate(shifted).astype(np.int32)


def split_seams(mesh: Mesh) -> Mesh:
    """The mesh with one vertex per used (vertex, uv) pair, so that `uv_faces` equals `faces`.

    Formats with one index per corner, glTF among them, need this. A mesh without texture
    coordinates comes back as it is.
    """
    if mesh.uvs is None or mesh.uv_faces is None:
        return mesh
    pairs = mesh.faces.astype(np.int64) * len(mesh.uvs) + mesh.uv_faces
    unique, index = np.unique(pairs, return_inverse=True)
    vertex, uv = np.divmod(unique, len(mesh.uvs))
    faces = index.reshape(mesh.faces.shape).astype(np.int32)
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[vertex]
    return Mesh(
        vertices=mesh.vertices[vertex],
        faces=faces,
        uvs=mesh.uvs[uv],
        uv_faces=faces,
        vertex_colors=colors,
    )
