"""Augmentation of what the discriminator sees (Karras et al. 2020, "Training generative
adversarial networks with limited data", appendix B).

Every transformation applies to a sample with the probability p times its own relative one, so a
single number p, kept small enough, is the strength of all: augmentations that are left out often
enough do not leak into the generator's images. Real and generated images are treated alike, and
gradients pass through.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from headjax.train.gan import augment_colour, augment_geometry
from headjax.train.gan.augment_settings import Augmentation


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    *,
    p: ArrayLike,
    settings: Augmentation,
) -> Float[Array, "b h w c"]:
    """Random augmentations, each sample its own; at p = 0 the images themselves.

    Args:
        key: random key; everything is drawn from it.
        images: [-1, 1]; channels are colour triples, which share all transformations but the
            noise's values, and what is left over (a mask), which only moves and is cut out.
        p: strength, from `adaptive` or a constant.
        settings: what may happen; a transformation of probability 0 costs nothing.
    """
    b, h, w, c = images.shape
    geometry, colour, gains, noise, holes = jax.random.split(key, 5)
    if settings.moves:
        maps = augment_geometry.draw_inverse_maps(geometry, b, p=p, settings=settings, size=(h, w))
        images = augment_geometry.warp(images, maps)
    if settings.recolours:
        maps = augment_colour.draw_colour_maps(colour, b, p=p, settings=settings)
        images = augment_colour.recolour(images, maps)
    coloured, rest = images[..., : c - c % 3], images[..., c - c % 3 :]
    if settings.imgfilter > 0:
        drawn = augment_colour.draw_gains(gains, b, p=p, settings=settings)
        coloured = augment_colour.filter_bands(coloured, drawn)
    if settings.noise > 0:
        coloured += augment_colour.draw_noise(noise, coloured.shape, p=p, settings=settings)
    images = jnp.concatenate([coloured, rest], axis=-1)
    if settings.cutout > 0:
        images *= augment_colour.draw_holes(holes, images.shape, p=p, settings=settings)
    return images
