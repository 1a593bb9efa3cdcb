"""PLY, OBJ and GLB, read back by another library."""

import json
import struct

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh
from headjax.io import glb, obj, ply
from tests.shapes import cube, sphere

trimesh = pytest.importorskip("trimesh", reason="comes with the extra 'mesh'")


def colored() -> Mesh:
    rng = np.random.default_rng(0)
    colors = (rng.integers(0, 256, (8, 3)) / 255).astype(np.float32)
    return Mesh(vertices=cube().vertices, faces=cube().faces, vertex_colors=colors)


def textured() -> Mesh:
    """A cube each of whose faces has its own piece of texture: seams everywhere."""
    rng = np.random.default_rng(0)
    uvs = rng.uniform(0, 1, (36, 2)).astype(np.float32)
    uv_faces = np.arange(36, dtype=np.int32).reshape(12, 3)
    return Mesh(vertices=cube().vertices, faces=cube().faces, uvs=uvs, uv_faces=uv_faces)


TEXTURE = np.random.default_rng(1).integers(0, 256, (8, 16, 3), dtype=np.uint8)


def test_ply_is_read_back_by_trimesh(tmp_path):
    ply.write_ply(tmp_path / "a.ply", colored())
    got = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(got.vertices, colored().vertices)
    np.testing.assert_array_equal(got.faces, colored().faces)
    expected = np.round(colored().vertex_colors * 255)
    np.testing.assert_array_equal(got.visual.vertex_colors[:, :3], expected)
    assert got.is_watertight


def test_ply_without_colours_is_read_back_too(tmp_path):
    mesh = sphere(8)
    ply.write_ply(tmp_path / "a.ply", mesh)
    got = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(got.vertices, mesh.vertices)


def test_obj_round_trips_with_colours(tmp_path):
    obj.write_obj(tmp_path / "a.obj", colored())
    got = obj.read_obj(tmp_path / "a.obj")
    for name in ("vertices", "faces", "vertex_colors"):
        np.testing.assert_array_equal(getattr(got, name), getattr(colored(), name))
    assert got.uvs is None
    np.testing.assert_array_equal(
        obj.read_obj_vertices(tmp_path / "a.obj"), obj.read_obj(tmp_path / "a.obj").vertices
    )


def test_textured_obj_round_trips_and_names_its_material_and_picture(tmp_path):
    obj.write_obj(tmp_path / "a.obj", textured(), texture=TEXTURE)
    got = obj.read_obj(tmp_path / "a.obj")
    for name in ("vertices", "faces", "uvs", "uv_faces"):
        np.testing.assert_array_equal(getattr(got, name), getattr(textured(), name))
    theirs = trimesh.load(tmp_path / "a.obj", process=False)
    np.testing.assert_array_equal(np.asarray(theirs.visual.material.image), TEXTURE)


