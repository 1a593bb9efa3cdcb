"""ArcFace's IR-SE50 (Deng et al. 2019; `model_ir_se50.pth`): 512 numbers of unit length a face.

Names follow the public state dict: `input_layer/{0,1,2}`, `body/{0..23}/{shortcut_layer,
res_layer}/N` with squeeze-and-excitation at `res_layer/5/{fc1,fc2}`, `output_layer/{0,3,4}`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.perceptual.layers import (
    BatchNorm,
    Conv,
    Group,
    Linear,
    Precision,
    PReLU,
    adaptive_average_pool,
)

SIZE = 112
# (width, number of blocks) of each level; a level's first block halves the size.
LEVELS = ((64, 3), (128, 4), (256, 14), (512, 3))
# Where the public losses cut the face out of an aligned picture of 256²: rows, then columns.
CROP_FROM = 256
CROP = ((35, 223), (32, 220))
_ALL = ((1, 1), (1, 1))
# The last matrix reads activations flattened from 512×7×7.
FLATTENED = {"output_layer.3.weight": (512, 7, 7)}


class SqueezeExcite(nn.Module):
    """Scales channels by sigmoid(fc2 · relu(fc1 · their means))."""

    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        conv = functools.partial(Conv, kernel=(1, 1), bias=False, precision=self.precision)
        means = x.mean(axis=(1, 2), keepdims=True)
        hidden = jax.nn.relu(conv(channels // 16, name="fc1")(means))
        return x * jax.nn.sigmoid(conv(channels, name="fc2")(hidden))


class Block(nn.Module):
    """A residual block: normalise, convolve, PReLU, convolve, normalise, squeeze and excite."""

    width: int
    stride: int
    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        conv = functools.partial(
            Conv, self.width, padding=_ALL, bias=False, precision=self.precision
        )
        residual = Group(
            (
                ("0", BatchNorm),
                ("1", conv),
                ("2", PReLU),
                ("3", functools.partial(conv, stride=self.stride)),
                ("4", BatchNorm),
                ("5", functools.partial(SqueezeExcite, precision=self.precision)),
            ),
            name="res_layer",
        )
        return residual(x) + self._shortcut(x)

    def _shortcut(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] == self.width:
            return x[:, :: self.stride, :: self.stride]
        conv = functools.partial(
            Conv,
            self.width,
            kernel=(1, 1),
            stride=self.stride,
            padding="VALID",
            bias=False,
            precision=self.precision,
        )
        return Group((("0", conv), ("1", BatchNorm)), name="shortcut_layer")(x)


class Flatten(nn.Module):
    """[b, h, w, c] as [b, h·w·c]."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        return x.reshape(x.shape[0], -1)


class IRSE50(nn.Module):
    """Embeddings of aligned faces of 112², RGB in [−1, 1]: 512 numbers of unit length."""

    precision: Precision = None

    @nn.compact
    def __call__(self, faces: Float[Array, "b 112 112 3"]) -> Float[Array, "b 512"]:
        conv = functools.partial(Conv, padding=_ALL, bias=False, precision=self.precision)
        stem = (("0", functools.partial(conv, 64)), ("1", BatchNorm), ("2", PReLU))
        x = Group(stem, name="input_layer")(faces)
        strides = [
            (width, 1 if number else 2) for width, count in LEVELS for number in range(count)
        ]
        blocks = [
            (str(place), functools.partial(Block, width, stride, precision=self.precision))
            for place, (width, stride) in enumerate(strides)
        ]
        x = Group(tuple(blocks), name="body")(x)
        last = functools.partial(Linear, 512, precision=self.precision)
        tail = (("0", BatchNorm), ("2", Flatten), ("3", last), ("4", BatchNorm))
        x = Group(tail, name="output_layer")(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def crop_face(images: Float[Array, "b h w 3"]) -> Float[Array, "b 112 112 3"]:
    """The face of square aligned pictures, as the public identity losses cut it out.

    The picture is pooled to 256², cut to rows 35 to 222 and columns 32 to 219, and pooled to 112².
    """
    if images.shape[1:3] != (CROP_FROM, CROP_FROM):
        images = adaptive_average_pool(images, size=CROP_FROM)
    (top, bottom), (left, right) = CROP
    return adaptive_average_pool(images[:, top:bottom, left:right], size=SIZE)
