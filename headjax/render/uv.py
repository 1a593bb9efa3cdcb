"""From meshes to UV maps: which point of the surface lies under each texel.

Alphabet: a map is [size, size, c], row 0 at v near 1; texel (i, j) stands for its centre,
u = (j + ½)/size, v = 1 − (i + ½)/size. Where faces overlap in UV the later face wins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.geometry.backend import AnyArray, namespace
from headjax.render.raster import nearest_triangles, perspective


@dataclass(frozen=True, eq=False)
class UvLookup:
    """The surface point under every texel, independent of the vertices' positions.

    Attributes:
        face_index: [s, s] int32, −1 where no face covers the texel's centre.
        barycentric: [s, s, 3] float32, 0 there.
    """

    face_index: Int[np.ndarray, "s s"]
    barycentric: Float[np.ndarray, "s s 3"]

    @property
    def valid(self) -> Bool[np.ndarray, "s s"]:
        """Whether a face covers the texel's centre."""
        return self.face_index >= 0


def uv_lookup(
    uvs: Float[np.ndarray, "t 2"], uv_faces: Int[np.ndarray, "f 3"], *, size: int
) -> UvLookup:
    """Face and barycentrics of the surface point under every texel of a size × size map."""
    points = np.asarray(uvs, dtype=np.float64)
    x, y = points[uv_faces, 0] * size, (1 - points[uv_faces, 1]) * size
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    kept = np.flatnonzero((area != 0) & np.isfinite(area))
    corners = np.stack([x[kept], y[kept], np.ones_like(x[kept])])
    texel, winner = nearest_triangles(corners, resolution=size)
    weights, _ = perspective(corners[:, winner], texel, resolution=size)
    face_index = np.full(size * size, -1, dtype=np.int32)
    barycentric = np.zeros((size * size, 3), dtype=np.float32)
    face_index[texel] = kept[winner]
    barycentric[texel] = weights
    return UvLookup(
        face_index=face_index.reshape(size, size), barycentric=barycentric.reshape(size, size, 3)
    )


def gather_uv(
    lookup: UvLookup, values: Float[AnyArray, "*b v c"], *, faces: Int[AnyArray, "f 3"]
) -> Float[AnyArray, "*b s s c"]:
    """Vertex values interpolated under every texel, 0 where no face covers it.

    Differentiable in `values` when they are a JAX array.
    """
    xnp = namespace(values)
    corners = faces[np.maximum(lookup.face_index, 0)]
    weights = xnp.asarray(lookup.barycentric, dtype=values.dtype)
    terms = [xnp.take(values, corners[..., i], axis=-2) * weights[..., i : i + 1] for i in range(3)]
    return terms[0] + terms[1] + terms[2]


def rasterize_uv(
    values: Float[np.ndarray, "v c"],
    faces: Int[np.ndarray, "f 3"],
    *,
    uvs: Float[np.ndarray, "t 2"],
    uv_faces: Int[np.ndarray, "f 3"],
    size: int,
) -> tuple[Float[np.ndarray, "s s c"], Bool[np.ndarray, "s s"]]:
    """Vertex values as a UV map, for example positions as a position map.

    Args:
        values: [v, c] per vertex.
        faces: [f, 3] indices into `values`.
        uvs: [t, 2] in [0, 1], v up.
        uv_faces: [f, 3] indices into `uvs`, face by face the same as `faces`.
        size: the map is size × size.

    Returns:
        The map, 0 where invalid, and whether a face covers each texel's centre.
    """
    lookup = uv_lookup(uvs, uv_faces, size=size)
    return gather_uv(lookup, values, faces=faces), lookup.valid


def dilate(
    values: Float[np.ndarray, "h w c"], valid: Bool[np.ndarray, "h w"], *, steps: int
) -> tuple[Float[np.ndarray, "h w c"], Bool[np.ndarray, "h w"]]:
    """Grows the valid area by `steps` texels, new texels the mean of their valid neighbours.

    Keeps bilinear lookups near seams free of the empty background.
    """
    values, valid = values.copy(), valid.copy()
    for _ in range(steps):
        padded = np.pad(np.where(valid[..., None], values, 0), ((1, 1), (1, 1), (0, 0)))
        counts = np.pad(valid.astype(values.dtype), 1)
        total, count = _neighbour_sum(padded), _neighbour_sum(counts[..., None])
        grown = ~valid & (count[..., 0] > 0)
        values[grown] = total[grown] / count[grown]
        valid |= grown
    return values, valid


def _neighbour_sum(padded: Float[np.ndarray, "hp wp c"]) -> Float[np.ndarray, "h w c"]:
    """Sum over the eight neighbours of the inner texels, and the texel itself."""
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
