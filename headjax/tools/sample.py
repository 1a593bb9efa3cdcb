"""Draws heads from an EG3D or PanoHead generator: pictures, videos and meshes.

python -m headjax.tools.sample --weights=eg3d.safetensors --seeds=0,1,4-6 --trunc=0.7 --outdir=out
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headjax.errors import UserError
from headjax.geometry.isosurface import require_marching_cubes
from headjax.io import atomic
from headjax.io.images import image_grid, save_png
from headjax.io.video import save_mp4
from headjax.tools import command
from headjax.tools.sampling import pictures
from headjax.tools.sampling.heads import Heads, load_heads
from headjax.tools.sampling.request import Request, parse
from headjax.tools.sampling.shapes import shape_files, write_shape

_HELP = """\
headjax sample: draws heads from an EG3D or PanoHead generator.

usage: python -m headjax.tools.sample --weights=FILE --seeds=LIST --outdir=FOLDER [flags]

  --weights=FILE      .safetensors, made by python -m headjax.tools.convert
  --seeds=0,1,4-6     which heads; official seeds give official heads
  --outdir=FOLDER     where results go
  --trunc=1           truncation: 0 is the average head, 0.7 the usual choice, 1 all variety
  --trunc-cutoff=N    truncates only the first N style layers; all by default
  --neural-resolution=N  (--nrr) of the rendering before super-resolution; the weights' by default
  --sample-mult=1     times as many samples along each ray
  --noise-mode=const  const or none: the noise that the backbone adds
  --overwrite         replace what is there

