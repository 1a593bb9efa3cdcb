"""The surface of a density field as a mesh, by marching cubes."""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.geometry.meshes import Mesh

CHUNK = 65_536  # points a call
PEAK_SHARE = 1 / 6
CUT = 0.05  # of a cell
TIE = 2e-3

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]


def require_marching_cubes() -> Callable:
    """scikit-image's marching cubes, or a `UserError` that says how to install it."""
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
    """`function(points)` in as few pieces of one size as `chunk` allows, as float32.

    One size means one compilation when the function is jitted; the last piece is filled up.
    """
    size = -(-len(points) // max(1, -(-len(points) // chunk)))
    starts = range(0, len(points), max(size, 1))
    return np.concatenate([_ask(function, points[start : start + size], size) for start in starts])


def _ask(
    function: Callable, points: Float[np.ndarray, "p 3"], size: int
) -> Float[np.ndarray, "p *c"]:
    """`function` at points that are filled up to `size` by the last."""
    filled = np.pad(points, ((0, size - len(points)), (0, 0)), mode="edge").astype(np.float32)
    return np.asarray(function(filled), np.float32)[: len(points)]


def _lattice_densities(
    density_fn: Callable, axes: list[np.ndarray], *, chunk: int
) -> tuple[Float[np.ndarray, "x y z"], float, float]:
    """Density on the lattice of `axes` with one layer more on each side, and its least and most.

    Points are made and asked by pieces: the one array of the lattice's size is the result. The
    layer around it is left to the caller.
    """
    shape = tuple(len(axis) for axis in axes)
    count = int(np.prod(shape))
    size = min(chunk, count)
    padded = np.empty([n + 2 for n in shape], np.float32)
    low, high = np.inf, -np.inf
    for start in range(0, count, size):
        index = np.unravel_index(np.arange(start, min(start + size, count)), shape)
        points = np.stack([axis[i] for axis, i in zip(axes, index, strict=True)], axis=-1)
        density = _ask(density_fn, points, size)
        if not np.isfinite(density).all():
            raise UserError("the density is NaN or infinite somewhere; the field is broken")
        low, high = min(low, float(density.min())), max(high, float(density.max()))
        padded[tuple(i + 1 for i in index)] = density
    return padded, low, high


def _fill_rim(padded: Float[np.ndarray, "x y z"], level: float, *, spread: float) -> None:
    """Closes the surface flatly: it ends `CUT` of a cell beyond the outermost lattice points."""
    inside = slice(1, -1)
    for axis in range(3):
        layers = np.moveaxis(padded, axis, 0)
        for rim, last in ((0, 1), (-1, -2)):
            above = np.abs(layers[last, inside, inside] - np.float32(level))
            layers[rim] = level - spread
            layers[rim, inside, inside] = level - (1 / CUT - 1) * above


def _clear_of(padded: Float[np.ndarray, "x y z"], level: float, *, spread: float) -> None:
    """Moves densities off the level, by up to `TIE` of their difference to their neighbours'.

    Where a lattice point lies on the surface to the bit, scikit-image leaves holes; where it nearly
    does, triangles shrink to points, which other programs merge. `spread` bounds all differences.
    """
    ends = np.array(padded.shape) - 2
    for x in range(1, ends[0] + 1):
        near = np.abs(padded[x, 1:-1, 1:-1] - level) < TIE * spread
        y, z = np.nonzero(near)
        place = np.stack([np.full_like(y, x), y + 1, z + 1])
        here = padded[tuple(place)]
        margin = np.full_like(here, 1e-3 * TIE * spread)
        for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
            beside = padded[tuple(np.clip(place + step[:, None], 1, ends[:, None]))]
            margin = np.maximum(margin, TIE * np.abs(beside - here))
        side = np.where(here < level, -1, 1)
        padded[tuple(place)] = level + side * np.maximum(np.abs(here - level), margin)


def _check(bounds: Bounds, resolution: int, level: float | None, border: int) -> None:
    box = np.asarray(bounds, np.float64)
    if box.shape != (2, 3) or not np.isfinite(box).all() or not (box[0] < box[1]).all():
        raise UserError(f"bounds {bounds} are no box; give (low, high), each of three numbers")
    if not 2 <= resolution <= 1024:
        raise UserError(f"resolution {resolution} lies outside 2 to 1024")
    if level is not None and not np.isfinite(level):
        raise UserError(f"level {level} is no number")
    if not 0 <= border or resolution - 2 * border < 2:
        raise UserError(f"a border of {border} leaves nothing of {resolution} lattice points")


def extract_mesh(
    density_fn: Callable[[np.ndarray], Float[np.ndarray, "p"]],
    color_fn: Callable[[np.ndarray], Float[np.ndarray, "p 3"]] | None,
    *,
    bounds: Bounds,
    resolution: int,
    level: float | None,
    border: int = 0,
    chunk: int = CHUNK,
) -> Mesh:
    """The surface where the density passes `level`, denser inside.

    Faces look outwards. The mesh is closed: where the dense part reaches the bounds, it is cut off
    flat there (`CUT` of a cell beyond). Memory: one float32 array of the lattice, which is 0.55 GB
    at 512, and what the mesh itself needs.

    Args:
      density_fn: points [p, 3] -> density [p].
      color_fn: points [p, 3] -> colour [p, 3] in [0, 1], asked at the vertices; or None.
      bounds: (low, high) corners of the box.
      resolution: lattice points along each axis, 2 to 1024.
      level: of the surface, in units of the density; None takes `PEAK_SHARE` of the largest
        density on the lattice, which lies well on the slope of a learned field.
      border: lattice points at each face of the box that count as empty; they are not asked.
      chunk: points asked at a time.

    Raises:
      UserError: scikit-image is missing, an argument is impossible, the density is not finite, or
        it never passes `level`.
    """
    _check(bounds, resolution, level, border)
    marching_cubes = require_marching_cubes()
    corner, far = np.asarray(bounds, np.float64)
    kept = slice(border, resolution - border)
    axes = [np.linspace(a, b, resolution)[kept] for a, b in zip(corner, far, strict=True)]
    padded, low, high = _lattice_densities(density_fn, axes, chunk=chunk)
    if level is None:
        level = PEAK_SHARE * high
    if high <= level:
        raise UserError(
            f"no surface: the density runs from {low:.4g} to {high:.4g} and never passes the level "
            f"{level:.4g}; give a level between"
        )
    spread = high - min(low, level)
    _clear_of(padded, level, spread=spread)
    _fill_rim(padded, level, spread=spread)
    with warnings.catch_warnings():
        # scikit-image 0.26 sets array shapes in a way that numpy 2.5 will drop.
        warnings.simplefilter("ignore", DeprecationWarning)
        indices, faces, _, _ = marching_cubes(padded, level=level)
    vertices = corner + (indices - 1 + border) * (far - corner) / (resolution - 1)
    vertices = vertices.astype(np.float32)
    colors = None
    if color_fn is not None:
        colors = np.clip(evaluate(color_fn, vertices, chunk=chunk), 0.0, 1.0)
    # scikit-image winds triangles inwards where the density is higher inside.
    return Mesh(vertices, faces[:, ::-1].astype(np.int32), vertex_colors=colors)
