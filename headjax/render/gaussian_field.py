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
from headjax.render import volume
from pallas_kernels.knn_blend import BlendOptions, GaussianTable, knn_blend

# A decoder's output lies in [−margin, 1 + margin], so that exact black and white are reachable.
_COLOR_MARGIN = 0.001
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
      patch, neighbors, metric, radii, blend, extent, tile: see `BlendOptions`.
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

    def blend_options(self) -> BlendOptions:
        return BlendOptions(
            patch=self.patch,
            neighbors=self.neighbors,
            metric=self.metric,
            radii=self.radii,
            blend=self.blend,
            extent=self.extent,
            tile=self.tile,
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
      rule: compositing rule, see `volume.march`.
    """

    samples: int = 48
    importance: int = 0
    box: float = 0.36
    rule: Literal["midpoint", "left"] = "midpoint"


def init_decoder(key: Array, *, channels: int = 8, hidden: int = 32) -> dict[str, Array]:
    """Parameters of the rendering MLP c → hidden → 4 (8×32×4: 420 numbers)."""
    first, second = jax.random.split(key)
    return {
        "w0": jax.random.normal(first, (channels, hidden)) / jnp.sqrt(channels),
        "b0": jnp.zeros((hidden,)),
        "w1": jax.random.normal(second, (hidden, 4)) / jnp.sqrt(hidden),
        "b1": jnp.zeros((4,)),
    }


def decode(
    decoder: dict[str, Array], features: Float[Array, "*b c"]
) -> tuple[Float[Array, "*b 3"], Float[Array, "*b"]]:
    """Features → colour in [0, 1] and density: softplus MLP, sigmoid, softplus(σ − 1) (EG3D)."""
    hidden = jax.nn.softplus(features @ decoder["w0"] + decoder["b0"])
    out = hidden @ decoder["w1"] + decoder["b1"]
    color = jax.nn.sigmoid(out[..., :3]) * (1.0 + 2.0 * _COLOR_MARGIN) - _COLOR_MARGIN
    return color, jax.nn.softplus(out[..., 3] - 1.0)


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
    features, rbf, _ = knn_blend(
        points.reshape(batch, -1, 3),
        gaussian_table(heads),
        atlas=heads.payload,
        options=options.blend_options(),
    )
    if options.plane_reduce == "sum":
        features = 3.0 * features
    color, sigma = decode(decoder, features)
    sigma = sigma * options.density_scale
    if options.density_gate is not None:
        sigma = sigma * jnp.minimum(1.0, options.density_gate * rbf)
    return FieldSamples(
        color=color.reshape(batch, *shape, 3),
        sigma=sigma.reshape(batch, *shape),
        rbf=rbf.reshape(batch, *shape),
    )


def march_rays(
    decoder: dict[str, Array],
    heads: GaussianHeads,
    *,
    origins: Float[Array, "b r 3"],
    directions: Float[Array, "b r 3"],
    depths: Float[Array, "b r s"],
    options: FieldOptions,
    rule: Literal["midpoint", "left"] = "midpoint",
) -> tuple[volume.Composite, FieldSamples]:
    """Composites given samples of given rays over white; also returns the samples."""
    points = origins[..., None, :] + depths[..., None] * directions[..., None, :]
    samples = query(decoder, heads, points=points, options=options)
    composite = volume.march(
        samples.color, samples.sigma, depths=depths, rule=rule, background=1.0
    )
    return composite, samples


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

    def queried(at):
        points = origins[..., None, :] + at[..., None] * directions[..., None, :]
        return query(decoder, heads, points=points, options=options)

    def marched(field, at):
        return volume.march(
            field.color, field.sigma, depths=at, rule=sampling.rule, background=1.0
        )

    first = queried(depths)
    composite = marched(first, depths)
    if not sampling.importance:
        return composite
    weights = composite.weights[..., : sampling.samples - 1]
    extra = volume.resample(depths, weights, samples=sampling.importance)
    depths = jnp.concatenate([depths, extra], axis=-1)
    order = jnp.argsort(depths, axis=-1)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), first, queried(extra))
    merged = jax.tree.map(
        lambda a: jnp.take_along_axis(a, order.reshape(order.shape + (1,) * (a.ndim - 3)), axis=2),
        both,
    )
    return marched(merged, jnp.take_along_axis(depths, order, axis=-1))
