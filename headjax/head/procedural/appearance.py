"""Colour and part labels of the skin, painted in the atlas.

Masks are functions of the canvas alone and are cached; a person only chooses colours, kinds and
strengths, so that a texture costs a few blends.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, UInt8

from headjax.head.procedural import ears, features, hairstyles, landmarks
from headjax.head.procedural.grid import Canvas, bell, smoothstep, texel_canvas
from headjax.head.procedural.person import Person
from headjax.render.parts import PART_IDS

TEXTURE_SIZE = 256
PAINTED_HAIR = 0.45  # alpha from which painted hair counts as hair, not as skin


def _lip_masks(at: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Upper lip, lower lip, and the mouth between them."""
    y, fold = features.mouth_fold(at)
    q, crease, upper, lower = features.mouth_curves(at.x)
    ahead = (np.cos(at.theta) > 0.3) * smoothstep(1.0, 0.96, q)
    d = y - crease
    soft = 0.0010
    up = smoothstep(-soft, soft, upper - d) * (d >= 0)
    low = smoothstep(-soft, soft, lower + d) * (d < 0)
    inside = smoothstep(0.15, 0.35, fold) * (q < 0.97)
    return ahead * up, ahead * low, ahead * inside


def _teeth(at: Canvas) -> np.ndarray:
    """Upper teeth, on the upper wall of the fold between the lips."""
    _, fold = features.mouth_fold(at)
    q, crease, _, _ = features.mouth_curves(at.x)
    return (at.y > crease) * smoothstep(0.30, 0.45, fold) * smoothstep(0.95, 0.70, fold) * (
        smoothstep(0.72, 0.60, q)
    )


def brow_mask(at: Canvas, *, kind: str, weight: float) -> Float[np.ndarray, "*b"]:
    """Coverage of the brows."""
    line = landmarks.brow_line(at.x)
    rise = smoothstep(0.018, 0.056, at.x) * smoothstep(0.086, 0.060, at.x)
    line = line + {"arched": 0.0022, "straight": -0.0018, "thick": -0.0006}[kind] * rise
    half = {"arched": 0.0038, "straight": 0.0044, "thick": 0.0054}[kind] * weight
    half = half * (0.40 + 0.60 * smoothstep(0.090, 0.055, at.x)) * (
        0.75 + 0.25 * smoothstep(0.012, 0.030, at.x)
    )
    inner, outer = (0.0150, 0.0840) if kind != "thick" else (0.0120, 0.0850)
    span = smoothstep(inner, inner + 0.0060, at.x) * smoothstep(outer, outer - 0.0080, at.x)
    return at.front * span * smoothstep(half + 0.0026, half - 0.0018, np.abs(at.y - line))


def beard_mask(at: Canvas, *, kind: str) -> Float[np.ndarray, "*b"]:
    """Coverage of stubble, moustache, goatee or full beard; lips are painted over it."""
    _, crease, upper, _ = features.mouth_curves(at.x)
    d = at.y - crease
    moustache = smoothstep(0.0540, 0.0340, at.x) * smoothstep(0.0320, 0.0210, d)
    moustache = moustache * smoothstep(-0.012, 0.002, d + 0.45 * np.clip(at.x - 0.030, 0, None))
    ring = bell((at.x - 0.0440) / 0.0085) * smoothstep(0.012, -0.010, d)
    tip = smoothstep(0.0460, 0.0320, at.x) * smoothstep(-0.0160, -0.0280, d)
    under = smoothstep(0.885, 0.850, at.s)
    goatee = np.clip(moustache + (tip + ring * smoothstep(-0.160, -0.140, at.y)) * under, 0, 1)
    edge = np.interp(at.x, [0.036, 0.046, 0.060, 0.075, 0.090, 0.102, 0.115],
                     [-0.078, -0.076, -0.072, -0.062, -0.046, -0.026, 0.010])  # fmt: skip
    cheek = smoothstep(0.008, -0.010, at.y - edge) * smoothstep(0.040, 0.050, at.x + (d < -0.01))
    back = at.z - np.interp(at.y, [-0.16, -0.11, -0.02], [0.030, 0.006, -0.006])
    sides = cheek * under * smoothstep(-0.012, 0.010, back)
    full = np.clip(np.maximum(sides, np.maximum(moustache, tip * under)) + ring * under, 0, 1)
    chosen = {"moustache": moustache, "goatee": goatee, "full": full, "stubble": full}[kind]
    return chosen * (np.cos(at.theta) > -0.2)


