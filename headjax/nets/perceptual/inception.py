"""Inception-v3 in the layout of the FID weights (`pt_inception-2015-12-05-6726825d.pth`).

It is TensorFlow's network of 2015, not torchvision's: 1008 classes, average pools that do not
count the padding, and a max pool in the last block. Pictures are resized to 299² as TensorFlow 1
did it. FID and KID compare the 2048 means of the last block ("pool3").

Names follow the public state dict: `Mixed_5b/branch5x5_1/conv/weight`, `.../bn/running_mean`, `fc`.
"""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from headjax.nets.perceptual.layers import (
    BatchNorm,
    Conv,
    Pair,
    Precision,
    average_pool_same,
    max_pool,
)

SIZE = 299
FEATURES = 2048
CLASSES = 1008

Picture = Float[Array, "b _ _ _"]  # a block changes sizes and channels


@flax.struct.dataclass
class Activations:
    """What the network says of pictures.

    Attributes:
        pool1, pool2, mixed_6e: spatial means of earlier blocks, with 64, 192 and 768 channels.
        pool3: the 2048 features of FID and KID.
        logits_unbiased, logits: of the 1008 classes, without and with the last layer's bias.
    """

    pool1: Float[Array, "b 64"]
    pool2: Float[Array, "b 192"]
    mixed_6e: Float[Array, "b 768"]
    pool3: Float[Array, "b 2048"]
    logits_unbiased: Float[Array, "b 1008"]
    logits: Float[Array, "b 1008"]


def resize_tf1(images: Float[Array, "b h w c"], *, size: int = SIZE) -> Float[Array, "b s s c"]:
    """Bilinear resizing as TensorFlow 1 did it: row k is read at k·h/size, without half pixels.

    Neither the corners nor the centres of the two pictures meet, and nothing is smoothed first.
    """

    def along(x: jax.Array, axis: int) -> jax.Array:
        length = x.shape[axis]
        place = jnp.arange(size, dtype=jnp.float32) * (length / size)
        first = jnp.floor(place).astype(jnp.int32)
        shape = [1] * x.ndim
        shape[axis] = size
        weight = (place - first).reshape(shape)
        before = jnp.take(x, first, axis=axis)
        after = jnp.take(x, jnp.minimum(first + 1, length - 1), axis=axis)
        return before + (after - before) * weight

    return along(along(images, 1), 2)


class ConvUnit(nn.Module):
    """Convolution without bias, normalisation (ε = 1e-3), ReLU."""

    features: int
    kernel: Pair = (1, 1)
    stride: int = 1
    same: bool = True
    precision: Precision = None

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        conv = Conv(
            self.features,
            kernel=self.kernel,
            stride=self.stride,
            padding="SAME" if self.same else "VALID",
            bias=False,
            precision=self.precision,
            name="conv",
        )
        return jax.nn.relu(BatchNorm(epsilon=1e-3, name="bn")(conv(x)))


class _Block(nn.Module):
    """What the blocks share: named units, and chains of them."""

    precision: Precision = None

    def unit(self, x: Picture, name: str, features: int, kernel: Pair = (1, 1)) -> Picture:
        return ConvUnit(features, kernel=kernel, precision=self.precision, name=name)(x)

    def half(self, x: Picture, name: str, features: int) -> Picture:
        """A 3×3 unit of stride 2 without padding."""
        unit = ConvUnit(
            features, kernel=(3, 3), stride=2, same=False, precision=self.precision, name=name
        )
        return unit(x)

    def chain(self, x: Picture, name: str, steps: tuple[tuple[int, Pair], ...]) -> Picture:
        """Units `name`_1, `name`_2, …, each with its features and kernel."""
        for number, (features, kernel) in enumerate(steps, start=1):
            x = self.unit(x, f"{name}_{number}", features, kernel)
        return x


