"""Longitude and profile position of points on ICT-FaceKit's neutral head.

The profile position s runs as on the procedural head (0 at the crown, brows, eyes, mouth and chin
at the same rows, 1 in the middle of the neck's lid), so that both heads share one atlas layout.
Centimetres, y up, face towards +z.
"""

import numpy as np
from jaxtyping import Float

from headjax.head.procedural.profiles import column

CUT_TILT, CUT_LEVEL = 0.25, -8.7  # the neck ends on the plane y + tilt z = level
AXIS_Z = 0.02  # the axis passes through the crown's vertex
_BROW_Y, _RADIUS = 5.5, 9.5

# Profile position at heights of the face's mid-line (y, z): hairline, brow, eyes, nose, nose's
# base, mouth, chin's crease, chin.
_ROWS = (
    ((10.9, 8.7), 0.165),
    ((6.2, 10.7), 0.250),
    ((3.5, 9.4), 0.360),
    ((1.2, 11.0), 0.440),
    ((-1.2, 11.5), 0.530),
    ((-3.4, 11.2), 0.645),
    ((-5.3, 10.4), 0.720),
    ((-7.9, 9.8), 0.806),
)
RIM_S = 0.957


def _latitude(points: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    """Polar angle above the brows; below them, height over a radius, tilted with the neck."""
    z = points[..., 2] - AXIS_Z
    rise = points[..., 1] - _BROW_Y
    below = np.clip(-rise / 6.0, 0.0, 1.0)
    rise = rise + CUT_TILT * z * below * below * (3 - 2 * below)
    polar = np.arctan2(np.hypot(points[..., 0], z), np.maximum(rise, 0.0))
    return polar + np.maximum(-rise, 0.0) / _RADIUS


def profile_position(points: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    """s of points in centimetres, 0 at the crown to `RIM_S` on the neck's cut."""
    heights = np.array([(0.0, y, z) for (y, z), _ in _ROWS])
    rim = np.pi / 2 + (_BROW_Y - CUT_LEVEL) / _RADIUS
    knots = np.concatenate([[0.0], _latitude(heights), [rim]])
    return np.interp(_latitude(points), knots, [0.0, *(s for _, s in _ROWS), RIM_S])


def longitude(points: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    """Radians about the vertical axis, 0 at the front, positive towards the subject's left."""
    return np.arctan2(points[..., 0], points[..., 2] - AXIS_Z)


def atlas_position(
    points: Float[np.ndarray, "*b 3"],
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """(u, v) of points; u is periodic."""
    return column(longitude(points)), 1 - profile_position(points)
