"""What the implementations of tri-plane lookup share: options, plane axes, shapes."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax

from pallas_kernels.dispatch import Implementation, check_implementation

# Which coordinates (x, y, z = 0, 1, 2) index a plane's texels: (W, H), or (W, H, D) of a tri-grid.
# EG3D as its code runs: planes 1 and 2 are transposes of each other, and released weights need it.
EG3D_AXES = ((0, 1), (0, 2), (2, 0))
# What EG3D's paper describes.
XY_XZ_YZ = ((0, 1), (0, 2), (1, 2))
# LN3Diff, which repairs EG3D's third plane.
LN3DIFF_AXES = ((0, 1), (1, 2), (2, 0))
PANOHEAD_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))

Reduce = Literal["mean", "sum", "none"]


@dataclasses.dataclass(frozen=True)
class LookupOptions:
    """How points are looked up in planes.

    Attributes:
      axes: for each plane, the coordinates that index its (W, H) or, of a tri-grid, (W, H, D).
      box: side of the cube that the planes cover, world units (EG3D's box_warp).
      reduce: 'mean' or 'sum' over the planes, or 'none'.
      tile: points that the reference handles at a time, about.
      implementation: see `dispatch.run`.
    """

    axes: tuple[tuple[int, ...], ...]
    box: float = 1.0
    reduce: Reduce = "mean"
    tile: int = 1600
    implementation: Implementation = "auto"

    def __post_init__(self):
        if not self.axes or len({len(plane) for plane in self.axes}) != 1:
            raise ValueError(f"axes must name 2 or 3 coordinates for each plane, got {self.axes}")
        for plane in self.axes:
            if len(plane) not in (2, 3) or not set(plane) <= {0, 1, 2}:
                raise ValueError(
                    f"axes of a plane must be 2 or 3 of the coordinates 0, 1, 2, got {plane}"
                )
        if not self.box > 0:
            raise ValueError(f"box must be positive, got {self.box}")
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1, got {self.tile}")
        if self.reduce not in get_args(Reduce):
            raise ValueError(
                f"reduce={self.reduce!r} is unknown; one of {', '.join(get_args(Reduce))}"
            )
        check_implementation(self.implementation)

    @property
    def scale(self) -> float:
        """What the sum over planes is multiplied with."""
        return 1.0 / len(self.axes) if self.reduce == "mean" else 1.0


def check(points: jax.Array, planes: jax.Array, options: LookupOptions) -> None:
    """Raises ValueError where points, planes and axes do not belong together."""
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"points have shape {points.shape}, expected [batch, points, 3]")
    named = len(options.axes[0])
    if planes.ndim != named + 3:
        kind = "[batch, plane, h, w, c]" if named == 2 else "[batch, plane, d, h, w, c]"
        raise ValueError(
            f"planes have shape {planes.shape}, but axes with {named} coordinates a plane need "
            f"{kind}; give axes for {planes.ndim - 3} coordinates or reshape the planes"
        )
    if planes.shape[1] != len(options.axes):
        raise ValueError(
            f"there are {planes.shape[1]} planes, but axes for {len(options.axes)}; "
            "give one entry of axes a plane"
        )
    if planes.shape[0] != points.shape[0]:
        raise ValueError(
            f"points have batch {points.shape[0]} and planes {planes.shape[0]}; "
            "repeat the one or fold the other's batch into its points"
        )
    if not all(planes.shape):
        raise ValueError(f"planes have shape {planes.shape}; every size must be at least 1")
