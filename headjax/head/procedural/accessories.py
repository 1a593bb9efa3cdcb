"""Glasses, buns and ponytails: closed shapes that are fitted to a person's posed head."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

from headjax.head.procedural import build, ears, grid, profiles

TUBE_SIDES = 8
FRAME_RADIUS = 0.0036

# Buns and tails behind the head: height and depth of the middle line, half-width, half-depth.
_BUN = np.array(
    [
        (0.152, -0.150, 0.004, 0.004),
        (0.146, -0.160, 0.025, 0.023),
        (0.130, -0.167, 0.039, 0.034),
        (0.108, -0.170, 0.043, 0.038),
        (0.086, -0.170, 0.039, 0.034),
        (0.070, -0.167, 0.025, 0.022),
        (0.064, -0.160, 0.004, 0.004),
    ]
)
_TAIL = np.array(
    [
        (0.104, -0.136, 0.006, 0.006),
        (0.108, -0.156, 0.018, 0.016),
        (0.098, -0.176, 0.024, 0.019),
        (0.070, -0.190, 0.031, 0.023),
        (0.020, -0.196, 0.038, 0.027),
        (-0.040, -0.194, 0.039, 0.027),
        (-0.095, -0.188, 0.030, 0.021),
        (-0.130, -0.184, 0.015, 0.012),
        (-0.142, -0.183, 0.002, 0.002),
    ]
)
_LOBE_RINGS = 22
_LOBE_SPOKES = 20


def tube(
    path: Float[np.ndarray, "n 3"], *, radius: float, closed: bool
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """A round tube along a path; a closed path makes a ring, an open one gets pointed ends."""
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    if not closed:
        tangent[0], tangent[-1] = path[1] - path[0], path[-1] - path[-2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    helper = np.where(np.abs(tangent[:, 1:2]) < 0.9, [[0, 1.0, 0]], [[1.0, 0, 0]])
    if closed:
        helper = np.broadcast_to([[0, 0, 1.0]], path.shape)
    across = np.cross(helper, tangent)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    over = np.cross(tangent, across)
    turn = np.arange(TUBE_SIDES) / TUBE_SIDES * 2 * np.pi
    ring = np.cos(turn)[:, None] * across[:, None] + np.sin(turn)[:, None] * over[:, None]
    wide = np.full(len(path), radius)
    if not closed:
        wide[[0, -1]] *= 0.05
    vertices = (path[:, None] + wide[:, None, None] * ring).reshape(-1, 3)
    count = len(path) if closed else len(path) - 1
    i, j = np.meshgrid(np.arange(count), np.arange(TUBE_SIDES), indexing="ij")
    after, side = (i + 1) % len(path), (j + 1) % TUBE_SIDES
    a, b = i * TUBE_SIDES + j, i * TUBE_SIDES + side
    c, d = after * TUBE_SIDES + side, after * TUBE_SIDES + j
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], -2).reshape(-1, 3)
    return vertices, faces


@functools.lru_cache(maxsize=2)
def hair_lobe(
    kind: str,
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"], Float[np.ndarray, "v 2"]]:
    """Vertices, triangles and (turn, height) of a bun or a ponytail behind the template."""
    profile = _BUN if kind == "bun" else _TAIL
    along = np.linspace(0, len(profile) - 1, _LOBE_RINGS)
    stations = np.arange(len(profile), dtype=float)
    y, z, width, depth = profiles.hermite(along, stations, profile).T[:, :, None]
    tangent = np.stack([np.gradient(y[:, 0]), np.gradient(z[:, 0])], -1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    turn = np.arange(_LOBE_SPOKES) / _LOBE_SPOKES * 2 * np.pi
    x = width * np.sin(turn)
    over = depth * np.cos(turn)
    ring = [x, y - over * tangent[:, 1:], z + over * tangent[:, :1]]
    vertices = np.stack(ring, -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(_LOBE_RINGS - 1), np.arange(_LOBE_SPOKES), indexing="ij")
    side = (j + 1) % _LOBE_SPOKES
    a, b = i * _LOBE_SPOKES + j, i * _LOBE_SPOKES + side
    c, d = a + _LOBE_SPOKES, b + _LOBE_SPOKES
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))])
    if _volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    local = np.stack(np.broadcast_arrays(turn, y), -1).reshape(-1, 2)
    return vertices, np.ascontiguousarray(faces), local


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float((np.cross(a, b) * c).sum())


def onto_mesh(
    points: Float[np.ndarray, "n 3"],
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    *,
    centre: tuple[float, float, float],
) -> Float[np.ndarray, "n 3"]:
    """Moves points outward from `centre` to where their ray leaves the mesh, if it meets it."""
    ray = points - np.asarray(centre)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    a = vertices[faces[:, 0]]
    ab, ac = vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a
    p = np.cross(ray[:, None], ac[None])
    det = (p * ab).sum(-1)
    det = np.where(np.abs(det) < 1e-14, 1e-14, det)
    t = points[:, None] - a
    u = (p * t).sum(-1) / det
    q = np.cross(t, ab[None])
    v = (q * ray[:, None]).sum(-1) / det
    far = (q * ac).sum(-1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)
    return points + np.where(hit, far, 0.0).max(1)[:, None] * ray


def _rim(kind: str) -> Float[np.ndarray, "n 2"]:
    """The subject's left rim about the eye's centre, outward x."""
    turn = np.arange(28) / 28 * 2 * np.pi
    cosine, sine = np.cos(turn), np.sin(turn)
    if kind == "round":
        return np.stack([0.0335 * cosine, 0.0315 * sine - 0.003], -1)
    square = (np.abs(cosine) ** 3.2 + np.abs(sine) ** 3.2) ** (-1 / 3.2)
    x, y = 0.0355 * square * cosine, 0.0260 * square * sine - 0.003
    if kind == "cat_eye":
        y = y + 0.0100 * np.clip(x / 0.0355, 0, 1) * (sine > -0.3) + 0.001
    return np.stack([x, y], -1)


@functools.lru_cache(maxsize=1)
def _ear_top() -> Int[np.ndarray, "n"]:
    """Vertices of the main surface where a temple rests, on the subject's left."""
    at = grid.vertex_canvas()
    a, t, _ = ears.ear_coordinates(at)
    away = np.hypot(a + 0.25, t - 1.05)
    away = np.where((at.base[:, 0] > 0) & (np.sin(at.theta) > 0.5), away, 9)
    return np.argsort(away)[:4]


