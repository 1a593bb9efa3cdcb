"""Geometry of the augmentation: random affine maps, and images resampled under them.

Maps are 3x3 matrices on (x, y, 1) in pixels about the image's centre, x right and y down. A draw
is made of the inverse maps, from the new image's pixels to the old one's, because those are what
resampling needs: a chain of maps T1 first, Tn last, has the inverse T1^-1 ... Tn^-1.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from headjax.train.gan import wavelets
from headjax.train.gan.augment_settings import Augmentation

Maps = Float[Array, "b 3 3"]

# Pixels mirrored around the image before it is doubled; beyond KEPT of them coordinates fold.
_PADDING, _KEPT = 8, 4


def _maps(rows: list[list[ArrayLike]]) -> Maps:
    """The maps with these two rows; entries are numbers or [b]."""
    entries = jnp.broadcast_arrays(*[jnp.asarray(e, jnp.float32) for row in rows for e in row])
    upper = jnp.stack(entries, axis=-1).reshape(-1, 2, 3)
    lower = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 1.0]), (upper.shape[0], 1, 3))
    return jnp.concatenate([upper, lower], axis=1)


def scaling(x: Float[Array, "b"], y: Float[Array, "b"]) -> Maps:
    """(x, y) -> (x sx, y sy)."""
    return _maps([[x, 0, 0], [0, y, 0]])


def shift(x: Float[Array, "b"], y: Float[Array, "b"]) -> Maps:
    """(x, y) -> (x + tx, y + ty), pixels."""
    return _maps([[1, 0, x], [0, 1, y]])


def rotation(cosine: Float[Array, "b"], sine: Float[Array, "b"]) -> Maps:
    """Rotation with this cosine and sine, from x towards y: clockwise on the screen."""
    return _maps([[cosine, -sine, 0], [sine, cosine, 0]])


def applied(
    key: PRNGKeyArray, batch: int, *, probability: ArrayLike
) -> tuple[Bool[Array, "b"], PRNGKeyArray]:
    """Which samples a transformation applies to, and the key for its parameters."""
    gate, value = jax.random.split(key)
    return jax.random.uniform(gate, (batch,)) < probability, value


def _blits(
    keys: Key[Array, "k"], batch: int, p: ArrayLike, settings: Augmentation, size: tuple[int, int]
) -> list[Maps]:
    """Inverse flips, quarter turns and shifts by whole pixels: they move pixels only."""
    rows, columns = size
    use, key = applied(keys[0], batch, probability=p * settings.xflip)
    flip = jnp.where(use & jax.random.bernoulli(key, 0.5, (batch,)), -1.0, 1.0)
    use, key = applied(keys[1], batch, probability=p * settings.rotate90)
    turns = jnp.where(use, jax.random.randint(key, (batch,), 0, 4), 0)
    cosine, sine = (jnp.asarray(table)[turns] for table in ([1.0, 0, -1, 0], [0.0, 1, 0, -1]))
    use, key = applied(keys[2], batch, probability=p * settings.xint)
    most = settings.xint_max
    way = jnp.where(use, jax.random.uniform(key, (2, batch), minval=-most, maxval=most), 0.0)
    return [
        scaling(flip, jnp.ones(batch)),
        rotation(cosine, -sine),
        shift(-jnp.round(way[0] * columns), -jnp.round(way[1] * rows)),
    ]


def _turn(key: PRNGKeyArray, batch: int, p: ArrayLike, settings: Augmentation) -> Maps:
    use, key = applied(key, batch, probability=p)
    angle = jax.random.uniform(key, (batch,), minval=-1.0, maxval=1.0)
    angle = jnp.where(use, angle * math.pi * settings.rotate_max, 0.0)
    return rotation(jnp.cos(angle), -jnp.sin(angle))


def _warps(
    keys: Key[Array, "k"], batch: int, p: ArrayLike, settings: Augmentation, size: tuple[int, int]
) -> list[Maps]:
    """Inverse scaling, rotation, stretching, rotation and shift by fractions.

    The two rotations are drawn so that at least one applies with the probability asked for, and
    the rotations together with the stretch have no preferred axes.
    """
    rows, columns = size
    use, key = applied(keys[0], batch, probability=p * settings.scale)
    drawn = settings.scale_std * jax.random.normal(key, (batch,))
    shrink = jnp.exp2(-jnp.where(use, drawn, 0.0))
    either = 1.0 - jnp.sqrt(jnp.clip(1.0 - p * settings.rotate, 0.0, 1.0))
    use, key = applied(keys[2], batch, probability=p * settings.aniso)
    drawn = settings.aniso_std * jax.random.normal(key, (batch,))
    squeeze = jnp.exp2(-jnp.where(use, drawn, 0.0))
    use, key = applied(keys[4], batch, probability=p * settings.xfrac)
    way = jnp.where(use, settings.xfrac_std * jax.random.normal(key, (2, batch)), 0.0)
    return [
        scaling(shrink, shrink),
        _turn(keys[1], batch, either, settings),
        scaling(squeeze, 1.0 / squeeze),
        _turn(keys[3], batch, either, settings),
        shift(-way[0] * columns, -way[1] * rows),
    ]


def draw_inverse_maps(
    key: PRNGKeyArray,
    batch: int,
    *,
    p: ArrayLike,
    settings: Augmentation,
    size: tuple[int, int],
) -> Maps:
    """Random inverse maps: blits first, then warps, each with probability p times its own.

    Args:
        key: random key.
        batch: samples b.
        p: strength of the augmentation, in [0, 1].
        settings: relative probabilities and ranges.
        size: rows and columns of the images.
    """
    keys = jax.random.split(key, 8)
    chain = _blits(keys[:3], batch, p, settings, size) + _warps(keys[3:], batch, p, settings, size)
    whole = chain[0]
    for inverse in chain[1:]:
        whole = jnp.matmul(whole, inverse, precision="highest")
    return whole


def _fold(place: Float[Array, "*b"], size: int) -> Float[Array, "*b"]:
    """Fine coordinates beyond the kept border, mirrored about the outermost pixels' centres."""
    last = 2.0 * (size - 1)
    inside = last - jnp.abs(jnp.mod(place, 2.0 * last) - last)
    border = 2.0 * _KEPT
    return jnp.where((place < -border) | (place > last + border), inside, place)


