"""Interpretable identity directions: smooth vector fields on the sculpted head.

Each direction is a field of displacements (world units for one standard deviation) of the canonical
coordinates and the sculpted points. Evaluated once on the template it is a linear basis vector, so
that skinning alone makes the geometry. Eyeballs move rigidly with the field at their centre.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from headjax.head.procedural import ears, features
from headjax.head.procedural.grid import Canvas, bell, smoothstep

Points = Float[np.ndarray, "n 3"]
Field = Callable[[Canvas, Points], Points]


def vector(x=0.0, y=0.0, z=0.0) -> np.ndarray:
    """A field from its three components, numbers or arrays."""
    return np.stack(np.broadcast_arrays(*(np.asarray(c, float) for c in (x, y, z))), -1)


def _lower_face(at: Canvas) -> np.ndarray:
    """1 on the lower face and under the chin, 0 on skull, nape and neck."""
    return smoothstep(0.00, 0.06, at.z) * smoothstep(0.905, 0.850, at.s)


def eye_plateau(p: Points, *, outer: float = 0.0580) -> np.ndarray:
    """1 around each eye, lids included, 0 beyond the distance `outer`."""
    away = np.hypot(np.abs(p[..., 0]) - features.EYE_CENTRE[0], p[..., 1] - features.EYE_CENTRE[1])
    inner = smoothstep(0.004, 0.020, np.abs(p[..., 0]))
    return inner * smoothstep(outer, 0.0270, away) * smoothstep(0.05, 0.09, p[..., 2])


def _from_eye(p: Points) -> Points:
    return p - vector(np.sign(p[..., 0]) * features.EYE_CENTRE[0], *features.EYE_CENTRE[1:])


def _skull_width(at: Canvas, p: Points) -> Points:
    return vector(0.034 * p[..., 0] * (0.35 + 0.65 * smoothstep(-0.17, 0.02, at.y)))


def _skull_height(at: Canvas, p: Points) -> Points:
    return vector(y=0.0045 * smoothstep(0.02, 0.19, at.y))


def _skull_depth(at: Canvas, p: Points) -> Points:
    return vector(z=-0.0070 * smoothstep(0.02, -0.15, at.z) * smoothstep(-0.12, 0.0, at.y))


def _forehead_slope(at: Canvas, p: Points) -> Points:
    return vector(z=-0.0085 * smoothstep(0.05, 0.15, at.y) * smoothstep(-0.02, 0.12, at.z))


def _brow_ridge(at: Canvas, p: Points) -> Points:
    return vector(z=0.55 * features.brow_ridge(at))


def _brow_height(at: Canvas, p: Points) -> Points:
    return vector(y=0.0035 * at.front * bell((at.y - 0.047) / 0.016, at.x / 0.100))


def _eye_spacing(at: Canvas, p: Points) -> Points:
    return vector(0.0028 * np.sign(p[..., 0]) * eye_plateau(p))


def _eye_size(at: Canvas, p: Points) -> Points:
    return 0.060 * _from_eye(p) * eye_plateau(p)[..., None]


def _eye_height(at: Canvas, p: Points) -> Points:
    return vector(y=0.0030 * eye_plateau(p))


def _eye_tilt(at: Canvas, p: Points) -> Points:
    local, k = _from_eye(p), 0.075 * eye_plateau(p)
    side = np.sign(p[..., 0])
    return vector(-k * side * local[..., 1], k * side * local[..., 0])


def _eye_depth(at: Canvas, p: Points) -> Points:
    return vector(z=-0.0020 * eye_plateau(p))


def _nose_region(at: Canvas) -> np.ndarray:
    return at.front * bell(at.x / 0.036) * bell((at.y + 0.040) / 0.028)


def _nose_width(at: Canvas, p: Points) -> Points:
    return vector(0.17 * p[..., 0] * _nose_region(at))


def _nose_length(at: Canvas, p: Points) -> Points:
    return vector(y=-0.0045 * at.front * bell(at.x / 0.034, (at.y + 0.048) / 0.022))


def _nose_bridge(at: Canvas, p: Points) -> Points:
    return vector(z=0.0045 * at.front * bell(at.x / 0.014, (at.y + 0.004) / 0.024))


def _nose_tip(at: Canvas, p: Points) -> Points:
    return vector(z=0.0055 * at.front * bell(at.x / 0.020, (at.y + 0.040) / 0.020))


def _nose_upturn(at: Canvas, p: Points) -> Points:
    k = at.front * bell(at.x / 0.018, (at.y + 0.044) / 0.012)
    return vector(y=0.0042 * k, z=-0.0010 * k)


def _cheekbones(at: Canvas, p: Points) -> Points:
    k = 0.0042 * features.cheekbones(at)
    return vector(k * 0.7 * at.side, 0.0, k * 0.7)


def _cheek_fullness(at: Canvas, p: Points) -> Points:
    k = 0.0065 * bell((at.x - 0.078) / 0.026, (at.y + 0.066) / 0.034) * smoothstep(0, 0.05, at.z)
    return vector(k * 0.8 * at.side, 0.0, k * 0.55)


def _mouth_bell(at: Canvas, width: float, height: float) -> np.ndarray:
    return at.front * bell(at.x / width, (at.y - features.MOUTH_HEIGHT) / height)


def _lips_fullness(at: Canvas, p: Points) -> Points:
    _, crease, _, _ = features.mouth_curves(at.x)
    k = _mouth_bell(at, 0.042, 0.022)
    return vector(y=0.20 * (p[..., 1] - crease) * k, z=0.0016 * _mouth_bell(at, 0.030, 0.015))


def _mouth_width(at: Canvas, p: Points) -> Points:
    return vector(0.075 * p[..., 0] * _mouth_bell(at, 0.060, 0.030))


def _mouth_height(at: Canvas, p: Points) -> Points:
    return vector(y=0.0030 * _mouth_bell(at, 0.055, 0.028))


def _chin_bell(at: Canvas, width: float) -> np.ndarray:
    return at.front * bell(at.x / width, (at.y + 0.152) / 0.028) * _lower_face(at)


def _chin_width(at: Canvas, p: Points) -> Points:
    return vector(0.20 * p[..., 0] * _chin_bell(at, 0.060))


def _chin_height(at: Canvas, p: Points) -> Points:
    return vector(y=-0.0050 * smoothstep(-0.105, -0.165, at.y) * _lower_face(at))


def _chin_projection(at: Canvas, p: Points) -> Points:
    return vector(z=0.0060 * _chin_bell(at, 0.050))


def _jaw_width(at: Canvas, p: Points) -> Points:
    k = smoothstep(-0.030, -0.095, at.y) * smoothstep(0.90, 0.81, at.s)
    return vector(0.065 * p[..., 0] * k * smoothstep(-0.08, 0.02, at.z))


def _jaw_angle(at: Canvas, p: Points) -> Points:
    k = smoothstep(0.045, 0.080, at.x) * bell((at.y + 0.105) / 0.030, (at.z - 0.02) / 0.05)
    return vector(0.0035 * at.side * k, -0.0080 * k)


def _ear_size(at: Canvas, p: Points) -> Points:
    centre = vector(at.side * ears.EAR_CENTRE[0], *ears.EAR_CENTRE[1:])
    return 0.08 * (p - centre) * ears.ear_mask(at)[..., None]


def _ear_flare(at: Canvas, p: Points) -> Points:
    a, _, r = ears.ear_coordinates(at)
    k = smoothstep(1.1, 0.7, r) * smoothstep(-0.8, 0.5, a) * smoothstep(1.2, 0.7, a)
    return vector(0.0042 * at.side * k, 0.0, 0.0015 * k)


def _neck_width(at: Canvas, p: Points) -> Points:
    k = 0.065 * smoothstep(0.80, 0.90, at.s + 0.06 * smoothstep(0.2, -0.8, np.cos(at.theta)))
    return vector(k * p[..., 0], 0.0, k * (p[..., 2] + 0.035))


def _face_length(at: Canvas, p: Points) -> Points:
    return vector(y=-0.0048 * smoothstep(0.0, -0.150, at.y) * _lower_face(at))


def _midface_projection(at: Canvas, p: Points) -> Points:
    return vector(z=0.0040 * at.front * bell(at.x / 0.060, (at.y + 0.065) / 0.045))


IDENTITY_FIELDS: dict[str, Field] = {
    "skull_width": _skull_width,
    "skull_height": _skull_height,
    "skull_depth": _skull_depth,
    "forehead_slope": _forehead_slope,
    "brow_ridge": _brow_ridge,
    "brow_height": _brow_height,
    "eye_spacing": _eye_spacing,
    "eye_size": _eye_size,
    "eye_height": _eye_height,
    "eye_tilt": _eye_tilt,
    "eye_depth": _eye_depth,
    "nose_width": _nose_width,
    "nose_length": _nose_length,
    "nose_bridge": _nose_bridge,
    "nose_tip": _nose_tip,
    "nose_upturn": _nose_upturn,
    "cheekbones": _cheekbones,
    "cheek_fullness": _cheek_fullness,
    "lips_fullness": _lips_fullness,
    "mouth_width": _mouth_width,
    "mouth_height": _mouth_height,
    "chin_width": _chin_width,
    "chin_height": _chin_height,
    "chin_projection": _chin_projection,
    "jaw_width": _jaw_width,
    "jaw_angle": _jaw_angle,
    "ear_size": _ear_size,
    "ear_flare": _ear_flare,
    "neck_width": _neck_width,
    "face_length": _face_length,
    "midface_projection": _midface_projection,
}
