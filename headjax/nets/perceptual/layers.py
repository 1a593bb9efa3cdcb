"""Layers of the ported networks: parameters under PyTorch's names, in inference mode.

Alphabet: b batch, h w rows and columns, i o channels in and out. Pictures are `b h w c`; kernels
are `kh kw i o`, matrices `i o`. Running statistics live in the collection "buffers". `precision`
is that of `jax.lax`: metrics ask for 'highest', so that accelerators do not round their factors.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pair = tuple[int, int]
Pad = tuple[Pair, Pair] | Literal["SAME", "VALID"]
Precision = Literal["default", "high", "highest"] | None


class Conv(nn.Module):
    """A 2D convolution: parameters `weight` and, unless `bias` is off, `bias`."""

    features: int
    kernel: Pair = (3, 3)
    stride: int = 1
    padding: Pad = "SAME"
    bias: bool = True
    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        shape = (*self.kernel, x.shape[-1], self.features)
        weight = self.param("weight", nn.initializers.he_normal(), shape)
        y = jax.lax.conv_general_dilated(
            x,
            weight.astype(x.dtype),
            window_strides=(self.stride, self.stride),
            padding=self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


class Linear(nn.Module):
    """x · weight + bias."""

    features: int
    precision: Precision = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        shape = (x.shape[-1], self.features)
        weight = self.param("weight", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.dot(x, weight.astype(x.dtype), precision=self.precision) + bias.astype(x.dtype)


class BatchNorm(nn.Module):
    """(x − running_mean) / sqrt(running_var + epsilon) · weight + bias, over the last axis."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        shape = x.shape[-1:]
        weight = self.param("weight", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("buffers", "running_mean", jnp.zeros, shape).value
        variance = self.variable("buffers", "running_var", jnp.ones, shape).value
        scale = weight * jax.lax.rsqrt(variance + self.epsilon)
        return x * scale.astype(x.dtype) + (bias - mean * scale).astype(x.dtype)


class PReLU(nn.Module):
    """max(x, 0) + weight · min(x, 0), a slope for each channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        weight = self.param("weight", nn.initializers.constant(0.25), x.shape[-1:])
        return jnp.where(x > 0, x, weight.astype(x.dtype) * x)


class Group(nn.Module):
    """Modules under a common name, applied one after another.

    Attributes:
        layers: each one's name in the state dict, and what makes it, given that name.
    """

    layers: tuple[tuple[str, Callable[..., nn.Module]], ...]

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        for name, make in self.layers:
            x = make(name=name)(x)
        return x


def max_pool(
    x: Float[Array, "b h w c"], *, window: int, stride: int, padding: int = 0
) -> Float[Array, "b h2 w2 c"]:
    """The largest value in each window; what lies beyond the border does not count."""
    pad = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=pad)


def average_pool_same(x: Float[Array, "b h w c"], *, window: int) -> Float[Array, "b h w c"]:
    """The mean over the part of each window that lies inside the picture; the size stays."""
    return nn.avg_pool(x, (window, window), strides=(1, 1), padding="SAME", count_include_pad=False)


def adaptive_average_pool(
    x: Float[Array, "b h w c"], *, size: int
) -> Float[Array, "b size size c"]:
    """PyTorch's adaptive pooling: row k is the mean of rows ⌊k·h/size⌋ to ⌈(k+1)·h/size⌉ − 1."""

    def means(length: int) -> jax.Array:
        row = jnp.arange(size)[:, None]
        column = jnp.arange(length)[None]
        first, end = row * length // size, -(-(row + 1) * length // size)
        inside = (column >= first) & (column < end)
        return inside / (end - first)

    high = "highest"
    x = jnp.einsum("kh,bhwc->bkwc", means(x.shape[1]).astype(x.dtype), x, precision=high)
    return jnp.einsum("kw,bhwc->bhkc", means(x.shape[2]).astype(x.dtype), x, precision=high)
