"""The U-Net that denoises UV maps of Gaussians (Gaussian3Diff, supplement Table 1).

The layout is ADM's (Dhariwal & Nichol 2021), with Imagen's attention (Saharia et al. 2022: an
inner width of heads x head_channels, whatever the level's width) and Imagen's scaling of skip
connections by 1/sqrt(2).

Alphabet: b batch, h w rows and columns of tokens, c i o channels, n tokens, k heads, d width of a
head or of the time embedding.

An optional patchifying stem lets a large state run on few tokens: p x p patches are folded into
channels and mapped linearly to the base width; the head unfolds them again. The stem must not be
narrower than what it has to pass: predict x0 rather than the noise where it is.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from headjax.nets.activations import constrain
from headjax.nets.remat import Remat, rematerialised

SKIP_SCALE = 2.0**-0.5


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net; the defaults are the paper's (464,073,761 parameters).

    Attributes:
        channels: channels of the state, in and out (9 of geometry, 24 of payload).
        base: channels of the first level.
        multipliers: channels of each level over `base`; a level halves the resolution.
        blocks: residual blocks of a level on the way down (one more on the way up).
        attention: token resolutions (after patchifying) whose blocks are followed by attention.
        heads, head_channels: attention heads and the width of each.
        groups: groups of the group norms (the greatest common divisor with the channels).
        dropout: rate inside residual blocks.
        patch: edge of the patches folded into channels by the stem; 1 for convolutions instead.
        remat: what each block's backward pass computes again: "none", "dots" or "block"
            (`headjax.nets.remat`).
        dtype: compute dtype; parameters, norms' statistics and the output are float32.
    """

    channels: int = 33
    base: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (32, 16, 8)
    heads: int = 4
    head_channels: int = 64
    groups: int = 32
    dropout: float = 0.0
    patch: int = 1
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @property
    def factor(self) -> int:
        """Height and width of a state must be multiples of this."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


def time_embedding(t: Float[Array, "b"] | Int[Array, "b"], *, size: int) -> Float[Array, "b d"]:
    """Sinusoidal embedding [cos, sin] of steps in [0, ~1000], periods from 2 pi to 2e4 pi."""
    half = size // 2
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.arange(half) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def fold_patches(x: Float[Array, "b h w c"], *, patch: int) -> Float[Array, "b h2 w2 c2"]:
    """Space to depth: p x p neighbours become channels, in (row, column, channel) order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def unfold_patches(x: Float[Array, "b h w c"], *, patch: int) -> Float[Array, "b h2 w2 c2"]:
    """The inverse of `fold_patches`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2).swapaxes(2, 3)
    return x.reshape(b, h * patch, w * patch, c // patch**2)


def _conv(features: int, cfg: UNetConfig, **options) -> nn.Conv:
    return nn.Conv(features, (3, 3), padding=1, dtype=cfg.dtype, **options)


def _norm(channels: int, cfg: UNetConfig, name: str) -> nn.GroupNorm:
    groups = math.gcd(cfg.groups, channels)
    return nn.GroupNorm(groups, epsilon=1e-5, dtype=cfg.dtype, name=name)


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, the second norm scaled and shifted by time (FiLM)."""

    features: int
    config: UNetConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], time: Float[Array, "b d"], train: bool
    ) -> Float[Array, "b h w o"]:
        """Applies the block; `time` is the activated embedding."""
        cfg, features = self.config, self.features
        x = constrain(x, "batch")
        film = nn.Dense(2 * features, dtype=cfg.dtype, name="film")(time)[:, None, None]
        scale, shift = jnp.split(film, 2, axis=-1)
        h = nn.silu(_norm(x.shape[-1], cfg, "norm1")(x))
        h = constrain(_conv(features, cfg, name="conv1")(h), "batch")
        h = nn.silu(_norm(features, cfg, "norm2")(h) * (1 + scale) + shift)
        h = nn.Dropout(cfg.dropout, deterministic=not train)(h)
        h = _conv(features, cfg, name="conv2", kernel_init=nn.initializers.zeros)(h)
        if x.shape[-1] != features:
            x = nn.Dense(features, dtype=cfg.dtype, name="skip")(x)
        return constrain(x + h, "batch")


