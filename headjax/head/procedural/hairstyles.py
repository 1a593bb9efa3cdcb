"""Hair as canonical fields: where it grows, how far it stands off, how its strands run.

A hairstyle is a set of fields on the canvas of the template. Hair rides on the skin: a person's
hair is the person's skin plus thickness times volume along the normals, tapering to nothing at the
hairline; long hair hangs from the widest part of the person's own head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headjax.head.procedural import grid, profiles, sculpt
from headjax.head.procedural.grid import Canvas, bell, smoothstep

_AXIS_Z = -0.0150
TUCK = 0.0030  # the shell's edge sinks this far below the skin
# Height of the natural hairline by longitude (degrees from the front).
_LINE = np.array(
    [
        (0, 0.120), (16, 0.121), (28, 0.117), (38, 0.104), (48, 0.082), (56, 0.060),
        (63, 0.038), (70, 0.012), (78, -0.014), (87, -0.014), (92, 0.034), (106, 0.040),
        (120, 0.024), (128, -0.030), (140, -0.074), (160, -0.090), (180, -0.094),
    ]
)  # fmt: skip
LONG_KINDS = ("bob", "long")


@dataclass(frozen=True, eq=False)
class Hair:
    """Canonical hair on the main surface's vertices.

    Attributes:
      kind: one of `person.HAIR_KINDS`.
      reach: [v] signed distance inside the hairline.
      thickness: [v] how far the hair stands off for volume 1, hairline aside.
      rise: [v] 0 at the hairline, 1 well inside it.
      normals: [v, 3] directions in which it stands off.
      tuck: [v, 3] into the skin beyond the hairline, so that the shell ends exactly there.
      tone: [v] factor of the hair's colour, about 1.
    """

    kind: str
    reach: Float[np.ndarray, "v"]
    thickness: Float[np.ndarray, "v"]
    rise: Float[np.ndarray, "v"]
    normals: Float[np.ndarray, "v 3"]
    tuck: Float[np.ndarray, "v 3"]
    tone: Float[np.ndarray, "v"]


def hairline(at: Canvas, *, kind: str, fringe: float, side: float) -> Float[np.ndarray, "*b"]:
    """Signed distance inside the hairline."""
    degrees = np.rad2deg(np.abs(at.theta))
    line = profiles.hermite(degrees, _LINE[:, 0], _LINE[:, 1:])[..., 0]
    if kind == "receding":
        line = line + 0.042 * smoothstep(66, 40, degrees)
    elif kind == "bald":
        line = line + 0.16 * smoothstep(118, 62, degrees)
    forelock = smoothstep(62, 26, degrees)
    tilt = 0.010 * np.sin(at.theta) * side if kind == "side_part" else 0.0
    drop = {"short": 0.028, "side_part": 0.036, "bob": 0.045, "long": 0.045}.get(kind, 0.0)
    line = line - forelock * (fringe * drop + tilt)
    reach = (at.y - line) / _steepness(degrees)
    if kind == "bald":
        reach = np.minimum(reach, 0.6 * (0.100 - at.y))
    if kind in LONG_KINDS:
        low = -0.118 if kind == "bob" else -0.300
        aside = (degrees - 63.0 - 6.0 * smoothstep(0.05, -0.1, at.y)) * 0.0022
        curtain = np.minimum(aside, at.y - low)
        curtain = np.where(at.s > 0.952, np.minimum(curtain, -0.01), curtain)
        reach = np.maximum(reach, curtain)
    return np.where(at.s > 0.962, -0.05, reach)


def _steepness(degrees: np.ndarray) -> np.ndarray:
    """How much longer a vertical step to the hairline is than the shortest one."""
    ahead = profiles.hermite(degrees + 2.0, _LINE[:, 0], _LINE[:, 1:])[..., 0]
    behind = profiles.hermite(degrees - 2.0, _LINE[:, 0], _LINE[:, 1:])[..., 0]
    return np.sqrt(1 + ((ahead - behind) / (np.deg2rad(4.0) * 0.125)) ** 2)


def _crown_bell(at: Canvas) -> np.ndarray:
    """1 on top of the head, 0 at the ears' height."""
    return smoothstep(0.03, 0.15, at.y)


def _lumps(at: Canvas, size: float) -> np.ndarray:
    """Soft curls of about the given size (world units) all over the head, -1..1."""
    x, y, z = np.moveaxis(at.base * (2 * np.pi / size), -1, 0)
    y = y + 0.8 * np.sin(0.5 * x)
    waves = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    return np.tanh(1.2 * waves)