@functools.lru_cache(maxsize=4)
def _skin_masks(size: int) -> dict[str, np.ndarray]:
    at = texel_canvas(size)
    up, low, mouth = _lip_masks(at)
    q, above, below = features.eye_coordinates(at)
    ahead = (np.cos(at.theta) > 0.3) * smoothstep(1.18, 1.0, np.abs(q))
    gap = features.eye_gap(at)
    lash = smoothstep(0.0042, 0.0014, gap + 0.0030 * smoothstep(-0.3, -1.0, q))
    lash = lash * (above > below) * ahead
    lower_lash = smoothstep(0.0026, 0.0006, gap) * (above <= below) * ahead
    lid = ahead * smoothstep(0.016, 0.004, above) * (above > 0)
    under = at.front * bell((at.x - 0.047) / 0.020, (at.y + 0.006) / 0.007)
    masks = {
        "rosy": landmarks.rosiness(at),
        "upper_lip": up,
        "lower_lip": low,
        "mouth": mouth,
        "teeth": _teeth(at),
        "nostril": features.nostrils(at) ** 1.5,
        "lash": lash,
        "lower_lash": lower_lash,
        "lid": lid,
        "under_eye": under,
        "shade": _shade(at),
    }
    return {name: mask.astype(np.float32) for name, mask in masks.items()}


