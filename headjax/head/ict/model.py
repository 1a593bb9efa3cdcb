"""From ICT-FaceKit's files to a `HeadModel` in headjax's world.

Kept are face, head and neck down to a cut that is closed with a lid, the linings of mouth and
eyes, teeth and the eyeballs' outer shells; shoulders, gums, lashes and fluids are dropped.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.head import atlas
from headjax.head.ict import canonical
from headjax.head.ict.clip import RING_WIDTH, Cut, cut_above
from headjax.head.ict.files import JAW_OPEN, LANDMARKS, LOWER_TEETH, RANGES, IctFiles, read_files
from headjax.head.ict.masks import region_masks
from headjax.head.model import HeadModel

SCALE = 0.018  # world units a centimetre: chin to crown 0.405
CENTRE = (0.0, 2.7, 1.5)  # centimetres; comes to lie at the world's origin
_JAW_HINGE = (6.8, 2.0, 1.8)  # centimetres, mirrored for the right side


class _Parts(NamedTuple):
    """What is kept: old vertices in new order, the cut, and which part each vertex belongs to."""

    cut: Cut
    part: Int[np.ndarray, "w"]
    names: tuple[str, ...]

    def of(self, name: str) -> Bool[np.ndarray, "w"]:
        return self.part == self.names.index(name)


def _kept_parts(files: IctFiles) -> _Parts:
    """Cuts the neck and numbers the parts."""
    part = np.full(len(files.vertices), -1)
    for index, (start, stop) in enumerate(RANGES.values()):
        part[start:stop] = index
    faces = files.faces[(part[files.faces] >= 0).all(1)]
    y, z = files.vertices[:, 1], files.vertices[:, 2]
    cut = cut_above(faces, y + canonical.CUT_TILT * z - canonical.CUT_LEVEL)
    names = (*RANGES, "lid")
    new = np.full(cut.lid.stop, names.index("lid"))
    new[: cut.rim.start], new[cut.rim] = part[cut.kept], names.index("head")
    return _Parts(cut, new, names)


def _face_order(vertices: Float[np.ndarray, "v 3"], parts: _Parts) -> Int[np.ndarray, "f"]:
    """Inner parts first, then from the axis outwards: the last face to cover a texel is seen."""
    faces = parts.cut.faces
    hidden = [parts.of(name) for name in ("mouth_socket", "eye_sockets", "teeth")]
    rank = np.where(np.any(hidden, 0)[faces].any(1), 0, 1)
    near = atlas.inside_out(vertices, faces, axis=(0.0, canonical.AXIS_Z))
    place = np.empty(len(faces), np.int64)
    place[near] = np.arange(len(faces))
    return np.lexsort((place, rank))


def _atlas(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], cut: Cut
) -> tuple[np.ndarray, np.ndarray]:
    u, v = canonical.atlas_position(vertices)
    crown, middle = int(np.argmax(vertices[:, 1])), len(vertices) - 1
    u[cut.lid] = np.append(u[cut.rim], 0.5)
    v[cut.lid] = RING_WIDTH * (1 - canonical.RIM_S)
    v[crown], v[middle] = 1.0, 0.0
    return atlas.unroll(u, v, faces=faces, poles=(crown, middle))


def _jaw_weights(files: IctFiles, parts: _Parts) -> Float[np.ndarray, "w"]:
    """How far each vertex follows the jaw: the share of a rigid turn in the jawOpen shape."""
    moved = files.expression[..., files.expression_names.index(JAW_OPEN)]
    arm = files.vertices - np.array([0.0, *_JAW_HINGE[1:]], np.float32)
    turn = np.stack([np.zeros(len(arm)), -arm[:, 2], arm[:, 1]], -1)  # per radian about +x
    share = (moved * turn).sum(1) / np.maximum((turn * turn).sum(1), 1.0)
    weights = np.clip(share / share[LANDMARKS[7:10]].mean(), 0.0, 1.0)
    weights[slice(*RANGES["eye_sockets"])] = 0.0
    upper, lower = (RANGES["teeth"][0], LOWER_TEETH), (LOWER_TEETH, RANGES["teeth"][1])
    weights[slice(*upper)], weights[slice(*lower)] = 0.0, 1.0
    return parts.cut(weights)


def _skinning(files: IctFiles, parts: _Parts) -> Float[np.ndarray, "w 5"]:
    """Global at the cut, neck above it, jaw and eyes on top; rows sum to one."""
    points = parts.cut(files.vertices)
    s = canonical.profile_position(points)
    ramp = np.clip((canonical.RIM_S - s) / 0.09, 0.0, 1.0)
    neck = ramp * ramp * (3 - 2 * ramp)
    neck[points[:, 1] > -7.0] = 1.0
    jaw = _jaw_weights(files, parts) * neck
    left, right = parts.of("left_eyeball"), parts.of("right_eyeball")
    weights = np.stack([1 - neck, neck - jaw, jaw, np.zeros_like(neck), np.zeros_like(neck)], 1)
    weights[left], weights[right] = np.eye(5)[3], np.eye(5)[4]
    return weights.astype(np.float32)


def _joint_regressor(files: IctFiles, parts: _Parts) -> Float[np.ndarray, "5 w"]:
    """Joints as means of vertices: the cut's rim, a ring of the neck, the hinges, the eyeballs."""
    points = parts.cut(files.vertices)
    s = canonical.profile_position(points)
    skin = parts.of("face") | parts.of("head")
    hinge = np.zeros(len(points), bool)
    for side in (-1, 1):
        distance = np.linalg.norm(points - np.array(_JAW_HINGE) * (side, 1, 1), axis=1)
        hinge[np.argsort(np.where(skin, distance, np.inf))[:8]] = True
    rim = np.zeros(len(points), bool)
    rim[parts.cut.rim] = True
    ring = skin & (np.abs(s - 0.92) < 0.015)
    rows = [rim, ring, hinge, parts.of("left_eyeball"), parts.of("right_eyeball")]
    return np.stack([row / row.sum() for row in rows]).astype(np.float32)


