"""The grid that carries the head, and fields on it.

The main surface has `ROWS` rings of `COLUMNS` vertices between two poles. The same canonical
coordinates (longitude, profile position, featureless base point) describe vertices, texels and any
atlas point, so that sculpted relief and painted colour agree by construction.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.geometry.meshes import vertex_normals
from headjax.head.procedural import profiles

COLUMNS = 136  # even, so that the grid mirrors onto itself
ROWS = 92  # rings without the two poles

Numbers = int | float | np.ndarray


@dataclass(frozen=True, eq=False)
class Canvas:
    """Canonical coordinates of a set of points on the head.

    Attributes:
      theta: [*b] longitude in radians, 0 at the front, + towards the subject's left.
      s: [*b] profile position, 0 at the crown, 1 in the middle of the neck's cap.
      base: [*b, 3] the featureless surface there.
    """

    theta: Float[np.ndarray, "*b"]
    s: Float[np.ndarray, "*b"]
    base: Float[np.ndarray, "*b 3"]

    @property
    def x(self) -> np.ndarray:
        """Distance from the mirror plane, never negative."""
        return np.abs(self.base[..., 0])

    @property
    def side(self) -> np.ndarray:
        """+1 on the subject's left, -1 on the right, 0 between."""
        return np.sign(np.round(self.base[..., 0], 9))

    @property
    def y(self) -> np.ndarray:
        """Height."""
        return self.base[..., 1]

    @property
    def z(self) -> np.ndarray:
        """Depth towards the face's front."""
        return self.base[..., 2]

    @property
    def front(self) -> np.ndarray:
        """1 on the face, falling to 0 at the ears."""
        return smoothstep(-0.05, 0.45, np.cos(self.theta))


def smoothstep(low: Numbers, high: Numbers, x: Numbers) -> Numbers:
    """C2 ramp from 0 at `low` to 1 at `high` (either order)."""
    f = np.clip((x - low) / (high - low), 0.0, 1.0)
    return f * f * f * (f * (6 * f - 15) + 10)


def bell(*scaled: Numbers) -> Numbers:
    """exp(-sum of squares) of coordinates already divided by their radii."""
    return np.exp(-sum(value * value for value in scaled))


def canvas(theta: Float[np.ndarray, "*b"], s: Float[np.ndarray, "*b"]) -> Canvas:
    """Canonical coordinates at the given longitudes and profile positions."""
    return Canvas(theta, s, profiles.base_surface(theta, s))


@functools.lru_cache(maxsize=1)
def vertex_canvas() -> Canvas:
    """The main surface's vertices: crown, `ROWS` rings from the back seam round, cap's middle."""
    u = np.arange(COLUMNS) / COLUMNS
    theta = profiles.longitude(u)
    theta[0] = -np.pi
    theta[COLUMNS // 2 + 1 :] = -theta[COLUMNS // 2 - 1 : 0 : -1]
    s = np.arange(1, ROWS + 1) / (ROWS + 1)
    theta, s = np.broadcast_to(theta, (ROWS, COLUMNS)), np.broadcast_to(s[:, None], (ROWS, COLUMNS))
    theta = np.concatenate([[0.0], theta.reshape(-1), [0.0]])
    return canvas(theta, np.concatenate([[0.0], s.reshape(-1), [1.0]]))


@functools.lru_cache(maxsize=8)
def texel_canvas(size: int) -> Canvas:
    """The atlas' texel centres, [size, size], row 0 at the crown."""
    centre = (np.arange(size) + 0.5) / size
    return canvas(*np.meshgrid(profiles.longitude(centre), centre, indexing="xy"))


def _quads() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row, col = np.meshgrid(np.arange(ROWS - 1), np.arange(COLUMNS), indexing="ij")
    return row, row + 1, col, col + 1


@functools.lru_cache(maxsize=1)
def topology() -> tuple[Int[np.ndarray, "f 3"], Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """Triangles of the closed surface, atlas vertices, atlas triangles in the same order."""
    up, down, left, right = _quads()
    wrapped = right % COLUMNS

    def ring(row, col):
        return 1 + row * COLUMNS + col

    def atlas(row, col):
        return (row + 1) * (COLUMNS + 1) + col

    faces, uv_faces = [], []
    for corner, out, last in ((ring, faces, wrapped), (atlas, uv_faces, right)):
        a, b = corner(up, left), corner(down, left)
        c, d = corner(down, last), corner(up, last)
        split = left < COLUMNS // 2  # diagonals mirror, so that the surface does
        first = np.where(split[..., None], np.stack([a, b, c], -1), np.stack([a, b, d], -1))
        second = np.where(split[..., None], np.stack([a, c, d], -1), np.stack([b, c, d], -1))
        out.append(np.stack([first, second], -2).reshape(-1, 3))
    col = np.arange(COLUMNS)
    after = (col + 1) % COLUMNS
    pole = 1 + ROWS * COLUMNS
    faces.append(np.stack([0 * col, 1 + col, 1 + after], -1))
    uv_faces.append(np.stack([col, atlas(0, col), atlas(0, col + 1)], -1))
    base = 1 + (ROWS - 1) * COLUMNS
    faces.append(np.stack([base + col, 0 * col + pole, base + after], -1))
    low = atlas(ROWS - 1, col)
    uv_faces.append(np.stack([low, atlas(ROWS, col), low + 1], -1))
    return (
        np.concatenate(faces).astype(np.int32),
        _atlas_points(),
        np.concatenate(uv_faces).astype(np.int32),
    )


def _atlas_points() -> Float[np.ndarray, "t 2"]:
    u = np.broadcast_to(np.arange(COLUMNS + 1) / COLUMNS, (ROWS + 2, COLUMNS + 1)).copy()
    u[0, :-1] += 0.5 / COLUMNS  # the poles' triangles end in the middle of their column
    u[-1, :-1] += 0.5 / COLUMNS
    v = 1 - np.arange(ROWS + 2)[:, None] / (ROWS + 1)
    return np.stack([u, np.broadcast_to(v, u.shape)], -1).reshape(-1, 2).astype(np.float32)


@functools.lru_cache(maxsize=1)
def mirror_index() -> Int[np.ndarray, "v"]:
    """The vertex on the other side of the mirror plane, for each vertex of the main surface."""
    col = (COLUMNS - np.arange(COLUMNS)) % COLUMNS
    rings = 1 + np.arange(ROWS)[:, None] * COLUMNS + col
    return np.concatenate([[0], rings.reshape(-1), [1 + ROWS * COLUMNS]])


def smooth(values: Float[np.ndarray, "v c"], rounds: int) -> Float[np.ndarray, "v c"]:
    """Repeated [1 2 1] averaging over the rings and columns of a field on the vertices."""
    rings = values[1:-1].reshape(ROWS, COLUMNS, -1)
    for _ in range(rounds):
        rings = (2 * rings + np.roll(rings, 1, 1) + np.roll(rings, -1, 1)) / 4
        padded = np.concatenate([rings[:1], rings, rings[-1:]])
        rings = (2 * rings + padded[:-2] + padded[2:]) / 4
    ends = rings[0].mean(0, keepdims=True), rings[-1].mean(0, keepdims=True)
    return np.concatenate([ends[0], rings.reshape(ROWS * COLUMNS, -1), ends[1]])


def vertex_mask(mask: Bool[np.ndarray, "v"], count: int) -> Bool[np.ndarray, "n"]:
    """A mask of the main surface, padded with False for the vertices that follow it."""
    return np.concatenate([mask, np.zeros(count - len(mask), bool)])


def main_normals(points: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Unit normals of the main surface."""
    return vertex_normals(points, topology()[0])
