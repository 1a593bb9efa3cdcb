"""Named real shapes of K-nearest Gaussian blending, shared by tests and benchmarks."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable


@dataclasses.dataclass(frozen=True)
class Spec:
    """A shape: b heads of G² Gaussians, each queried at r points."""

    heads: int
    points: int
    grid: int
    patch: int
    channels: int = 8
    neighbors: int = 3

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


def make_inputs(spec: Spec, *, seed: int = 0, valid: float = 0.9) -> Inputs:
    """Random points and Gaussians in a head's box, the radii near the Gaussians' spacing.

    Args:
      spec: the shape.
      seed: same seed, same numbers.
      valid: the share of Gaussians that are valid.
    """
    random = np.random.default_rng(seed)
    b, n = spec.heads, spec.gaussians
    spacing = 0.6 / max(n, 2) ** (1 / 3)
    table = GaussianTable(
        centers=jnp.asarray(random.uniform(-0.3, 0.3, (b, n, 3)), jnp.float32),
        rotations=jnp.asarray(_rotations(random, b * n).reshape(b, n, 3, 3), jnp.float32),
        radii=jnp.asarray(spacing * random.uniform(0.5, 1.5, (b, n, 3)), jnp.float32),
        valid=jnp.asarray(random.uniform(size=(b, n)) < valid),
    )
    side = spec.grid * spec.patch
    points = random.uniform(-0.36, 0.36, (b, spec.points, 3))
    atlas = random.normal(size=(b, side, side, 3 * spec.channels))
    return jnp.asarray(points, jnp.float32), table, jnp.asarray(atlas, jnp.float32)