def _landmarks(
    parts: _Parts, faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "68"], Float[np.ndarray, "68 3"]]:
    """Each landmark's vertex as a corner of one of its faces."""
    vertex = np.searchsorted(parts.cut.kept, LANDMARKS)
    face = np.array([np.flatnonzero((faces == v).any(1))[-1] for v in vertex])
    return face, (faces[face] == vertex[:, None]).astype(np.float32)


def _to_world(points: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    return ((points - np.array(CENTRE)) * SCALE).astype(np.float32)


def read_ict(folder: str | Path) -> HeadModel:
    """Reads a folder of ICT-FaceKit's OBJ files.

    Modes are file minus neutral head; identity coefficients follow N(0, 1), expression
    coefficients run from 0 to 1. Regions carry, beside the usual names, `left_eyeball`,
    `right_eyeball`, `mouth_socket`, `eye_sockets`, `teeth` and `lid`. The atlas has the
    procedural head's layout (`headjax.head.atlas`).

    Args:
      folder: holds generic_neutral_mesh.obj, identityNNN.obj (any number), expressions.

    Raises:
      UserError: a file is missing, broken or of another topology.
    """
    files = read_files(Path(folder))
    parts = _kept_parts(files)
    points = parts.cut(files.vertices)
    faces = parts.cut.faces[_face_order(points, parts)]
    uvs, uv_faces = _atlas(points, faces, parts.cut)
    landmark_faces, landmark_barycentric = _landmarks(parts, faces)
    regions = {name: parts.of(name) for name in parts.names[2:]}
    return HeadModel(
        template=_to_world(points),
        identity_basis=parts.cut(files.identity) * np.float32(SCALE),
        expression_basis=parts.cut(files.expression) * np.float32(SCALE),
        pose_basis=np.zeros((len(points), 3, 36), np.float32),
        joint_regressor=_joint_regressor(files, parts),
        skinning_weights=_skinning(files, parts),
        faces=faces,
        uvs=uvs,
        uv_faces=uv_faces,
        landmark_faces=landmark_faces,
        landmark_barycentric=landmark_barycentric,
        regions=regions | region_masks(points, files.vertices[LANDMARKS], inner=regions),
        identity_names=files.identity_names,
        expression_names=files.expression_names,
    )
