"""Heads of seeds, their pictures from a few sides, and videos around them, as EG3D makes them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy.interpolate import make_interp_spline

from headjax.geometry import orbits
from headjax.geometry.cameras import FOCAL, label_from_camera
from headjax.io.colormaps import colorize_depth
from headjax.io.images import to_uint8
from headjax.tools.sampling.heads import Heads
from headjax.tools.sampling.request import Request

# How often the keyframes are repeated before and after, so that the spline is smooth where it
# closes.
WRAPS = 2


@dataclasses.dataclass(frozen=True)
class Stand:
    """Where cameras stand.

    Attributes:
        path: 'face' or 'head', see `headjax.geometry.orbits`.
        pivot: what they look at.
        radius: how far from the origin they are.
    """

    path: orbits.Path
    pivot: tuple[float, float, float]
    radius: float


def stand_of(request: Request, heads: Heads) -> Stand:
    """The request's cameras; else PanoHead's for PanoHead, and EG3D's with the weights' pivot."""
    path = request.orbit or ("head" if heads.kind == "panohead" else "face")
    stored = heads.pivot if path == "face" else None
    pivot = request.pivot or stored or orbits.pivot_of(path)
    return Stand(path=path, pivot=pivot, radius=heads.radius)


def latent(seed: int, z_dim: int) -> Float[np.ndarray, "1 d"]:
    """z of a seed, by the generator that official scripts draw it from: official heads."""
    return np.random.RandomState(seed).randn(1, z_dim).astype(np.float32)


def styles_of(
    heads: Heads, seed: int, *, request: Request, stand: Stand, focal: float
) -> Float[np.ndarray, "1 l w"]:
    """Style vectors of a seed, conditioned on the camera in front."""
    camera = orbits.look_at(0.0, pivot=stand.pivot, radius=stand.radius, focal=focal)
    return heads.styles(
        latent(seed, heads.z_dim),
        label_from_camera(camera)[None],
        psi=request.trunc,
        cutoff=request.trunc_cutoff,
    )


def picture_focal(request: Request) -> float:
    """Of pictures: EG3D's `gen_samples` takes 18.837°."""
    return orbits.focal_from_fov(request.fov_deg or orbits.FOV_DEGREES)


def video_focal(request: Request) -> float:
    """Of videos: EG3D's `gen_videos` takes the training labels' focal length."""
    return orbits.focal_from_fov(request.fov_deg) if request.fov_deg else FOCAL


@dataclasses.dataclass(frozen=True)
class Sides:
    """One head from a few sides, and the depth of each.

    Attributes:
        images: [h, w, 3] uint8 each, in the order in which they stand side by side.
        depths: [i, j, 3] uint8 each, near bright, far dark.
        front: which of them looks from the front.
    """

    images: tuple[UInt8[np.ndarray, "h w 3"], ...]
    depths: tuple[UInt8[np.ndarray, "i j 3"], ...]
    front: int


def picture_sides(
    heads: Heads, ws: Float[np.ndarray, "1 l w"], *, planes: Any, stand: Stand, focal: float
) -> Sides:
    """The head in `picture_views` of its path."""
    cameras = orbits.picture_views(stand.path, pivot=stand.pivot, radius=stand.radius, focal=focal)
    labels = label_from_camera(cameras)
    seen = [heads.picture(ws, planes, label=label[None]) for label in labels]
    return Sides(
        images=tuple(to_uint8(picture.image) for picture in seen),
        depths=tuple(colorize_depth(picture.depth, inside=picture.inside) for picture in seen),
        front=int(np.argmax(cameras.position[:, 2])),
    )


def keyframe_spline(ws: Float[np.ndarray, "n l w"]) -> Any:
    """The closed cubic spline through n style vectors, keyframe k at time k.

    As EG3D's: one spline through the keyframes repeated `WRAPS` times before and after. With one
    keyframe it stands still.
    """
    count = len(ws)
    times = np.arange(-count * WRAPS, count * (WRAPS + 1))
    spline = make_interp_spline(times, np.tile(ws, (2 * WRAPS + 1, 1, 1)), k=3)
    return lambda time: spline(time).astype(np.float32)


def video_frames(
    heads: Heads,
    cells: Sequence[Sequence[Float[np.ndarray, "n l w"]]],
    *,
    frames: int,
    stand: Stand,
    focal: float,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames of a grid of heads that change from keyframe to keyframe while the camera moves.

    Args:
        heads: the generator.
        cells: rows of the grid; the keyframes of each cell, the same number in all.
        frames: from one keyframe to the next; the camera's path takes all of them.
        stand, focal: the cameras.

    Yields:
        One frame at a time, the cells side by side.
    """
    keyframes = len(cells[0][0])
    path = orbits.video_path(
        stand.path,
        frames=frames * keyframes,
        pivot=stand.pivot,
        radius=stand.radius,
        focal=focal,
    )
    splines = [[keyframe_spline(ws) for ws in row] for row in cells]
    still = [[heads.planes(ws[:1]) for ws in row] for row in cells] if keyframes == 1 else None
    for index, label in enumerate(label_from_camera(path)):
        rows = []
        for y, row in enumerate(splines):
            images = []
            for x, spline in enumerate(row):
                ws = spline(index / frames)[None]
                planes = still[y][x] if still else heads.planes(ws)
                images.append(to_uint8(heads.picture(ws, planes, label=label[None]).image))
            rows.append(np.concatenate(images, axis=1))
        yield np.concatenate(rows, axis=0)


def keyframe_seeds(request: Request) -> list[list[list[int]]]:
    """Seeds of each cell's keyframes, [rows][columns][keyframes], in EG3D's order.

    The list is used again from its start when there are more keyframes than seeds.
    """
    columns, rows = request.grid or (1, 1)
    count = request.keyframes
    seeds = [request.seeds[k % len(request.seeds)] for k in range(rows * columns * count)]
    starts = [[(y * columns + x) * count for x in range(columns)] for y in range(rows)]
    return [[seeds[start : start + count] for start in row] for row in starts]
