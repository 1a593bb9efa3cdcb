"""FLAME files come back as they were written, hostile or odd ones end in one sentence."""

import pickle
import sys
import types
import zlib

import numpy as np
import pytest
import scipy.sparse

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh
from headjax.head.flame import CHIN_TO_CROWN, cylinder_atlas, read_flame
from headjax.head.model import landmarks, region_faces, skin
from headjax.io.obj import write_obj
from headjax.render.uv import rasterize_uv

COLUMNS, ROWS = 12, 9
COUNT = COLUMNS * ROWS + 2


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers computed from a name, as in the skinning goldens."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.standard_normal(shape, dtype=np.float32)


def _sphere() -> tuple[np.ndarray, np.ndarray]:
    """A closed ball of latitude rings, 11 cm in radius, poles last."""
    angle = 2 * np.pi * np.arange(COLUMNS) / COLUMNS
    polar = np.pi * np.arange(1, ROWS + 1) / (ROWS + 1)
    ring = np.sin(polar)[:, None]
    points = np.stack(
        [
            ring * np.sin(angle),
            np.broadcast_to(np.cos(polar)[:, None], (ROWS, COLUMNS)),
            ring * np.cos(angle),
        ],
        -1,
    ).reshape(-1, 3)
    points = 0.11 * np.concatenate([points, [[0, 1, 0], [0, -1, 0]]])
    faces = []
    for r in range(ROWS - 1):
        for c in range(COLUMNS):
            a, b = r * COLUMNS + c, r * COLUMNS + (c + 1) % COLUMNS
            faces += [(a, a + COLUMNS, b + COLUMNS), (a, b + COLUMNS, b)]
    last = (ROWS - 1) * COLUMNS
    for c in range(COLUMNS):
        n = (c + 1) % COLUMNS
        faces += [(COUNT - 2, c, n), (COUNT - 1, last + n, last + c)]
    return points, np.array(faces, np.uint32)


