"""Meshes of heads: marching cubes of the density, with EG3D's border and level, coloured or baked.

The mesh is in the world's axes and units (y up, the face along +z, the cube of side `box` about the
origin). EG3D's own files hold lattice indices with the first and the last axis exchanged and one
turned over; see docs/sampling.md for the way from one to the other.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.geometry.isosurface import extract_mesh
from headjax.geometry.meshes import Mesh
from headjax.geometry.unwrap import bake_texture
from headjax.io.glb import write_glb
from headjax.io.obj import texture_files, write_obj
from headjax.io.ply import write_ply
from headjax.tools.sampling.heads import Heads
from headjax.tools.sampling.request import Request

# EG3D empties 30 of 256 lattice points at each side.
BORDER = 30 / 256


def shape_files(path: Path, *, texture: bool) -> list[Path]:
    """All files of a mesh at `path`."""
    beside = texture_files(path) if texture and path.suffix == ".obj" else ()
    return [path, *beside]


def head_shape(
    heads: Heads,
    ws: Float[np.ndarray, "1 l w"],
    *,
    planes: Any,
    resolution: int,
    level: float,
    colored: bool,
) -> Mesh:
    """The surface of one head where the density, before its activation, passes `level`.

    Args:
        heads, ws, planes: the head.
        resolution: lattice points along each side of the cube.
        level: in the generator's own units.
        colored: with vertex colours.
    """
    half = heads.box / 2
    return extract_mesh(
        lambda points: heads.density(planes, points=points),
        (lambda points: heads.colors(ws, planes, points=points)) if colored else None,
        bounds=((-half, -half, -half), (half, half, half)),
        resolution=resolution,
        level=level,
        border=int(BORDER * resolution),
    )


def write_shape(
    path: Path, heads: Heads, *, ws: Float[np.ndarray, "1 l w"], planes: Any, request: Request
) -> Mesh:
    """Extracts a head's mesh, bakes its texture where one is asked for, and writes it.

    Raises:
        UserError: the head has no surface at the level, or too many triangles for the texture.
    """
    try:
        mesh = head_shape(
            heads,
            ws,
            planes=planes,
            resolution=request.shape_res,
            level=request.shape_level,
            colored=not request.texture,
        )
        texture = None
        if request.texture:
            mesh, texture = bake_texture(
                mesh,
                lambda points: heads.colors(ws, planes, points=points),
                size=request.texture_size,
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if path.suffix == ".ply":
        write_ply(path, mesh)
    elif path.suffix == ".obj":
        write_obj(path, mesh, texture=texture)
    else:
        write_glb(path, mesh, texture=texture, shrink="linear")
    return mesh
