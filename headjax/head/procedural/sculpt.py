"""The sculpted head: base, relief, ears and eyeballs put together, in rest pose."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from headjax.head.procedural import ears, features, grid
from headjax.head.procedural.grid import Canvas

EYE_RINGS = 14
EYE_SPOKES = 24


def _outward(at: Canvas) -> Float[np.ndarray, "*b 3"]:
    """Horizontal direction away from the axis."""
    return np.stack([np.sin(at.theta), np.zeros_like(at.theta), np.cos(at.theta)], -1)


def sculpted(at: Canvas, *, with_ears: bool = True) -> Float[np.ndarray, "*b 3"]:
    """Surface points of the head without eyeballs, world units."""
    y, fold = features.mouth_fold(at)
    radial = features.cheek_fields(at) + features.chin_height(at) + features.neck_fields(at)
    points = at.base + radial[..., None] * _outward(at)
    points[..., 1] += y - at.base[..., 1]
    points[..., 2] += (
        features.nose_height(at)
        + features.sockets(at)
        + features.brow_ridge(at)
        + features.lips_height(at, y)
        - 0.0180 * fold
        - 0.0060 * features.nostrils(at)
    )
    points[..., 2] = _lids(at, points[..., 2])
    return points + ears.ear_displacement(at) if with_ears else points


def _lids(at: Canvas, z: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Skin drawn over the eyeball outside the opening and sunk below the ball inside it."""
    gap = features.eye_gap(at)
    ball = features.ball_height(at.x, at.y)
    cover = ball + features.LID_THICKNESS
    near = grid.smoothstep(0.034, 0.020, np.hypot(at.x - 0.048, (at.y - 0.0125) * 1.15))
    near = near * (np.cos(at.theta) > 0.3)
    sharp = 0.0030
    raised = 0.5 * (z + cover + np.sqrt((z - cover) ** 2 + sharp**2) - sharp)
    lidded = z + near * (raised - z)
    _, above, _ = features.eye_coordinates(at)
    crease = -0.0016 * grid.bell((above - 0.0075) / 0.0022) * near
    edge = ball + np.clip(gap * 0.9, -0.0080, features.LID_THICKNESS)
    grip = grid.smoothstep(0.0050, 0.0005, gap)
    return lidded + crease + grip * (edge - lidded - crease)


@functools.lru_cache(maxsize=1)
def eyeball() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A closed unit sphere with its pole at +z: vertices, triangles, polar angle per vertex."""
    polar = np.linspace(0, 1, EYE_RINGS + 1)[1:-1] ** 1.25 * np.pi
    turn = np.arange(EYE_SPOKES) / EYE_SPOKES * 2 * np.pi
    p, t = np.meshgrid(polar, turn, indexing="ij")
    rings = np.stack([np.sin(p) * np.cos(t), np.sin(p) * np.sin(t), np.cos(p)], -1)
    vertices = np.concatenate([[[0, 0, 1.0]], rings.reshape(-1, 3), [[0, 0, -1.0]]])
    k = np.arange(EYE_SPOKES)
    after = (k + 1) % EYE_SPOKES
    faces = [np.stack([0 * k, 1 + k, 1 + after], -1)]
    for ring in range(len(polar) - 1):
        a, b = 1 + ring * EYE_SPOKES, 1 + (ring + 1) * EYE_SPOKES
        faces.append(np.stack([a + k, b + k, b + after], -1))
        faces.append(np.stack([a + k, b + after, a + after], -1))
    low = 1 + (len(polar) - 1) * EYE_SPOKES
    faces.append(np.stack([low + k, 0 * k + len(vertices) - 1, low + after], -1))
    angle = np.concatenate([[0], p.reshape(-1), [np.pi]])
    return vertices, np.concatenate(faces).astype(np.int32), angle