def flame_content() -> dict:
    """A FLAME-shaped dictionary with few vertices and all 400 directions."""
    template, faces = _sphere()
    weights = np.exp(2 * _normal("flame.weights", (COUNT, 5)))
    weights[:, 2] *= template[:, 1] < -0.02
    weights[:3] = np.eye(5)[3]
    regressor = np.abs(_normal("flame.J_regressor", (5, COUNT)))
    return {
        "v_template": template,
        "f": faces,
        "shapedirs": 0.01 * _normal("flame.shapedirs", (COUNT, 3, 400)).astype(np.float64),
        "posedirs": 0.001 * _normal("flame.posedirs", (COUNT, 3, 36)).astype(np.float64),
        "J_regressor": scipy.sparse.csc_matrix(regressor / regressor.sum(1, keepdims=True)),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


class _Ch:
    """What `chumpy.ch.Ch` leaves in a file."""

    def __init__(self, x):
        self.__dict__.update(x=x, _dirty_vars={"x"}, _itr=None)


_Ch.__module__, _Ch.__qualname__ = "chumpy.ch", "Ch"


def _dump(content: dict, protocol: int) -> bytes:
    """A pickle; the module `chumpy.ch` is there only while it is written."""
    module = types.ModuleType("chumpy.ch")
    module.Ch = _Ch
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
        patch.setitem(sys.modules, "chumpy.ch", module)
        return pickle.dumps(content, protocol=protocol)


def _write(folder, content, protocol=2):
    path = folder / "generic_model.pkl"
    path.write_bytes(_dump(content, protocol))
    return path


@pytest.mark.parametrize("style", ["2020", "2023"])
def test_a_model_comes_back_as_it_was_written(tmp_path, style):
    content = flame_content()
    stored = dict(content)
    if style == "2020":
        for key in ("v_template", "shapedirs", "posedirs", "weights"):
            stored[key] = _Ch(content[key])
    else:
        stored["J_regressor"] = content["J_regressor"].toarray()
    model = read_flame(_write(tmp_path, stored, protocol=2 if style == "2020" else 4))

    def metres(points):
        return (np.asarray(points, np.float64) - model.offset) / model.scale

    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(metres(model.template), content["v_template"], **close)
    basis = np.concatenate([model.identity_basis, model.expression_basis], -1)
    assert model.num_identity == 300 and model.num_expression == 100
    np.testing.assert_allclose(basis / model.scale, content["shapedirs"], **close)
    np.testing.assert_allclose(model.pose_basis / model.scale, content["posedirs"], **close)
    np.testing.assert_allclose(model.joint_regressor, content["J_regressor"].toarray(), **close)
    np.testing.assert_allclose(model.skinning_weights, content["weights"], **close)
    np.testing.assert_array_equal(model.faces, content["f"])
    assert model.parents == (-1, 0, 1, 1, 1) and "chumpy" not in sys.modules


def test_skinning_in_world_units_is_skinning_in_metres_scaled(tmp_path):
    content = flame_content()
    model = read_flame(_write(tmp_path, content))
    raw = model.replace(
        template=content["v_template"].astype(np.float32),
        identity_basis=content["shapedirs"][..., :300].astype(np.float32),
        expression_basis=content["shapedirs"][..., 300:].astype(np.float32),
        pose_basis=content["posedirs"].astype(np.float32),
    )
    code = {
        "identity": _normal("identity", (300,)),
        "expression": _normal("expression", (100,)),
        "pose": 0.3 * _normal("pose", (5, 3)),
    }
    got = np.asarray(skin(model, **code))
    expected = model.scale * np.asarray(skin(raw, **code)) + np.array(model.offset)
    np.testing.assert_allclose(got, expected, atol=5e-6)


def test_the_head_fits_the_frame(tmp_path):
    content = flame_content()
    model = read_flame(_write(tmp_path, content))
    template = np.asarray(model.template)
    jaw = content["weights"][:, 2]
    chin = template[jaw > 0.5 * jaw.max(), 1].min()
    np.testing.assert_allclose(template[:, 1].max() - chin, CHIN_TO_CROWN, rtol=1e-5)
    content["v_template"] = content["v_template"] * (1, 3, 1)
    content["v_template"][:, 1] -= 0.2
    template = np.asarray(read_flame(_write(tmp_path, content)).template)
    assert np.abs(template).max() < 0.36


def test_what_has_no_source_is_named(tmp_path):
    model = read_flame(_write(tmp_path, flame_content()))
    names = ("uvs", "landmarks", "face", "scalp", "brows", "nose", "mouth", "ears", "neck")
    assert model.absent == names and set(model.regions) == {"eyes"}
    np.testing.assert_array_equal(np.flatnonzero(model.regions["eyes"])[:3], [0, 1, 2])
    assert landmarks(model, model.template).shape == (0, 3)
    with pytest.raises(UserError, match="no region 'scalp'"):
        region_faces(model, "scalp")


def test_files_beside_the_model_are_used(tmp_path):
    content = flame_content()
    path = _write(tmp_path, content)
    uvs = np.random.default_rng(0).random((COUNT, 2)).astype(np.float32)
    faces = content["f"].astype(np.int32)
    mesh = Mesh(content["v_template"].astype(np.float32), faces, uvs=uvs, uv_faces=faces)
    write_obj(tmp_path / "head_template_mesh.obj", mesh)
    embedding = {
        "static_lmk_faces_idx": np.arange(51, dtype=np.uint32),
        "static_lmk_bary_coords": np.full((51, 3), 1 / 3),
        "dynamic_lmk_faces_idx": np.tile(np.arange(79)[:, None] + 60, (1, 17)),
        "dynamic_lmk_bary_coords": np.tile([1.0, 0.0, 0.0], (79, 17, 1)),
    }
    np.save(tmp_path / "landmark_embedding.npy", embedding, allow_pickle=True)
    masks = {"scalp": np.array([0, 5]), "left_ear": [1], "right_ear": np.array([2]), "forehead": []}
    (tmp_path / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, protocol=2))
    model = read_flame(path)
    np.testing.assert_allclose(model.uvs[model.uv_faces], uvs[faces], atol=1e-6)
    assert model.landmark_faces.tolist() == [60] * 17 + list(range(51))
    corner = np.asarray(model.template)[faces[60, 0]]
    np.testing.assert_allclose(landmarks(model, model.template)[0], corner, atol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(model.regions["ears"]), [1, 2])
    assert not model.regions["forehead"].any()
    assert model.absent == ("face", "eyes", "brows", "nose", "mouth", "neck")


