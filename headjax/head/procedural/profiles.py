"""The base of the procedural head: rings of superellipses threaded on three profile curves.

Alphabet: s in [0, 1] runs from the crown (0) down the profile to the middle of the neck's cap (1);
theta in [-pi, pi] is the longitude about the vertical, 0 at the front, positive towards the
subject's left (+x). (u, v) in [0, 1]^2 is the atlas: u grows with theta, u = 1/2 is the front and
the seam is at the back; v = 1 - s. The atlas gives the face most of its columns.

Invariants: mirror symmetric, base(-theta, s) = (-x, y, z); smooth in theta; both poles closed.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

# One ring a row: s; front y, z; half-width, side y, centre z; back y, z; exponents front, back.
_KNOTS = np.array(
    [
        (0.000, 0.1900, -0.0150, 0.0000, 0.1900, -0.0150, 0.1900, -0.0150, 2.00, 2.00),
        (0.035, 0.1835, 0.0300, 0.0480, 0.1815, -0.0150, 0.1825, -0.0600, 2.00, 2.00),
        (0.065, 0.1680, 0.0740, 0.0820, 0.1615, -0.0150, 0.1580, -0.1040, 2.05, 2.00),
        (0.115, 0.1290, 0.1200, 0.1100, 0.1200, -0.0150, 0.1090, -0.1410, 2.15, 2.05),
        (0.165, 0.0880, 0.1415, 0.1195, 0.0790, -0.0150, 0.0600, -0.1530, 2.25, 2.10),
        (0.250, 0.0430, 0.1490, 0.1215, 0.0350, -0.0150, 0.0180, -0.1510, 2.30, 2.10),
        (0.360, 0.0110, 0.1465, 0.1180, 0.0050, -0.0150, -0.0120, -0.1430, 2.25, 2.10),
        (0.440, -0.0190, 0.1475, 0.1125, -0.0200, -0.0150, -0.0360, -0.1340, 2.15, 2.10),
        (0.530, -0.0540, 0.1485, 0.1050, -0.0440, -0.0150, -0.0600, -0.1250, 2.02, 2.10),
        (0.645, -0.0920, 0.1500, 0.0960, -0.0680, -0.0150, -0.0830, -0.1180, 1.90, 2.10),
        (0.720, -0.1210, 0.1460, 0.0880, -0.0850, -0.0150, -0.1020, -0.1140, 1.80, 2.10),
        (0.765, -0.1480, 0.1455, 0.0810, -0.1000, -0.0170, -0.1200, -0.1120, 1.72, 2.10),
        (0.812, -0.1740, 0.1330, 0.0745, -0.1160, -0.0210, -0.1390, -0.1115, 1.72, 2.10),
        (0.845, -0.1745, 0.0950, 0.0700, -0.1370, -0.0270, -0.1560, -0.1120, 1.90, 2.10),
        (0.872, -0.1735, 0.0650, 0.0690, -0.1590, -0.0310, -0.1720, -0.1135, 2.05, 2.10),
        (0.905, -0.1885, 0.0520, 0.0695, -0.1840, -0.0330, -0.1890, -0.1155, 2.05, 2.10),
        (0.945, -0.2090, 0.0450, 0.0715, -0.2090, -0.0350, -0.2090, -0.1180, 2.05, 2.10),
        (0.957, -0.2120, 0.0390, 0.0665, -0.2120, -0.0350, -0.2120, -0.1125, 2.05, 2.10),
        (1.000, -0.2120, -0.0350, 0.0000, -0.2120, -0.0350, -0.2120, -0.0350, 2.05, 2.10),
    ],
    np.float64,
)

FRONT_HALF_ANGLE = np.deg2rad(42.0)
EAR_ANGLE = np.deg2rad(106.0)


def hermite(
    x: Float[np.ndarray, "..."], knots: Float[np.ndarray, "k"], values: Float[np.ndarray, "k c"]
) -> Float[np.ndarray, "... c"]:
    """C1 cubic through (knots, values) with parabola-fitted tangents, constant outside."""
    step = np.diff(knots)
    slope = np.diff(values, axis=0) / step[:, None]
    inner = (step[1:, None] * slope[:-1] + step[:-1, None] * slope[1:]) / (
        step[1:, None] + step[:-1, None]
    )
    ends = (2 * slope[0] - inner[0], 2 * slope[-1] - inner[-1])
    tangent = np.concatenate([ends[:1], inner, ends[1:]])
    x = np.clip(x, knots[0], knots[-1])
    cell = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(step) - 1)
    h = step[cell][..., None]
    f = ((x - knots[cell]) / step[cell])[..., None]
    left = (2 * f**3 - 3 * f**2 + 1) * values[cell] + (f**3 - 2 * f**2 + f) * h * tangent[cell]
    right = (3 * f**2 - 2 * f**3) * values[cell + 1] + (f**3 - f**2) * h * tangent[cell + 1]
    return left + right


@functools.lru_cache(maxsize=1)
def _longitude_table() -> tuple[np.ndarray, np.ndarray]:
    """|theta| and the matching distance from u = 1/2: dense at the face and at the ears."""
    theta = np.linspace(0.0, np.pi, 4097)
    front = 1 / (1 + np.exp((theta - FRONT_HALF_ANGLE) / np.deg2rad(4.0)))
    centre = np.exp(-((theta / np.deg2rad(16.0)) ** 2))
    ears = np.exp(-(((theta - EAR_ANGLE) / np.deg2rad(15.0)) ** 4))
    density = 1.0 + 3.6 * front + 1.6 * centre + 2.2 * ears
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return theta, 0.5 * total / total[-1]


def longitude(u: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """theta of the atlas column u in [0, 1]; odd about u = 1/2."""
    theta, reach = _longitude_table()
    return np.sign(u - 0.5) * np.interp(np.abs(u - 0.5), reach, theta)


def column(theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """u of the longitude theta in [-pi, pi]; inverse of `longitude`."""
    table, reach = _longitude_table()
    return 0.5 + np.sign(theta) * np.interp(np.abs(theta), table, reach)


def base_surface(
    theta: Float[np.ndarray, "*b"], s: Float[np.ndarray, "*b"]
) -> Float[np.ndarray, "*b 3"]:
    """Featureless head and neck at longitude theta and profile position s, world units."""
    ring = hermite(s, _KNOTS[:, 0], _KNOTS[:, 1:])
    front_y, front_z, width, side_y, centre, back_y, back_z, n_front, n_back = np.moveaxis(
        ring, -1, 0
    )
    sine, cosine = np.sin(theta), np.cos(theta)
    ahead = np.clip(cosine, 0, None) ** 2
    behind = np.clip(-cosine, 0, None) ** 2
    depth = np.where(cosine >= 0, front_z - centre, centre - back_z)
    power = np.where(cosine >= 0, n_front, n_back)
    power = 2.0 + (power - 2.0) * np.minimum(1.0, 4.0 * cosine**2)
    width, depth = np.maximum(width, 1e-9), np.maximum(depth, 1e-9)
    radius = (np.abs(sine / width) ** power + np.abs(cosine / depth) ** power) ** (-1 / power)
    y = side_y + ahead * (front_y - side_y) + behind * (back_y - side_y)
    return np.stack([radius * sine, y, centre + radius * cosine], -1)
