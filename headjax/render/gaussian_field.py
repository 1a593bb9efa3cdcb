"""The Gaussian3Diff field: UV Gaussians with local tri-planes, decoded and ray-marched.

Alphabet: `b` heads, `g` side of the UV grid, `r` points or rays, `s` samples, `c` channels.
World units; colours in [0, 1] here (images are in [−1, 1] elsewhere); density per world unit.

Invariants: density is 0 where no Gaussian reaches; a head's Gaussians that are not valid never
contribute; nothing here depends on how rays are grouped.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from headjax.geometry.rays import box_range
from headjax.geometry.rotations import rpy_to_matrix
from headjax.render import devices, volume
from pallas_kernels.dispatch import Implementation
from pallas_kernels.knn_blend import BlendOptions, GaussianTable, knn_blend
from pallas_kernels.ray_march import (
    Decoder,
    DecoderOptions,
    MarchOptions,
    Rays,
    Rule,
    decode,
    gaussian_field,
    importance,
    march_field,
    march_field_twice,
)

# Length of the range that a ray gets which misses a head's box.
MISS_LENGTH = 1e-3


@flax.struct.dataclass
class GaussianHeads:
    """Heads as UV maps (Gaussian3Diff, table 1: 9 + 3×8 channels).

    Attributes:
      centers: μ, world units.
      rpy: roll, pitch, yaw in radians; the rotation is Rz·Ry·Rx.
      radii: standard deviations along the rotated axes, world units.
      payload: atlas of p×p patches, 3 planes × c channels, plane-major.
      valid: UV cells that hold a Gaussian.
    """

    centers: Float[Array, "b g g 3"]
    rpy: Float[Array, "b g g 3"]
    radii: Float[Array, "b g g 3"]
    payload: Float[Array, "b h h d"]
    valid: Bool[Array, "b g g"]


@dataclasses.dataclass(frozen=True)
class FieldOptions:
    """Choices of the field; the defaults are the project's reading of the paper.

    Attributes:
      patch, neighbors, metric, radii, blend, extent, tile, implementation: see `BlendOptions`.
      plane_reduce: how a Gaussian's three planes combine.
      density_gate: c of σ·min(1, c·Σg), which keeps empty space empty; None leaves σ alone.
      density_scale: factor of the decoded density (1 in the paper; larger trains faster when few
        samples meet the surface).
    """

    patch: int = 8
    neighbors: int = 3
    metric: Literal["euclidean", "rbf"] = "euclidean"
    radii: Literal["std", "variance"] = "std"
    blend: Literal["normalized", "raw"] = "normalized"
    extent: float = 2.0
    plane_reduce: Literal["mean", "sum"] = "mean"
    density_gate: float | None = 1.0
    density_scale: float = 1.0
    tile: int = 4096
    implementation: Implementation = "auto"

    def blend_options(self) -> BlendOptions:
        return BlendOptions(
            patch=self.patch,
            neighbors=self.neighbors,
            metric=self.metric,
            radii=self.radii,
            blend=self.blend,
            extent=self.extent,
            tile=self.tile,
            implementation=self.implementation,
        )

    def decoder_options(self) -> DecoderOptions:
        return DecoderOptions(
            density="softplus", scale=self.density_scale, gate=self.density_gate
        )


@flax.struct.dataclass
class FieldSamples:
    """Colour in [0, 1], density ≥ 0 and the Σ of RBF values at query points."""

    color: Float[Array, "b *r 3"]
    sigma: Float[Array, "b *r"]
    rbf: Float[Array, "b *r"]


@dataclasses.dataclass(frozen=True)
class RayOptions:
    """How a picture is sampled.

    Attributes:
      samples: stratified samples between near and far (the paper's tables fit 48).
      importance: further samples where the first pass found density; 0 for none.
      box: half the side of the cube that holds every head; rays are sampled inside it only.
      rule: compositing rule, see `MarchOptions`.
    """

    samples: int = 48
    importance: int = 0
    box: float = 0.36
    rule: Rule = "midpoint"


def init_decoder(key: Array, *, channels: int = 8, hidden: int = 32) -> dict[str, Array]:
    """Parameters of the rendering MLP c → hidden → 4 (8×32×4: 420 numbers)."""
    first, second = jax.random.split(key)
    return {
        "w0": jax.random.normal(first, (channels, hidden)) / jnp.sqrt(channels),
        "b0": jnp.zeros((hidden,)),
        "w1": jax.random.normal(second, (hidden, 4)) / jnp.sqrt(hidden),
        "b1": jnp.zeros((4,)),
    }


def gaussian_table(heads: GaussianHeads) -> GaussianTable:
    """The heads' Gaussians as rows, in row-major order of the UV grid."""
    batch = heads.centers.shape[0]
    return GaussianTable(
        centers=heads.centers.reshape(batch, -1, 3),
        rotations=rpy_to_matrix(heads.rpy.reshape(batch, -1, 3)),
        radii=heads.radii.reshape(batch, -1, 3),
        valid=heads.valid.reshape(batch, -1),
    )


def query(
    decoder: dict[str, Array],
    heads: GaussianHeads,
    *,
    points: Float[Array, "b *r 3"],
    options: FieldOptions,
) -> FieldSamples:
    """Colour and density of each head at its points (facts: Annex C1)."""
    batch, shape = points.shape[0], points.shape[1:-1]
    points = points.reshape(batch, -1, 3)

    def looked_up(decoder, heads, points):
        features, rbf, _ = knn_blend(
            points,
            gaussian_table(heads),
            atlas=heads.payload,
            options=options.blend_options(),
        )
        sigma, color = decode(
            decoder, features, reach=rbf, points=points, options=options.decoder_options()
        )
        return color, sigma, rbf

    color, sigma, rbf = devices.split(
        looked_up, _decoder(decoder, options), heads=heads, rays=points
    )
    return FieldSamples(
        color=color.reshape(batch, *shape, 3),
        sigma=sigma.reshape(batch, *shape),
        rbf=rbf.reshape(batch, *shape),
    )


def _decoder(decoder: dict[str, Array], options: FieldOptions) -> Decoder:
    """The MLP as the marcher wants it: density first, the planes' sum or mean in its weights."""
    planes = 3.0 if options.plane_reduce == "sum" else 1.0
    return Decoder(
        w0=planes * decoder["w0"],
        b0=decoder["b0"],
        w1=jnp.roll(decoder["w1"], 1, axis=-1),
        b1=jnp.roll(decoder["b1"], 1, axis=-1),
    )


def march_rays(
    decoder: dict[str, Array],
    heads: GaussianHeads,
    *,
    origins: Float[Array, "b r 3"],
    directions: Float[Array, "b r 3"],
    depths: Float[Array, "b r s"],
    options: FieldOptions,
    rule: Rule = "midpoint",
    uniform: Float[Array, "b r m"] | None = None,
) -> tuple[volume.Composite, Float[Array, "b r"]]:
    """Marches rays over white, a tile at a time; no sample's features are kept.

    Args:
      decoder: the rendering MLP, see `init_decoder`.
      heads: b heads.
      origins, directions: rays, unit directions.
      depths: ascending distances of the samples.
      options: see `FieldOptions`.
      rule: compositing rule, see `MarchOptions`.
      uniform: numbers in [0, 1) by which m further samples are drawn where the first ones found
        density; None for no further samples.

    Returns:
      colours in [0, 1] with distances and silhouettes, and each ray's mean of the Σ of RBF values
      at its samples.
    """
    field = gaussian_field(
        gaussian_table(heads), atlas=heads.payload, options=options.blend_options()
    )
    march = {
        "options": MarchOptions(
            rule=rule, tile=options.tile, implementation=options.implementation
        ),
        "decoding": options.decoder_options(),
    }

    def marched(decoder, field, rays):
        rays, depths, *uniform = rays
        if uniform:
            return march_field_twice(
                field, decoder, rays=rays, depths=depths, uniform=uniform[0], **march
            )
        return march_field(field, decoder, rays=rays, depths=depths, **march)

    rays = (Rays(origins, directions), depths) + (() if uniform is None else (uniform,))
    seen = devices.split(marched, _decoder(decoder, options), heads=field, rays=rays)
    return volume.composite(seen, background=1.0), seen.reach / seen.depths.shape[-1]


def head_range(
    heads: GaussianHeads,
    origins: Float[Array, "b r 3"],
    directions: Float[Array, "b r 3"],
    *,
    box: float,
    radii: Literal["std", "variance"] = "std",
) -> tuple[Float[Array, "b r"], Float[Array, "b r"]]:
    """Where rays cross the box around a head's Gaussians (three standard deviations), no gradient.

    Args:
      box: nothing beyond the cube [−box, box]³ is looked at.
      radii: whether the heads' radii are standard deviations or variances.

    Returns:
      near, far: a short range behind near where a ray misses the head.
    """
    heads = jax.lax.stop_gradient(heads)
    valid, reach = heads.valid[..., None], jnp.abs(heads.radii)
    reach = 3.0 * (jnp.sqrt(reach) if radii == "variance" else reach)
    low = jnp.min(jnp.where(valid, heads.centers - reach, jnp.inf), axis=(1, 2))
    high = jnp.max(jnp.where(valid, heads.centers + reach, -jnp.inf), axis=(1, 2))
    low, high = jnp.clip(low, -box, box)[:, None], jnp.clip(high, -box, box)[:, None]
    half = jnp.maximum(0.5 * (high - low), 1e-3)
    # Scaling space leaves the parameter t of a ray as it is.
    near, far, _ = box_range(
        (origins - 0.5 * (low + high)) / half, directions / half, half_size=1.0
    )
    return near, jnp.maximum(far, near + MISS_LENGTH)


def render_rays(
    decoder: dict[str, Array],
    heads: GaussianHeads,
    *,
    origins: Float[Array, "b r 3"],
    directions: Float[Array, "b r 3"],
    options: FieldOptions,
    sampling: RayOptions,
    jitter: Float[Array, "b r s"] | None = None,
) -> volume.Composite:
    """Renders rays over white: stratified samples in the box, then importance samples.

    Returns colours in [0, 1], distances along the rays and silhouettes.
    """
    near, far = head_range(
        heads, origins, directions, box=sampling.box, radii=options.radii
    )
    depths = volume.stratified(near, far, samples=sampling.samples, jitter=jitter)
    uniform = None
    if sampling.importance:
        uniform = importance.even(depths.shape[:-1], sampling.importance)
    return march_rays(
        decoder,
        heads,
        origins=origins,
        directions=directions,
        depths=depths,
        options=options,
        rule=sampling.rule,
        uniform=uniform,
    )[0]