def test_obj_reads_polygons_relative_indices_and_normals(tmp_path):
    text = """# a square and a triangle
    v 0 0 0
    v 1 0 0
    v 1 1 0
    v 0 1 0
    vn 0 0 1
    f 1//1 2//1 3//1 4//1
    f -4 -2 -1
    """
    (tmp_path / "a.obj").write_text(text)
    got = obj.read_obj(tmp_path / "a.obj")
    np.testing.assert_array_equal(got.faces, [[0, 1, 2], [0, 2, 3], [0, 2, 3]])
    assert got.uvs is None and got.vertex_colors is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 zero\nf 1 1 1\n", "line 1"),
        ("v 0 0 0\nf 1 1 x\n", "line 2"),
        ("v 0 0 0\nf 0 1 1\n", "line 2"),
        ("v 0 0 0\nf 1 2 3\n", "not there"),
        ("v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "NaN"),
        ("v 0 0 0\nv 1 0\nf 1 2 1\n", "differ in length"),
        ("v 0 0 0\n", "no faces"),
        ("", "no vertices"),
    ],
)
def test_bad_obj_files_are_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "bad.obj"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        obj.read_obj(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_obj_is_told(tmp_path):
    for function in (obj.read_obj, obj.read_obj_vertices):
        with pytest.raises(UserError, match="cannot be read"):
            function(tmp_path / "none.obj")


def test_glb_is_read_back_by_trimesh_with_its_texture(tmp_path):
    glb.write_glb(tmp_path / "a.glb", textured(), texture=TEXTURE)
    (got,) = trimesh.load(tmp_path / "a.glb", process=False).geometry.values()
    mesh = textured()
    np.testing.assert_array_equal(got.vertices[got.faces], mesh.vertices[mesh.faces])
    np.testing.assert_allclose(got.visual.uv[got.faces], mesh.uvs[mesh.uv_faces], atol=1e-6)
    picture = np.asarray(got.visual.material.baseColorTexture)
    np.testing.assert_array_equal(picture, TEXTURE)


def test_glb_stores_vertex_colours_in_linear_light(tmp_path):
    data = glb.encode_glb(colored())
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    accessor = document["accessors"][
        document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    ]
    start = 20 + length + 8 + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    linear = np.frombuffer(data, "<f4", count=24, offset=start).reshape(8, 3)
    display = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(display, colored().vertex_colors, atol=1e-5)


@pytest.mark.parametrize("mesh", [colored(), textured(), sphere(6)])
def test_glb_obeys_the_containers_rules(mesh):
    data = glb.encode_glb(mesh)
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and size % 4 == 0 and 28 + length + size == total
    assert document["buffers"][0]["byteLength"] <= size
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= size
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    normals = document["accessors"][attributes["NORMAL"]]
    start = 28 + length + document["bufferViews"][normals["bufferView"]]["byteOffset"]
    values = np.frombuffer(data, "<f4", count=3 * normals["count"], offset=start).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)


def test_a_texture_without_uvs_is_refused(tmp_path):
    for function, name in ((glb.write_glb, "a.glb"), (obj.write_obj, "a.obj")):
        with pytest.raises(UserError, match="needs a mesh with uvs"):
            function(tmp_path / name, cube(), texture=TEXTURE)
    assert not list(tmp_path.iterdir())


def test_a_textured_obj_leaves_the_picture_of_its_own_name_alone(tmp_path):
    (tmp_path / "a.png").write_text("a picture of the head")
    obj.write_obj(tmp_path / "a.obj", textured(), texture=TEXTURE)
    assert (tmp_path / "a.png").read_text() == "a picture of the head"
    names = {path.name for path in obj.texture_files(tmp_path / "a.obj")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"a.png", "a.obj"}


def document_of(data: bytes) -> dict:
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length])


def test_glb_keeps_the_worlds_axes_which_are_gltfs_and_blender_sees_the_head_from_the_front():
    mesh = sphere(12, radius=0.2)
    landmarks = {"nose": (0, 0, 0.3), "crown": (0, 0.4, 0), "left ear": (0.25, 0, 0)}
    vertices = mesh.vertices.copy()
    for place in landmarks.values():
        vertices[np.argmax(vertices @ np.asarray(place))] = place
    data = glb.encode_glb(Mesh(vertices, mesh.faces))
    (node,) = document_of(data)["nodes"]
    assert set(node) == {"mesh", "name"}  # neither matrix nor rotation, scale, translation
    scene = trimesh.load(trimesh.util.wrap_as_stream(data), file_type="glb", process=False)
    got = scene.to_geometry().vertices
    np.testing.assert_array_equal(got, vertices)
    # Blender's importer takes glTF's (x, y, z) to (x, −z, y); its front view looks along +y.
    blender = np.stack([got[:, 0], -got[:, 2], got[:, 1]], axis=1)
    np.testing.assert_allclose(blender[np.argmin(blender[:, 1])], (0, -0.3, 0), atol=1e-6)
    np.testing.assert_allclose(blender[np.argmax(blender[:, 2])], (0, 0, 0.4), atol=1e-6)
    # Who faces the viewer has the left ear on the viewer's right.
    np.testing.assert_allclose(blender[np.argmax(blender[:, 0])], (0.25, 0, 0), atol=1e-6)


@pytest.mark.parametrize(("shrink", "number"), [("mipmap", 9987), ("linear", 9729)])
def test_glb_says_how_its_texture_shrinks(shrink, number):
    document = document_of(glb.encode_glb(textured(), texture=TEXTURE, shrink=shrink))
    assert document["samplers"] == [{"magFilter": 9729, "minFilter": number}]