def test_full_landmark_embeddings_are_read(tmp_path):
    path = _write(tmp_path, flame_content())
    given = tmp_path / "mine.npy"
    embedding = {
        "full_lmk_faces_idx": np.arange(68)[None],
        "full_lmk_bary_coords": np.tile([0.2, 0.3, 0.5], (1, 68, 1)),
    }
    np.save(given, embedding, allow_pickle=True)
    model = read_flame(path, landmark_embedding=given)
    np.testing.assert_array_equal(model.landmark_faces, np.arange(68))
    embedding["full_lmk_faces_idx"] += 1000
    np.save(given, embedding, allow_pickle=True)
    with pytest.raises(UserError, match="triangles that the model does not have"):
        read_flame(path, landmark_embedding=given)


def test_the_cylinder_atlas_covers_the_square_with_the_face_in_the_middle():
    points, faces = _sphere()
    faces = faces.astype(np.int32)
    uvs, uv_faces = cylinder_atlas(points, faces, eyeballs=np.zeros(COUNT, bool))
    positions, valid = rasterize_uv(points, faces, uvs=uvs, uv_faces=uv_faces, size=32)
    assert valid[5:28].all()
    assert positions[14, 16, 2] > 0.09 and positions[14, 0, 2] < -0.09
    assert positions[14, 24, 0] > 0.09 and positions[5, 16, 1] > positions[25, 16, 1]


def _changed(key, value):
    def change(content):
        content[key] = value(content[key]) if callable(value) else value

    return change


BROKEN = {
    "no template": (lambda c: c.pop("v_template"), "its v_template is missing"),
    "NaN": (_changed("v_template", lambda a: a * np.nan), "its v_template holds NaN"),
    "other count": (_changed("weights", lambda a: a[:-1]), "its weights has shape"),
    "six joints": (_changed("kintree_table", np.zeros((2, 6), np.uint32)), "its kintree_table has"),
    "loop": (_changed("kintree_table", np.ones((2, 5), np.uint32)), "is no tree"),
    "bad faces": (_changed("f", lambda a: a + 500), "its f names vertices"),
    "few directions": (_changed("shapedirs", lambda a: a[..., :20]), "fewer than the 300"),
    "unnormalised": (_changed("weights", lambda a: 2 * a), "do not sum to one"),
    "text": (_changed("posedirs", "none"), "its posedirs is missing or no array"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_odd_models_are_refused_in_one_sentence(tmp_path, name):
    content = flame_content()
    change, message = BROKEN[name]
    change(content)
    with pytest.raises(UserError, match=rf"generic_model\.pkl is no FLAME model: .*{message}"):
        read_flame(_write(tmp_path, content))


def test_sparse_matrices_that_contradict_themselves_are_refused(tmp_path):
    content = flame_content()
    content["J_regressor"].indices = content["J_regressor"].indices + 7
    with pytest.raises(UserError, match="indices contradict its shape"):
        read_flame(_write(tmp_path, content))


def test_row_sparse_matrices_are_read(tmp_path):
    content = flame_content()
    dense = content["J_regressor"].toarray()
    content["J_regressor"] = scipy.sparse.csr_matrix(dense)
    model = read_flame(_write(tmp_path, content))
    np.testing.assert_allclose(model.joint_regressor, dense, rtol=1e-6)


def test_a_hostile_model_is_refused(tmp_path):
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(b"cos\nsystem\n(U\x04truetR.")
    with pytest.raises(UserError, match=r"generic_model\.pkl was not read as a FLAME model"):
        read_flame(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_flame(tmp_path / "absent.pkl")
    path = _write(tmp_path, flame_content())
    with pytest.raises(UserError, match=r"nothing\.obj is not there"):
        read_flame(path, template_mesh=tmp_path / "nothing.obj")