class BlockA(_Block):
    """Mixed_5b, 5c, 5d."""

    pool_features: int = 32

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        pooled = average_pool_same(x, window=3)
        branches = [
            self.unit(x, "branch1x1", 64),
            self.chain(x, "branch5x5", ((48, (1, 1)), (64, (5, 5)))),
            self.chain(x, "branch3x3dbl", ((64, (1, 1)), (96, (3, 3)), (96, (3, 3)))),
            self.unit(pooled, "branch_pool", self.pool_features),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(_Block):
    """Mixed_6a: halves the size."""

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        double = self.chain(x, "branch3x3dbl", ((64, (1, 1)), (96, (3, 3))))
        branches = [
            self.half(x, "branch3x3", 384),
            self.half(double, "branch3x3dbl_3", 96),
            max_pool(x, window=3, stride=2),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(_Block):
    """Mixed_6b to 6e: 7×7 kernels as a row and a column."""

    width: int = 128

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        row, column, c = (1, 7), (7, 1), self.width
        double = ((c, (1, 1)), (c, column), (c, row), (c, column), (192, row))
        pooled = average_pool_same(x, window=3)
        branches = [
            self.unit(x, "branch1x1", 192),
            self.chain(x, "branch7x7", ((c, (1, 1)), (c, row), (192, column))),
            self.chain(x, "branch7x7dbl", double),
            self.unit(pooled, "branch_pool", 192),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(_Block):
    """Mixed_7a: halves the size."""

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        steps = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
        branches = [
            self.half(self.unit(x, "branch3x3_1", 192), "branch3x3_2", 320),
            self.half(self.chain(x, "branch7x7x3", steps), "branch7x7x3_4", 192),
            max_pool(x, window=3, stride=2),
        ]
        return jnp.concatenate(branches, axis=-1)


def _max_pool_same(x: Picture, *, window: int) -> Picture:
    return max_pool(x, window=window, stride=1, padding=window // 2)


class BlockE(_Block):
    """Mixed_7b and 7c, which differ in their pool."""

    pool: Callable[..., Picture] = average_pool_same

    @nn.compact
    def __call__(self, x: Picture) -> Picture:
        row, column = (1, 3), (3, 1)
        single = self.unit(x, "branch3x3_1", 384)
        double = self.chain(x, "branch3x3dbl", ((448, (1, 1)), (384, (3, 3))))
        branches = [
            self.unit(x, "branch1x1", 320),
            self.unit(single, "branch3x3_2a", 384, row),
            self.unit(single, "branch3x3_2b", 384, column),
            self.unit(double, "branch3x3dbl_3a", 384, row),
            self.unit(double, "branch3x3dbl_3b", 384, column),
            self.unit(self.pool(x, window=3), "branch_pool", 192),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """Inception-v3 as FID and KID use it, of 8-bit RGB pictures of any size."""

    precision: Precision = "highest"

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w 3"]) -> Activations:
        x = (resize_tf1(images.astype(jnp.float32)) - 128.0) / 128.0
        x = self._unit("Conv2d_1a_3x3", 32, stride=2, same=False)(x)
        x = self._unit("Conv2d_2a_3x3", 32, same=False)(x)
        x = self._unit("Conv2d_2b_3x3", 64)(x)
        x = max_pool(x, window=3, stride=2)
        pool1 = x.mean(axis=(1, 2))
        x = self._unit("Conv2d_3b_1x1", 80, kernel=(1, 1))(x)
        x = self._unit("Conv2d_4a_3x3", 192, same=False)(x)
        x = max_pool(x, window=3, stride=2)
        pool2 = x.mean(axis=(1, 2))
        for letter, features in zip("bcd", (32, 64, 64), strict=True):
            name = f"Mixed_5{letter}"
            x = BlockA(self.precision, pool_features=features, name=name)(x)
        x = BlockB(self.precision, name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(self.precision, width=width, name=f"Mixed_6{letter}")(x)
        mixed_6e = x.mean(axis=(1, 2))
        x = BlockD(self.precision, name="Mixed_7a")(x)
        x = BlockE(self.precision, name="Mixed_7b")(x)
        x = BlockE(self.precision, pool=_max_pool_same, name="Mixed_7c")(x)
        pool3 = x.mean(axis=(1, 2))
        logits, bias = Logits(name="fc")(pool3)
        return Activations(pool1, pool2, mixed_6e, pool3, logits, logits + bias)

    def _unit(self, name: str, features: int, **options) -> ConvUnit:
        options = {"kernel": (3, 3)} | options
        return ConvUnit(features, precision=self.precision, name=name, **options)


class Logits(nn.Module):
    """The last layer: x · weight, and the bias apart."""

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> tuple[Float[Array, "b o"], Float[Array, "o"]]:
        shape = (x.shape[-1], CLASSES)
        weight = self.param("weight", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (CLASSES,))
        return jnp.dot(x, weight, precision="highest"), bias
