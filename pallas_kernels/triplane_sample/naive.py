"""Tri-plane lookup straight from the formulas: what the others are measured against.

Gathers each corner of each point's cell as an obvious program would; its gradient is JAX's own.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.triplane_sample.types import LookupOptions


def _lookup(plane: Float[Array, "*s c"], coordinates: list[Float[Array, "r"]]) -> Array:
    """Multilinear lookup with zeros outside; `coordinates` lie in [−1, 1], in the order W, H, D."""
    texels = [
        ((u + 1.0) * size - 1.0) / 2.0
        for u, size in zip(coordinates[::-1], plane.shape[:-1], strict=True)
    ]
    lows = [jnp.floor(t) for t in texels]
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(texels)):
        weight, inside, index = 1.0, True, []
        for t, low, up, size in zip(texels, lows, corner, plane.shape[:-1], strict=True):
            weight = weight * (t - low if up else 1.0 - (t - low))
            inside = inside & (low + up >= 0) & (low + up < size)
            index.append(jnp.clip(low + up, 0, size - 1).astype(jnp.int32))
        total = total + jnp.where(inside, weight, 0.0)[:, None] * plane[tuple(index)]
    return total


def triplane_sample_naive(
    points: Float[Array, "b r 3"], planes: Float[Array, "b n *s c"], *, options: LookupOptions
) -> Float[Array, "b *n r c"]:
    """`op.triplane_sample`, the obvious way. `options.tile` and `.implementation` are ignored."""
    heads = []
    for head_points, head_planes in zip(points * (2.0 / options.box), planes, strict=True):
        features = [
            _lookup(plane, [head_points[:, a] for a in axes])
            for plane, axes in zip(head_planes, options.axes, strict=True)
        ]
        heads.append(jnp.stack(features))
    features = jnp.stack(heads)
    return features if options.reduce == "none" else options.scale * jnp.sum(features, axis=1)
