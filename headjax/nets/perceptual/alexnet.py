"""AlexNet's convolutions (Krizhevsky 2014, "One weird trick"), as torchvision names them."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from headjax.nets.perceptual.layers import Conv, Precision, max_pool

# Place in torchvision's sequence, width, kernel, stride, padding, and whether a pooling precedes.
LAYERS = (
    (0, 64, 11, 4, 2, False),
    (3, 192, 5, 1, 2, True),
    (6, 384, 3, 1, 1, True),
    (8, 256, 3, 1, 1, False),
    (10, 256, 3, 1, 1, False),
)
WIDTHS = tuple(width for _, width, *_ in LAYERS)


class AlexNetFeatures(nn.Module):
    """Activations after each of the five ReLUs."""

    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        levels = []
        for place, width, size, stride, pad, pooled in LAYERS:
            if pooled:
                x = max_pool(x, window=3, stride=2)
            conv = Conv(
                width,
                kernel=(size, size),
                stride=stride,
                padding=((pad, pad), (pad, pad)),
                precision=self.precision,
                name=str(place),
            )
            x = jax.nn.relu(conv(x))
            levels.append(x)
        return tuple(levels)