cameras
  --orbit=PATH        face: three views within 23 degrees, videos that sway (EG3D's);
                      head: five views from front to back, videos all around (PanoHead's)
  --pivot=X,Y,Z       the point in the middle; the weights' for faces, 0,0,0 for heads by default
  --fov-deg=18.837    EG3D's field of view; videos take the training's focal length by default

pictures
  --nopictures        none of seed0000.png: the views of a seed side by side
  --depth             seed0000_depth.png, the depth in each view, near bright
  --grid=WxH          grid.png of front views; with --video also its cells

videos
  --video             interpolation.mp4: through all seeds, shared among the cells of --grid
  --nointerpolate     seed0000.mp4 for each seed instead
  --frames=120        (--w-frames) from one seed to the next
  --num-keyframes=N   seeds that each cell passes; the list is repeated where it is too short
  --fps=60            frames per second

meshes
  --shapes            seed0000.ply: where the density passes the level
  --shape-res=512     lattice points along each side of the cube, 8 to 1024
  --shape-level=10    density before its activation
  --shape-format=ply  ply, obj or glb, with vertex colours
  --texture           a baked texture instead of vertex colours (obj, glb)
  --texture-size=N    texels along its side; as needed by default, at most 8192"""


class _Names:
    """Where each result goes."""

    def __init__(self, request: Request) -> None:
        self._outdir, self._format = request.outdir, request.shape_format

    def seed(self, seed: int, ending: str) -> Path:
        return self._outdir / f"seed{seed:04d}{ending}"

    def shape(self, seed: int) -> Path:
        return self.seed(seed, f".{self._format}")

    def video(self) -> Path:
        return self._outdir / "interpolation.mp4"

    def grid(self) -> Path:
        return self._outdir / "grid.png"


def _outputs(request: Request) -> Iterator[Path]:
    names = _Names(request)
    for seed in request.seeds:
        if request.pictures:
            yield names.seed(seed, ".png")
        if request.depth:
            yield names.seed(seed, "_depth.png")
        if request.shapes:
            yield from shape_files(names.shape(seed), texture=request.texture)
        if request.video and not request.interpolate:
            yield names.seed(seed, ".mp4")
    if request.grid:
        yield names.grid()
    if request.video and request.interpolate:
        yield names.video()


def _refuse_existing(request: Request) -> None:
    if request.overwrite:
        return
    there = next((path for path in _outputs(request) if path.exists()), None)
    if there:
        raise UserError(f"{there} is already there; give another --outdir or --overwrite")


def _tell(path: Path, what: str) -> None:
    print(f"headjax: wrote {path}: {what}", flush=True)


def _sample_seeds(heads: Heads, request: Request, stand: pictures.Stand) -> None:
    """Pictures and meshes, seed by seed, and the grid of front views."""
    names, fronts = _Names(request), {}
    focal = pictures.picture_focal(request)
    gridded = [cell[0] for row in pictures.keyframe_seeds(request) for cell in row]
    seen = request.pictures or request.depth
    for seed in dict.fromkeys(request.seeds):
        if not (seen or request.shapes or (request.grid and seed in gridded)):
            continue
        ws = pictures.styles_of(heads, seed, request=request, stand=stand, focal=focal)
        planes = heads.planes(ws)
        if seen or (request.grid and seed in gridded):
            sides = pictures.picture_sides(heads, ws, planes=planes, stand=stand, focal=focal)
            fronts[seed] = sides.images[sides.front]
            _save_sides(sides, seed, request)
        if request.shapes:
            path = names.shape(seed)
            mesh = write_shape(path, heads, ws=ws, planes=planes, request=request)
            _tell(path, f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles")
    if request.grid:
        columns, rows = request.grid
        cells = [fronts[seed] for seed in gridded]
        table = [cells[row * columns : (row + 1) * columns] for row in range(rows)]
        save_png(names.grid(), image_grid(table))
        _tell(names.grid(), f"{columns} x {rows} heads")


def _save_sides(sides: pictures.Sides, seed: int, request: Request) -> None:
    names = _Names(request)
    for wanted, images, ending in (
        (request.pictures, sides.images, ".png"),
        (request.depth, sides.depths, "_depth.png"),
    ):
        if wanted:
            path = names.seed(seed, ending)
            save_png(path, np.concatenate(images, axis=1))
            _tell(path, f"{len(images)} views of {images[0].shape[1]} x {images[0].shape[0]}")


def _sample_videos(heads: Heads, request: Request, stand: pictures.Stand) -> None:
    """One video through all seeds, or one for each."""
    names = _Names(request)
    if request.interpolate:
        jobs = [(names.video(), pictures.keyframe_seeds(request))]
    else:
        jobs = [(names.seed(seed, ".mp4"), [[[seed]]]) for seed in dict.fromkeys(request.seeds)]
    focal = pictures.video_focal(request)
    options = {"request": request, "stand": stand, "focal": focal}
    for path, seeds in jobs:
        cells = [
            [
                np.concatenate([pictures.styles_of(heads, s, **options) for s in cell])
                for cell in row
            ]
            for row in seeds
        ]
        count = request.frames * len(seeds[0][0])
        frames = pictures.video_frames(
            heads, cells, frames=request.frames, stand=stand, focal=focal
        )
        # The bar shows itself on terminals only.
        bar: Any = tqdm(frames, total=count, desc=path.name, unit="frame", disable=None)
        save_mp4(path, bar, fps=request.fps)
        _tell(path, f"{count} frames")


def run(request: Request, *, load: Callable[..., Heads] = load_heads) -> None:
    """Draws what is asked for.

    Args:
        request: a checked command line.
        load: makes the generator of the weights file; arguments as `load_heads` takes them.

    Raises:
        UserError: a result is there already, the weights cannot be read, or a head has no surface.
    """
    _refuse_existing(request)
    if request.shapes:
        require_marching_cubes()
    heads = load(
        request.weights,
        noise=request.noise_mode,
        neural_resolution=request.neural_resolution,
        sample_multiplier=request.sample_mult,
    )
    with atomic.telling_errors(request.outdir):
        request.outdir.mkdir(parents=True, exist_ok=True)
    stand = pictures.stand_of(request, heads)
    _sample_seeds(heads, request, stand)
    if request.video:
        _sample_videos(heads, request, stand)


def main(argv: Sequence[str] | None = None, *, load: Callable[..., Heads] = load_heads) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    return command.run(
        lambda arguments: run(parse(arguments), load=load), argv, help_text=_HELP
    )


if __name__ == "__main__":
    sys.exit(main())
