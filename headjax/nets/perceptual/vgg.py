"""VGG-16 up to its last convolution (Simonyan and Zisserman 2015), as torchvision names it.

`features/N/weight`, `features/N/bias` with N the place in torchvision's sequence, in which every
convolution is followed by a ReLU, and a max pooling stands between two levels.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from headjax.nets.perceptual.layers import Conv, Precision, max_pool

# Widths of the convolutions of each level.
LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
WIDTHS = tuple(level[-1] for level in LEVELS)


class VGG16Features(nn.Module):
    """Activations after the last ReLU of each of the five levels: relu1_2, 2_2, 3_3, 4_3, 5_3."""

    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        place, levels = 0, []
        for number, widths in enumerate(LEVELS):
            if number:
                x = max_pool(x, window=2, stride=2)
                place += 1
            for width in widths:
                x = jax.nn.relu(Conv(width, precision=self.precision, name=str(place))(x))
                place += 2
            levels.append(x)
        return tuple(levels)
