"""EG3D's super-resolution networks: rendered features to the final image.

Alphabet: b batch, h w rows and columns, c features of the rendering, d of a style.

Names follow the public state dict: `block0/...`, `block1/...`. Both blocks take the last style
vector for every layer. The public code names the modules SuperresolutionHybrid2X, 4X, 8X and 8XDC.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.remat import Remat, rematerialised
from headjax.nets.resize import resize
from headjax.nets.stylegan2 import NoiseMode, SynthesisBlock


@dataclasses.dataclass(frozen=True)
class Form:
    """Sizes of a super-resolution network.

    Attributes:
        entry: the resolution that features are resized to.
        features: of the two blocks.
        up: whether each of them doubles the resolution.
    """

    entry: int
    features: tuple[int, int]
    up: tuple[bool, bool]

    @property
    def resolution(self) -> int:
        """Of the image."""
        return self.entry * 2 ** sum(self.up)


FORMS: dict[str, Form] = {
    "2x": Form(64, (128, 64), (False, True)),
    "4x": Form(128, (128, 64), (False, True)),
    "8x": Form(128, (128, 64), (True, True)),
    "8xdc": Form(128, (256, 128), (True, True)),
}


class Superresolution(nn.Module):
    """Features and raw image -> image.

    Attributes:
        form: see `FORMS`.
        antialias: of the resize before the blocks, where it makes features smaller.
        clamp: bound of the activations' magnitude; None (float32) or 256 (half precision).
        dtype: compute dtype of the layers.
        remat: what each block's backward pass computes again (`headjax.nets.remat`).
    """

    form: Form
    antialias: bool = True
    clamp: float | None = None
    dtype: Any = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b h w c"],
        raw: Float[Array, "b h w 3"],
        *,
        w: Float[Array, "b d"],
        noise: NoiseMode = "none",
    ) -> Float[Array, "b r r 3"]:
        """The image in [-1, 1], about, float32.

        Args:
            features: rendered features.
            raw: the raw image; it is resized, and the blocks add to it.
            w: the last style vector.
            noise: "none" (EG3D's), "const" or "random".
        """
        entry = self.form.entry
        if features.shape[1] != entry:
            features = resize(features, entry, antialias=self.antialias)
            raw = resize(raw, entry, antialias=self.antialias)
        ws = jnp.repeat(w[:, None], 3, axis=1).astype(self.dtype)
        x = features.astype(self.dtype)
        block = rematerialised(SynthesisBlock, self.remat, static_argnums=(4,))
        for i, (width, up) in enumerate(zip(self.form.features, self.form.up, strict=True)):
            stage = block(width, 3, up=up, clamp=self.clamp, name=f"block{i}")
            x, raw = stage(x, raw, ws, noise)
        return raw
