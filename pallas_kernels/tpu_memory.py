"""What the TPU kernels share: a tile of points as vectors, as scalars and along the lanes.

A tile is 1,024 points. As [8 128] one vector register holds one number of each; a copy to scalar
memory makes numbers into indices and weights of a walk over the points; as [1 t] points lie along
the lanes, for matrix products. Hat functions over the lanes' own texel coordinates are linear
interpolation, zeros outside, without a gather.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

SUBLANES, LANES = 8, 128
TILE = SUBLANES * LANES
ROW_BYTES = 4 * LANES
# A v5e and a v6e have 128 MiB of VMEM and 1 MiB of SMEM; the compiler wants some for itself.
VMEM, SMEM = 100 << 20, 900 << 10

dot = functools.partial(
    jax.lax.dot_general,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
)


def to_scalars(vectors, scalars, semaphore) -> None:
    """Copies a VMEM ref to an SMEM ref, and waits."""
    copy = pltpu.make_async_copy(vectors, scalars, semaphore)
    copy.start()
    copy.wait()


def row(vector: Array) -> Array:
    """[8 128] as [1 t]."""
    return jnp.concatenate([vector[i : i + 1] for i in range(SUBLANES)], axis=1)


def vector(row: Array) -> Array:
    """[1 t] as [8 128]."""
    parts = [row[:, i * LANES : (i + 1) * LANES] for i in range(SUBLANES)]
    return jnp.concatenate(parts, axis=0)


def hat(distance: Array) -> Array:
    """Weight of a texel at a distance, in texels."""
    return jnp.maximum(1.0 - jnp.abs(distance), 0.0)


def hat_slope(distance: Array) -> Array:
    """The derivative of `hat`; at a texel's own place that towards the upper one."""
    slope = jnp.where(distance < 0.0, 1.0, -1.0)
    return jnp.where((distance >= -1.0) & (distance < 1.0), slope, 0.0)
