"""The procedural head as a `HeadModel`: bases, joints, skinning weights, landmarks, regions."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from headjax.head.model import JOINT_NAMES, JOINT_PARENTS, HeadModel
from headjax.head.procedural import features, grid, landmarks, sculpt
from headjax.head.procedural.expressions import EXPRESSION_FIELDS
from headjax.head.procedural.grid import Canvas, bell, smoothstep
from headjax.head.procedural.identity import IDENTITY_FIELDS, Field, eye_plateau

SIDES = (1.0, -1.0)  # left eyeball first
JAW_HINGE = np.array([0.0, -0.0220, 0.0050])


def main_count() -> int:
    """Number of vertices of the main surface; the left and the right eyeball follow."""
    return 2 + grid.ROWS * grid.COLUMNS


def eye_slices() -> tuple[slice, slice]:
    """Vertices of the left and of the right eyeball."""
    start, size = main_count(), len(sculpt.eyeball()[0])
    return slice(start, start + size), slice(start + size, start + 2 * size)


def _eye_centres() -> Float[np.ndarray, "2 3"]:
    return np.array([features.EYE_CENTRE * [side, 1, 1] for side in SIDES])


def _eye_canvas() -> Canvas:
    """Canonical coordinates of the two eyeballs' centres."""
    centres = _eye_centres()
    return Canvas(np.arctan2(centres[:, 0], centres[:, 2] + 0.015), np.full(2, 0.36), centres)


def template() -> Float[np.ndarray, "v 3"]:
    """Main surface, left eyeball, right eyeball."""
    ball = sculpt.eyeball()[0] * features.EYE_RADIUS
    balls = [centre + ball for centre in _eye_centres()]
    return np.concatenate([sculpt.sculpted(grid.vertex_canvas()), *balls])


def _basis(fields: dict[str, Field], *, lids: tuple[str, ...]) -> Float[np.ndarray, "v 3 n"]:
    """Fields on the template; all but those of `lids` move the lids as one with the eyeball."""
    at, points = grid.vertex_canvas(), template()[: main_count()]
    eyes, centres = _eye_canvas(), _eye_centres()
    count = len(sculpt.eyeball()[0])
    hold = eye_plateau(points, outer=0.042)[:, None]
    left = points[:, :1] > 0
    columns = []
    for name, field in fields.items():
        moved, rigid = field(at, points), field(eyes, centres)
        if name not in lids:
            moved = moved + hold * (np.where(left, rigid[0], rigid[1]) - moved)
        columns.append(np.concatenate([moved, np.repeat(rigid, count, axis=0)]))
    return np.stack(columns, -1)


def _identity_basis() -> Float[np.ndarray, "v 3 i"]:
    basis = _basis(IDENTITY_FIELDS, lids=("eye_size", "eye_tilt"))
    size = list(IDENTITY_FIELDS).index("eye_size")
    for part, centre in zip(eye_slices(), _eye_centres(), strict=True):
        basis[part, :, size] = 0.060 * (template()[part] - centre)
    return basis


def _expression_basis() -> Float[np.ndarray, "v 3 e"]:
    basis = _basis(EXPRESSION_FIELDS, lids=tuple(EXPRESSION_FIELDS))
    basis[main_count() :] = 0.0
    away = 1 - eye_plateau(template()[: main_count()], outer=0.036)[:, None]
    for k, name in enumerate(EXPRESSION_FIELDS):
        if name not in ("blink_left", "blink_right", "eyes_wide"):
            basis[: main_count(), :, k] *= away
    return basis


def _jaw_weight(at: Canvas) -> Float[np.ndarray, "v"]:
    """1 on the lower lip, chin and jaw; split sharply at the mouth, softly on the cheeks."""
    q, crease, _, _ = features.mouth_curves(at.x)
    aside = smoothstep(0.9, 2.0, at.x / features.MOUTH_HALF_WIDTH)
    line = crease + 0.55 * np.clip(at.x - 0.037, 0, 0.055) * aside
    half = 0.0065 + 0.034 * aside
    below = smoothstep(half, -half, at.y - line)
    weight = below * smoothstep(-0.015, 0.065, at.z) * smoothstep(0.885, 0.838, at.s)
    return weight


def _skinning_weights() -> Float[np.ndarray, "v j"]:
    at = grid.vertex_canvas()
    jaw = _jaw_weight(at)
    spread = grid.smooth(jaw[:, None], 4)[:, 0]
    lips = at.front * bell(at.x / 0.050, (at.y - features.MOUTH_HEIGHT) / 0.020)
    jaw = spread + smoothstep(0.1, 0.6, lips) * (jaw - spread)
    turn = smoothstep(-0.212, -0.135, at.y)
    chin = smoothstep(0.0, 0.06, at.z)
    turn = turn + chin * (smoothstep(0.945, 0.850, at.s) - turn)
    main = np.stack([1 - turn, turn * (1 - jaw), turn * jaw, 0 * jaw, 0 * jaw], -1)
    eye = np.eye(5)[[3, 4]]
    balls = np.repeat(eye, len(sculpt.eyeball()[0]), axis=0)
    return np.concatenate([main, balls])


