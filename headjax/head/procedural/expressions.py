"""Expressions: smooth displacement fields for a full movement of the face (coefficient 1).

Left and right are the subject's. Jaw and eyes turn by their joints; the fields here move the skin.
"""

from __future__ import annotations

import functools

import numpy as np

from headjax.head.procedural import features
from headjax.head.procedural.grid import Canvas, bell, smoothstep
from headjax.head.procedural.identity import Field, Points, vector

_CREASE_ABOVE = 0.0130  # lid skin between the opening's edge and this height above it stretches


def _corner(at: Canvas, radius: float = 0.020) -> np.ndarray:
    """1 at the mouth's corners."""
    dx = at.x - features.MOUTH_HALF_WIDTH
    return at.front * bell(dx / radius, (at.y - features.MOUTH_HEIGHT) / radius)


def _above_mouth(at: Canvas) -> np.ndarray:
    """+1 on the upper lip, -1 on the lower, smooth through the folded rows."""
    _, crease, _, _ = features.mouth_curves(at.x)
    return 2 * smoothstep(-0.005, 0.005, at.y - crease) - 1


def _smile(at: Canvas, p: Points) -> Points:
    pull = _corner(at, 0.022)
    cheek = at.front * bell((at.x - 0.062) / 0.024, (at.y + 0.050) / 0.022)
    out = at.side * (0.0100 * pull + 0.0030 * cheek)
    return vector(out, 0.0085 * pull + 0.0035 * cheek, 0.0060 * cheek - 0.0045 * pull)


def _frown(at: Canvas, p: Points) -> Points:
    pull = _corner(at, 0.019)
    middle = at.front * bell(at.x / 0.022, (at.y + 0.105) / 0.016)
    return vector(0.0015 * at.side * pull, 0.0030 * middle - 0.0085 * pull, 0.0015 * middle)


def _blink(at: Canvas, p: Points, *, side: int) -> Points:
    """Upper lid drawn over the ball down to the lower edge; the sunken skin folds behind it."""
    q, above, below = features.eye_coordinates(at)
    opening = np.clip(-(above + below), 0, None) * (np.abs(q) < 1)
    stretch = np.clip(1 - above / _CREASE_ABOVE, 0, 1) * (above >= 0)
    inner = (above < 0) & (below < 0)
    folded = np.where(inner, np.clip(-below, 0, None) * 0.97, 0.0)
    shift = -np.where(inner, folded, opening * smoothstep(0, 1, stretch))
    near = (np.cos(at.theta) > 0.3) & (at.side == side) & (above < _CREASE_ABOVE)
    near = near & ((above >= 0) | inner)
    shift = np.where(near, shift, 0.0)
    follow = features.ball_height(at.x, at.y + shift) - features.ball_height(at.x, at.y)
    lift = 0.0024 * smoothstep(0.0, 0.006, -shift)
    return vector(y=shift, z=np.where(near, follow + lift, 0.0))


def _brows(at: Canvas, p: Points, *, amount: float) -> Points:
    k = at.front * bell((at.y - 0.050) / 0.017) * smoothstep(0.105, 0.070, at.x)
    return vector(y=amount * k, z=0.15 * abs(amount) * k)


def _brows_down(at: Canvas, p: Points) -> Points:
    k = at.front * bell((at.y - 0.047) / 0.015, (at.x - 0.022) / 0.034)
    return vector(-0.0035 * at.side * k, -0.0080 * k, 0.0018 * k)


def _brow_inner_up(at: Canvas, p: Points) -> Points:
    k = at.front * bell((at.y - 0.048) / 0.016, at.x / 0.032)
    return vector(y=0.0085 * k)


def _pucker(at: Canvas, p: Points) -> Points:
    k = at.front * bell(at.x / 0.050, (at.y - features.MOUTH_HEIGHT) / 0.026)
    middle = at.front * bell(at.x / 0.026, (at.y - features.MOUTH_HEIGHT) / 0.020)
    return vector(-0.42 * p[..., 0] * k, 0.0010 * _above_mouth(at) * middle, 0.0095 * middle)


def _mouth_open(at: Canvas, p: Points) -> Points:
    wide = bell((at.y - features.MOUTH_HEIGHT) / 0.020) * smoothstep(0.038, 0.010, at.x)
    lift = np.where(_above_mouth(at) > 0, 0.0055, 0.0095)
    k = at.front * wide
    return vector(-0.06 * p[..., 0] * k, lift * _above_mouth(at) * k, -0.0010 * k)


def _sneer(at: Canvas, p: Points) -> Points:
    wing = at.front * bell((at.x - 0.024) / 0.014, (at.y + 0.048) / 0.016)
    lip = at.front * bell((at.x - 0.020) / 0.018, (at.y + 0.080) / 0.012)
    return vector(0.0015 * at.side * wing, 0.0060 * wing + 0.0050 * lip, 0.0025 * wing)


def _cheek_puff(at: Canvas, p: Points) -> Points:
    k = bell((at.x - 0.068) / 0.028, (at.y + 0.080) / 0.030) * smoothstep(0.0, 0.05, at.z)
    return vector(0.0115 * at.side * k, 0.0, 0.0090 * k)


def _mouth_shift(at: Canvas, p: Points, *, amount: float) -> Points:
    k = at.front * bell(at.x / 0.060, (at.y + 0.100) / 0.034)
    return vector(amount * k)


def _eyes_wide(at: Canvas, p: Points) -> Points:
    q, above, _ = features.eye_coordinates(at)
    k = at.front * bell((above - 0.002) / 0.007) * np.clip(1 - q * q, 0, 1) * (above > -0.004)
    shift = 0.0042 * k
    follow = features.ball_height(at.x, at.y + shift) - features.ball_height(at.x, at.y)
    return vector(y=shift, z=follow)


def _lips_press(at: Canvas, p: Points) -> Points:
    _, crease, _, _ = features.mouth_curves(at.x)
    k = at.front * bell(at.x / 0.045, (at.y - features.MOUTH_HEIGHT) / 0.018)
    return vector(y=-0.30 * (p[..., 1] - crease) * k, z=-0.0025 * k)


EXPRESSION_FIELDS: dict[str, Field] = {
    "smile": _smile,
    "frown": _frown,
    "blink_left": functools.partial(_blink, side=1),
    "blink_right": functools.partial(_blink, side=-1),
    "brows_up": functools.partial(_brows, amount=0.0095),
    "brows_down": _brows_down,
    "brow_inner_up": _brow_inner_up,
    "pucker": _pucker,
    "mouth_open": _mouth_open,
    "sneer": _sneer,
    "cheek_puff": _cheek_puff,
    "mouth_left": functools.partial(_mouth_shift, amount=0.0095),
    "mouth_right": functools.partial(_mouth_shift, amount=-0.0095),
    "eyes_wide": _eyes_wide,
    "lips_press": _lips_press,
}
