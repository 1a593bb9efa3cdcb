"""Meshes as binary little-endian PLY."""

import os

import numpy as np
from jaxtyping import Float, UInt8

from headjax.geometry.meshes import Mesh, vertex_normals
from headjax.io import atomic


def write_ply(path: str | os.PathLike, mesh: Mesh) -> None:
    """Writes vertices, normals, colours where there are any, and triangles.

    PLY has no texture coordinates that programs agree on; use OBJ or GLB for those.

    Args:
        path: the file; missing parent folders are made.
        mesh: units and axes are kept (y up).
    """
    atomic.write_bytes(path, encode_ply(mesh))


def encode_ply(mesh: Mesh) -> bytes:
    """The mesh as the bytes of a PLY file."""
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    if mesh.vertex_colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(mesh.vertices), dtype=fields)
    values = np.concatenate([mesh.vertices, vertex_normals(mesh.vertices, mesh.faces)], axis=1)
    for column, name in enumerate(("x", "y", "z", "nx", "ny", "nz")):
        table[name] = values[:, column]
    if mesh.vertex_colors is not None:
        for name, column in zip(("red", "green", "blue"), _bytes(mesh.vertex_colors), strict=True):
            table[name] = column
    triangles = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    triangles["count"], triangles["index"] = 3, mesh.faces
    return _header(fields, len(table), len(triangles)) + table.tobytes() + triangles.tobytes()


def _bytes(colors: Float[np.ndarray, "v 3"]) -> UInt8[np.ndarray, "3 v"]:
    return np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8).T


def _header(fields: list[tuple[str, str]], vertices: int, faces: int) -> bytes:
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", "comment headjax, y up"]
    lines += [f"element vertex {vertices}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in fields]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header"]
    return ("\n".join(lines) + "\n").encode("ascii")
