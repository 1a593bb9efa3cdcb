"""Decoders from an identity's code to the payload atlas of its Gaussians.

The Gaussians lie on a G x G grid in UV space; each carries a patch of p x p texels with 24
channels (3 planes x 8 features, plane-major). The atlas [b, G*p, G*p, 24] holds the patch of
Gaussian (i, j) in rows i*p..i*p+p and columns j*p..j*p+p.

- "grid" works at the Gaussians' own resolution, and its last layer writes each Gaussian's whole
  patch: many times fewer operations a step, for small machines.
- "stylegan2" is the paper's: a StyleGAN2 synthesis network at the atlas' resolution which takes
  the code as the style of every layer (Gaussian3Diff, supplement 1.1 and Table 1).
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.activations import constrain
from headjax.nets.remat import Remat, rematerialised
from headjax.nets.stylegan2 import FullyConnected, SynthesisLayer, SynthesisNetwork, modulated_conv

PAYLOAD_CHANNELS = 24


@dataclass(frozen=True)
class PayloadDecoderConfig:
    """Size and kind of a payload decoder.

    Attributes:
        kind: "grid" or "stylegan2" (the paper's).
        grid: Gaussians along an axis of the UV map (G).
        patch: texels along an axis of a Gaussian's patch (p).
        code_dim: length of the code z.
        channels: payload channels of a texel.
        width, blocks: "grid" only: feature channels, number of 3x3 layers.
        head_scale: "grid" only: standard deviation of the last layer's weights at the start;
            0 starts from the learned bias alone.
        channel_base, channel_max: "stylegan2" only: as in `SynthesisNetwork`.
        dtype: compute dtype; parameters and the atlas are float32.
        remat: what each layer's or resolution's backward pass computes again: "none", "dots" or
            "block" (`headjax.nets.remat`).
    """

    kind: Literal["grid", "stylegan2"] = "grid"
    grid: int = 16
    patch: int = 4
    code_dim: int = 512
    channels: int = PAYLOAD_CHANNELS
    width: int = 192
    blocks: int = 4
    head_scale: float = 0.1
    channel_base: int = 8192
    channel_max: int = 512
    dtype: Any = jnp.float32
    remat: Remat = "none"


def patches_to_atlas(patches: Float[Array, "*b g g k"], *, patch: int) -> Float[Array, "*b h w c"]:
    """[.., G, G, p*p*c] (row, column, channel order inside a patch) -> [.., G*p, G*p, c]."""
    *batch, rows, columns, size = patches.shape
    channels = size // patch**2
    split = patches.reshape(*batch, rows, columns, patch, patch, channels)
    return jnp.swapaxes(split, -4, -3).reshape(*batch, rows * patch, columns * patch, channels)


def atlas_to_patches(atlas: Float[Array, "*b h w c"], *, patch: int) -> Float[Array, "*b g g k"]:
    """The inverse of `patches_to_atlas`."""
    *batch, height, width, channels = atlas.shape
    rows, columns = height // patch, width // patch
    split = jnp.swapaxes(atlas.reshape(*batch, rows, patch, columns, patch, channels), -4, -3)
    return split.reshape(*batch, rows, columns, patch**2 * channels)


class GridPayloadDecoder(nn.Module):
    """A learned constant [G, G, width], modulated 3x3 layers, and a head that writes patches."""

    config: PayloadDecoderConfig

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """Decodes codes [b, code_dim] to atlases [b, G*p, G*p, channels], float32."""
        cfg = self.config
        z = z.astype(cfg.dtype)
        const_shape = (cfg.grid, cfg.grid, cfg.width)
        const = self.param("const", nn.initializers.normal(1.0), const_shape)
        x = jnp.broadcast_to(const.astype(cfg.dtype), (z.shape[0], *const_shape))
        layer = rematerialised(SynthesisLayer, cfg.remat)
        for i in range(cfg.blocks):
            x = constrain(layer(cfg.width, use_noise=False, name=f"conv{i}")(x, z), "heads")
        patches = self._head(x, z).astype(jnp.float32)
        bias_shape = (cfg.grid, cfg.grid, patches.shape[-1])
        patches = patches + self.param("position_bias", nn.initializers.zeros, bias_shape)
        return patches_to_atlas(patches, patch=cfg.patch)

    def _head(self, x: Float[Array, "b g g c"], z: Float[Array, "b d"]) -> Float[Array, "b g g k"]:
        cfg = self.config
        shape = (1, 1, cfg.width, cfg.patch**2 * cfg.channels)
        weight = self.param("head_weight", nn.initializers.normal(cfg.head_scale), shape)
        styles = FullyConnected(cfg.width, bias_init=1.0, name="head_affine")(z)
        styles = styles / cfg.width**0.5
        return modulated_conv(x, weight, styles=styles, demodulate=False)


class StyleGAN2PayloadDecoder(nn.Module):
    """StyleGAN2 synthesis at the atlas' resolution, the code as every layer's style, no noise.

    With the paper's sizes (256 x 256 x 24, channel_base 8192) it has 17,293,045 parameters.
    """

    config: PayloadDecoderConfig

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """Decodes codes [b, code_dim] to atlases [b, G*p, G*p, channels], float32."""
        cfg = self.config
        network = SynthesisNetwork(
            resolution=cfg.grid * cfg.patch,
            channels_out=cfg.channels,
            w_dim=cfg.code_dim,
            channel_base=cfg.channel_base,
            channel_max=cfg.channel_max,
            dtype=cfg.dtype,
            remat=cfg.remat,
            name="synthesis",
        )
        ws = jnp.broadcast_to(z[:, None], (z.shape[0], network.num_ws, z.shape[-1]))
        return network(ws, noise="none")


def payload_decoder(config: PayloadDecoderConfig) -> nn.Module:
    """The decoder of a config: `init(key, z)` and `apply(variables, z [b, code_dim])`."""
    kinds = {"grid": GridPayloadDecoder, "stylegan2": StyleGAN2PayloadDecoder}
    if config.kind not in kinds:
        raise ValueError(f"payload decoder {config.kind!r} is unknown; one of {sorted(kinds)}")
    return kinds[config.kind](config)
