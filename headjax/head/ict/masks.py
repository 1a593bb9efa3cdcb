"""Soft masks of lips, brows, nose, ears, hair and neck on ICT-FaceKit's neutral head.

All from the 68 landmarks and the canonical coordinates, in centimetres.
"""

import numpy as np
from jaxtyping import Bool, Float

from headjax.head.ict import canonical

Points = Float[np.ndarray, "v 3"]
Mask = Float[np.ndarray, "v"]


def ramp(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`, in either order."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _distance_to_line(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to a polyline, and where along it (0..1 by corners) the nearest point lies."""
    start, step = line[:-1], np.diff(line, axis=0)
    offset = points[:, None] - start
    along = np.clip((offset * step).sum(-1) / (step * step).sum(-1), 0.0, 1.0)
    distance = np.linalg.norm(offset - along[..., None] * step, axis=-1)
    nearest = distance.argmin(1)
    rows = np.arange(len(points))
    return distance[rows, nearest], (nearest + along[rows, nearest]) / len(step)


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Signed distance to a closed polygon in the plane, positive inside."""
    closed = np.concatenate([polygon, polygon[:1]])
    distance, _ = _distance_to_line(points, closed)
    (x0, y0), (x1, y1) = closed[:-1].T, closed[1:].T
    x, y = points[:, :1], points[:, 1:]
    spans = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return np.where(crosses.sum(1) % 2 == 1, distance, -distance)


def lips(points: Points, landmarks: Float[np.ndarray, "68 3"]) -> tuple[Mask, Mask]:
    """Upper and lower lip, the parts that turn inwards included."""
    inside = _inside(points[:, :2], landmarks[48:60, :2])
    both = ramp(-0.12, 0.12, inside) * (points[:, 2] > 9.0)
    seam = landmarks[[60, 61, 62, 63, 64]]
    low = landmarks[[60, 67, 66, 65, 64]]
    middle = np.interp(points[:, 0], seam[:, 0], (seam[:, 1] + low[:, 1]) / 2)
    upper = points[:, 1] > middle
    return both * upper, both * ~upper


def brows(points: Points, landmarks: Float[np.ndarray, "68 3"]) -> tuple[Mask, Mask]:
    """Left and right brow: a stroke along the landmarks, tapering outwards."""
    masks = []
    for line in (landmarks[22:27], landmarks[21:16:-1]):
        distance, along = _distance_to_line(points, line - np.array([0.0, 0.30, 0.0]))
        half_width = 0.46 - 0.23 * along**2
        masks.append(ramp(1.35, 0.65, distance / half_width))
    return masks[0], masks[1]


def lash_lines(points: Points, landmarks: Float[np.ndarray, "68 3"]) -> Mask:
    """The rims of the lids, the upper one stronger."""
    mask = np.zeros(len(points))
    for first in (36, 42):
        upper = landmarks[first : first + 4]
        lower = landmarks[[first + 3, first + 4, first + 5, first]]
        for line, reach, strength in ((upper, 0.30, 1.0), (lower, 0.20, 0.55)):
            distance, _ = _distance_to_line(points, line)
            mask = np.maximum(mask, strength * ramp(reach, 0.05, distance))
    return mask


def nose(points: Points, landmarks: Float[np.ndarray, "68 3"]) -> Mask:
    """Bridge to nostrils."""
    bridge, right, left, base = landmarks[27], landmarks[31], landmarks[35], landmarks[33]
    wing = np.array([0.75, 0.35])
    right, left = right[:2] - wing * (1, -1), left[:2] + wing
    top = np.array([[0.55, bridge[1]], [-0.55, bridge[1]]])
    bottom = np.array([[-0.5, base[1] - 0.15], [0.5, base[1] - 0.15]])
    low = np.array([[0, -0.75]])
    polygon = np.concatenate([top, right[None], right + low, bottom, left + low, left[None]])
    return ramp(-0.15, 0.15, _inside(points[:, :2], polygon)) * (points[:, 2] > 8.0)


# The head's wall beside the ear: height, half-width.
_EAR_WALL = ((-3.0, 6.40), (-2.0, 6.60), (-1.0, 6.85), (0.0, 7.10), (1.0, 7.25), (2.0, 7.40))
_EAR_WALL += ((3.0, 7.60), (4.0, 7.85), (5.0, 8.05))


def ears(points: Points) -> tuple[Mask, Mask]:
    """Left and right ear: what stands off the side of the head, and the bowl within."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    height, wall = np.array(_EAR_WALL).T
    off = ramp(-0.10, 0.15, x - np.interp(y, height, wall)) * (y > -2.9) * (y < 5.0)
    off = off * ramp(2.1, 1.7, z) * ramp(-3.0, -2.6, z)
    bowl = ramp(1.1, 0.9, np.hypot((y - 0.9) / 2.0, (z - 0.7) / 1.2)) * (x > 5.0)
    ear = np.maximum(off, bowl)
    return ear * (points[:, 0] > 0), ear * (points[:, 0] < 0)


# Where hair begins: |longitude| in degrees, profile position, half-width of the soft edge.
_HAIRLINE = (
    (0.0, 0.155, 0.012),
    (28.0, 0.155, 0.012),
    (44.0, 0.180, 0.014),
    (56.0, 0.235, 0.016),
    (62.0, 0.300, 0.018),
    (65.0, 0.400, 0.020),
    (69.0, 0.500, 0.030),
    (75.0, 0.500, 0.030),
    (78.0, 0.400, 0.020),
    (84.0, 0.335, 0.018),
    (98.0, 0.335, 0.018),
    (107.0, 0.440, 0.030),
    (116.0, 0.620, 0.035),
    (135.0, 0.730, 0.035),
    (180.0, 0.760, 0.030),
)


def scalp(points: Points, *, lift: float = 0.0) -> Mask:
    """Where hair grows; `lift` > 0 raises the front hairline by so much profile position."""
    degrees = np.abs(np.degrees(canonical.longitude(points)))
    angle, line, soft = np.array(_HAIRLINE).T
    front = np.clip(1 - angle / 70, 0, 1)
    start = np.interp(degrees, angle, line - lift * front)
    edge = (canonical.profile_position(points) - start) / np.interp(degrees, angle, soft)
    left, right = ears(points)
    return ramp(1.0, -1.0, edge) * (1 - left) * (1 - right)


# The jaw's corner and the ear's lobe, centimetres; from there the nape's hairline goes on.
_JAW_CORNER = np.array([(5.9, -4.9, 3.2), (6.4, -3.1, 0.6)])
_NAPE = ((112.0, 0.70), (135.0, 0.73), (180.0, 0.76))


def neck(points: Points, landmarks: Float[np.ndarray, "68 3"]) -> Mask:
    """Below the jaw line, and below the nape's hairline behind it."""
    jaw = np.concatenate([landmarks[8:13], _JAW_CORNER])
    degrees = np.degrees(canonical.longitude(jaw))
    angle = np.concatenate([degrees, [a for a, _ in _NAPE]])
    start = np.concatenate([canonical.profile_position(jaw) + 0.014, [s for _, s in _NAPE]])
    at = np.interp(np.abs(np.degrees(canonical.longitude(points))), angle, start)
    left, right = ears(points)
    return ramp(-0.01, 0.01, canonical.profile_position(points) - at) * (1 - left) * (1 - right)


def region_masks(
    points: Points, landmarks: Float[np.ndarray, "68 3"], *, inner: dict[str, np.ndarray]
) -> dict[str, Bool[np.ndarray, "v"]]:
    """The eight named regions of a `HeadModel`.

    Args:
      points: [v, 3] the kept vertices of the neutral head, centimetres.
      landmarks: [68, 3] of the same head.
      inner: parts that do not belong to the skin, by name.
    """
    skin = ~np.any(list(inner.values()), 0)
    s = canonical.profile_position(points)
    degrees = np.abs(np.degrees(canonical.longitude(points)))
    lip = sum(lips(points, landmarks))
    below = neck(points, landmarks) > 0.5
    ear = sum(ears(points)) > 0.5
    hair = scalp(points) > 0.5
    return {
        "face": skin & ~below & ~ear & ~hair & (degrees < 95) & (s > 0.1),
        "scalp": skin & hair,
        "eyes": inner["left_eyeball"] | inner["right_eyeball"],
        "brows": skin & (sum(brows(points, landmarks)) > 0.5),
        "nose": skin & (nose(points, landmarks) > 0.5),
        "mouth": (skin & (lip > 0.5)) | inner["mouth_socket"] | inner["teeth"],
        "ears": skin & ear,
        "neck": (skin & below & ~hair) | inner["lid"],
    }
