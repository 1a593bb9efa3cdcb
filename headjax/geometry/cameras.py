"""The one camera type, and EG3D's 25-number label at its door.

Alphabet: `cam2world` [..., 4, 4] rigid, OpenCV axes (x right, y down, z forward); `intrinsics`
[..., 3, 3] normalised by the image's size, so that the image is the unit square with (0, 0) at its
top left corner. A label is cam2world's 16 entries, then the intrinsics' 9, both row-major.
World: y up, the face looks along +z, the subject's left is +x.
"""

from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float

from headjax.geometry import rotations
from headjax.geometry.backend import AnyArray, Numbers, as_float, namespace

RADIUS = 2.7
FOCAL = 4.2647
LABEL_SIZE = 25
_MIRRORED = (1, 2, 3, 4, 8)


@struct.dataclass
class Camera:
    """A batch of pinhole cameras, NumPy or JAX.

    Attributes:
        cam2world: [*b, 4, 4] camera-to-world, OpenCV axes, world units.
        intrinsics: [*b, 3, 3] [[fx, skew, cx], [0, fy, cy], [0, 0, 1]], in image sizes.
    """

    cam2world: Float[AnyArray, "*b 4 4"]
    intrinsics: Float[AnyArray, "*b 3 3"]

    @property
    def position(self) -> Float[AnyArray, "*b 3"]:
        """The camera's centre in the world."""
        return self.cam2world[..., :3, 3]

    @property
    def forward(self) -> Float[AnyArray, "*b 3"]:
        """The unit viewing direction in the world."""
        return self.cam2world[..., :3, 2]

    def __getitem__(self, index: Any) -> "Camera":
        """The cameras at `index` of the leading axes."""
        return Camera(cam2world=self.cam2world[index], intrinsics=self.intrinsics[index])


def camera_from_label(label: Float[AnyArray, "*b 25"]) -> Camera:
    """The camera of EG3D's label."""
    batch = label.shape[:-1]
    return Camera(
        cam2world=label[..., :16].reshape(*batch, 4, 4),
        intrinsics=label[..., 16:].reshape(*batch, 3, 3),
    )


def label_from_camera(camera: Camera) -> Float[AnyArray, "*b 25"]:
    """EG3D's label of the camera: cam2world, then intrinsics, both row-major."""
    batch = camera.cam2world.shape[:-2]
    parts = [camera.cam2world.reshape(*batch, 16), camera.intrinsics.reshape(*batch, 9)]
    return namespace(*parts).concatenate(parts, axis=-1)


def orbit(
    yaw: Numbers,
    pitch: Numbers = 0.0,
    *,
    radius: Numbers = RADIUS,
    target: Numbers = (0.0, 0.0, 0.0),
    focal: Numbers = FOCAL,
) -> Camera:
    """Cameras on a sphere about `target` that look at it, upright.

    Position = target + radius · (sin yaw cos pitch, sin pitch, cos yaw cos pitch). Yaw 0 is the
    front, where R = diag(1, −1, −1); positive yaw moves the camera to +x, positive pitch up. The
    image's right is (cos yaw, 0, −sin yaw) at every pitch, the poles included.

    Args:
        yaw: [*b] radians.
        pitch: [*b] radians, broadcast against `yaw`.
        radius: [*b] or a number, world units.
        target: [*b, 3] or [3].
        focal: [*b] or a number, in image sizes.
    """
    xnp = namespace(yaw, pitch, radius, target, focal)
    yaw, pitch, radius, target, focal = (
        xnp.asarray(value, dtype=xnp.float32) for value in (yaw, pitch, radius, target, focal)
    )
    yaw, pitch, radius, focal = xnp.broadcast_arrays(yaw, pitch, radius, focal)
    zero = xnp.zeros_like(yaw)
    outward = xnp.stack(
        [xnp.sin(yaw) * xnp.cos(pitch), xnp.sin(pitch), xnp.cos(yaw) * xnp.cos(pitch)], axis=-1
    )
    right = xnp.stack([xnp.cos(yaw), zero, -xnp.sin(yaw)], axis=-1)
    rotation = xnp.stack([right, xnp.cross(right, outward), -outward], axis=-1)
    position = target + radius[..., None] * outward
    rotation = xnp.broadcast_to(rotation, (*position.shape[:-1], 3, 3))
    intrinsics = intrinsics_from_focal(focal)
    return Camera(
        cam2world=rotations.assemble(rotation, translation=position),
        intrinsics=xnp.broadcast_to(intrinsics, rotation.shape),
    )


def orbit_labels(yaw_degrees: Any, *, pitch_degrees: Any = 0.0) -> Float[np.ndarray, "v 25"]:
    """Camera labels on the orbit around the head, one for each yaw."""
    yaw = np.deg2rad(np.asarray(yaw_degrees, np.float32))
    pitch = np.broadcast_to(np.deg2rad(np.float32(pitch_degrees)), yaw.shape)
    return np.asarray(label_from_camera(orbit(yaw, pitch)), np.float32)


def intrinsics_from_focal(focal: Numbers) -> Float[AnyArray, "*b 3 3"]:
    """[[f, 0, ½], [0, f, ½], [0, 0, 1]] for focal lengths [*b] in image sizes."""
    xnp = namespace(focal)
    focal = xnp.asarray(focal, dtype=xnp.float32)[..., None, None]
    scaled = focal * xnp.asarray(np.diag([1.0, 1.0, 0.0]), dtype=xnp.float32)
    centre = xnp.asarray([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 1.0]], dtype=xnp.float32)
    return scaled + centre


def project(
    camera: Camera, points: Float[AnyArray, "*b n 3"]
) -> tuple[Float[AnyArray, "*c n 2"], Float[AnyArray, "*c n"]]:
    """World points to image coordinates and depth along the optical axis.

    Args:
        camera: batch axes broadcast against the points'.
        points: [*b, n, 3] in the world.

    Returns:
        [*c, n, 2] coordinates (x right, y down) in image sizes, the image being [0, 1]², and
        [*c, n] camera z, positive in front. Points with z = 0 give infinities.
    """
    xnp = namespace(camera.cam2world, points)
    rotation = camera.cam2world[..., :3, :3]
    local = (points - camera.position[..., None, :]) @ rotation
    pixels = local @ xnp.swapaxes(camera.intrinsics, -1, -2)
    return pixels[..., :2] / local[..., 2:], local[..., 2]


def mirror_label(label: Float[AnyArray, "*b 25"]) -> Float[AnyArray, "*b 25"]:
    """The label under which the image flipped left to right shows the head mirrored in x.

    Equals M · cam2world · M with M = diag(−1, 1, 1, 1): entries 1, 2, 3, 4 and 8 change their
    sign. The principal point is taken to be on the image's vertical middle line.
    """
    xnp = namespace(label)
    sign = np.ones(LABEL_SIZE, dtype=np.float32)
    sign[list(_MIRRORED)] = -1
    return label * xnp.asarray(sign, dtype=label.dtype)


def view_angle_between(
    label_a: Float[AnyArray, "*a 25"], label_b: Float[AnyArray, "*b 25"]
) -> Float[AnyArray, "*c"]:
    """Angle in radians, 0..π, between two labels' viewing directions; roll does not count."""
    xnp = namespace(label_a, label_b)
    first = camera_from_label(as_float(label_a, xnp)).forward
    second = camera_from_label(as_float(label_b, xnp)).forward
    sine = xnp.linalg.norm(xnp.cross(first, second), axis=-1)
    return xnp.asarray(xnp.arctan2(sine, xnp.sum(first * second, axis=-1)))
