"""Rays through pixel centres, and where they cross a box.

Alphabet: `origins`, `directions` [..., r, 3] in the world, directions of length 1, so that the
parameter t of `origin + t · direction` is the depth along the ray.
"""

import numpy as np
from jaxtyping import Bool, Float

from headjax.geometry.backend import AnyArray, namespace
from headjax.geometry.cameras import Camera

_TINY = 1e-9


def pixel_grid(resolution: int) -> Float[np.ndarray, "r 2"]:
    """Pixel centres ((j + ½)/S, (i + ½)/S) of an S×S image, row-major, x fastest."""
    line = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x, y = np.meshgrid(line, line, indexing="xy")
    return np.stack([x.reshape(-1), y.reshape(-1)], axis=-1)


def pixel_rays(
    camera: Camera, *, resolution: int
) -> tuple[Float[AnyArray, "*b r 3"], Float[AnyArray, "*b r 3"]]:
    """Origins and unit directions of the rays through all pixel centres, row-major.

    Args:
        camera: batch [*b].
        resolution: S, the image is S×S and r = S².
    """
    xnp = namespace(camera.cam2world, camera.intrinsics)
    points = xnp.asarray(pixel_grid(resolution), dtype=camera.cam2world.dtype)
    return rays_through(camera, points)


def rays_through(
    camera: Camera, points: Float[AnyArray, "*c r 2"]
) -> tuple[Float[AnyArray, "*b r 3"], Float[AnyArray, "*b r 3"]]:
    """Origins and unit directions of the rays through image points.

    Args:
        camera: batch [*b].
        points: [*b, r, 2] or [r, 2], (x right, y down), in image sizes.
    """
    xnp = namespace(camera.cam2world, camera.intrinsics, points)
    k = camera.intrinsics[..., None, :, :]
    y = (points[..., 1] - k[..., 1, 2]) / k[..., 1, 1]
    x = (points[..., 0] - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
    local = xnp.stack([x, y, xnp.ones_like(x)], axis=-1)
    directions = local @ xnp.swapaxes(camera.cam2world[..., :3, :3], -1, -2)
    directions = directions / xnp.linalg.norm(directions, axis=-1, keepdims=True)
    origins = xnp.broadcast_to(camera.position[..., None, :], directions.shape)
    return origins, directions


def box_range(
    origins: Float[AnyArray, "*b 3"], directions: Float[AnyArray, "*b 3"], *, half_size: float | int
) -> tuple[Float[AnyArray, "*b"], Float[AnyArray, "*b"], Bool[AnyArray, "*b"]]:
    """Where rays enter and leave the cube [−half_size, half_size]³ (the slab method).

    Returns:
        near, far: depth along the ray, 0 ≤ near ≤ far. Rays that miss the cube have near = far =
            the depth of their closest approach to the cube's centre (0 if that lies behind).
        hit: whether the ray meets the cube in front of its origin.
    """
    xnp = namespace(origins, directions)
    tiny = xnp.where(directions < 0, -_TINY, _TINY).astype(directions.dtype)
    inverse = 1 / xnp.where(xnp.abs(directions) < _TINY, tiny, directions)
    first = (-half_size - origins) * inverse
    second = (half_size - origins) * inverse
    near = xnp.max(xnp.minimum(first, second), axis=-1)
    far = xnp.min(xnp.maximum(first, second), axis=-1)
    hit = xnp.asarray(xnp.logical_and(far > near, far > 0))
    closest = xnp.maximum(-xnp.sum(origins * directions, axis=-1), 0)
    return xnp.where(hit, xnp.maximum(near, 0), closest), xnp.where(hit, far, closest), hit
