"""Named real shapes of K-nearest Gaussian blending, shared by tests and benchmarks."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable


@dataclasses.dataclass(frozen=True)
class Spec:
    """A shape: b heads of G² Gaussians, each queried at r points.

    `layout` says where they lie: anywhere in a 'box'; or as of a 'head', Gaussians on a surface in
    the order of its UV map and points on a camera's rays, 48 on each.
    """

    heads: int
    points: int
    grid: int
    patch: int
    channels: int = 8
    neighbors: int = 3
    layout: Literal["box", "head"] = "box"

    @property
    def gaussians(self) -> int:
        return self.grid**2


SPECS = {
    # Gaussian3Diff's table 2: batch 4, 64² rays of 48 samples, 32² Gaussians.
    "paper": Spec(heads=4, points=64 * 64 * 48, grid=32, patch=8),
    # The field query that `benchmarks/field_query.py` reports.
    "query": Spec(heads=1, points=65_536, grid=32, patch=8),
    # The demo's Gaussians at the same number of points.
    "query_demo": Spec(heads=1, points=65_536, grid=16, patch=4),
    # One training step of the demo: 8 identities, 1,024 rays of 11 samples.
    "demo": Spec(heads=8, points=1024 * 11, grid=16, patch=4),
    "tiny": Spec(heads=2, points=96, grid=4, patch=2),
    "odd": Spec(heads=1, points=397, grid=19, patch=3, channels=5, neighbors=4),
    "few": Spec(heads=1, points=37, grid=2, patch=4, neighbors=4),
    "texel": Spec(heads=1, points=50, grid=5, patch=1, channels=4, neighbors=2),
    "single": Spec(heads=1, points=1, grid=1, patch=2, channels=1, neighbors=1),
}

Inputs = tuple[Float[Array, "b r 3"], GaussianTable, Float[Array, "b h w d"]]


def options_of(spec: Spec, **changes) -> BlendOptions:
    """The spec's options, with the given fields changed."""
    return BlendOptions(**({"patch": spec.patch, "neighbors": spec.neighbors} | changes))


def _rotations(random: np.random.Generator, count: int) -> np.ndarray:
    """Uniformly random rotations, by unit quaternions."""
    w, x, y, z = (lambda q: q / np.linalg.norm(q, axis=0))(random.normal(size=(4, count)))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.moveaxis(np.array(rows), -1, 0)


def _surface(random: np.random.Generator, grid: int) -> np.ndarray:
    """A rough ellipsoid's points, row after row of its UV grid, [grid², 3]."""
    polar = np.pi * (0.12 + 0.8 * (np.arange(grid) + 0.5) / grid)[:, None]
    around = 2 * np.pi * (np.arange(grid) + 0.5) / grid
    x, z = 0.2 * np.sin(polar) * np.cos(around), 0.24 * np.sin(polar) * np.sin(around)
    surface = np.stack([x, np.broadcast_to(0.27 * np.cos(polar), x.shape), z], axis=-1)
    return surface.reshape(-1, 3) + 0.004 * random.normal(size=(grid * grid, 3))


def _on_rays(random: np.random.Generator, count: int, *, samples: int = 48) -> np.ndarray:
    """Points on the rays of a camera that looks at the box ± 0.36, ray after ray, [count, 3]."""
    rays = -(-count // samples)
    side = int(np.ceil(rays**0.5))
    eye = 1.9 * np.array([np.sin(0.4), 0.15, np.cos(0.4)])
    ahead = -eye / np.linalg.norm(eye)
    right = np.cross(ahead, [0.0, 1.0, 0.0]) / np.linalg.norm(np.cross(ahead, [0.0, 1.0, 0.0]))
    row, column = np.divmod(np.arange(rays), side) / np.float64(side) - 0.5
    toward = ahead + 0.36 * (column[:, None] * right - row[:, None] * np.cross(right, ahead))
    bounds = np.sort([(-0.36 - eye) / toward, (0.36 - eye) / toward], axis=0)
    near, far = bounds[0].max(axis=-1), bounds[1].min(axis=-1)
    step = (np.arange(samples) + random.uniform(size=(rays, samples))) / samples
    depth = near[:, None] + step * np.maximum(far - near, 1e-3)[:, None]
    return (eye + depth[..., None] * toward[:, None]).reshape(-1, 3)[:count]


def make_inputs(spec: Spec, *, seed: int = 0, valid: float = 0.9) -> Inputs:
    """Random points and Gaussians of a head's size, the radii near the Gaussians' spacing.

    Args:
      spec: the shape.
      seed: same seed, same numbers.
      valid: the share of Gaussians that are valid.
    """
    random = np.random.default_rng(seed)
    b, n = spec.heads, spec.gaussians
    if spec.layout == "head":
        spacing = 0.8 / n**0.5
        centers = np.stack([_surface(random, spec.grid) for _ in range(b)])
    else:
        spacing = 0.6 / max(n, 2) ** (1 / 3)
        centers = random.uniform(-0.3, 0.3, (b, n, 3))
    table = GaussianTable(
        centers=jnp.asarray(centers, jnp.float32),
        rotations=jnp.asarray(_rotations(random, b * n).reshape(b, n, 3, 3), jnp.float32),
        radii=jnp.asarray(spacing * random.uniform(0.5, 1.5, (b, n, 3)), jnp.float32),
        valid=jnp.asarray(random.uniform(size=(b, n)) < valid),
    )
    side = spec.grid * spec.patch
    if spec.layout == "head":
        points = np.stack([_on_rays(random, spec.points) for _ in range(b)])
    else:
        points = random.uniform(-0.36, 0.36, (b, spec.points, 3))
    atlas = random.normal(size=(b, side, side, 3 * spec.channels))
    return jnp.asarray(points, jnp.float32), table, jnp.asarray(atlas, jnp.float32)