def _shade(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Painted shadow, a factor of the skin's colour: creases that soft light does not reach."""
    q, crease, upper, lower = features.mouth_curves(at.x)
    y, _ = features.mouth_fold(at)
    line = 0.45 * bell((y - crease) / 0.0026) * smoothstep(1.08, 0.90, q) * at.front
    under_lip = 0.16 * bell(at.x / 0.024, (at.y + 0.1175) / 0.0065) * at.front
    beside = 0.16 * bell((at.x - 0.0335) / 0.0060, (at.y + 0.0450) / 0.0130) * at.front
    under_nose = 0.20 * bell(at.x / 0.024, (at.y + 0.0610) / 0.0055) * at.front
    inner_eye = 0.14 * bell((at.x - 0.0260) / 0.0100, (at.y - 0.0190) / 0.0140) * at.front
    socket = 0.12 * bell((at.x - 0.0480) / 0.0300, (at.y - 0.0270) / 0.0090) * at.front
    fold = 0.10 * bell((at.x - 0.0440 - 0.3 * (-0.06 - at.y)) / 0.0060, (at.y + 0.070) / 0.018)
    chin = 0.20 * bell((at.s - 0.860) / 0.030) * smoothstep(0.1, 0.7, np.cos(at.theta))
    a, t, r = ears.ear_coordinates(at)
    bowl = 0.40 * bell((a + 0.12) / 0.30, (t + 0.10) / 0.32) + 0.18 * bell((r - 0.62) / 0.10) * (
        r < 1
    )
    behind = 0.20 * bell((a - 1.0) / 0.25) * (r < 1.3)
    total = line + under_lip + beside + under_nose + inner_eye + socket + fold * at.front
    return np.clip(1 - total - chin - bowl - behind, 0.35, 1)


@functools.lru_cache(maxsize=64)
def _brow_texture(size: int, kind: str, weight: float) -> np.ndarray:
    return brow_mask(texel_canvas(size), kind=kind, weight=weight).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _beard_texture(size: int, kind: str) -> np.ndarray:
    return beard_mask(texel_canvas(size), kind=kind).astype(np.float32)


@functools.lru_cache(maxsize=64)
def scalp_paint(size: int, kind: str, fringe: float, side: float) -> Float[np.ndarray, "n n"]:
    """Coverage of hair painted on the skin below and around the shell."""
    reach = hairstyles.hairline(texel_canvas(size), kind=kind, fringe=fringe, side=side)
    wide = {"bald": 0.060, "buzz": 0.016, "receding": 0.016}.get(kind, 0.008)
    full = {"bald": 0.40, "buzz": 0.85}.get(kind, 1.0)
    return (full * smoothstep(-0.3 * wide, 0.7 * wide, reach)).astype(np.float32)


def _blend(image: np.ndarray, color: np.ndarray | tuple, alpha: np.ndarray) -> None:
    """Paints over in place."""
    image += alpha[..., None] * (np.asarray(color, np.float32) - image)


def skin_texture(person: Person, *, size: int = TEXTURE_SIZE) -> Float[np.ndarray, "n n 3"]:
    """The person's skin in the atlas, displayed colours in [0, 1], row 0 at the crown."""
    masks = _skin_masks(size)
    skin = np.asarray(person.skin, np.float32)
    image = np.empty((size, size, 3), np.float32)
    image[:] = skin
    blood = skin * np.float32([1.03, 0.78, 0.76])
    _blend(image, blood, 0.75 * person.rosiness * masks["rosy"])
    _blend(image, skin * np.float32([0.88, 0.80, 0.82]), 0.35 * masks["under_eye"])
    lid = skin * np.float32([0.74, 0.60, 0.58])
    _blend(image, lid, (0.30 + 0.45 * person.makeup) * masks["lid"])
    _paint_hair(image, person, size)
    lip = np.asarray(person.lip_color, np.float32)
    _blend(image, 0.92 * lip, masks["upper_lip"])
    _blend(image, np.minimum(1.06 * lip, 1), masks["lower_lip"])
    image *= masks["shade"][..., None]
    _blend(image, np.float32([0.22, 0.07, 0.07]), masks["mouth"])
    _blend(image, np.float32([0.86, 0.83, 0.78]), masks["teeth"])
    _blend(image, skin * np.float32([0.25, 0.16, 0.15]), 0.9 * masks["nostril"])
    _blend(image, np.float32([0.07, 0.05, 0.045]), (0.70 + 0.30 * person.makeup) * masks["lash"])
    _blend(image, 0.45 * skin, (0.45 + 0.35 * person.makeup) * masks["lower_lash"])
    return np.clip(image, 0, 1, out=image)


def _paint_hair(image: np.ndarray, person: Person, size: int) -> None:
    color = np.asarray(person.hair_color, np.float32)
    painted = 0.9 * color
    if person.hair == "bald":
        painted = np.minimum(painted, 0.70 * np.asarray(person.skin, np.float32))
    _blend(image, painted, scalp_paint(size, person.hair, person.fringe, person.hair_side))
    if person.beard != "none":
        alpha = {"stubble": 0.28, "full": 0.93}.get(person.beard, 0.90)
        _blend(image, 0.85 * color, alpha * _beard_texture(size, person.beard))
    _blend(image, person.brow_color, 0.92 * _brow_texture(size, person.brows, person.brow_weight))


@functools.lru_cache(maxsize=4)
def _bare_parts(size: int) -> UInt8[np.ndarray, "n n"]:
    at = texel_canvas(size)
    left = at.base[..., 0] > 0
    parts = np.full(at.s.shape, PART_IDS["skin"], np.uint8)
    parts[landmarks.is_neck(at)] = PART_IDS["neck"]
    parts[landmarks.is_nose(at)] = PART_IDS["nose"]
    up, low, mouth = _lip_masks(at)
    parts[up > 0.5] = PART_IDS["u_lip"]
    parts[low > 0.5] = PART_IDS["l_lip"]
    parts[mouth > 0.5] = PART_IDS["mouth"]
    ear = ears.ear_mask(at) > 0.5
    parts[ear & left] = PART_IDS["l_ear"]
    parts[ear & ~left] = PART_IDS["r_ear"]
    return parts


def skin_parts(person: Person, *, size: int = TEXTURE_SIZE) -> UInt8[np.ndarray, "n n"]:
    """CelebAMask-HQ labels of the skin's texels, painted hair and brows included."""
    parts = _bare_parts(size).copy()
    hair = scalp_paint(size, person.hair, person.fringe, person.hair_side)
    parts[hair > PAINTED_HAIR] = PART_IDS["hair"]
    brow = _brow_texture(size, person.brows, person.brow_weight) > 0.5
    left = np.arange(size) * 2 >= size
    parts[brow & left] = PART_IDS["l_brow"]
    parts[brow & ~left] = PART_IDS["r_brow"]
    return parts
