"""StyleGAN2's residual discriminator, and the dual discriminators of EG3D and PanoHead.

Alphabet: b batch, h w rows and columns, c channels, k of the label.

Names follow the public state dict: `b{r}/{fromrgb, conv0, conv1, skip}/{weight, bias}`,
`b4/{conv, fc, out}/...`, `mapping/{embed, fc0 … fc7}/...`.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.remat import Remat, rematerialised
from headjax.nets.resize import resize
from headjax.nets.stylegan2 import FIR_TAPS, FullyConnected, at_least_float32, leaky_relu
from headjax.nets.stylegan2_mapping import MappingNetwork

RESIDUAL_GAIN = 0.5**0.5
Images = dict[str, Float[Array, "b _ _ _"]]


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """What a discriminator sees and how large it is; the defaults are EG3D's for FFHQ at 512².

    Attributes:
        kind: 'eg3d' sees image and raw image (6 channels), 'panohead' the mask too (7).
        resolution: of the image.
        c_dim: length of the camera label; 0 for none.
        channel_base, channel_max: features(r) = min(channel_base // r, channel_max).
        mapping_layers: of the label.
        group, std_channels: of the minibatch's standard deviation; group 0 leaves it out.
        clamp: bound of the activations' magnitude; None for none.
        dtype: compute dtype of the blocks above 4 x 4; parameters are float32.
        remat: what each resolution's backward pass computes again (`headjax.nets.remat`).
    """

    kind: Literal["eg3d", "panohead"] = "eg3d"
    resolution: int = 512
    c_dim: int = 25
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    group: int = 4
    std_channels: int = 1
    clamp: float | None = None
    dtype: Any = jnp.float32
    remat: Remat = "none"

    def __post_init__(self):
        """Checks the choices at construction."""
        if self.kind not in ("eg3d", "panohead"):
            raise ValueError(f"kind is {self.kind!r}; 'eg3d' or 'panohead' was expected")
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution is {self.resolution}; a power of two from 8 was expected")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """resolution, resolution / 2, ..., 8."""
        return tuple(2**k for k in range(self.resolution.bit_length() - 1, 2, -1))

    def features(self, resolution: int) -> int:
        """Feature channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)


def _convolved(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    pads = ((padding, padding), (padding, padding))
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=numbers
    )


def blur(x: Float[Array, "b h w c"], *, padding: int, stride: int = 1) -> Float[Array, "b i j c"]:
    """Filters by the outer product of [1,3,3,1]/8, zero-padded on each side."""
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (padding, padding)
        padded = jnp.pad(x, widths)
        size = (padded.shape[axis] - 4) // stride + 1
        taps = [
            jax.lax.slice_in_dim(padded, k, k + stride * (size - 1) + 1, stride, axis)
            for k in range(4)
        ]
        near, far = 0.5 * FIR_TAPS[1], 0.5 * FIR_TAPS[0]
        x = far * (taps[0] + taps[3]) + near * (taps[1] + taps[2])
    return x


