"""The 68 iBUG landmarks and the named regions of the procedural head."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.errors import UserError
from headjax.head.procedural import ears, features
from headjax.head.procedural.grid import Canvas, bell

# The jaw line on the subject's left, ear to chin: longitude in degrees, profile position.
_JAW = (
    (84.0, 0.400), (82.0, 0.470), (79.0, 0.545), (74.0, 0.630), (64.0, 0.715),
    (50.0, 0.765), (34.0, 0.792), (17.0, 0.803), (0.0, 0.806),
)  # fmt: skip


def brow_line(x: np.ndarray) -> np.ndarray:
    """Height of the brow's middle at distance x from the mirror plane."""
    stations = [0.012, 0.022, 0.030, 0.038, 0.046, 0.054, 0.062, 0.070, 0.078, 0.086]
    heights = [40.0, 42.2, 44.2, 46.2, 47.6, 48.3, 47.8, 46.2, 43.6, 40.2]
    return np.interp(x, stations, np.array(heights) * 1e-3)


def _eye_points() -> np.ndarray:
    """Inner corner, two upper, outer corner, two lower points of the subject's left eye."""
    points = []
    for q in (-1.0, -0.35, 0.35, 1.0, 0.35, -0.35):
        dx = q * features.EYE_HALF_WIDTH
        arch = 1 - q * q
        upper = len(points) < 3
        edge = features.UPPER_LID * arch**0.75 if upper else -features.LOWER_LID * arch**0.85
        points.append((0.0480 + dx, 0.0120 + features.EYE_TILT * dx + edge))
    return np.array(points)


def _mouth_points() -> tuple[np.ndarray, np.ndarray]:
    """Outer (12) and inner (8) contour from the subject's right corner over the upper lip."""
    x = features.MOUTH_HALF_WIDTH * np.array([-1, -0.62, -0.20, 0, 0.20, 0.62, 1])
    _, crease, upper, lower = features.mouth_curves(np.abs(x))
    top = np.stack([x, crease + upper], -1)
    low = np.stack([x, crease - lower], -1)[-2:0:-1]
    inside = 0.82 * x[[0, 1, 3, 5, 6]]
    _, line, _, _ = features.mouth_curves(np.abs(inside))
    above = np.stack([inside, line + np.array([0, 4e-4, 4e-4, 4e-4, 0])], -1)
    below = np.stack([inside, line - 4e-4], -1)[-2:0:-1]
    return np.concatenate([top, low]), np.concatenate([above, below])


def _front_points() -> Float[np.ndarray, "n 2"]:
    """Landmarks 17..67 by (x, y) as seen from the front."""
    bx = np.array([0.080, 0.067, 0.051, 0.036, 0.020])
    brow = np.stack([bx, brow_line(bx)], -1)
    flip = np.array([-1, 1])
    nose = [(0, 0.018), (0, -0.004), (0, -0.022), (0, -0.040)]
    base = [(-0.024, -0.050), (-0.012, -0.0555), (0, -0.0585), (0.012, -0.0555), (0.024, -0.050)]
    eye = _eye_points()
    right_eye = eye[[3, 2, 1, 0, 5, 4]] * flip
    outer, inner = _mouth_points()
    return np.concatenate([brow * flip, brow[::-1], nose, base, right_eye, eye, outer, inner])


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Twice the signed area between vectors of the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _locate(
    target: np.ndarray, plane: np.ndarray, faces: np.ndarray, depth: np.ndarray
) -> tuple[int, np.ndarray]:
    """The foremost triangle that holds a point of the plane, and its barycentric coordinates."""
    a, b, c = (plane[faces[:, k]] for k in range(3))
    area = _turn(b - a, c - a)
    area = np.where(np.abs(area) < 1e-14, 1e-14, area)
    wb = _turn(target - a, c - a) / area
    wc = _turn(b - a, target - a) / area
    weights = np.stack([1 - wb - wc, wb, wc], -1)
    inside = weights.min(-1) >= -1e-6
    if not inside.any():
        raise UserError(f"the landmark at {target} lies off the head; move it onto the face.")
    best = np.flatnonzero(inside)[np.argmax(depth[faces[inside]].mean(-1))]
    return int(best), np.clip(weights[best], 0, 1)