def _joint_regressor() -> Float[np.ndarray, "j v"]:
    at, points = grid.vertex_canvas(), template()
    rows = np.zeros((5, len(points)))
    main = slice(0, main_count())
    rows[0, main] = np.abs(at.s - 0.940) < 0.012
    rows[1, main] = np.abs(at.s - 0.885) < 0.012
    hinge = points[main] - JAW_HINGE
    rows[2, main] = np.exp(-((hinge[:, 1] ** 2 + hinge[:, 2] ** 2) / 0.010**2)) * (at.x > 0.09)
    for row, part in zip((3, 4), eye_slices(), strict=True):
        rows[row, [part.start, part.stop - 1]] = 1.0  # the ball's poles, front and back
    rows[2] = _mirrored(rows[2])
    return rows / rows.sum(1, keepdims=True)


def _mirrored(row: np.ndarray) -> np.ndarray:
    main = main_count()
    return np.concatenate([(row[:main] + row[:main][grid.mirror_index()]) / 2, row[main:]])


def _pose_basis() -> Float[np.ndarray, "v 3 p"]:
    """Corrections of skinning: an opening jaw draws the cheeks in and rounds the lower lip."""
    at = grid.vertex_canvas()
    basis = np.zeros((len(template()), 3, 9 * (len(JOINT_NAMES) - 1)))
    opened = 9 * (JOINT_NAMES.index("jaw") - 1) + 7  # R[2, 1] = sin of the jaw's angle
    cheek = bell((at.x - 0.066) / 0.026, (at.y + 0.075) / 0.034) * smoothstep(0.02, 0.06, at.z)
    lip = at.front * bell(at.x / 0.030, (at.y + 0.105) / 0.014)
    nape = smoothstep(-0.4, -1.0, np.cos(at.theta)) * bell((at.y + 0.10) / 0.04)
    main = slice(0, main_count())
    basis[main, 0, opened] = -0.016 * at.side * cheek
    basis[main, 2, opened] = 0.010 * lip - 0.006 * cheek
    nod = 7  # R[2, 1] of the neck
    basis[main, 2, nod] = -0.010 * nape
    return basis


def _balls_topology() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles of both eyeballs and their own small islands in the atlas' last row."""
    vertices, faces, polar = sculpt.eyeball()
    unit = vertices[:, :2] / np.maximum(np.linalg.norm(vertices[:, :2], axis=1), 1e-9)[:, None]
    disc = unit * (polar / np.pi)[:, None] * 0.008
    uvs = np.concatenate([disc + [x, 0.009] for x in (0.045, 0.020)])
    shifted = [faces, faces + len(vertices)]
    return np.concatenate(shifted), uvs, np.concatenate(shifted)


@functools.lru_cache(maxsize=1)
def head_model() -> HeadModel:
    """The procedural head: main surface on the atlas grid, then left and right eyeball.

    `faces` begins with the main surface's triangles (closed without welding); the eyeballs follow.
    All arrays are float32 or int32 on the host. Cached; treat it as read-only.
    """
    at = grid.vertex_canvas()
    points = template()
    faces, uvs, uv_faces = grid.topology()
    balls, ball_uvs, ball_uv_faces = _balls_topology()
    index, weights = landmarks.ibug_landmarks(at, points[: main_count()], faces)
    regions = {
        name: grid.vertex_mask(mask, len(points))
        for name, mask in landmarks.region_masks(at).items()
    }
    for part in eye_slices():
        regions["eyes"][part] = True
    return HeadModel(
        template=points.astype(np.float32),
        identity_basis=_identity_basis().astype(np.float32),
        expression_basis=_expression_basis().astype(np.float32),
        pose_basis=_pose_basis().astype(np.float32),
        joint_regressor=_joint_regressor().astype(np.float32),
        skinning_weights=_skinning_weights().astype(np.float32),
        faces=np.concatenate([faces, balls + main_count()]).astype(np.int32),
        uvs=np.concatenate([uvs, ball_uvs]).astype(np.float32),
        uv_faces=np.concatenate([uv_faces, ball_uv_faces + len(uvs)]).astype(np.int32),
        landmark_faces=index,
        landmark_barycentric=weights,
        regions=regions,
        parents=JOINT_PARENTS,
        joint_names=JOINT_NAMES,
        identity_names=tuple(IDENTITY_FIELDS),
        expression_names=tuple(EXPRESSION_FIELDS),
    )
