"""Soft light on skin and hair: hemispheric ambient, warm key, cool fill, a little rim.

Alphabet: lists of n points; `normals` unit length in the world, `views` unit vectors towards the
camera, `albedo` in linear light. All lights hang still in the world, so that a head looks the same
from every camera but for its highlights. Linear light is the square of the displayed value.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Lamp:
    """A distant lamp.

    Attributes:
        direction: towards the lamp, in the world; any length.
        color: linear light.
        wrap: 0 for Lambert's cosine; up to 1 the light reaches round the edge, as with a large
            lamp or a translucent skin.
    """

    direction: Triple
    color: Triple
    wrap: float = 0.3


@dataclass(frozen=True)
class Light:
    """The light of a scene; a white surface facing the default key comes out just below white.

    Attributes:
        sky, ground: ambient light from above and from below, linear, blended by the normal's y.
        lamps: the key first, then fill and rim.
        highlight: scale of all highlights.
    """

    sky: Triple = (0.41, 0.43, 0.46)
    ground: Triple = (0.23, 0.20, 0.18)
    lamps: tuple[Lamp, ...] = (
        Lamp(direction=(-0.55, 0.65, 0.95), color=(0.64, 0.60, 0.55), wrap=0.25),
        Lamp(direction=(0.95, 0.15, 0.55), color=(0.15, 0.17, 0.20), wrap=0.5),
        Lamp(direction=(0.35, 0.55, -0.90), color=(0.30, 0.30, 0.31), wrap=0.4),
    )
    highlight: float = 1.0


def to_linear(display: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Displayed values in [0, 1] to linear light, by the gamma of 2."""
    return np.square(display)


def to_display(linear: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Linear light to displayed values, clipped to [0, 1]."""
    return np.sqrt(np.clip(linear, 0, 1))


def shade(
    light: Light,
    *,
    albedo: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    views: Float[np.ndarray, "n 3"],
    occlusion: Float[np.ndarray, "n"],
    specular: Float[np.ndarray, "n"],
    shininess: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n 3"]:
    """Linear light that leaves each point towards the camera.

    albedo · (ambient · occlusion + Σ lamps · softened occlusion) + highlights, where a highlight
    is Blinn and Phong's (n·h)^shininess with Fresnel's rise towards grazing views (Schlick).

    Args:
        occlusion: 1 where the point sees all of the sky, 0 where none of it.
        specular: strength of the highlight seen head-on.
        shininess: exponent, about 10 for skin and 200 for a wet eye.
    """
    up = 0.5 * normals[:, 1:2] + 0.5
    sky, ground = (np.asarray(c, dtype=np.float32) for c in (light.sky, light.ground))
    diffuse = (ground + (sky - ground) * up) * occlusion[:, None]
    reached = (0.4 + 0.6 * occlusion)[:, None]
    glossy = np.flatnonzero(specular > 0)
    shine = np.zeros((len(glossy), 1), dtype=np.float32)
    highlights = np.zeros((len(glossy), 3), dtype=np.float32)
    for lamp in light.lamps:
        direction = np.asarray(lamp.direction, dtype=np.float32)
        direction = direction / np.linalg.norm(direction)
        color = np.asarray(lamp.color, dtype=np.float32)
        facing = np.maximum((normals @ direction + lamp.wrap) / (1 + lamp.wrap), 0)
        diffuse += facing[:, None] * reached * color
        shine = _highlight(normals[glossy], views[glossy], direction, shininess[glossy])
        highlights += shine[:, None] * color
    out = albedo * diffuse
    strength = specular[glossy] * occlusion[glossy] * light.highlight
    out[glossy] += strength[:, None] * highlights
    return out


def _highlight(
    normals: np.ndarray, views: np.ndarray, direction: np.ndarray, shininess: np.ndarray
) -> Float[np.ndarray, "n"]:
    """(n·h)^shininess, scaled so that sharper highlights are brighter, times Fresnel's rise."""
    half = views + direction
    half /= np.linalg.norm(half, axis=1, keepdims=True) + np.float32(1e-6)
    cosine = np.clip(np.einsum("nc,nc->n", normals, half), 0, 1)
    grazing = 1 - np.clip(np.einsum("nc,nc->n", views, half), 0, 1)
    return cosine**shininess * (shininess + 8) / 24 * (1 + 4 * grazing**5)
