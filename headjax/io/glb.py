"""Meshes as binary glTF 2.0 (GLB): one mesh, one material, the texture inside the file."""

import json
import os
import struct
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh, split_seams, vertex_normals
from headjax.io import atomic
from headjax.io.images import encode_png

_MAGIC, _VERSION = 0x46546C67, 2
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_FLOAT, _UINT32 = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_LINEAR, _SHRINKING = 9729, {"mipmap": 9987, "linear": 9729}

Shrink = Literal["mipmap", "linear"]


def write_glb(
    path: str | os.PathLike, mesh: Mesh, *, texture: Any = None, shrink: Shrink = "mipmap"
) -> None:
    """Writes a mesh as GLB with a matt, double-sided material.

    Args:
        path: the file, ending in .glb; missing parent folders are made.
        mesh: y up, the face along +z, the subject's left at +x: glTF's own axes, so that no node
            turns anything; Blender, which turns glTF's axes into its own, shows the head upright
            and facing −y, its front view. glTF reads the unit as one metre. Displayed vertex
            colours are stored in linear light, as the format wants them.
        texture: [h, w, 3], uint8 or floats in [−1, 1], row 0 at v = 1; the mesh then needs uvs.
        shrink: how viewers make the texture smaller: 'mipmap', or 'linear' for atlases of single
            triangles, whose neighbours must not blend.
    """
    if texture is not None and (mesh.uvs is None or mesh.uv_faces is None):
        raise UserError(f"{path}: a textured GLB needs a mesh with uvs and uv_faces")
    atomic.write_bytes(path, encode_glb(mesh, texture=texture, shrink=shrink))


def encode_glb(mesh: Mesh, *, texture: Any = None, shrink: Shrink = "mipmap") -> bytes:
    """The mesh as the bytes of a GLB file."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    if mesh.uvs is not None and mesh.uv_faces is not None:
        # Normals are carried over the seams, so that these do not show.
        seams = split_seams(Mesh(normals, mesh.faces, mesh.uvs, mesh.uv_faces))
        mesh, normals = split_seams(mesh), seams.vertices
    buffer = _Buffer()
    attributes = {
        "POSITION": buffer.add(mesh.vertices, "VEC3", bounds=True),
        "NORMAL": buffer.add(_unit(normals), "VEC3"),
    }
    if mesh.uvs is not None:
        attributes["TEXCOORD_0"] = buffer.add(mesh.uvs * [1, -1] + [0, 1], "VEC2")
    if mesh.vertex_colors is not None:
        attributes["COLOR_0"] = buffer.add(_srgb_to_linear(mesh.vertex_colors), "VEC3")
    indices = buffer.add_indices(mesh.faces)
    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    document = {
        "asset": {"version": "2.0", "generator": "headjax"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"primitives": [primitive], "name": "head"}],
        "materials": [{"pbrMetallicRoughness": surface, "doubleSided": True}],
    }
    if texture is not None:
        view = buffer.add_bytes(encode_png(texture))
        document["images"] = [{"bufferView": view, "mimeType": "image/png"}]
        document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _SHRINKING[shrink]}]
        document["textures"] = [{"source": 0, "sampler": 0}]
        surface["baseColorTexture"] = {"index": 0}
    return _pack(document | buffer.description(), bytes(buffer.data))


class _Buffer:
    """The binary chunk and the tables that say what lies where in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict] = []
        self.accessors: list[dict] = []

    def add_bytes(self, data: bytes, **extra: Any) -> int:
        """Appends `data`, padded to four bytes; returns the number of its view."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view | extra)
        self.data += data + bytes(-len(data) % 4)
        return len(self.views) - 1

    def add(self, values: np.ndarray, kind: str, *, bounds: bool = False) -> int:
        """Appends a float attribute; returns the number of its accessor."""
        values = np.ascontiguousarray(values, dtype="<f4")
        view = self.add_bytes(values.tobytes(), target=_ARRAY_BUFFER)
        accessor = {"bufferView": view, "componentType": _FLOAT, "count": len(values), "type": kind}
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_indices(self, faces: np.ndarray) -> int:
        """Appends triangles; returns the number of their accessor."""
        data = np.ascontiguousarray(faces, dtype="<u4").tobytes()
        view = self.add_bytes(data, target=_ELEMENT_BUFFER)
        self.accessors.append(
            {"bufferView": view, "componentType": _UINT32, "count": faces.size, "type": "SCALAR"}
        )
        return len(self.accessors) - 1

    def description(self) -> dict:
        """The document's part about this buffer."""
        return {
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}],
        }


def _pack(document: dict, data: bytes) -> bytes:
    """Header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(data)
    header = struct.pack("<III", _MAGIC, _VERSION, total)
    return (
        header
        + struct.pack("<II", len(text), _JSON)
        + text
        + struct.pack("<II", len(data), _BIN)
        + data
    )


def _unit(normals: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Unit normals; glTF allows no zero ones, so vertices without a face point up."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0], dtype=normals.dtype)
    return np.where(length > 0.5, normals / np.maximum(length, 1e-12), up)


def _srgb_to_linear(display: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """sRGB's transfer function, which glTF's viewers apply the other way round."""
    display = np.clip(display, 0, 1)
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
