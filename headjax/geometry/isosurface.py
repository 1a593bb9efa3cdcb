"""The surface of a density field as a mesh, by marching cubes."""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh

CHUNK = 65_536  # points a call
PEAK_SHARE = 1 / 6

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]


def _marching_cubes():
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise UserError(
            "mesh extraction needs scikit-image, which is not installed; "
            "pip install 'headjax[mesh]'"
        ) from error
    return marching_cubes


def evaluate(
    function: Callable, points: Float[np.ndarray, "p 3"], *, chunk: int = CHUNK
) -> Float[np.ndarray, "p *c"]:
    """`function(points)` in pieces of one size (the last filled up), as float32.

    One size means one compilation when the function is jitted.
    """
    pieces = []
    for start in range(0, len(points), chunk):
        piece = points[start : start + chunk]
        missing = min(chunk, len(points)) - len(piece)
        filled = np.pad(piece, ((0, missing), (0, 0)), mode="edge").astype(np.float32)
        pieces.append(np.asarray(function(filled), np.float32)[: len(piece)])
    return np.concatenate(pieces)


def _lattice(bounds: Bounds, resolution: int) -> Float[np.ndarray, "n n n 3"]:
    low, high = np.asarray(bounds, np.float64)
    axes = [np.linspace(a, b, resolution) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _check(bounds: Bounds, resolution: int, level: float | None) -> None:
    box = np.asarray(bounds, np.float64)
    if box.shape != (2, 3) or not np.isfinite(box).all() or not (box[0] < box[1]).all():
        raise UserError(f"bounds {bounds} are no box; give (low, high), each of three numbers")
    if not 2 <= resolution <= 1024:
        raise UserError(f"resolution {resolution} lies outside 2 to 1024")
    if level is not None and not np.isfinite(level):
        raise UserError(f"level {level} is no number")


def extract_mesh(
    density_fn: Callable[[np.ndarray], Float[np.ndarray, "p"]],
    color_fn: Callable[[np.ndarray], Float[np.ndarray, "p 3"]] | None,
    *,
    bounds: Bounds,
    resolution: int,
    level: float | None,
) -> Mesh:
    """The surface where the density passes `level`, denser inside.

    Faces look outwards. The mesh is closed: where the dense part reaches the bounds, it is cut off
    there (up to one cell beyond).

    Args:
      density_fn: points [p, 3] -> density [p].
      color_fn: points [p, 3] -> colour [p, 3] in [0, 1], asked at the vertices; or None.
      bounds: (low, high) corners of the box.
      resolution: lattice points along each axis, 2 to 1024.
      level: of the surface, in units of the density; None takes `PEAK_SHARE` of the largest
        density on the lattice, which lies well on the slope of a learned field.

    Raises:
      UserError: scikit-image is missing, an argument is impossible, the density is not finite, or
        it never passes `level`.
    """
    _check(bounds, resolution, level)
    marching_cubes = _marching_cubes()
    lattice = _lattice(bounds, resolution)
    density = evaluate(density_fn, lattice.reshape(-1, 3)).reshape([resolution] * 3)
    if not np.isfinite(density).all():
        raise UserError("the density is NaN or infinite somewhere; the field is broken")
    low, high = float(density.min()), float(density.max())
    if level is None:
        level = PEAK_SHARE * high
    if high <= level:
        raise UserError(
            f"no surface: the density runs from {low:.4g} to {high:.4g} and never passes the level "
            f"{level:.4g}; give a level between"
        )
    outside = min(low, level - 1e-3 * max(abs(level), 1.0))
    padded = np.pad(density, 1, constant_values=outside)
    with warnings.catch_warnings():
        # scikit-image 0.26 sets array shapes in a way that numpy 2.5 will drop.
        warnings.simplefilter("ignore", DeprecationWarning)
        indices, faces, _, _ = marching_cubes(padded, level=level)
    corner, far = np.asarray(bounds, np.float64)
    vertices = corner + (indices - 1) * (far - corner) / (resolution - 1)
    vertices = vertices.astype(np.float32)
    colors = None
    if color_fn is not None:
        colors = np.clip(evaluate(color_fn, vertices), 0.0, 1.0)
    # scikit-image winds triangles inwards where the density is higher inside.
    return Mesh(vertices, faces[:, ::-1].astype(np.int32), vertex_colors=colors)
