"""Named real shapes of tri-plane lookup, shared by tests and benchmarks."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.triplane_sample.types import (
    EG3D_AXES,
    LN3DIFF_AXES,
    PANOHEAD_AXES,
    XY_XZ_YZ,
    LookupOptions,
)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A shape: b heads, each with planes of (D,) H × W texels and c channels, and r points."""

    heads: int
    points: int
    sizes: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...] = EG3D_AXES
    channels: int = 32
    box: float = 1.0

    @property
    def planes(self) -> tuple[int, ...]:
        """Shape of the planes."""
        return (self.heads, len(self.axes), *self.sizes, self.channels)


_RAYS = 64 * 64 * 48
SPECS = {
    # One pass of EG3D's renderer: 64² rays of 48 samples; the second pass has as many.
    "eg3d_coarse": Spec(heads=1, points=_RAYS, sizes=(256, 256)),
    "panohead": Spec(heads=1, points=_RAYS, sizes=(3, 256, 256), axes=PANOHEAD_AXES),
    # A batch of generator training on one device.
    "training": Spec(heads=4, points=_RAYS, sizes=(256, 256)),
    # A slab of the density grid from which a mesh is made.
    "mesh": Spec(heads=1, points=512 * 512, sizes=(256, 256)),
    "tiny": Spec(heads=2, points=7, sizes=(4, 8), channels=4, axes=XY_XZ_YZ),
    "odd": Spec(heads=1, points=23, sizes=(9, 7), channels=5, box=1.3, axes=LN3DIFF_AXES),
    "grid": Spec(heads=2, points=5, sizes=(3, 5, 6), channels=3, axes=PANOHEAD_AXES),
    "wide": Spec(heads=1, points=17, sizes=(3, 11), channels=48, axes=((1, 2),)),
    "flat": Spec(heads=1, points=19, sizes=(1, 6, 1), channels=2, axes=((2, 0, 1), (0, 1, 2))),
    "single": Spec(heads=1, points=1, sizes=(1, 1), channels=1, axes=((0, 1),)),
}


def options_of(spec: Spec, **changes) -> LookupOptions:
    """The spec's options, with the given fields changed."""
    return LookupOptions(**({"axes": spec.axes, "box": spec.box} | changes))


def make_inputs(
    spec: Spec, *, seed: int = 0, reach: float = 0.7
) -> tuple[Float[Array, "b r 3"], Float[Array, "b n *s c"]]:
    """Random points, a few of them outside the box, and random planes.

    Args:
      spec: the shape.
      seed: same seed, same numbers.
      reach: points lie in [−reach, reach]·box; the box's own half is 0.5.
    """
    random = np.random.default_rng(seed)
    points = random.uniform(-reach * spec.box, reach * spec.box, (spec.heads, spec.points, 3))
    planes = random.normal(size=spec.planes)
    return jnp.asarray(points, jnp.float32), jnp.asarray(planes, jnp.float32)
