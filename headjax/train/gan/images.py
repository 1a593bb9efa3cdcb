"""What the discriminator sees: pairs of the image and its small rendering, blurred, augmented.

A sample is a dict of "image" [b, h, w, 3] in [-1, 1], "image_raw" [b, r, r, 3], the volume's
rendering before super-resolution, and for PanoHead "mask" [b, r, r, 1] in [0, 1].
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from headjax.nets.resize import resize

Images = dict[str, Float[Array, "b h w _"]]

# The filter is cut at this many sigmas; the longest radius that it can have, in pixels.
_CUT = 3.0
_LONGEST = 1024


def _taps(offset: Array, sigma: Array) -> Array:
    inside = jnp.abs(offset) <= jnp.floor(_CUT * sigma)
    return jnp.where(inside, jnp.exp2(-jnp.square(offset / jnp.maximum(sigma, 1e-8))), 0.0)


def _blur_matrix(size: int, sigma: Array) -> Float[Array, "n n"]:
    place = jnp.arange(size, dtype=jnp.float32)
    whole = 1.0 + 2.0 * _taps(jnp.arange(1.0, _LONGEST + 1.0), sigma).sum()
    return _taps(place[:, None] - place, sigma) / whole


def blur(images: Float[Array, "b h w c"], *, sigma: ArrayLike) -> Float[Array, "b h w c"]:
    """Filters rows and columns by 2^-(x / sigma)^2, cut at floor(3 sigma), of sum 1; zeros beyond.

    The original's filter: its standard deviation is sigma / sqrt(2 ln 2) = 0.85 sigma. Below
    sigma = 1/3 it has one tap, and the images return untouched. As a product with a band matrix,
    so that sigma may change without another compilation.

    Args:
        images: any channels.
        sigma: pixels, at most 341.
    """
    sigma = jnp.asarray(sigma, jnp.float32)

    def filtered(x):
        rows, columns = (_blur_matrix(size, sigma).astype(x.dtype) for size in x.shape[1:3])
        x = jnp.einsum("ih,bhwc->biwc", rows, x, precision="highest")
        return jnp.einsum("jw,bhwc->bhjc", columns, x, precision="highest")

    return jax.lax.cond(jnp.floor(_CUT * sigma) >= 1, filtered, lambda x: x, images)


def real_pair(
    image: Float[Array, "b h w 3"],
    *,
    neural_resolution: int,
    raw_sigma: ArrayLike = 0.0,
    mask: Float[Array, "b h w 1"] | None = None,
) -> Images:
    """A data set's images as the generator's outputs: reduced by the antialiased filter.

    Args:
        image: real images in [-1, 1].
        neural_resolution: side of "image_raw" and "mask".
        raw_sigma: blur of "image_raw", pixels of the small image (EG3D gives the image's sigma).
        mask: the head's coverage in [0, 1].
    """
    pair = {"image": image, "image_raw": blur(resize(image, neural_resolution), sigma=raw_sigma)}
    return pair if mask is None else {**pair, "mask": resize(mask, neural_resolution)}


def augment_together(
    images: Mapping[str, Float[Array, "b h w _"]], augment: Callable[[Array], Array]
) -> Images:
    """The same augmentation for all images of a sample.

    Small ones are enlarged to the image's size, all are augmented as the channels of one stack
    (image first, the others by name), and the small ones reduced again, both with the antialiased
    filter.

    Args:
        images: has "image"; the others may be smaller.
        augment: [b, h, w, c] -> [b, h, w, c].
    """
    names = ["image", *sorted(set(images) - {"image"})]
    rows, columns = images["image"].shape[1:3]
    # Colours come before masks: augmentation recolours whole triples.
    names.sort(key=lambda name: images[name].shape[-1] != 3)
    stack = jnp.concatenate([resize(images[name], (rows, columns)) for name in names], axis=-1)
    ends = [sum(images[n].shape[-1] for n in names[: i + 1]) for i in range(len(names) - 1)]
    parts = jnp.split(augment(stack), ends, axis=-1)
    return {
        name: resize(part, images[name].shape[1:3]) for name, part in zip(names, parts, strict=True)
    }


def as_seen(
    images: Mapping[str, Float[Array, "b h w _"]],
    *,
    sigma: ArrayLike,
    augment: Callable[[Array], Array] | None = None,
) -> Images:
    """What goes into the discriminator, real and generated alike: blurred, then augmented.

    A part of what R1 differentiates. Only "image" is blurred here; the small images of real
    samples are blurred once, by `real_pair`.

    Args:
        images: a sample's images.
        sigma: blur of "image", pixels.
        augment: [b, h, w, c] -> [b, h, w, c] with its key and strength bound; None for none.
    """
    blurred = {**images, "image": blur(images["image"], sigma=sigma)}
    return blurred if augment is None else augment_together(blurred, augment)
