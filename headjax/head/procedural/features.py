"""The face's relief: nose, sockets, lids, lips, cheeks and chin as smooth fields on the canvas.

Every field is a function of the featureless base point, mirrored by construction (|x|). Heights
are world units; 0.0158 units are about one centimetre of a grown person's head.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headjax.head.procedural.grid import Canvas, bell, smoothstep
from headjax.head.procedural.profiles import hermite

EYE_CENTRE = np.array([0.0480, 0.0120, 0.1040])  # the subject's left eyeball
EYE_RADIUS = 0.0260
EYE_HALF_WIDTH = 0.0245
UPPER_LID = 0.0108  # how far the opening reaches above and below the eye's centre
LOWER_LID = 0.0084
EYE_TILT = 0.05  # the outer corner's rise per unit
LID_THICKNESS = 0.0026
BROW_HEIGHT = 0.0440
MOUTH_HEIGHT = -0.0925
MOUTH_HALF_WIDTH = 0.0405
CHIN = np.array([0.0, -0.1480, 0.1500])
_POCKET = 0.0065  # half height of the band of rows that folds into the mouth

_NOSE_RIDGE = np.array(
    [
        (0.045, 0.0000, 0.0130),
        (0.028, 0.0022, 0.0120),
        (0.012, 0.0070, 0.0120),
        (-0.005, 0.0150, 0.0135),
        (-0.020, 0.0240, 0.0155),
        (-0.032, 0.0315, 0.0175),
        (-0.040, 0.0345, 0.0190),
        (-0.047, 0.0325, 0.0198),
        (-0.053, 0.0245, 0.0198),
        (-0.058, 0.0125, 0.0200),
        (-0.063, 0.0040, 0.0180),
        (-0.072, 0.0000, 0.0180),
    ]
)


def nose_height(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Ridge from the nasion to the tip, wings beside it; added along +z."""
    ridge = hermite(at.y, _NOSE_RIDGE[::-1, 0], _NOSE_RIDGE[::-1, 1:])
    inside = (at.y < 0.045) & (at.y > -0.072)
    section = np.exp(-((at.x / ridge[..., 1]) ** 2.0))
    wings = 0.0135 * bell((at.x - 0.0192) / 0.0085, (at.y + 0.0465) / 0.0100)
    crease = -0.0030 * bell((at.x - 0.0330) / 0.0070, (at.y + 0.0440) / 0.0150)
    return at.front * (np.where(inside, ridge[..., 0], 0.0) * section + wings + crease)


def nostrils(at: Canvas) -> Float[np.ndarray, "*b"]:
    """1 in the nostrils, 0 away from them."""
    return at.front * bell((at.x - 0.0115) / 0.0065, (at.y + 0.0560) / 0.0048)


