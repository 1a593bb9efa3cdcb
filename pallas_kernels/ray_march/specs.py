"""Named real shapes of ray marching, shared by tests and benchmarks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.ray_march.types import Decoder, Rays


@dataclasses.dataclass(frozen=True)
class March:
    """b heads of r rays with s samples of c features."""

    heads: int
    rays: int
    samples: int
    channels: int


MARCHES = {
    # Gaussian3Diff's table 2: batch 4, 64² rays of 48 samples.
    "paper": March(heads=4, rays=64 * 64, samples=48, channels=3),
    # EG3D: one image at neural resolution 64, 48 + 48 samples of 32 features.
    "eg3d": March(heads=1, rays=64 * 64, samples=96, channels=32),
    "tiny": March(heads=2, rays=150, samples=5, channels=3),
    "odd": March(heads=1, rays=37, samples=7, channels=5),
    "single": March(heads=1, rays=1, samples=3, channels=1),
    "two_samples": March(heads=1, rays=9, samples=2, channels=4),
}

Inputs = tuple[Float[Array, "b r s c"], Float[Array, "b r s"], Float[Array, "b r s"]]


def march_inputs(spec: March, *, seed: int = 0, abstract: bool = False):
    """Features, densities ≥ 0 (a third of them 0) and ascending distances of a shape.

    Args:
      spec: the shape.
      seed: same seed, same numbers.
      abstract: shapes only.
    """
    shape = spec.heads, spec.rays, spec.samples
    if abstract:
        return tuple(
            jax.ShapeDtypeStruct(s, jnp.float32) for s in ((*shape, spec.channels), shape, shape)
        )
    random = np.random.default_rng(seed)
    sigma = random.exponential(8.0, shape) * (random.uniform(size=shape) > 1 / 3)
    depths = np.sort(random.uniform(2.0, 3.0, shape), axis=-1)
    features = random.normal(size=(*shape, spec.channels))
    return tuple(jnp.asarray(a, jnp.float32) for a in (features, sigma, depths))


def make_rays(
    heads: int, count: int, samples: int, *, seed: int = 0, box: float = 0.4
) -> tuple[Rays, Float[Array, "b r s"]]:
    """Rays from radius 2.7 towards points of the box, with jittered distances through it."""
    random = np.random.default_rng(seed)
    origins = np.broadcast_to([0.0, 0.0, 2.7], (heads, count, 3))
    directions = random.uniform(-box, box, (heads, count, 3)) - origins
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    strata = np.arange(samples) + random.uniform(size=(heads, count, samples))
    depths = 2.7 - box + 2.0 * box * strata / samples
    arrays = [jnp.asarray(a, jnp.float32) for a in (origins, directions, depths)]
    return Rays(origins=arrays[0], directions=arrays[1]), arrays[2]


def make_decoder(channels: int, hidden: int, outputs: int, *, seed: int = 0) -> Decoder:
    """A random MLP c → h → 1 + o of unit gain."""
    random = np.random.default_rng(seed)

    def normal(*shape, scale):
        return jnp.asarray(scale * random.normal(size=shape), jnp.float32)

    return Decoder(
        w0=normal(channels, hidden, scale=channels**-0.5),
        b0=normal(hidden, scale=0.1),
        w1=normal(hidden, 1 + outputs, scale=hidden**-0.5),
        b1=normal(1 + outputs, scale=0.1),
    )
