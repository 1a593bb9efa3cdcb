"""Meshes as Wavefront OBJ, with a material and a texture beside them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh
from headjax.io import atomic
from headjax.io.images import encode_png

MAX_BYTES = 1_000_000_000


def write_obj(path: str | os.PathLike, mesh: Mesh, *, texture: Any = None) -> None:
    """Writes a mesh as OBJ; vertex colours follow the coordinates ("v x y z r g b").

    Args:
        path: the file, ending in .obj; missing parent folders are made.
        mesh: units and axes are kept (y up).
        texture: [h, w, 3], uint8 or floats in [−1, 1], row 0 at v = 1. It goes to a PNG beside
            the file, `head_texture.png` for `head.obj`, with a material (.mtl) that names it; the
            mesh then needs uvs. The OBJ is written last.
    """
    path = Path(path)
    lines = ["# headjax, y up"]
    if texture is not None:
        if mesh.uvs is None or mesh.uv_faces is None:
            raise UserError(f"{path}: a textured OBJ needs a mesh with uvs and uv_faces")
        image, material = texture_files(path)
        atomic.write_bytes(image, encode_png(texture))
        atomic.write_text(
            material,
            f"newmtl head\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd {image.name}\n",
        )
        lines += [f"mtllib {material.name}", "usemtl head"]
    columns = [mesh.vertices]
    if mesh.vertex_colors is not None:
        columns.append(mesh.vertex_colors)
    lines += _rows("v", np.concatenate(columns, axis=1), "%.9g")
    if mesh.uvs is not None and mesh.uv_faces is not None:
        lines += _rows("vt", mesh.uvs, "%.9g")
        corners = np.stack([mesh.faces, mesh.uv_faces], axis=-1).reshape(len(mesh.faces), 6) + 1
        lines += [f"f {a}/{p} {b}/{q} {c}/{r}" for a, p, b, q, c, r in corners.tolist()]
    else:
        lines += _rows("f", mesh.faces + 1, "%d")
    atomic.write_text(path, "\n".join(lines) + "\n")


def texture_files(path: str | os.PathLike) -> tuple[Path, Path]:
    """The picture and the material that a textured OBJ has beside it."""
    path = Path(path)
    return path.with_name(f"{path.stem}_texture.png"), path.with_suffix(".mtl")


def read_obj(path: str | os.PathLike) -> Mesh:
    """Reads vertices, their colours, texture coordinates and faces of an OBJ file.

    Polygons become fans of triangles; negative (relative) indices are understood. Texture
    coordinates are kept only if every face has them; normals, groups and materials are not read.

    Raises:
        UserError: one sentence naming the file and, where there is one, the line.
    """
    text = _read_text(path)
    vertices: list[list[float]] = []
    uvs: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    uv_triangles: list[tuple[int, int, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        tokens = line.split()
        if not tokens:
            continue
        try:
            if tokens[0] == "v":
                vertices.append([float(value) for value in tokens[1:7]])
            elif tokens[0] == "vt":
                uvs.append([float(tokens[1]), float(tokens[2])])
            elif tokens[0] == "f":
                corners = [_corner(token, len(vertices), len(uvs)) for token in tokens[1:]]
                for second, third in zip(corners[1:-1], corners[2:], strict=True):
                    triangles.append((corners[0][0], second[0], third[0]))
                    uv_triangles.append((corners[0][1], second[1], third[1]))
        except (ValueError, IndexError):
            raise UserError(
                f"{path}: line {number} is not valid OBJ ({line.strip()[:60]!r}); "
                "export the mesh again"
            ) from None
    return _assemble(path, vertices, uvs, triangles, uv_triangles)


def read_obj_vertices(path: str | os.PathLike) -> Float[np.ndarray, "v 3"]:
    """Only the vertices of an OBJ file, several times as fast: for folders of blend shapes."""
    lines = [line[2:] for line in _read_text(path).splitlines() if line.startswith("v ")]
    try:
        values = np.array(" ".join(lines).split(), dtype=np.float32)
        rows = values.reshape(len(lines), -1)[:, :3]
    except ValueError:
        raise UserError(f"{path}: a vertex line is not valid OBJ; export the mesh again") from None
    if rows.shape[-1] != 3 or len(rows) == 0 or not np.all(np.isfinite(rows)):
        raise UserError(f"{path}: no vertices, or such with NaN; export the mesh again")
    return rows


def _read_text(path: str | os.PathLike) -> str:
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES / 1e6:.0f} MB; decimate the mesh first")
        return Path(path).read_bytes().decode("utf-8", "replace")
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise UserError(f"{path}: cannot be read ({reason}); give an OBJ file") from error


def _corner(token: str, vertices: int, uvs: int) -> tuple[int, int]:
    """Zero-based (vertex, uv) of "v", "v/vt", "v//vn" or "v/vt/vn"; uv −1 if there is none."""
    fields = token.split("/")
    has_uv = len(fields) > 1 and fields[1]
    return _index(fields[0], vertices), _index(fields[1], uvs) if has_uv else -1


def _index(field: str, count: int) -> int:
    value = int(field)
    if value == 0 or value < -count:
        raise ValueError("an index of OBJ counts from 1, or from −1 backwards")
    return value - 1 if value > 0 else count + value


def _assemble(path: Any, vertices: list, uvs: list, triangles: list, uv_triangles: list) -> Mesh:
    if not vertices or not triangles:
        raise UserError(f"{path}: no vertices or no faces; give an OBJ with a triangle mesh")
    if len({len(row) for row in vertices}) != 1 or len(vertices[0]) < 3:
        raise UserError(f"{path}: vertex lines differ in length or are short of x, y and z")
    table = np.array(vertices, dtype=np.float32)
    faces = np.array(triangles, dtype=np.int32)
    uv_faces = np.array(uv_triangles, dtype=np.int32)
    if faces.max() >= len(table) or uv_faces.max() >= len(uvs):
        raise UserError(f"{path}: a face names a vertex that is not there; export the mesh again")
    if not np.all(np.isfinite(table)):
        raise UserError(f"{path}: vertices with NaN or infinite coordinates; export the mesh again")
    textured = bool(uvs) and bool(uv_faces.min() >= 0)
    return Mesh(
        vertices=np.ascontiguousarray(table[:, :3]),
        faces=faces,
        uvs=np.array(uvs, dtype=np.float32) if textured else None,
        uv_faces=uv_faces if textured else None,
        vertex_colors=np.ascontiguousarray(table[:, 3:6]) if table.shape[1] == 6 else None,
    )


def _rows(
    kind: str, values: Float[np.ndarray, "n c"] | Int[np.ndarray, "n c"], form: str
) -> list[str]:
    template = " ".join([kind] + [form] * values.shape[1])
    return [template % tuple(row) for row in values.tolist()]
