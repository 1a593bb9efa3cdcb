"""LPIPS, version 0.1 (Zhang et al. 2018, "The unreasonable effectiveness of deep features").

    d(a, b) = Σ_l mean_{h,w} Σ_c lin_l[c] · (f̂_l(a) − f̂_l(b))²,   f̂ = f / (‖f‖_c + 1e-10)

over the five levels l of a trunk that was trained to classify pictures. The trunk's weights are
torchvision's and the user's to fetch; the linear heads are shipped (`headjax/assets/lpips`, BSD).

Parameters: `features/N/…` as torchvision, `lin{l}/model/1/weight` as LPIPS.
"""

from typing import Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.perceptual.alexnet import AlexNetFeatures
from headjax.nets.perceptual.layers import Conv, Group, Precision
from headjax.nets.perceptual.vgg import VGG16Features

Trunk = Literal["vgg", "alex"]
TRUNKS = {"vgg": VGG16Features, "alex": AlexNetFeatures}
# ImageNet's mean and deviation, moved to pictures in [−1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


@flax.struct.dataclass
class Distance:
    """How far apart two batches of pictures are.

    Attributes:
        total: the sum over levels.
        levels: what each level of the trunk says.
    """

    total: Float[Array, "b"]
    levels: Float[Array, "5 b"]


def unit_channels(features: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Features over their length plus 1e-10; zero where all are zero, gradient included."""
    square = jnp.sum(features**2, axis=-1, keepdims=True)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return features / (length + _EPSILON)


class LPIPS(nn.Module):
    """LPIPS of pictures in [−1, 1], RGB; at least 32 pixels a side.

    `features` gives what a picture is compared by, so that a target's can be kept; `between`
    compares. Calling the module does both.
    """

    trunk: Trunk = "vgg"
    precision: Precision = None

    def setup(self):
        self.net = TRUNKS[self.trunk](precision=self.precision, name="features")
        self.heads = [
            Group((("model", _head),), name=f"lin{level}") for level in range(5)
        ]  # fmt: skip

    def features(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Unit-length features of the five levels."""
        scaled = (images - jnp.asarray(SHIFT, images.dtype)) / jnp.asarray(SCALE, images.dtype)
        return tuple(unit_channels(level) for level in self.net(scaled))

    def between(
        self,
        a: tuple[Float[Array, "b _ _ _"], ...],
        b: tuple[Float[Array, "b _ _ _"], ...],
    ) -> Distance:
        """The distance of pictures with the features `a` and `b`."""
        pairs = zip(self.heads, a, b, strict=True)
        levels = jnp.stack([head((x - y) ** 2).mean(axis=(1, 2, 3)) for head, x, y in pairs])
        return Distance(total=levels.sum(axis=0), levels=levels)

    def __call__(self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Distance:
        return self.between(self.features(a), self.features(b))


def _head(name: str) -> nn.Module:
    return Group((("1", _one_by_one),), name=name)


def _one_by_one(name: str) -> nn.Module:
    return Conv(1, kernel=(1, 1), bias=False, precision="highest", name=name)
