"""Reads FLAME 2020 and 2023 model files without running anything of them.

A FLAME file is a pickle of a dictionary: v_template [v, 3], f [f, 3], shapedirs [v, 3, 400] (300
shape, then 100 expression directions), posedirs [v, 3, 36], J_regressor [5, v], weights [v, 5] and
kintree_table [2, 5], in metres, some of them chumpy objects or sparse matrices. UVs, landmarks and
masks come as files of their own, looked for beside the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from headjax.errors import UserError
from headjax.head import atlas
from headjax.head.model import JOINT_NAMES, REGION_NAMES, HeadModel
from headjax.io import safe_pickle
from headjax.io.obj import read_obj
from headjax.io.pickle_families import FLAME, NUMPY
from headjax.io.pickle_values import Record

TEMPLATE_MESH = "head_template_mesh.obj"
EMBEDDINGS = ("landmark_embedding.npy", "landmark_embedding_with_eyes.npy")
MASKS = "FLAME_masks.pkl"

CHIN_TO_CROWN = 0.405  # world units
_CROWN = 0.2125  # height at which the crown comes to lie, if all fits
_BOX = 0.355  # every vertex within this distance of the origin, per axis
_SPARSE_CELLS = 100_000_000  # cells of a sparse matrix written out

# A region's name here, and the FLAME masks that make it up. FLAME has no mask of the brows.
_REGION_SOURCES = {
    "face": ("face",),
    "scalp": ("scalp",),
    "eyes": ("left_eyeball", "right_eyeball"),
    "nose": ("nose",),
    "mouth": ("lips",),
    "ears": ("left_ear", "right_ear"),
    "neck": ("neck", "boundary"),
}


@struct.dataclass
class FlameHead(HeadModel):
    """FLAME in world units, with how it got there and what the files did not tell.

    Attributes:
      scale, offset: world = scale · metres + offset.
      absent: what has no source: "uvs" (then the atlas is `cylinder_atlas`), "landmarks" (then
        there are none) and region names (then `regions` lacks them).
    """

    scale: float = struct.field(pytree_node=False, default=1.0)
    offset: tuple[float, float, float] = struct.field(pytree_node=False, default=(0.0, 0.0, 0.0))
    absent: tuple[str, ...] = struct.field(pytree_node=False, default=())


def _dense(record: Record, key: str) -> np.ndarray:
    """A csc or csr matrix written out; everything it says is checked against its size."""
    by_column = record.global_name.endswith("csc_matrix")
    state = record.state if isinstance(record.state, dict) else {}
    shape = state.get("_shape", state.get("shape"))
    parts = [state.get(name) for name in ("data", "indices", "indptr")]
    if not by_column and not record.global_name.endswith("csr_matrix"):
        raise UserError(f"its {key} is a {record.global_name}; only csc and csr are read")
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise UserError(f"its {key} is a sparse matrix without a shape")
    if not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
        raise UserError(f"its {key} is an incomplete sparse matrix")
    data, indices, starts = parts
    outer, inner = shape[::-1] if by_column else shape
    fits = 0 <= outer * inner <= _SPARSE_CELLS and min(shape) >= 0 and len(starts) == outer + 1
    fits = fits and indices.dtype.kind in "iu" and starts.dtype.kind in "iu"
    fits = fits and len(data) == len(indices) == starts[-1] and starts[0] == 0
    fits = fits and bool(np.all(np.diff(starts.astype(np.int64)) >= 0))
    if not fits or (len(indices) and not 0 <= indices.min() <= indices.max() < inner):
        raise UserError(f"its {key} is a sparse matrix whose indices contradict its shape")
    dense = np.zeros((outer, inner), np.float64)
    np.add.at(dense, (np.repeat(np.arange(outer), np.diff(starts.astype(np.int64))), indices), data)
    return dense.T if by_column else dense


def _array(content: dict, key: str, *, kinds: str = "fiu") -> np.ndarray:
    """One entry as an array of numbers."""
    value = content.get(key)
    if isinstance(value, Record) and value.global_name == "chumpy.ch.Ch":
        value = value.state.get("x") if isinstance(value.state, dict) else None
    if isinstance(value, Record) and value.global_name.startswith("scipy.sparse."):
        value = _dense(value, key)
    if isinstance(value, Record):
        raise UserError(f"its {key} is a {value.global_name}; save it as a numpy array")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        raise UserError(f"its {key} is missing or no array of numbers")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise UserError(f"its {key} holds NaN or infinite values")
    return value


def _shaped(content: dict, key: str, shape: tuple[int | None, ...], *, kinds="fiu") -> np.ndarray:
    value = _array(content, key, kinds=kinds)
    fits = value.ndim == len(shape)
    if not fits or any(b not in (None, a) for a, b in zip(value.shape, shape, strict=True)):
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise UserError(f"its {key} has shape {value.shape} where {wanted} belongs")
    return value


def _parents(content: dict, joints: int) -> tuple[int, ...]:
    """Row 0 of the kinematic tree; the root's parent is -1, as uint32 4294967295."""
    table = _shaped(content, "kintree_table", (2, joints), kinds="iu").astype(np.int64)
    parents = [-1 if parent >= 2**31 else int(parent) for parent in table[0]]
    if parents[0] != -1 or any(not 0 <= p < j for j, p in enumerate(parents) if j):
        raise UserError(f"its kintree_table {parents} is no tree whose parents come first")
    return tuple(parents)


