"""Where the camera stands in the pictures and videos of EG3D and PanoHead.

Their cameras stand on a sphere about the world's origin and look at a pivot that need not be the
centre of that sphere. Angles in radians; yaw and pitch 0 is the front, positive yaw moves the
camera to +x (the subject's left). `pitch` is EG3D's vertical angle less π/2, with two properties
of its own: negative values look from above, and the camera's height is proportional to it,
y = −2/π · radius · pitch, so that it is an angle at the front and at the poles only.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from headjax.geometry.backend import Numbers
from headjax.geometry.cameras import FOCAL, RADIUS, Camera, intrinsics_from_focal

Path = Literal["face", "head"]
PATHS: tuple[Path, ...] = ("face", "head")
FOV_DEGREES = 18.837

_PITCH = -0.2
_YAWS = {"face": (0.4, 0.0, -0.4), "head": tuple(-np.pi / 4 * k for k in range(5))}
_POLE = 1e-5


def focal_from_fov(degrees: float | int) -> float:
    """Focal length in image sizes of EG3D's `--fov-deg`.

    f = 1 / (√2 · tan(fov / 2)), with EG3D's own 1.414 and 3.14159: 18.837° gives 4.26339, which is
    near but not the 4.2647 of the training labels. The √2 makes it the angle over the diagonal.
    """
    return float(1 / (1.414 * np.tan(degrees * 3.14159 / 360)))


def look_at(
    yaw: Numbers,
    pitch: Numbers = 0.0,
    *,
    pivot: Sequence[float] = (0.0, 0.0, 0.0),
    radius: float | int = RADIUS,
    focal: float | int = FOCAL,
) -> Camera:
    """Upright cameras on the sphere about the origin, looking at `pivot` (LookAtPoseSampler).

    With v = π/2 + pitch, clamped to 1e-5 … π − 1e-5, and φ = arccos(1 − 2v/π):
    position = radius · (sin yaw sin φ, cos φ, cos yaw sin φ).

    Args:
        yaw, pitch: [*b] each or numbers, broadcast; see above for what pitch means.
        pivot: the point in the middle of the image.
        radius: of the sphere, world units.
        focal: in image sizes.

    Returns:
        Camera with batch [*b], float32.
    """
    yaw, pitch = np.broadcast_arrays(np.asarray(yaw, np.float64), np.asarray(pitch, np.float64))
    vertical = np.clip(np.pi / 2 + pitch, _POLE, np.pi - _POLE)
    phi = np.arccos(1 - 2 * vertical / np.pi)
    place = [np.sin(yaw) * np.sin(phi), np.cos(phi), np.cos(yaw) * np.sin(phi)]
    position = radius * np.stack(place, axis=-1)
    forward = _unit(np.asarray(pivot, np.float64) - position)
    right = _unit(np.cross(forward, [0.0, 1.0, 0.0]))
    pose = np.zeros((*yaw.shape, 4, 4))
    pose[..., :3, :] = np.stack([right, np.cross(forward, right), forward, position], axis=-1)
    pose[..., 3, 3] = 1
    intrinsics = np.broadcast_to(intrinsics_from_focal(focal), (*yaw.shape, 3, 3))
    return Camera(cam2world=pose.astype(np.float32), intrinsics=intrinsics)


def pivot_of(path: Path) -> tuple[float, float, float]:
    """What official cameras look at: (0, 0, 0.2), in the face, or the origin for whole heads."""
    return (0.0, 0.0, 0.2) if path == "face" else (0.0, 0.0, 0.0)


def picture_views(
    path: Path,
    *,
    pivot: Sequence[float] | None = None,
    radius: float | int = RADIUS,
    focal: float | int = FOCAL,
) -> Camera:
    """The views that stand side by side in a picture, from slightly above (pitch −0.2).

    Args:
        path: 'face' has EG3D's three, yaw 0.4, 0 and −0.4; 'head' has PanoHead's five, 0 to −π.
        pivot: `pivot_of(path)` by default.
        radius, focal: as in `look_at`.

    Returns:
        Camera with batch [3] or [5].
    """
    pivot = pivot_of(path) if pivot is None else pivot
    return look_at(_YAWS[path], _PITCH, pivot=pivot, radius=radius, focal=focal)


def video_path(
    path: Path,
    *,
    frames: int,
    pivot: Sequence[float] | None = None,
    radius: float | int = RADIUS,
    focal: float | int = FOCAL,
) -> Camera:
    """The closed path of a video's camera; the frame after the last would be the first again.

    With τ = 2π · frame / frames, pitch −0.05 at its middle:
    'face' (EG3D): yaw 0.35 sin τ, pitch −0.05 + 0.25 cos τ;
    'head' (PanoHead): yaw τ, pitch −0.05 + 0.5 sin τ.

    Args:
        path: one of the two.
        frames: of one turn.
        pivot, radius, focal: as in `picture_views`.

    Returns:
        Camera with batch [frames].
    """
    pivot = pivot_of(path) if pivot is None else pivot
    turn = 2 * np.pi * np.arange(frames) / frames
    if path == "face":
        yaw, pitch = 0.35 * np.sin(turn), -0.05 + 0.25 * np.cos(turn)
    else:
        yaw, pitch = turn, -0.05 + 0.5 * np.sin(turn)
    return look_at(yaw, pitch, pivot=pivot, radius=radius, focal=focal)


def _unit(vectors: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
