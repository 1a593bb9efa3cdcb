"""3x3 convolutions with fewer products: Winograd's F(4x4, 3x3) (Lavin and Gray 2016, "Fast
algorithms for convolutional neural networks").

Alphabet: b batch, h w rows and columns, i o channels, p pixels of a tile, k products of a tile,
t tiles.

A tile of 4x4 pixels comes from 6x6 of the input by 36 products where 144 are usual. In one
dimension, with the matrices below,

    out = A [(G kernel) * (B input)]

and in two the same along both axes. Rounding errors grow to 1e-5 of the result's standard
deviation, ten times those of an ordinary convolution in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE, TAPS = 4, 6
# Rows of tiles that are worked on at a time, so that products stay in a processor's cache.
BAND = 2
# Fewer pixels or channels do not pay for the tiles' transforms.
PIXELS, CHANNELS = 256 * 256, 128

_KERNEL = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
     [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # fmt: skip
_INPUT = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
     [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)  # fmt: skip
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


def pays(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> bool:
    """Whether `winograd_conv` can do this convolution on a CPU, and takes less time.

    Measured on two cores, float32, against the ordinary convolution: 0.6 times as long at 256² with
    256 channels, 0.7 with 128, 0.8 at 512² with 128; 1.2 there with 64, 1.4 at 64² with 512.
    """
    _, h, w, i = x.shape
    is_whole = kernel.shape[:2] == (3, 3) and w % TILE == 0 and h % (BAND * TILE) == 0
    is_large = h * w >= PIXELS and min(i, kernel.shape[-1]) >= CHANNELS
    return is_whole and is_large and x.dtype == jnp.float32


def winograd_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    """The convolution of stride 1 whose borders are zeros ("SAME").

    Rows must be a multiple of 8 and columns of 4. Bands of rows are worked on one after the other.
    """
    height = BAND * TILE
    transform = jnp.asarray(np.kron(_KERNEL, _KERNEL), kernel.dtype)
    weights = jnp.einsum("kp,pio->kio", transform, kernel.reshape(9, *kernel.shape[2:]))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def put(band: Array, out: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(padded, band * height, height + 2, axis=1)
        done = _band(rows, weights)
        return jax.lax.dynamic_update_slice_in_dim(out, done, band * height, axis=1)

    nothing = jnp.zeros((*x.shape[:3], kernel.shape[-1]), x.dtype)
    return jax.lax.fori_loop(0, x.shape[1] // height, put, nothing)


def _band(rows: Float[Array, "b h2 w2 i"], weights: Float[Array, "k i o"]) -> Array:
    """Convolves rows with a border of one pixel: [b, h, w, o]."""
    b, h, w, i = rows.shape
    count = (h - 2) // TILE, (w - 2) // TILE

    def every_fourth(row: int, column: int) -> Array:
        end = (b, row + h - TAPS + 1, column + w - TAPS + 1, i)
        return jax.lax.slice(rows, (0, row, column, 0), end, (1, TILE, TILE, 1))

    tiles = jnp.stack([every_fourth(m, n) for m in range(TAPS) for n in range(TAPS)])
    entering, leaving = (jnp.asarray(np.kron(m, m), rows.dtype) for m in (_INPUT, _OUTPUT))
    values = (entering @ tiles.reshape(TAPS**2, -1)).reshape(TAPS**2, -1, i)
    products = jnp.einsum("kti,kio->kto", values, weights)
    pixels = leaving @ products.reshape(TAPS**2, -1)
    pixels = pixels.reshape(TILE, TILE, b, *count, -1).transpose(2, 3, 0, 4, 1, 5)
    return pixels.reshape(b, h - 2, w - 2, -1)
