"""Ambient light that reaches the template's points, measured once by looking from all sides."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from headjax.head.procedural import grid, sculpt

_DIRECTIONS = 72
_CELLS = 110
_BIAS = 0.010


def _sphere_points(count: int) -> Float[np.ndarray, "n 3"]:
    """Evenly spread directions (Fibonacci's lattice)."""
    k = np.arange(count) + 0.5
    y, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(turn), y, r * np.sin(turn)], -1)


def visibility(
    points: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"]
) -> Float[np.ndarray, "v"]:
    """Cosine-weighted share of the outer half space that points do not hide from each other."""
    seen, total = np.zeros(len(points)), np.zeros(len(points))
    for direction in _sphere_points(_DIRECTIONS):
        helper = np.array([0, 1.0, 0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0, 0])
        right = np.cross(helper, direction)
        right /= np.linalg.norm(right)
        plane = np.stack([points @ right, points @ np.cross(direction, right)], -1)
        cell = ((plane / 0.52 + 0.5) * _CELLS).astype(int).clip(0, _CELLS - 1)
        key, height = cell[:, 0] * _CELLS + cell[:, 1], points @ direction
        front = np.full(_CELLS**2, -np.inf)
        np.maximum.at(front, key, height)
        weight = np.clip(normals @ direction, 0, None)
        seen += weight * (height > front[key] - _BIAS)
        total += weight
    return seen / np.maximum(total, 1e-9)


@functools.lru_cache(maxsize=1)
def skin_occlusion() -> Float[np.ndarray, "v"]:
    """Ambient light on the main surface, 0..1."""
    points = sculpt.sculpted(grid.vertex_canvas())
    seen = visibility(points, grid.main_normals(points))
    seen = grid.smooth(seen[:, None], 3)[:, 0]
    return np.clip(0.25 + 0.80 * seen, 0, 1).astype(np.float32)


@functools.lru_cache(maxsize=1)
def eye_occlusion() -> Float[np.ndarray, "v"]:
    """Ambient light on an eyeball: the upper lid's shadow, darker towards the corners."""
    unit, _, _ = sculpt.eyeball()
    up = grid.smoothstep(0.20, 0.50, unit[:, 1])
    aside = grid.smoothstep(0.45, 0.95, np.abs(unit[:, 0]))
    return np.clip(1 - 0.45 * up - 0.35 * aside, 0, 1).astype(np.float32)


@functools.lru_cache(maxsize=16)
def hair_occlusion(kind: str) -> Float[np.ndarray, "v"]:
    """Ambient light on the hair's shell: darker low at the nape, in partings and between curls."""
    at = grid.vertex_canvas()
    low = grid.smoothstep(-0.22, 0.06, at.y)
    return np.clip(0.62 + 0.38 * low, 0, 1).astype(np.float32)