def ibug_landmarks(
    at: Canvas, points: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "68"], Float[np.ndarray, "68 3"]]:
    """Triangle and barycentric coordinates of each landmark on the template."""
    index, weights = [], []
    grown = np.abs(at.theta) < 2.2
    usable = np.flatnonzero(grown[faces].all(-1) & (np.abs(at.theta[faces]).max(-1) > 0))
    flat = np.stack([at.theta, at.s], -1)
    jaw = np.deg2rad(np.array([j[0] for j in _JAW])), np.array([j[1] for j in _JAW])
    line = np.concatenate([np.stack([-jaw[0], jaw[1]], -1), np.stack(jaw, -1)[-2::-1]])
    for target in line:
        found, w = _locate(target, flat, faces[usable], 0 * at.s)
        index.append(usable[found])
        weights.append(w)
    front = np.flatnonzero((np.cos(at.theta) > 0.3)[faces].all(-1))
    for target in _front_points():
        found, w = _locate(target, points[:, :2], faces[front], points[:, 2])
        index.append(front[found])
        weights.append(w)
    weights = np.array(weights)
    return np.array(index, np.int32), (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def is_nose(at: Canvas) -> Bool[np.ndarray, "*b"]:
    """Bridge, tip and wings."""
    half = np.interp(at.y, [-0.062, -0.056, -0.045, -0.030, 0.000, 0.030],
                     [0.014, 0.026, 0.0305, 0.024, 0.0150, 0.0120])  # fmt: skip
    inside = (at.y > -0.0625) & (at.y < 0.030) & (at.x < half)
    return inside & (np.cos(at.theta) > 0.3)


def is_neck(at: Canvas) -> Bool[np.ndarray, "*b"]:
    """Below jaw and nape."""
    edge = np.interp(np.cos(at.theta), [-1, -0.2, 0.4, 0.8, 1], [0.74, 0.745, 0.800, 0.832, 0.838])
    return at.s > edge


def is_mouth(at: Canvas) -> Bool[np.ndarray, "*b"]:
    """Lips and what folds between them."""
    y, _ = features.mouth_fold(at)
    q, crease, upper, lower = features.mouth_curves(at.x)
    inside = (y < crease + upper) & (y > crease - lower) & (q < 1)
    return inside & (np.cos(at.theta) > 0.3)


def region_masks(at: Canvas) -> dict[str, Bool[np.ndarray, "v"]]:
    """Named regions of the main surface; brows, eyes, nose, mouth, ears and neck are disjoint."""
    ahead = np.cos(at.theta) > 0.3
    ear = ears.ear_mask(at) > 0.5
    neck = is_neck(at) & ~ear
    nose, mouth = is_nose(at), is_mouth(at)
    eyes = (features.eye_gap(at) < 0.006) & ~nose
    span = (at.x > 0.014) & (at.x < 0.084)
    brows = ahead & span & (np.abs(at.y - brow_line(at.x)) < 0.0075) & ~eyes & ~nose
    face = (np.cos(at.theta) > 0.15) & ~neck & ~ear & (at.y < 0.110)
    scalp = ~face & ~neck & ~ear & (at.y > -0.08)
    masks = {"face": face, "scalp": scalp, "eyes": eyes, "brows": brows, "nose": nose}
    return masks | {"mouth": mouth, "ears": ear, "neck": neck}


def rosiness(at: Canvas) -> Float[np.ndarray, "*b"]:
    """Where blood shows: cheeks, nose tip, ears, a little on the chin."""
    cheek = bell((at.x - 0.060) / 0.030, (at.y + 0.040) / 0.026) * at.front
    nose = bell(at.x / 0.024, (at.y + 0.042) / 0.020) * at.front
    chin = 0.4 * bell(at.x / 0.030, (at.y + 0.150) / 0.020) * at.front
    return np.clip(cheek + 0.8 * nose + chin + 0.7 * ears.ear_mask(at), 0, 1)