def _similarity(
    vertices: Float[np.ndarray, "v 3"], jaw: Float[np.ndarray, "v"]
) -> tuple[float, tuple[float, float, float]]:
    """Scale and offset into headjax's frame.

    The chin is the lowest point that mainly follows the jaw. The crown comes to lie at a fixed
    height, depth is centred; both give way where the box would be left.
    """
    low, high = vertices.min(0), vertices.max(0)
    chin = vertices[jaw > 0.5 * jaw.max(), 1].min()
    scale = CHIN_TO_CROWN / max(float(high[1] - chin), 1e-6)
    reach = np.array([np.abs(vertices[:, 0]).max() * 2, *(high - low)[1:]]).max()
    scale = min(scale, 2 * _BOX / float(reach))
    lift = max(_CROWN - scale * float(high[1]), -_BOX - scale * float(low[1]))
    return scale, (0.0, lift, -scale * float(low[2] + high[2]) / 2)


def cylinder_atlas(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    *,
    eyeballs: Bool[np.ndarray, "v"],
) -> tuple[Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """An atlas for a head that came without one.

    u is the angle about the vertical through the crown, 1/2 at the front, growing towards the
    subject's left, the seam at the back. v falls from the crown: by the polar angle about a centre
    one radius below it, further down by height over that radius. The eyeballs, which lie behind
    the lids, get two small islands in the bottom rows.

    Args:
      vertices: y up, face towards +z.
      eyeballs: which vertices belong to an eyeball.
    """
    skin = vertices[~eyeballs] if not eyeballs.all() else vertices
    crown = skin[np.argmax(skin[:, 1])]
    radius = max(float(np.ptp(skin[:, 0])) / 2, 1e-6)
    x, z = vertices[:, 0] - crown[0], vertices[:, 2] - crown[2]
    rise = vertices[:, 1] - (crown[1] - radius)
    latitude = np.arctan2(np.hypot(x, z), np.maximum(rise, 0)) + np.maximum(-rise, 0) / radius
    lowest = max(float(latitude[~eyeballs].max(initial=0.0)), 1e-6)
    u = np.mod(np.arctan2(x, z) / (2 * np.pi) + 0.5, 1.0)
    v = 1 - 0.97 * latitude / lowest
    for index, side in enumerate((vertices[:, 0] > 0, vertices[:, 0] <= 0)):
        ball = eyeballs & side
        if ball.any():
            low, size = vertices[ball].min(0), np.maximum(np.ptp(vertices[ball], axis=0), 1e-9)
            place = (vertices[ball] - low) / size
            u[ball] = 0.01 + 0.04 * index + 0.02 * place[:, 0]
            v[ball] = 0.005 + 0.02 * place[:, 1]
    poles = np.flatnonzero((x == 0) & (z == 0) & ~eyeballs)
    return atlas.unroll(u, np.clip(v, 0, 1), faces=faces, poles=poles)


def _file_atlas(path: Path, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mesh = read_obj(path)
    if mesh.uvs is None or mesh.uv_faces is None:
        raise UserError(f"{path} has no texture coordinates; take the mesh that comes with FLAME.")
    if mesh.faces.shape != faces.shape or not np.array_equal(mesh.faces, faces):
        raise UserError(f"{path} has other triangles than the model; take both from one release.")
    return mesh.uvs, mesh.uv_faces


def _landmarks(path: Path, count: int) -> tuple[Int[np.ndarray, "68"], Float[np.ndarray, "68 3"]]:
    """The 68 points; the jaw line of a frontal view where the file has one for every yaw."""
    content = safe_pickle.load_npy_object(path)
    try:
        if not isinstance(content, dict):
            raise UserError("it holds no dictionary")
        if "full_lmk_faces_idx" in content:
            index = _array(content, "full_lmk_faces_idx", kinds="iu").reshape(-1)
            weights = _array(content, "full_lmk_bary_coords").reshape(-1, 3)
        else:
            keys = ("dynamic_lmk_{}", "static_lmk_{}")
            index, weights = [
                [_array(content, key.format(kind)) for key in keys]
                for kind in ("faces_idx", "bary_coords")
            ]
            index = np.concatenate([index[0][0], index[1]])
            weights = np.concatenate([weights[0][0], weights[1]])
        if index.shape != (68,) or weights.shape != (68, 3):
            raise UserError(f"it holds {len(index)} landmarks where 68 belong")
        if index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= count:
            raise UserError("its landmarks lie on triangles that the model does not have")
        if np.abs(weights.sum(1) - 1).max() > 1e-3:
            raise UserError("its barycentric coordinates do not sum to one")
    except (UserError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no landmark embedding of FLAME: {error}.") from error
    return index.astype(np.int32), weights.astype(np.float32)


def _file_masks(path: Path, count: int) -> dict[str, Bool[np.ndarray, "v"]]:
    """headjax's regions, and FLAME's own masks under their names."""
    content = safe_pickle.load(path, family=NUMPY)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of masks.")
    masks = {}
    for name, ids in content.items():
        ids = np.asarray(ids) if isinstance(ids, (list, np.ndarray)) else np.zeros((), np.float32)
        is_list = ids.ndim == 1 and (ids.dtype.kind in "iu" or len(ids) == 0)
        if not is_list or (len(ids) and not 0 <= ids.min() <= ids.max() < count):
            raise UserError(f"{path}: mask {str(name)[:40]!r} is no list of the model's vertices.")
        masks[str(name)] = np.isin(np.arange(count), ids)
    made = {
        name: np.any([masks[part] for part in parts if part in masks], 0)
        for name, parts in _REGION_SOURCES.items()
        if any(part in masks for part in parts)
    }
    return masks | made


def _side_file(given: str | Path | None, folder: Path, names: tuple[str, ...]) -> Path | None:
    """The file the user names, or the first of `names` in the folder, or None."""
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"{given} is not there; leave it out or give the right path.")
        return Path(given)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _side_data(
    core: dict[str, Any], mesh: Path | None, embedding: Path | None, masks: Path | None
) -> dict[str, Any]:
    """Atlas, landmarks and regions, from the files or from what the model itself tells."""
    faces, eyeballs = core["faces"], core["skinning_weights"][:, 3:].sum(1) > 0.5
    if mesh is None:
        uvs, uv_faces = cylinder_atlas(core["template"], faces, eyeballs=eyeballs)
    else:
        uvs, uv_faces = _file_atlas(mesh, faces)
    landmarks = (np.zeros(0, np.int32), np.zeros((0, 3), np.float32))
    if embedding is not None:
        landmarks = _landmarks(embedding, len(faces))
    return {
        "uvs": uvs,
        "uv_faces": uv_faces,
        "landmark_faces": landmarks[0],
        "landmark_barycentric": landmarks[1],
        "regions": {"eyes": eyeballs} if masks is None else _file_masks(masks, len(eyeballs)),
    }


def _core(content: Any, num_identity: int) -> dict[str, Any]:
    """The linear model in metres, as keyword arguments of `HeadModel`."""
    if not isinstance(content, dict):
        raise UserError("it holds no dictionary")
    template = _shaped(content, "v_template", (None, 3)).astype(np.float64)
    count, joints = len(template), len(JOINT_NAMES)
    faces = _shaped(content, "f", (None, 3), kinds="iu").astype(np.int64)
    if not len(faces) or faces.min() < 0 or faces.max() >= count:
        raise UserError("its f names vertices that are not there")
    directions = _shaped(content, "shapedirs", (count, 3, None))
    if directions.shape[-1] < num_identity:
        raise UserError(
            f"its shapedirs hold {directions.shape[-1]} directions, fewer than the {num_identity} "
            "of identity; give num_identity"
        )
    regressor = _shaped(content, "J_regressor", (joints, count))
    weights = _shaped(content, "weights", (count, joints))
    for name, rows in (("J_regressor", regressor), ("weights", weights)):
        if np.abs(rows.sum(1) - 1).max() > 1e-3:
            raise UserError(f"its {name} has rows that do not sum to one")
    return {
        "template": template,
        "identity_basis": directions[..., :num_identity],
        "expression_basis": directions[..., num_identity:],
        "pose_basis": _shaped(content, "posedirs", (count, 3, 9 * (joints - 1))),
        "joint_regressor": regressor,
        "skinning_weights": weights,
        "faces": faces.astype(np.int32),
        "parents": _parents(content, joints),
    }


def _scaled(core: dict[str, Any], scale: float, offset: tuple) -> dict[str, Any]:
    """The linear model in world units, float32."""
    out = dict(core)
    out["template"] = core["template"] * scale + np.array(offset)
    for name in ("identity_basis", "expression_basis", "pose_basis"):
        out[name] = core[name] * scale
    floats = [name for name, value in out.items() if getattr(value, "dtype", None) is not None]
    for name in floats:
        if name != "faces":
            out[name] = np.ascontiguousarray(out[name], np.float32)
    return out


def read_flame(
    path: str | Path,
    *,
    template_mesh: str | Path | None = None,
    landmark_embedding: str | Path | None = None,
    masks: str | Path | None = None,
    num_identity: int = 300,
) -> FlameHead:
    """Reads a FLAME model file and, where they are, the files that go with it.

    Nothing is made up: what has no source is named in `absent`. Vertices and triangles keep the
    file's numbers. The head is scaled to 0.405 world units from chin to crown (less if it would
    leave [-0.36, 0.36]^3); the neck stays as long as FLAME's.

    Args:
      path: generic_model.pkl, flame2023.pkl, flame2023_Open.pkl …
      template_mesh: head_template_mesh.obj, for UVs; by default looked for beside `path`.
      landmark_embedding: landmark_embedding.npy or its form with eyes; likewise.
      masks: FLAME_masks.pkl; likewise. Without it only the eyeballs are known, by their joints.
      num_identity: how many of the shape directions are identity; the rest are expressions.

    Raises:
      UserError: a file is missing, broken, hostile, or does not fit the model.
    """
    path = Path(path)
    content = safe_pickle.load(path, family=FLAME)
    try:
        core = _core(content, num_identity)
    except UserError as error:
        raise UserError(f"{path} is no FLAME model: {error}.") from error
    scale, offset = _similarity(core["template"], core["skinning_weights"][:, 2])
    files = (
        _side_file(template_mesh, path.parent, (TEMPLATE_MESH,)),
        _side_file(landmark_embedding, path.parent, EMBEDDINGS),
        _side_file(masks, path.parent, (MASKS,)),
    )
    sides = _side_data(core, *files)
    absent = ["uvs"] * (files[0] is None) + ["landmarks"] * (files[1] is None)
    absent += [name for name in REGION_NAMES if name not in sides["regions"]]
    count = core["expression_basis"].shape[-1]
    return FlameHead(
        **_scaled(core, scale, offset),
        **sides,
        joint_names=JOINT_NAMES,
        identity_names=tuple(f"shape{i:03d}" for i in range(num_identity)),
        expression_names=tuple(f"expression{i:03d}" for i in range(count)),
        scale=scale,
        offset=offset,
        absent=tuple(absent),
    )
