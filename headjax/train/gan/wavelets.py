"""Orthogonal wavelet filters: lossless doubling and halving, and octave bands that add up.

With h the low-pass filter of an orthogonal wavelet, sum h[n] h[n - 2k] = [k = 0]: filtering by h
between inserted zeros doubles a signal, the transposed operation takes it back without loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Daubechies' least asymmetric wavelets with 2 and 6 vanishing moments, of square sum 1.
SYM2 = np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025])
SYM6 = np.array(
    [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
        0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
        -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
    ]
)  # fmt: skip

# The tap that stands on a pixel's first fine pixel, and the filter's length.
_CENTRE, _TAPS = 5, 12
# Pixels at each border that `double` computes from zeros beyond, and fine pixels that `halve` eats.
REACH = 3
EATEN = 5


def _window(x: jax.Array, axis: int, start: int, length: int, stride: int = 1) -> jax.Array:
    stop = start + stride * (length - 1) + 1
    return jax.lax.slice_in_dim(x, start, stop, stride=stride, axis=axis)


def double(images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Twice the rows and columns: fine[n] = sqrt(2) sum_k h[n - 2k + 5] coarse[k], h of sym6.

    The fine pixel 2k stands where pixel k does: sym6, which is not quite symmetric, delays low
    frequencies by 5.1 taps and middle ones by 4.8. Beyond the border are zeros, which the first
    and last `REACH` pixels' fine ones feel. Constants stay what they are.
    """
    taps = SYM6 * 2**0.5
    x = images
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(REACH, REACH) if a == axis else (0, 0) for a in range(4)])
        phases = []
        for phase in (0, 1):
            # n = 2m + phase has taps t = phase + 5 + 2(m - k): k runs down as t runs up.
            terms = [
                taps[t] * _window(padded, axis, REACH + (phase + _CENTRE - t) // 2, size)
                for t in range((phase + _CENTRE) % 2, _TAPS, 2)
            ]
            phases.append(sum(terms))
        x = jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def halve(fine: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h w c"]:
    """The transpose of `double`, divided by 2: coarse[k] = sum_n h[n - 2k + 5] fine[n] / sqrt(2).

    `fine` carries `EATEN` more fine pixels at every border, so h2 = 2h + 10. Then
    halve(double(x)) = x where those are true ones.
    """
    taps = SYM6 / 2**0.5
    x = fine
    for axis in (1, 2):
        size = (x.shape[axis] - 2 * EATEN) // 2
        x = sum(taps[t] * _window(x, axis, t, size, stride=2) for t in range(_TAPS))
    return x


def _spread(taps: np.ndarray, factor: int) -> np.ndarray:
    """The taps with factor - 1 zeros between them."""
    out = np.zeros(factor * (len(taps) - 1) + 1)
    out[::factor] = taps
    return out


def octave_bands(count: int = 4) -> Float[np.ndarray, "k t"]:
    """Symmetric filters, lowest band first, whose sum is the identity: band i halves band i + 1.

    Made of sym2: with L = |H|^2 / 2 and its complement U = 1 - L, the bands are U(z),
    L(z) U(z^2), L(z) L(z^2) U(z^4), ..., and what is left over below.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = -low
    high[len(low) // 2] += 1
    filters, below = [], np.ones(1)
    for level in range(count - 1):
        filters.append(np.convolve(below, _spread(high, 2**level)))
        below = np.convolve(below, _spread(low, 2**level))
    filters.append(below)
    length = len(below)
    centred = [np.pad(f, (length - len(f)) // 2) for f in filters]
    return np.stack(centred[::-1])
