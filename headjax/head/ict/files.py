"""Reads ICT-FaceKit's folder into arrays, centimetres, as they lie in the files."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headjax.errors import UserError
from headjax.io.obj import read_obj, read_obj_vertices

NEUTRAL = "generic_neutral_mesh"
JAW_OPEN = "jawOpen"  # the expression that tells what the jaw moves
NUM_VERTICES = 26719

# Vertex ranges of the parts, from, to (exclusive).
RANGES = {
    "face": (0, 9409),
    "head": (9409, 11248),
    "mouth_socket": (11248, 13294),
    "eye_sockets": (13294, 14062),
    "teeth": (17039, 21451),
    "left_eyeball": (21451, 22221),
    "right_eyeball": (23021, 23791),
}
LOWER_TEETH = 19247  # the first vertex of the lower jaw's teeth

# The 68 iBUG points, jaw line from the subject's right ear first.
LANDMARKS = np.array(
    [
        1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608,
        3272, 4088, 3443, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978,
        4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511,
        3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346,
        6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
    ]
)  # fmt: skip


class IctFiles(NamedTuple):
    """The contents of a folder.

    Attributes:
      vertices: [v, 3] the neutral head.
      faces: [f, 3].
      identity, expression: [v, 3, i], [v, 3, e] displacements from the neutral head.
      identity_names, expression_names: the files' names.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    identity: Float[np.ndarray, "v 3 i"]
    expression: Float[np.ndarray, "v 3 e"]
    identity_names: tuple[str, ...]
    expression_names: tuple[str, ...]


def _displacements(paths: list[Path], neutral: np.ndarray) -> Float[np.ndarray, "v 3 n"]:
    modes = np.zeros((*neutral.shape, len(paths)), np.float32)
    for index, path in enumerate(paths):
        vertices = read_obj_vertices(path)
        if vertices.shape != neutral.shape:
            raise UserError(
                f"{path} has {len(vertices)} vertices where the neutral head has {len(neutral)}; "
                "take all OBJ files from the same release of ICT-FaceKit."
            )
        modes[..., index] = vertices - neutral
    return modes


def read_files(folder: Path) -> IctFiles:
    """Reads the neutral head, every identityNNN.obj and every other OBJ as an expression.

    Raises:
      UserError: the folder, the neutral head, all identities or jawOpen are missing, or a file is
        broken or of another topology.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of ICT-FaceKit's OBJ files.")
    paths = sorted(folder.glob("*.obj"))
    identities = [path for path in paths if re.fullmatch(r"identity\d+", path.stem)]
    expressions = [p for p in paths if p not in identities and p.stem != NEUTRAL]
    stems = [path.stem for path in paths]
    for name in (NEUTRAL, identities[0].stem if identities else "identity000", JAW_OPEN):
        if name not in stems:
            raise UserError(f"{folder} lacks {name}.obj; take it from ICT-FaceKit's FaceXModel.")
    neutral = read_obj(folder / f"{NEUTRAL}.obj")
    if len(neutral.vertices) != NUM_VERTICES:
        raise UserError(
            f"{folder / NEUTRAL}.obj has {len(neutral.vertices)} vertices; ICT-FaceKit's head has "
            f"{NUM_VERTICES}."
        )
    return IctFiles(
        neutral.vertices,
        neutral.faces,
        _displacements(identities, neutral.vertices),
        _displacements(expressions, neutral.vertices),
        tuple(path.stem for path in identities),
        tuple(path.stem for path in expressions),
    )