class ConvLayer(nn.Module):
    """Convolution with equalised learning rate, halving after a blur where asked, and activation.

    Attributes:
        features: output channels.
        kernel_size: 1 or 3.
        down: halves the resolution; the blur comes first.
        use_bias: adds a bias.
        activate: leaky rectifier.
        gain: multiplies the result, and the clamp.
        clamp: bound of the output's magnitude; None for none.
    """

    features: int
    kernel_size: int = 3
    down: bool = False
    use_bias: bool = True
    activate: bool = True
    gain: float = 1.0
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Applies the layer in x's dtype."""
        size, channels = self.kernel_size, x.shape[-1]
        shape = (size, size, channels, self.features)
        weight = self.param("weight", nn.initializers.normal(1.0), shape)
        kernel = (weight / (channels * size**2) ** 0.5).astype(x.dtype)
        if not self.down:
            x = _convolved(x, kernel, stride=1, padding=size // 2)
        elif size == 1:
            x = _convolved(blur(x, padding=1, stride=2), kernel, stride=1, padding=0)
        else:
            x = _convolved(blur(x, padding=2), kernel, stride=2, padding=0)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(x.dtype)
        x = (leaky_relu(x) if self.activate else x) * self.gain
        bound = None if self.clamp is None else self.clamp * self.gain
        return x if bound is None else jnp.clip(x, -bound, bound)


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions, the second halving, beside a halving skip."""

    features: int
    features_out: int
    first: bool = False
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Halves the resolution; the first block takes the image."""
        if self.first:
            x = ConvLayer(self.features, kernel_size=1, clamp=self.clamp, name="fromrgb")(x)
        skip = ConvLayer(
            self.features_out, kernel_size=1, down=True, use_bias=False, activate=False,
            gain=RESIDUAL_GAIN, name="skip",
        )(x)  # fmt: skip
        x = ConvLayer(self.features, clamp=self.clamp, name="conv0")(x)
        x = ConvLayer(
            self.features_out, down=True, gain=RESIDUAL_GAIN, clamp=self.clamp, name="conv1"
        )(x)
        return skip + x


def minibatch_std(
    x: Float[Array, "b h w c"], *, group: int, channels: int = 1
) -> Float[Array, "b h w d"]:
    """Appends the mean standard deviation over groups of the batch, as `channels` more channels.

    Sample i belongs to the group i modulo b / group. A batch that `group` does not divide falls
    into groups of the largest size below it that divides.
    """
    batch, height, width, depth = x.shape
    size = next(n for n in range(min(group, batch), 0, -1) if batch % n == 0)
    y = x.reshape(size, batch // size, height, width, channels, depth // channels)
    y = jnp.sqrt(jnp.mean(jnp.square(y - y.mean(0)), axis=0) + 1e-8)
    y = y.mean((1, 2, 4))[:, None, None, :]
    y = jnp.broadcast_to(y, (batch // size, height, width, channels))
    return jnp.concatenate([x, jnp.tile(y, (size, 1, 1, 1))], axis=-1)


class DiscriminatorEpilogue(nn.Module):
    """4 x 4 features to a logit, or to a vector that is compared with the label's."""

    features: int
    outputs: int
    group: int
    std_channels: int
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b 4 4 c"]) -> Float[Array, "b o"]:
        """Maps to [b, outputs], float32."""
        x = x.astype(at_least_float32(x))
        if self.group:
            x = minibatch_std(x, group=self.group, channels=self.std_channels)
        x = ConvLayer(self.features, clamp=self.clamp, name="conv")(x)
        # The public layout flattens channels first.
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        x = leaky_relu(FullyConnected(self.features, name="fc")(x))
        return FullyConnected(self.outputs, name="out")(x)


class Discriminator(nn.Module):
    """EG3D's dual discriminator, or PanoHead's with the mask: images and label -> logit."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, images: Images, c: Float[Array, "b k"] | None) -> Float[Array, "b"]:
        """The logit of each sample; higher is more real.

        Args:
            images: 'image' [b, r, r, 3] in [-1, 1]; 'image_raw' [b, s, s, 3] in [-1, 1]; of
                PanoHead also 'mask' [b, s, s, 1] in [0, 1].
            c: camera labels; None where `c_dim` is 0.
        """
        cfg = self.config
        x = stacked(images, config=cfg).astype(cfg.dtype)
        block = rematerialised(DiscriminatorBlock, cfg.remat)
        for r in cfg.resolutions:
            x = block(
                cfg.features(r), cfg.features(r // 2), first=r == cfg.resolution, clamp=cfg.clamp,
                name=f"b{r}",
            )(x)  # fmt: skip
        width = cfg.features(4)
        last = DiscriminatorEpilogue(
            width, width if cfg.c_dim else 1, cfg.group, cfg.std_channels, cfg.clamp, name="b4"
        )
        x = last(x)
        if not cfg.c_dim:
            return x[:, 0]
        mapping = MappingNetwork(
            0, cfg.c_dim, width, layers=cfg.mapping_layers, averages=False, name="mapping"
        )
        return jnp.sum(x * mapping(None, c), axis=-1) / width**0.5


def stacked(images: Images, *, config: DiscriminatorConfig) -> Float[Array, "b h w c"]:
    """What the first layer sees: image, raw image and mask (as 2m − 1) at the image's size."""
    image = images["image"]
    if image.shape[1:] != (config.resolution, config.resolution, 3):
        size = config.resolution
        raise ValueError(f"image is {image.shape}; [batch, {size}, {size}, 3] was expected")
    parts = [image, resize(images["image_raw"], config.resolution)]
    if config.kind == "panohead":
        parts.append(resize(2.0 * images["mask"] - 1.0, config.resolution))
    return jnp.concatenate(parts, axis=-1)