def glasses_mesh(
    kind: str, vertices: Float[np.ndarray, "v 3"]
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "f 3"]]:
    """Frame of the given kind, fitted to rest-pose vertices of the head model."""
    left, right = (vertices[part].mean(0) for part in build.eye_slices())
    centre = (left + right) / 2
    half = (left[0] - right[0]) / 2
    bridge = vertices[: build.main_count()]
    nose = bridge[_nasion()].mean(0)
    front = max(centre[2] + 0.0500, nose[2] + 0.0040)
    rim = _rim(kind)
    pieces = []
    ring = np.stack([half + 0.001 + rim[:, 0], centre[1] + rim[:, 1], 0 * rim[:, 0]], -1)
    ring[:, 2] = front - 3.2 * np.clip(ring[:, 0] - 0.02, 0, None) ** 2
    mirror = np.array([-1.0, 1, 1])
    pieces.append(tube(ring, radius=FRAME_RADIUS, closed=True))
    pieces.append(tube((ring * mirror)[::-1], radius=FRAME_RADIUS, closed=True))
    inner = ring[np.argmin(ring[:, 0] + 0.3 * np.abs(ring[:, 1] - centre[1] - 0.006))]
    x = np.linspace(-inner[0], inner[0], 9)
    arch = 0.004 * (1 - (x / inner[0]) ** 2)
    path = np.stack([x, inner[1] + arch, inner[2] + arch], -1)
    pieces.append(tube(path, radius=FRAME_RADIUS, closed=False))
    ear = vertices[_ear_top()].mean(0) + [0.001, 0.002, 0.0]
    outer = ring[np.argmax(ring[:, 0] + 0.4 * ring[:, 1])]
    pieces += _temples(outer, ear, mirror)
    return _joined(pieces)


@functools.lru_cache(maxsize=1)
def _nasion() -> Int[np.ndarray, "n"]:
    at = grid.vertex_canvas()
    return np.argsort(np.hypot(at.x, at.y - 0.010) + (np.cos(at.theta) < 0))[:3]


def _temples(outer: np.ndarray, ear: np.ndarray, mirror: np.ndarray) -> list:
    f = np.linspace(0, 1, 14)[:, None]
    bow = np.array([[1.0, 0, 0]]) * 0.014 * np.sqrt(np.sin(np.pi * np.clip(f, 0, 1)))
    path = outer + f * (ear - outer) + bow
    path[:, 0] = np.maximum(path[:, 0], outer[0])
    arm = tube(path, radius=FRAME_RADIUS, closed=False)
    other = tube(path * mirror, radius=FRAME_RADIUS, closed=False)
    return [arm, other]


def _joined(pieces: list) -> tuple[np.ndarray, np.ndarray]:
    counts = np.cumsum([0] + [len(v) for v, _ in pieces])
    faces = [f + n for (_, f), n in zip(pieces, counts[:-1], strict=True)]
    return np.concatenate([v for v, _ in pieces]), np.concatenate(faces)
