"""What the implementations of K-nearest Gaussian blending share: options and inputs."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
from jaxtyping import Array, Bool, Float

from pallas_kernels.dispatch import Implementation, check_implementation

# Coordinates of the planes xy, xz, yz in the local frame: (column, row) of the texel grid.
PLANE_AXES = ((0, 1), (0, 2), (1, 2))
# The most neighbours that the kernels serve; the reference serves any number.
MOST_NEIGHBORS = 8
# Guards the normalisation where no Gaussian reaches.
EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class BlendOptions:
    """The choices that Gaussian3Diff's supplement leaves open, with the project's defaults.

    Attributes:
      patch: side p of a Gaussian's local planes, in texels.
      neighbors: K, how many nearest Gaussians are blended.
      metric: 'euclidean' distance to the centres, or 'rbf' (largest RBF values).
      radii: whether radii are standard deviations ('std') or variances.
      blend: RBF weights 'normalized' to one (w = g / (Σ g + 1e-7)) or 'raw'.
      extent: κ; the patch spans ± κ standard deviations, the border is clamped.
      min_std: floor of the standard deviation, world units.
      tile: points that the reference handles at a time, about.
      implementation: which form runs (`pallas_kernels.dispatch`); 'auto' goes by the platform.
    """

    patch: int = 8
    neighbors: int = 3
    metric: Literal["euclidean", "rbf"] = "euclidean"
    radii: Literal["std", "variance"] = "std"
    blend: Literal["normalized", "raw"] = "normalized"
    extent: float = 2.0
    min_std: float = 1e-4
    tile: int = 4096
    implementation: Implementation = "auto"

    def __post_init__(self):
        check_implementation(self.implementation)
        if self.extent <= 0 or self.min_std <= 0:
            raise ValueError(
                f"extent and min_std must be positive, got {self.extent}, {self.min_std}"
            )
        if self.patch < 1 or self.neighbors < 1 or self.tile < 1:
            raise ValueError(
                f"patch, neighbors and tile must be at least 1, got {self.patch}, "
                f"{self.neighbors}, {self.tile}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianTable:
    """The Gaussians of one head (or, with leading axes, of several).

    Attributes:
      centers: μ, world units.
      rotations: columns are the Gaussian's axes in world coordinates.
      radii: standard deviations (or variances) along the axes; the sign is ignored.
      valid: False where the UV cell holds no Gaussian; such a one never weighs anything.
    """

    centers: Float[Array, "*b g 3"]
    rotations: Float[Array, "*b g 3 3"]
    radii: Float[Array, "*b g 3"]
    valid: Bool[Array, "*b g"]


def check(count: int, atlas: Array, options: BlendOptions) -> None:
    """Raises ValueError where an atlas does not fit the Gaussians, or these are too few."""
    height, width, depth = atlas.shape[1:]
    grid = height // options.patch
    if height != width or grid * options.patch != height or grid * grid != count:
        raise ValueError(
            f"atlas of {height}x{width} texels does not hold {count} patches of side "
            f"{options.patch}: expected a square of side sqrt(Gaussians) x patch"
        )
    if depth % len(PLANE_AXES):
        raise ValueError(f"atlas has {depth} channels, expected 3 planes of equally many")
    if options.neighbors > count:
        raise ValueError(f"neighbors={options.neighbors} but there are only {count} Gaussians")