def eye_coordinates(at: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(q, upper gap, lower gap): q = -1 inner, +1 outer corner; gaps negative inside the opening.

    The opening is an almond; each gap is the height beyond the upper or below the lower lid edge.
    """
    dx = at.x - EYE_CENTRE[0]
    dy = at.y - EYE_CENTRE[1] - EYE_TILT * dx
    q = dx / EYE_HALF_WIDTH
    arch = np.clip(1 - q * q, 0, None)
    upper = UPPER_LID * arch**0.75 * (1 - 0.10 * q)
    lower = LOWER_LID * arch**0.85 * (1 + 0.12 * q)
    return q, dy - upper, -dy - lower


def eye_gap(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Distance to the lid edge, about; negative inside the opening, large off the face."""
    q, above, below = eye_coordinates(at)
    beyond = np.clip(np.abs(q) - 1, 0, None) * EYE_HALF_WIDTH
    gap = np.where(beyond > 0, np.hypot(beyond, np.maximum(above, below)), np.maximum(above, below))
    return np.where(np.cos(at.theta) > 0.3, gap, 1.0)


def ball_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the eyeball in front of (x, y), continued beyond its silhouette by its tangent cone."""
    rho = np.hypot(x - EYE_CENTRE[0], y - EYE_CENTRE[1])
    rim = 0.93 * EYE_RADIUS
    near = np.minimum(rho, rim)
    slope = -rim / np.sqrt(EYE_RADIUS**2 - rim**2)
    return EYE_CENTRE[2] + np.sqrt(EYE_RADIUS**2 - near**2) + slope * (rho - near)


def sockets(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Hollow of the orbit below the brow; added along +z (negative)."""
    inner = -0.0125 * bell((at.x - 0.0360) / 0.0230, (at.y - 0.0160) / 0.0200)
    outer = -0.0060 * bell((at.x - 0.0640) / 0.0180, (at.y - 0.0150) / 0.0170)
    return at.front * (inner + outer)


def brow_ridge(at: Canvas) -> Float[np.ndarray, "*b"]:
    """The bone above the eyes."""
    arch = BROW_HEIGHT - 2.0 * np.clip(at.x - 0.045, 0, None) ** 2 * 4
    along = smoothstep(0.100, 0.060, at.x) * (0.55 + 0.45 * smoothstep(0.0, 0.020, at.x))
    return at.front * 0.0050 * along * bell((at.y - arch) / 0.0130)


def cheekbones(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Cheekbone below the outer corner of the eye."""
    return bell((at.x - 0.0780) / 0.0280, (at.y + 0.0180) / 0.0230) * np.clip(at.z * 12, 0, 1)


def mouth_curves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(q, crease y, height of the upper lip, of the lower lip) at distance x from the middle."""
    q = np.clip(x / MOUTH_HALF_WIDTH, 0, 1.6)
    arch = np.clip(1 - q * q, 0, None)
    crease = MOUTH_HEIGHT + 0.0015 * q * q - 0.0008 * np.cos(np.pi * np.clip(q, 0, 1) * 2)
    upper = 0.0122 * arch**0.68 * (1 - 0.20 * bell(x / 0.0050)) + 1e-5
    lower = 0.0148 * arch**0.55 + 1e-5
    return q, crease, upper, lower


def mouth_fold(at: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """(y after folding, fold): rows at the crease gather into a pocket between the lips.

    `fold` is 1 at the bottom of the pocket, 0 outside of it.
    """
    q, crease, _, _ = mouth_curves(at.x)
    half = _POCKET * smoothstep(1.02, 0.80, q) * (np.cos(at.theta) > 0.3) + 1e-9
    d = at.y - crease
    away = np.abs(d)
    gathered = np.where(
        away < half, 0.06 * away, away - 0.94 * half * smoothstep(4.5 * half, half, away)
    )
    near = away < 4.5 * half
    y = np.where(near, crease + np.sign(d) * gathered, at.y)
    return y, np.clip(1 - (away / half) ** 2, 0, 1) * (half > 1e-4)


def lips_height(at: Canvas, y: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Relief of the lips and their surroundings at folded height y; added along +z."""
    q, crease, upper, lower = mouth_curves(at.x)
    taper = np.clip(1 - q * q, 0, None) ** 0.6
    d = y - crease
    top = 0.0046 * taper * bell((d - 0.40 * upper) / (0.75 * upper + 0.0030))
    bottom = 0.0062 * taper * bell((d + 0.46 * lower) / (0.66 * lower + 0.0030))
    groove = -0.0030 * smoothstep(1.10, 0.70, q) * bell(d / 0.0030)
    corner = -0.0030 * bell((at.x - MOUTH_HALF_WIDTH) / 0.0060, d / 0.0070)
    barrel = 0.0060 * bell(at.x / 0.0420, (y + 0.0900) / 0.0280)
    sulcus = -0.0050 * bell(at.x / 0.0260, (y + 0.1185) / 0.0085)
    furrow = -0.0018 * bell(at.x / 0.0045) + 0.0010 * bell((at.x - 0.0085) / 0.0040)
    philtrum = furrow * bell((y + 0.0700) / 0.0085)
    return at.front * (top + bottom + groove + corner + barrel + sulcus + philtrum)


def chin_height(at: Canvas) -> Float[np.ndarray, "*b"]:
    """The chin's ball; added along the outward direction of the ring."""
    return 0.0060 * bell(at.x / 0.0270, (at.y - CHIN[1]) / 0.0200) * at.front


def cheek_fields(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Cheekbones, cheeks' hollow, jaw corner and temples along the outward ring direction."""
    hollow = -0.0022 * bell((at.x - 0.0820) / 0.0250, (at.y + 0.0650) / 0.0250)
    corner = 0.0045 * bell((at.y + 0.0900) / 0.0240, (at.z - 0.0250) / 0.0380)
    temple = -0.0035 * bell((at.y - 0.0450) / 0.0280, (at.z - 0.0800) / 0.0260)
    fold = -0.0022 * bell((at.x - 0.0420 - 0.25 * (-0.06 - at.y)) / 0.0080, (at.y + 0.0680) / 0.020)
    return 0.0060 * cheekbones(at) + hollow + corner + temple + fold * at.front


def neck_fields(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Muscles of the neck and its nape, along the outward ring direction."""
    low = smoothstep(-0.150, -0.185, at.y) * smoothstep(0.952, 0.930, at.s)
    straps = 0.0030 * bell((np.abs(at.theta) - 0.75) / 0.30)
    return low * straps
