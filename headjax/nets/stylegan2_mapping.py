"""StyleGAN2's mapping network, conditioned on a label as StyleGAN2-ADA and EG3D do.

Alphabet: b batch, d of the latent z, k of the label c, w of the style, l style layers.

Names follow the public state dict: `embed/{weight, bias}`, `fc{i}/{weight, bias}`; the moving
average `w_avg` lives in the collection "buffers".
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.nets.stylegan2 import FullyConnected, at_least_float32, leaky_relu

W_AVG_DECAY = 0.998


def normalize_2nd_moment(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x / sqrt(mean x² + 1e-8) along the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def truncate(
    ws: Float[Array, "b l w"],
    w_avg: Float[Array, "w"],
    *,
    psi: float,
    cutoff: int | None = None,
) -> Float[Array, "b l w"]:
    """Moves the first `cutoff` style vectors (None: all) towards the average: w̄ + ψ (w − w̄)."""
    moved = w_avg + psi * (ws - w_avg)
    if cutoff is None:
        return moved
    return jnp.concatenate([moved[:, :cutoff], ws[:, cutoff:]], axis=1)


def w_avg_update(
    w_avg: Float[Array, "w"], w: Float[Array, "b w"], *, decay: float = W_AVG_DECAY
) -> Float[Array, "w"]:
    """The moving average after a batch of styles; no gradient flows through it."""
    mean = jax.lax.stop_gradient(jnp.mean(w, axis=0))
    return mean + decay * (w_avg - mean)


class MappingNetwork(nn.Module):
    """(z, c) -> w: both normalised, joined, and taken through fully connected layers.

    Attributes:
        z_dim: length of the latent; 0 for none (a discriminator's label mapping).
        c_dim: length of the label; 0 for none.
        w_dim: length of the style, of every hidden layer, and of the label's embedding.
        layers: number of fully connected layers.
        lr_multiplier: their learning rate's factor.
        last: activation of the last layer.
        averages: holds the buffer `w_avg`.
    """

    z_dim: int
    c_dim: int
    w_dim: int
    layers: int = 8
    lr_multiplier: float = 0.01
    last: Literal["leaky_relu", "linear"] = "leaky_relu"
    averages: bool = True

    @nn.compact
    def __call__(
        self, z: Float[Array, "b d"] | None, c: Float[Array, "b k"] | None
    ) -> Float[Array, "b w"]:
        """The style; z is None where `z_dim` is 0, and c where `c_dim` is 0."""
        self._check(z, c)
        if self.averages:
            self.variable("buffers", "w_avg", jnp.zeros, (self.w_dim,))
        parts = []
        if self.z_dim:
            parts.append(normalize_2nd_moment(z.astype(at_least_float32(z))))
        if self.c_dim:
            embedded = FullyConnected(self.w_dim, name="embed")(c.astype(at_least_float32(c)))
            parts.append(normalize_2nd_moment(embedded))
        x = jnp.concatenate(parts, axis=-1)
        for i in range(self.layers):
            layer = FullyConnected(self.w_dim, lr_multiplier=self.lr_multiplier, name=f"fc{i}")
            x = layer(x)
            if i < self.layers - 1 or self.last == "leaky_relu":
                x = leaky_relu(x)
        return x

    def _check(self, z: Array | None, c: Array | None) -> None:
        for name, value, size in (("z", z, self.z_dim), ("c", c, self.c_dim)):
            if size and (value is None or value.ndim != 2 or value.shape[-1] != size):
                came = "missing" if value is None else f"of shape {value.shape}"
                raise ValueError(f"{name} is {came}; [batch, {size}] was expected")

    def average(self) -> Float[Array, "w"]:
        """The moving average of w."""
        return self.get_variable("buffers", "w_avg")
