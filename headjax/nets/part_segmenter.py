"""A small network that labels every pixel of a head's picture with its part.

A U-Net of three scales whose first and last step fold 2 x 2 pixels into channels: nothing is
convolved at full resolution, which makes it quick on a CPU, and each coarse pixel says which of its
four fine ones carry a thin brow or an eyelid.

Alphabet: b batch, h w pixels, c channels, k classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from headjax.render.parts import PART_IDS

# What is told apart: the parts of `render.parts`, left and right as one.
CLASSES = (
    "background", "skin", "brows", "eyes", "nose", "mouth", "glasses", "ears", "neck", "hair"
)  # fmt: skip
SIZE = 64  # side of the pictures that it is trained on

_OF_PART = {
    "skin": "skin", "l_brow": "brows", "r_brow": "brows", "l_eye": "eyes", "r_eye": "eyes",
    "eye_g": "glasses", "l_ear": "ears", "r_ear": "ears", "ear_r": "ears", "nose": "nose",
    "mouth": "mouth", "u_lip": "mouth", "l_lip": "mouth", "neck": "neck", "neck_l": "neck",
    "cloth": "neck", "hair": "hair", "hat": "hair", "background": "background",
}  # fmt: skip
_GROUP = 8  # channels that are normalised together
_CERTAIN = 20.0  # the logit of what needs no look


def classes_of(parts: UInt8[np.ndarray, "*b h w"]) -> UInt8[np.ndarray, "*b h w"]:
    """Part labels (ids of `render.parts`) as numbers of `CLASSES`."""
    table = np.zeros(len(PART_IDS), np.uint8)
    for part, name in _OF_PART.items():
        table[PART_IDS[part]] = CLASSES.index(name)
    return table[parts]


@dataclasses.dataclass(frozen=True)
class PartSegmenterConfig:
    """Sizes of the network.

    Attributes:
        classes: how many it tells apart.
        widths: channels at a half, a quarter and an eighth of the resolution; multiples of 8.
        margin: pixels along every border that are background unseen. Heads in EG3D's cameras leave
            an eighth of the picture free; not looking there nearly halves the work.
    """

    classes: int = len(CLASSES)
    widths: tuple[int, int, int] = (40, 64, 96)
    margin: int = 8

    def __post_init__(self):
        if self.classes < 2 or any(width < 1 or width % _GROUP for width in self.widths):
            raise ValueError(
                f"{self.classes} classes, widths {self.widths}: at least 2 classes and widths that "
                f"are multiples of {_GROUP} were expected"
            )


class _Block(nn.Module):
    """3 x 3 convolution, group normalisation, SiLU."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        x = nn.Conv(self.features, (3, 3), strides=self.stride, use_bias=False, name="conv")(x)
        return nn.silu(nn.GroupNorm(num_groups=None, group_size=_GROUP, name="norm")(x))


class PartSegmenter(nn.Module):
    """Pictures -> logits of the parts, float32."""

    config: PartSegmenterConfig = PartSegmenterConfig()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
        """Applies the network.

        Args:
            images: in [-1, 1]; h and w within the margin multiples of 8.

        Raises:
            ValueError: they are not.
        """
        margin = self.config.margin
        images = images[:, margin : images.shape[1] - margin, margin : images.shape[2] - margin]
        height, width = images.shape[1:3]
        if height % 8 or width % 8 or not height * width:
            raise ValueError(
                f"pictures of {height}x{width} within the margin; multiples of 8 were expected"
            )
        fine, middle, coarse = self.config.widths
        x = rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2)
        half = _Block(fine, name="half1")(_Block(fine, name="half0")(x))
        quarter = _Block(middle, name="quarter1")(_Block(middle, 2, name="quarter0")(half))
        x = _Block(coarse, name="eighth1")(_Block(coarse, 2, name="eighth0")(quarter))
        x = _Block(coarse, name="eighth2")(x)
        x = _Block(middle, name="quarter2")(quarter + _enlarged(x, middle, "to_quarter"))
        x = _Block(fine, name="half2")(half + _enlarged(x, fine, "to_half"))
        x = nn.Conv(4 * self.config.classes, (3, 3), name="head")(x)
        x = rearrange(x, "b h w (p q k) -> b (h p) (w q) k", p=2, q=2).astype(jnp.float32)
        return _framed(x, margin)


def _framed(logits: Float[Array, "b h w k"], margin: int) -> Float[Array, "b h2 w2 k"]:
    """The logits with a frame that is certainly background."""
    framed = jnp.pad(logits, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows, columns = (
        (jnp.arange(size) < margin) | (jnp.arange(size) >= size - margin)
        for size in framed.shape[1:3]
    )
    frame = rows[:, None] | columns
    return framed.at[..., 0].add(jnp.where(frame, _CERTAIN, 0.0))


def _enlarged(x: Float[Array, "b h w c"], features: int, name: str) -> Float[Array, "b h2 w2 k"]:
    """Channels mixed to `features`, each pixel repeated 2 x 2."""
    x = nn.Conv(features, (1, 1), use_bias=False, name=name)(x)
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """A trained segmenter of `CLASSES`: its sizes and its parameters."""

    config: PartSegmenterConfig
    params: Any


def init_params(config: PartSegmenterConfig, key: jax.Array) -> dict:
    """The network's parameters at the start."""
    side = 8 + 2 * config.margin
    return PartSegmenter(config).init(key, jnp.zeros((1, side, side, 3)))["params"]
