"""Ears: a flap pulled out of the side of the head, with helix, bowl and lobe."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headjax.head.procedural.grid import Canvas, bell, smoothstep

EAR_CENTRE = np.array([0.1180, -0.0110, -0.0400])
_HALF_HEIGHT = 0.0450
_HALF_WIDTH = 0.0235


def ear_coordinates(at: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, t, r): a = -1 at the cheek, +1 behind the ear; t = -1 lobe, +1 top; r = 1 outline."""
    t = (at.y - EAR_CENTRE[1]) / _HALF_HEIGHT
    a = (EAR_CENTRE[2] - at.z) / _HALF_WIDTH - 0.22 * t
    narrow = 1 + 0.45 * np.clip(-t, 0, 1.2)
    side = np.sin(np.abs(at.theta)) > 0.45
    return a, t, np.where(side, np.hypot(a * narrow, t), 9.0)


def ear_displacement(at: Canvas) -> Float[np.ndarray, "*b 3"]:
    """Vector displacement of the ears, world units."""
    a, t, r = ear_coordinates(at)
    inside = smoothstep(1.12, 0.80, r)
    rise = smoothstep(-1.0, 0.55, a) * smoothstep(1.15, 0.62, a)
    rim = bell((r - 0.78) / 0.13) * smoothstep(-0.75, -0.1, np.maximum(a, t - 0.3))
    inner = bell((r - 0.50) / 0.12) * smoothstep(-0.2, 0.2, a) * smoothstep(-0.7, -0.3, t)
    bowl = bell((a + 0.12) / 0.34, (t + 0.12) / 0.34)
    tragus = bell((a + 0.62) / 0.16, (t + 0.20) / 0.16)
    out = inside * (
        0.0250 * rise + 0.0050 * rim + 0.0020 * inner - 0.0130 * bowl + 0.0050 * tragus
    )
    back = -0.0150 * inside * bell((a - 0.62) / 0.42)
    up = 0.0060 * inside * smoothstep(0.3, 1.0, t)
    return np.stack([at.side * out, up, back + 0.0015 * inside * rim], -1)


def ear_mask(at: Canvas) -> Float[np.ndarray, "*b"]:
    """1 on the ears, 0 on the head."""
    return smoothstep(1.06, 0.98, ear_coordinates(at)[2])