class AttentionBlock(nn.Module):
    """Self-attention over all tokens, added to its input."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Applies the block."""
        cfg, x = self.config, constrain(x, "batch")
        b, h, w, c = x.shape
        inner = cfg.heads * cfg.head_channels
        normed = _norm(c, cfg, "norm")(x).reshape(b, h * w, c)
        qkv = nn.Dense(3 * inner, dtype=cfg.dtype, name="qkv")(normed)
        qkv = qkv.reshape(b, h * w, 3, cfg.heads, cfg.head_channels)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        y = y.reshape(b, h * w, inner)
        y = nn.Dense(c, dtype=cfg.dtype, name="out", kernel_init=nn.initializers.zeros)(y)
        return constrain(x + y.reshape(b, h, w, c), "batch")


class UNet(nn.Module):
    """State [b, h, w, channels] and step [b] -> prediction of the state's shape, float32."""

    config: UNetConfig = UNetConfig()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Float[Array, "b"] | Int[Array, "b"],
        *,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        """Predicts from a noised state; `train` turns dropout on (rng stream "dropout")."""
        cfg = self.config
        self._check(x)
        block, attend = self._blocks(train)
        time = self._time(t)
        x = constrain(self._stem(constrain(x.astype(cfg.dtype), "batch")), "batch")
        skips = [x]
        for level, multiplier in enumerate(cfg.multipliers):
            for i in range(cfg.blocks):
                x = block(cfg.base * multiplier, f"down{level}_block{i}", x, time)
                x = attend(f"down{level}_attention{i}", x)
                skips.append(x)
            if level < len(cfg.multipliers) - 1:
                x = _conv(x.shape[-1], cfg, strides=2, name=f"down{level}_halve")(x)
                x = constrain(x, "batch")
                skips.append(x)
        x = block(x.shape[-1], "middle_block0", x, time)
        x = attend("middle_attention", x, always=True)
        x = block(x.shape[-1], "middle_block1", x, time)
        for level, multiplier in reversed(list(enumerate(cfg.multipliers))):
            for i in range(cfg.blocks + 1):
                x = jnp.concatenate([x, skips.pop() * SKIP_SCALE], axis=-1)
                x = block(cfg.base * multiplier, f"up{level}_block{i}", x, time)
                x = attend(f"up{level}_attention{i}", x)
            if level > 0:
                x = constrain(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), "batch")
                x = constrain(_conv(x.shape[-1], cfg, name=f"up{level}_double")(x), "batch")
        return self._head(x)

    def _check(self, x: jax.Array) -> None:
        cfg = self.config
        if x.shape[-1] != cfg.channels or x.shape[1] % cfg.factor or x.shape[2] % cfg.factor:
            raise ValueError(
                f"state is {x.shape}; [batch, h, w, {cfg.channels}] was expected, "
                f"h and w multiples of {cfg.factor}"
            )

    def _blocks(self, train: bool) -> tuple:
        cfg = self.config
        res = rematerialised(ResBlock, cfg.remat, static_argnums=(3,))
        attention = rematerialised(AttentionBlock, cfg.remat)

        def block(features, name, x, time):
            return res(features, cfg, name=name)(x, time, train)

        def attend(name, x, always=False):
            wanted = always or x.shape[1] in cfg.attention
            return attention(cfg, name=name)(x) if wanted else x

        return block, attend

    def _time(self, t: jax.Array) -> jax.Array:
        cfg = self.config
        h = time_embedding(t, size=cfg.base).astype(cfg.dtype)
        h = nn.silu(nn.Dense(4 * cfg.base, dtype=cfg.dtype, name="time0")(h))
        return nn.silu(nn.Dense(4 * cfg.base, dtype=cfg.dtype, name="time1")(h))

    def _stem(self, x: jax.Array) -> jax.Array:
        cfg = self.config
        if cfg.patch == 1:
            return _conv(cfg.base, cfg, name="stem")(x)
        return nn.Dense(cfg.base, dtype=cfg.dtype, name="stem")(fold_patches(x, patch=cfg.patch))

    def _head(self, x: jax.Array) -> jax.Array:
        cfg = self.config
        x = constrain(nn.silu(_norm(x.shape[-1], cfg, "head_norm")(x)), "batch")
        zeros = nn.initializers.zeros
        if cfg.patch == 1:
            return _conv(cfg.channels, cfg, name="head", kernel_init=zeros)(x).astype(jnp.float32)
        size = cfg.patch**2 * cfg.channels
        x = nn.Dense(size, dtype=cfg.dtype, name="head", kernel_init=zeros)(x)
        return unfold_patches(x.astype(jnp.float32), patch=cfg.patch)
