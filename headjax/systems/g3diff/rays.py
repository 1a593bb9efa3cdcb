"""Which rays a training step renders: square patches of pixels, drawn by part or uniformly.

Alphabet: `b` views, `n` patches of a view, `p` side of a patch, `r = n·p²` rays, `s` samples.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from headjax.geometry.cameras import camera_from_label
from headjax.geometry.rays import box_range, pixel_rays
from headjax.render import volume
from headjax.render.parts import PART_IDS

FACE_PARTS = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "l_lip")
FEATURE_PARTS = ("l_brow", "r_brow", "l_eye", "r_eye", "mouth", "u_lip", "l_lip")


@flax.struct.dataclass
class RayBatch:
    """Rays of a batch of views with what they should see.

    Attributes:
      origins, directions: world, unit directions.
      color: in [0, 1]. depth: along the ray, 0 for background. mask: 0 or 1.
    """

    origins: Float[Array, "b r 3"]
    directions: Float[Array, "b r 3"]
    color: Float[Array, "b r 3"]
    depth: Float[Array, "b r"]
    mask: Float[Array, "b r"]


def part_weights(*, face: float, features: float, head: float, background: float):
    """How often a pixel of each part label is drawn, relative to the others."""
    weights = jnp.full((len(PART_IDS),), head, jnp.float32)
    weights = weights.at[PART_IDS["background"]].set(background)
    weights = weights.at[jnp.array([PART_IDS[n] for n in FACE_PARTS])].set(face)
    return weights.at[jnp.array([PART_IDS[n] for n in FEATURE_PARTS])].set(features)


def draw_pixels(
    key: Array,
    weights: Float[Array, "b h w"],
    *,
    patches: int,
    side: int,
) -> Int[Array, "b r"]:
    """Pixel numbers (row-major) of `patches` squares around pixels drawn by weight.

    Pixels whose square would stick out of the image are not drawn, so that equal weights give
    uniform squares. Inverse-transform sampling with one stratified uniform number a patch.
    """
    batch, height, width = weights.shape
    before, after = side // 2, side - 1 - side // 2
    inside = jnp.zeros((height, width)).at[before : height - after, before : width - after].set(1.0)
    cumulative = jnp.cumsum((weights * inside).reshape(batch, -1), axis=-1)
    strata = (jnp.arange(patches) + jax.random.uniform(key, (batch, patches))) / patches
    centre = jax.vmap(jnp.searchsorted)(cumulative, strata * cumulative[:, -1:])
    centre = jnp.minimum(centre, height * width - 1)
    row = jnp.clip(centre // width - side // 2, 0, height - side)
    column = jnp.clip(centre % width - side // 2, 0, width - side)
    offset = jnp.arange(side)
    rows = row[:, :, None, None] + offset[:, None]
    columns = column[:, :, None, None] + offset[None, :]
    return (rows * width + columns).reshape(batch, -1)


def ray_batch(
    views: dict[str, Array], pixels: Int[Array, "b r"]
) -> RayBatch:
    """The rays of chosen pixels of views, with their targets.

    Args:
      views: records of the data set, stacked: image uint8 [b,h,w,3], depth, mask uint8, camera.
      pixels: row-major pixel numbers.
    """
    resolution = views["image"].shape[1]
    origins, directions = pixel_rays(camera_from_label(views["camera"]), resolution=resolution)

    def pick(values):
        flat = values.reshape(values.shape[0], resolution * resolution, -1)
        return jnp.take_along_axis(flat, pixels[..., None], axis=1)

    return RayBatch(
        origins=pick(origins),
        directions=pick(directions),
        color=pick(views["image"]).astype(jnp.float32) / 255.0,
        depth=pick(views["depth"])[..., 0],
        mask=unit_mask(pick(views["mask"]))[..., 0],
    )


def unit_mask(mask: UInt8[Array, "*b"]) -> Float[Array, "*b"]:
    """Masks 0..255 as 0.0 or 1.0: 1 where at least half of the pixel is covered."""
    return (mask > 127).astype(jnp.float32)


def draw_depths(
    key: Array, rays: RayBatch, *, sampling: Any, box: float
) -> Float[Array, "b r s"]:
    """Sample distances of training rays, as the config's `autodecoder.sampling` says.

    'stratified' (the paper) draws one in each of `samples` strata of the box, 'surface' see
    `surface_depths`.
    """
    if sampling.kind == "surface":
        return surface_depths(
            key,
            rays,
            near_samples=sampling.near_samples,
            free_samples=sampling.free_samples,
            half_width=sampling.half_width,
            box=box,
        )
    near, far, _ = box_range(rays.origins, rays.directions, half_size=box)
    jitter = jax.random.uniform(key, (*near.shape, sampling.samples))
    far = jnp.maximum(far, near + 1e-3)
    return volume.stratified(near, far, samples=sampling.samples, jitter=jitter)


def surface_depths(
    key: Array,
    rays: RayBatch,
    *,
    near_samples: int,
    free_samples: int,
    half_width: float,
    box: float,
) -> Float[Array, "b r s"]:
    """Sorted sample distances: most within ± half_width of the known depth, some anywhere.

    A ray of the background gets all its samples anywhere in the box.
    """
    near, far, _ = box_range(rays.origins, rays.directions, half_size=box)
    far = jnp.maximum(far, near + 1e-3)
    first, second = jax.random.split(key)
    shape = rays.depth.shape
    hit = rays.depth > 0
    low = jnp.where(hit, rays.depth - half_width, near)
    high = jnp.where(hit, rays.depth + half_width, far)
    close = volume.stratified(
        low, high, samples=near_samples, jitter=jax.random.uniform(first, (*shape, near_samples))
    )
    free = volume.stratified(
        near, far, samples=free_samples, jitter=jax.random.uniform(second, (*shape, free_samples))
    )
    return jnp.sort(jnp.concatenate([close, free], axis=-1), axis=-1)