def _thickness(at: Canvas, *, kind: str, fringe: float, side: float) -> Float[np.ndarray, "*b"]:
    """How far the hair stands off the skin, well inside the hairline."""
    top = _crown_bell(at)
    front = smoothstep(70, 25, np.rad2deg(np.abs(at.theta)))
    if kind == "bald":
        return np.zeros_like(at.s)
    if kind == "buzz":
        return np.full_like(at.s, 0.0045)
    if kind == "receding":
        return 0.0070 + 0.0030 * top
    if kind == "short":
        return 0.0095 + 0.0110 * top + 0.0040 * front * top
    if kind == "side_part":
        part = at.base[..., 0] * side
        groove = 1 - 0.45 * bell((part - 0.052) / 0.010) * smoothstep(0.08, 0.13, at.y)
        sweep = 0.0080 * front * top * smoothstep(0.06, -0.05, part)
        return (0.0110 + 0.0130 * top + sweep) * groove
    if kind == "curly":
        return (0.0220 + 0.0060 * top) * (1 + 0.20 * _lumps(at, 0.060))
    if kind == "afro":
        return (0.0345 + 0.0015 * top) * (1 + 0.05 * _lumps(at, 0.050))
    if kind in LONG_KINDS:
        groove = 1 - (0.32 - 0.28 * fringe) * bell(at.x / 0.010) * smoothstep(0.10, 0.14, at.y)
        return (0.0150 + 0.0080 * top) * groove
    return 0.0085 + 0.0050 * top


def _edge(kind: str) -> float:
    """Distance over which the hair rises from the hairline to its full thickness."""
    wide = {"afro": 0.030, "curly": 0.022, "bob": 0.016, "long": 0.016, "short": 0.026}
    return wide.get(kind, 0.022)


def _rounded(x: np.ndarray) -> np.ndarray:
    """0 up to 0, then a round shoulder that is flat from 1 on."""
    return 1 - (1 - np.clip(x, 0, 1)) ** 2.4


def _curtain(
    points: Float[np.ndarray, "v 3"], thickness: Float[np.ndarray, "v"], *, kind: str
) -> Float[np.ndarray, "v"]:
    """How far hair that hangs from the widest part of the head stands off below it."""
    shape = (grid.ROWS, grid.COLUMNS)
    flat = points[1:-1].reshape(*shape, 3)
    radial = np.hypot(flat[..., 0], flat[..., 2] - _AXIS_Z)
    grown = radial + thickness[1:-1].reshape(shape)
    below = flat[..., 1] < 0.06
    hanging = np.maximum.accumulate(np.where(below & (flat[..., 1] > -0.03), grown, 0.0), axis=0)
    drop = np.clip(0.02 - flat[..., 1], 0, None)
    inward = 0.16 if kind == "bob" else 0.10
    out = hanging - inward * drop * smoothstep(0.0, 0.08, drop)
    extra = np.where(below, np.maximum(out - radial, 0.3 * thickness[1:-1].reshape(shape)), 0.0)
    return np.concatenate([[0.0], extra.reshape(-1), [0.0]])


@functools.lru_cache(maxsize=64)
def hairstyle(kind: str, *, fringe: float, side: float) -> Hair:
    """Canonical hair of a kind on the vertex grid. Cached by its arguments."""
    at = grid.vertex_canvas()
    reach = hairline(at, kind=kind, fringe=fringe, side=side)
    normals = grid.main_normals(sculpt.sculpted(at, with_ears=False))
    sunk = np.clip(0.35 * reach, -TUCK, 0.0)
    return Hair(
        kind=kind,
        reach=reach,
        thickness=_thickness(at, kind=kind, fringe=fringe, side=side),
        rise=_rounded(reach / _edge(kind)),
        normals=normals,
        tuck=normals * sunk[:, None],
        tone=strands(at, kind=kind, side=side),
    )


def stand_off(
    hair: Hair, points: Float[np.ndarray, "v 3"], *, volume: float
) -> Float[np.ndarray, "v 3"]:
    """Skin to the hair's outer surface for a head's main surface; zero where there is none."""
    thickness = volume * hair.thickness
    offset = hair.normals * (thickness * hair.rise)[:, None]
    if hair.kind not in LONG_KINDS:
        return offset
    at = grid.vertex_canvas()
    flat = np.stack([np.sin(at.theta), 0 * at.s, np.cos(at.theta)], -1)
    hanging = flat * (_curtain(points, thickness, kind=hair.kind) * hair.rise)[:, None]
    low = smoothstep(0.06, 0.0, at.y)[:, None]
    return offset * (1 - low) + hanging * low


def strands(at: Canvas, *, kind: str, side: float) -> Float[np.ndarray, "*b"]:
    """Soft light and dark clumps along the strands, a factor about 1."""
    if kind in ("curly", "afro"):
        return 1 + 0.14 * _lumps(at, 0.060 if kind == "curly" else 0.050)
    if kind in ("bald", "buzz", "receding"):
        return 1 + 0.05 * np.cos(9 * at.theta)
    across = 10 * at.theta + 1.5 * np.sin(at.s * 12)
    if kind == "side_part":
        across = across + 60 * at.base[..., 0] * side * _crown_bell(at)
    clumps = 0.6 * np.sin(across) + 0.4 * np.sin(1.9 * across + 1.0)
    return 1 + 0.13 * clumps
