"""Bilinear resizing of images and feature maps, in the arithmetic of PyTorch's `interpolate`.

Pixels are cells: pixel i of n has its centre at (i + 1/2) / n, and borders repeat.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def resize(
    images: Float[Array, "*b h w c"], size: int | tuple[int, int], *, antialias: bool = True
) -> Float[Array, "*b h2 w2 c"]:
    """The images at another size; axes that have it already stay as they are.

    Equals PyTorch's `interpolate(mode="bilinear", align_corners=False, antialias=antialias)` of
    the public EG3D code. Along an axis of n pixels made n2,

        out[j] = sum_i k((i + 1/2 - (j + 1/2) n / n2) / s) in[i] / sum_i k(the same)

    with the triangle k(t) = max(0, 1 - |t|). Enlarging, s = 1, which is plain interpolation.
    Reducing, s = n / n2 with `antialias`: the triangle is widened to cover all pixels; without it
    s stays 1, and pixels are left out. (Without `antialias` a sample near the border takes the
    border's pixel, which is the same.)

    Args:
        images: any leading axes, channels last; computed in float32 or wider, in their dtype after.
        size: rows and columns of the result, or one number for both.
        antialias: widens the filter where an axis shrinks.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    shape = (*images.shape[:-3], rows, columns, images.shape[-1])
    if shape == images.shape:
        return images
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    return jax.image.resize(wide, shape, "linear", antialias=antialias).astype(images.dtype)
