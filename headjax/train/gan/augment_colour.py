"""Colours of the augmentation, and what it does to pixels without moving them.

Colour maps are 4x4 matrices on (r, g, b, 1), colours in [-1, 1] about grey. They act on channels
three by three; channels that are left over (a mask) keep their values.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from headjax.train.gan import wavelets
from headjax.train.gan.augment_geometry import applied
from headjax.train.gan.augment_settings import Augmentation

# The direction of grey, and the projection onto it, in homogeneous colours.
_GREY = np.array([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
_ONTO_GREY = np.outer(_GREY, _GREY).astype(np.float32)
_EYE = np.eye(4, dtype=np.float32)
# v -> grey x v, the generator of rotations about grey.
_AROUND_GREY = np.array(
    [[0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.float32
) / np.float32(math.sqrt(3))
# Power of natural images in the octave bands, lowest first.
_POWER = np.array([10.0, 1.0, 1.0, 1.0], dtype=np.float32) / 13.0

ColourMaps = Float[Array, "b 4 4"]


def _wide(values: Array) -> Float[Array, "b 1 1"]:
    return values[:, None, None]


def brightness(amount: Float[Array, "b"]) -> ColourMaps:
    """Adds the amount to all three colours."""
    shift = np.zeros((4, 4), np.float32)
    shift[:3, 3] = 1.0
    return _EYE + _wide(amount) * shift


def contrast(factor: Float[Array, "b"]) -> ColourMaps:
    """Multiplies all three colours."""
    return _wide(factor) * np.diag(_EYE[0] + _EYE[1] + _EYE[2]) + np.diag(_EYE[3])


def luma_flip(flip: Float[Array, "b"]) -> ColourMaps:
    """Where flip is 1: negates the grey part and keeps the hue and saturation."""
    return _EYE - 2.0 * _wide(flip) * _ONTO_GREY


def hue(angle: Float[Array, "b"]) -> ColourMaps:
    """Rotates colours about grey, radians (Rodrigues' formula)."""
    turn = jnp.sin(_wide(angle)) * _AROUND_GREY
    flat = np.diag(np.float32([1, 1, 1, 0])) - _ONTO_GREY
    return _EYE + turn - (1.0 - jnp.cos(_wide(angle))) * flat


def saturation(factor: Float[Array, "b"]) -> ColourMaps:
    """Multiplies what is not grey."""
    flat = np.diag(np.float32([1, 1, 1, 0])) - _ONTO_GREY
    return _EYE + (_wide(factor) - 1.0) * flat


def draw_colour_maps(
    key: PRNGKeyArray, batch: int, *, p: ArrayLike, settings: Augmentation
) -> ColourMaps:
    """Random colour maps: brightness, contrast, luma flip, hue, saturation, in this order."""
    keys = jax.random.split(key, 5)

    def chosen(index, multiplier, draw, neutral):
        use, value = applied(keys[index], batch, probability=p * multiplier)
        return jnp.where(use, draw(value), neutral)

    def normal(std):
        return lambda k: std * jax.random.normal(k, (batch,))

    def coin(k):
        return jax.random.bernoulli(k, 0.5, (batch,)).astype(jnp.float32)

    def turn(k):
        most = math.pi * settings.hue_max
        return jax.random.uniform(k, (batch,), minval=-most, maxval=most)

    maps = [
        brightness(chosen(0, settings.brightness, normal(settings.brightness_std), 0.0)),
        contrast(jnp.exp2(chosen(1, settings.contrast, normal(settings.contrast_std), 0.0))),
        luma_flip(chosen(2, settings.lumaflip, coin, 0.0)),
        hue(chosen(3, settings.hue, turn, 0.0)),
        saturation(jnp.exp2(chosen(4, settings.saturation, normal(settings.saturation_std), 0.0))),
    ]
    whole = maps[0]
    for following in maps[1:]:
        whole = jnp.matmul(following, whole, precision="highest")
    return whole


def recolour(images: Float[Array, "b h w c"], maps: ColourMaps) -> Float[Array, "b h w c"]:
    """The images' colour triples under the maps; channels beyond the last triple stay."""
    b, h, w, c = images.shape
    triples, rest = images[..., : c - c % 3], images[..., c - c % 3 :]
    triples = triples.reshape(b, h, w, -1, 3)
    linear = jnp.einsum("bij,bhwtj->bhwti", maps[:, :3, :3], triples, precision="highest")
    coloured = (linear + maps[:, None, None, None, :3, 3]).reshape(b, h, w, c - c % 3)
    return jnp.concatenate([coloured, rest], axis=-1)


def draw_gains(
    key: PRNGKeyArray, batch: int, *, p: ArrayLike, settings: Augmentation
) -> Float[Array, "b 4"]:
    """Amplification of the four octave bands, lowest first.

    The product of one draw a band: the band by 2^normal, then all four divided so that an image of
    natural power (10 : 1 : 1 : 1) keeps it under this draw.
    """
    gains = jnp.ones((batch, 4))
    for band, (k, share) in enumerate(
        zip(jax.random.split(key, 4), settings.imgfilter_bands, strict=True)
    ):
        use, value = applied(k, batch, probability=p * settings.imgfilter * share)
        drawn = jnp.exp2(settings.imgfilter_std * jax.random.normal(value, (batch,)))
        factors = jnp.ones((batch, 4)).at[:, band].set(jnp.where(use, drawn, 1.0))
        power = (_POWER * jnp.square(factors)).sum(axis=-1, keepdims=True)
        gains = gains * factors / jnp.sqrt(power)
    return gains


def filter_bands(
    images: Float[Array, "b h w c"], gains: Float[Array, "b 4"]
) -> Float[Array, "b h w c"]:
    """Rows and columns with their octave bands amplified; mirrored beyond the borders."""
    taps = gains @ jnp.asarray(wavelets.octave_bands(), jnp.float32)
    reach = taps.shape[1] // 2

    def matrix(size):
        """[b, size, size + 2 reach]: row i holds the taps from column i on."""
        offset = np.arange(size + 2 * reach) - np.arange(size)[:, None]
        inside = (offset >= 0) & (offset < taps.shape[1])
        return jnp.where(inside, taps[:, np.where(inside, offset, 0)], 0.0)

    widths = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = jnp.pad(images, widths, mode="reflect")
    rows, columns = (matrix(size) for size in images.shape[1:3])
    filtered = jnp.einsum("bih,bhwc->biwc", rows, padded, precision="highest")
    return jnp.einsum("bjw,bhwc->bhjc", columns, filtered, precision="highest")


def draw_noise(
    key: PRNGKeyArray, shape: tuple[int, ...], *, p: ArrayLike, settings: Augmentation
) -> Float[Array, "b h w c"]:
    """Normal noise, a standard deviation of its own for every sample: half-normal."""
    use, value = applied(key, shape[0], probability=p * settings.noise)
    spread, field = jax.random.split(value)
    sigma = settings.noise_std * jnp.abs(jax.random.normal(spread, (shape[0],)))
    return jnp.where(use, sigma, 0.0)[:, None, None, None] * jax.random.normal(field, shape)


def draw_holes(
    key: PRNGKeyArray, shape: tuple[int, ...], *, p: ArrayLike, settings: Augmentation
) -> Float[Array, "b h w 1"]:
    """0 inside a rectangle about a uniform centre, half the image's size, and 1 elsewhere."""
    use, value = applied(key, shape[0], probability=p * settings.cutout)
    centre = jax.random.uniform(value, (2, shape[0], 1))
    half = jnp.where(use, settings.cutout_size / 2, 0.0)[:, None]

    def outside(centres, size):
        return jnp.abs((jnp.arange(size) + 0.5) / size - centres) >= half

    rows, columns = outside(centre[0], shape[1]), outside(centre[1], shape[2])
    return (rows[:, :, None] | columns[:, None, :]).astype(jnp.float32)[..., None]