def _bilinear(
    image: Float[Array, "h w c"], x: Float[Array, "n m"], y: Float[Array, "n m"]
) -> Float[Array, "n m c"]:
    """Values at pixel coordinates inside the image; the four neighbours lie in one row to fetch."""
    corners = (image[:-1, :-1], image[:-1, 1:], image[1:, :-1], image[1:, 1:])
    quads = jnp.stack(corners, axis=2)
    column = jnp.clip(jnp.floor(x), 0, quads.shape[1] - 1)
    row = jnp.clip(jnp.floor(y), 0, quads.shape[0] - 1)
    right, down = x - column, y - row
    index = (row * quads.shape[1] + column).astype(jnp.int32)
    fetched = quads.reshape(-1, *quads.shape[2:])[index]
    weights = [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down]
    return sum(w[..., None] * fetched[..., i, :] for i, w in enumerate(weights))


def warp(images: Float[Array, "b h w c"], inverse: Maps) -> Float[Array, "b h w c"]:
    """Images under affine maps, resampled with little loss; mirrored beyond the borders.

    Doubled by sym6, resampled bilinearly at twice the resolution, halved by the transposed filter.
    The identity and shifts by whole pixels give exact pixels. Flips and quarter turns meet the
    filter's asymmetry: 5 % of a wave's amplitude up to 4 pixels a period, 27 % at worst beyond.
    Where a map reaches more than 4 pixels beyond the image, the doubled image is mirrored rather
    than the image, as often as it takes; the original mirrors once and has zeros beyond that.

    Args:
        images: any channels, at least 2 x 2; differentiable.
        inverse: from new to old pixel coordinates about the centre.
    """
    rows, columns = images.shape[1:3]
    border = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
    fine = wavelets.double(jnp.pad(images, border, mode="reflect"))

    def about_centre(size):
        return jnp.arange(-wavelets.EATEN, 2 * size + wavelets.EATEN) - (size - 1.0)

    def sample(image, matrix):
        x, y = about_centre(columns)[None, :], about_centre(rows)[:, None]
        to_x, to_y = (row[0] * x + row[1] * y + 2 * row[2] for row in matrix[:2])
        to_x = _fold(to_x + (columns - 1.0), columns) + 2 * _PADDING
        to_y = _fold(to_y + (rows - 1.0), rows) + 2 * _PADDING
        return _bilinear(image, to_x, to_y)

    return wavelets.halve(jax.vmap(sample)(fine, inverse))
