"""Tri-plane and tri-grid fields as EG3D and PanoHead render them.

Alphabet: `b` heads, `n` planes, `r` points or rays, `s` samples, `m` importance samples, `c`
features of a texel, `o` of the decoder. World units; distances along unit rays.

Depths begin with S evenly spaced ones, both ends included, each moved by jitter times the spacing
(so the last may lie beyond the end); importance samples follow EG3D's blurred density.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax.render import devices
from headjax.render.volume import Composite
from pallas_kernels.dispatch import Implementation
from pallas_kernels.ray_march import (
    Color,
    Decoder,
    DecoderOptions,
    FieldMarched,
    MarchOptions,
    Rays,
    decode,
    importance,
    march_field,
    march_field_twice,
    ray_march,
    triplane_field,
)
from pallas_kernels.ray_march.reference import interval_weights
from pallas_kernels.ray_march.types import points_of
from pallas_kernels.triplane_sample import LookupOptions, triplane_sample
from pallas_kernels.triplane_sample.types import EG3D_AXES, LN3DIFF_AXES, PANOHEAD_AXES, XY_XZ_YZ

AXES = {
    "eg3d": EG3D_AXES,
    "panohead": PANOHEAD_AXES,
    "xy_xz_yz": XY_XZ_YZ,
    "ln3diff": LN3DIFF_AXES,
}


# Less than this of a ray's light means nothing: its square, by which the mean distance's gradient
# is divided, must not vanish in float32.
TRACE = 1e-12


@dataclasses.dataclass(frozen=True)
class TriplaneOptions:
    """How planes become pictures; the defaults are EG3D's for FFHQ.

    Attributes:
      axes: which coordinates index which plane: 'eg3d' as its code runs (the third plane is the
        second one transposed), 'panohead' for tri-grids, 'xy_xz_yz', 'ln3diff'.
      box: side of the cube that the planes cover (EG3D's box_warp).
      near, far: where rays begin and end.
      samples, importance: of the first pass, and drawn from its weights; 0 for none.
      color: how the decoder's features are read, see `DecoderOptions` (PanoHead: 'none').
      crop: margin inside the box beyond which |x| or |z| are empty (PanoHead: 0.1); None for none.
      white_back: adds 1 − Σw to the features.
      tile: samples that the reference works on at a time.
      implementation: which form of the kernels runs, see `pallas_kernels.dispatch`.
    """

    axes: Literal["eg3d", "panohead", "xy_xz_yz", "ln3diff"] = "eg3d"
    box: float = 1.0
    near: float = 2.25
    far: float = 3.3
    samples: int = 48
    importance: int = 48
    color: Color = "sigmoid"
    crop: float | None = None
    white_back: bool = False
    tile: int = 4096
    implementation: Implementation = "auto"

    def __post_init__(self):
        if self.axes not in AXES:
            raise ValueError(f"axes={self.axes!r} is unknown; one of {', '.join(AXES)}")
        if not 0 < self.near < self.far:
            raise ValueError(f"rays need 0 < near < far, got {self.near} and {self.far}")
        if self.samples < 4 or self.importance < 0:
            raise ValueError(
                "importance sampling needs at least 4 samples and none negative, got "
                f"samples={self.samples}, importance={self.importance}"
            )

    def lookup(self) -> LookupOptions:
        return LookupOptions(axes=AXES[self.axes], box=self.box, implementation=self.implementation)

    def decoding(self, *, cropped: bool = True) -> DecoderOptions:
        """How the decoder is read; the crop belongs to pictures, not to queries of the field."""
        half = None if self.crop is None or not cropped else 0.5 * self.box - self.crop
        return DecoderOptions(color=self.color, crop=half)

    def marching(self) -> MarchOptions:
        return MarchOptions(density="softplus", tile=self.tile, implementation=self.implementation)


def query(
    decoder: Decoder,
    planes: Float[Array, "b n *s c"],
    *,
    points: Float[Array, "b r 3"],
    options: TriplaneOptions,
) -> tuple[Float[Array, "b r"], Float[Array, "b r o"]]:
    """Density before its activation, and features, of each head at its points; nothing is cropped.

    EG3D's density is softplus(σ − 1) of what this returns, after averaging along an interval.
    """

    def looked_up(decoder, planes, points):
        features = triplane_sample(points, planes, options=options.lookup())
        nothing = jnp.zeros(points.shape[:-1])
        decoding = options.decoding(cropped=False)
        return decode(decoder, features, reach=nothing, points=points, options=decoding)

    return devices.split(looked_up, decoder, heads=planes, rays=points)


def spaced(
    shape: tuple[int, ...],
    options: TriplaneOptions,
    jitter: Float[Array, "*b s"] | None = None,
) -> Float[Array, "*b s"]:
    """EG3D's distances of the first pass: evenly spaced, both ends included, then jittered."""
    spacing = (options.far - options.near) / (options.samples - 1)
    even = options.near + spacing * jnp.arange(options.samples, dtype=jnp.float32)
    if jitter is None:
        return jnp.broadcast_to(even, (*shape, options.samples))
    return even + spacing * jitter


def _composite(seen: FieldMarched, *, white_back: bool) -> Composite:
    """EG3D's depth: where a ray saw nothing, the farthest distance of the whole batch."""
    features, depths = seen.features, seen.depths
    if white_back:
        features = features + (1.0 - seen.alpha)[..., None]
    hit = seen.alpha > TRACE
    mean = jnp.where(hit, seen.distance / jnp.where(hit, seen.alpha, 1.0), jnp.inf)
    return Composite(
        features=features,
        depth=jnp.clip(mean, jnp.nanmin(depths), jnp.nanmax(depths)),
        alpha=seen.alpha,
    )


def render_rays(
    decoder: Decoder,
    planes: Float[Array, "b n *s c"],
    *,
    origins: Float[Array, "b r 3"],
    directions: Float[Array, "b r 3"],
    options: TriplaneOptions,
    jitter: Float[Array, "b r s"] | None = None,
    uniform: Float[Array, "b r m"] | None = None,
    density_noise: Float[Array, "b r t"] | None = None,
) -> Composite:
    """Renders rays through tri-planes or tri-grids (EG3D, §4.1 and its renderer).

    Args:
      decoder: MLP c → h → 1 + o, density first.
      planes: [b, n, h, w, c], of a tri-grid [b, n, d, h, w, c].
      origins, directions: rays, unit directions.
      options: see `TriplaneOptions`.
      jitter: in [0, 1), moves the first pass' samples; None leaves them (EG3D always jitters).
      uniform: in [0, 1), draws the importance samples; None takes evenly spaced numbers.
      density_noise: added to the raw densities, of the first pass' samples, then the importance
        samples' (PanoHead's training); takes more memory, since no kernel fuses it.

    Returns:
      features Σ w·f, the mean distance clamped to the batch's range, and Σ w.
    """
    depths = spaced(origins.shape[:-1], options, jitter)
    march = {"options": options.marching(), "decoding": options.decoding()}

    def marched(decoder, field, rays):
        rays, depths, *uniform = rays
        if not uniform:
            return march_field(field, decoder, rays=rays, depths=depths, **march)
        return march_field_twice(
            field, decoder, rays=rays, depths=depths, uniform=uniform[0], kind="eg3d", **march
        )

    rays = (Rays(origins, directions), depths)
    if options.importance:
        if uniform is None:
            uniform = importance.even(origins.shape[:-1], options.importance)
        rays = (*rays, uniform)
    if density_noise is None:
        field = triplane_field(planes, options=options.lookup())
        seen = devices.split(marched, decoder, heads=field, rays=rays)
    else:
        noisy = functools.partial(_marched_noisily, options=options)
        seen = devices.split(noisy, decoder, heads=planes, rays=(density_noise, *rays))
    return _composite(seen, white_back=options.white_back)


def _marched_noisily(
    decoder: Decoder, planes: Array, rays: tuple, *, options: TriplaneOptions
) -> FieldMarched:
    """Both passes one after the other, with noise on every sample's density."""
    noise, rays, depths, *uniform = rays
    march, first = options.marching(), depths.shape[-1]

    def evaluated(depths, noise):
        points = points_of(rays, depths).reshape(depths.shape[0], -1, 3)
        features = triplane_sample(points, planes, options=options.lookup())
        reach = jnp.zeros(points.shape[:-1])
        sigma, color = decode(
            decoder, features, reach=reach, points=points, options=options.decoding()
        )
        return color.reshape(*depths.shape, -1), sigma.reshape(depths.shape) + noise

    color, sigma = evaluated(depths, noise[..., :first])
    if uniform:
        weights = interval_weights(sigma, depths, options=march)
        new = importance.resample(depths, weights, uniform=uniform[0], kind="eg3d")
        more = evaluated(new, noise[..., first:])
        depths = jnp.concatenate([depths, new], axis=-1)
        order = jnp.argsort(depths, axis=-1)
        depths = jnp.take_along_axis(depths, order, axis=-1)
        sigma = jnp.take_along_axis(jnp.concatenate([sigma, more[1]], -1), order, axis=-1)
        color = jnp.concatenate([color, more[0]], axis=2)
        color = jnp.take_along_axis(color, order[..., None], axis=2)
    seen = ray_march(color, sigma, depths=depths, options=march)
    nothing = jnp.zeros(depths.shape[:-1])
    return FieldMarched(seen.features, seen.distance, seen.alpha, nothing, depths, sigma)
