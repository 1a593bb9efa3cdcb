"""Writes a trained head as a coloured triangle mesh.

python -m headjax.tools.export --workdir=runs/g3diff-default --head=sample:0 --output=head.glb
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import headjax
from headjax.errors import UserError
from headjax.geometry.isosurface import Bounds, extract_mesh
from headjax.geometry.meshes import Mesh
from headjax.io.glb import write_glb
from headjax.io.obj import write_obj
from headjax.io.ply import write_ply
from headjax.tools import command

WRITERS = {".ply": write_ply, ".obj": write_obj, ".glb": write_glb}

_HELP = """\
headjax export: writes a trained head as a coloured triangle mesh.

usage: python -m headjax.tools.export --workdir=FOLDER --head=NAME --output=FILE [flags]

  --workdir=FOLDER    where `python -m headjax.main` put its results
  --head=NAME         sample:0 (a new head) or train:3 (a training identity); sample:0 by default
  --output=FILE       head.ply, head.obj or head.glb
  --resolution=128    lattice points along each axis, 2 to 1024
  --level=DENSITY     of the surface, per world unit; a sixth of the largest by default
  --half_size=0.36    half the side of the cube that is searched, world units
  --overwrite         replace FILE if it is there"""


def head_mesh(
    model: Any, head: Any, *, bounds: Bounds, resolution: int, level: float | None
) -> Mesh:
    """The surface of one head with colours.

    Args:
      model: has `query(head, points [p, 3]) -> (density [p], colour [p, 3])`.
      head: from `model.head(name)`.
      bounds, resolution, level: as in `extract_mesh`.
    """
    return extract_mesh(
        lambda points: model.query(head, points)[0],
        lambda points: model.query(head, points)[1],
        bounds=bounds,
        resolution=resolution,
        level=level,
    )


def _parser() -> flags.FlagValues:
    parser = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=parser)
    flags.DEFINE_string("head", "sample:0", "", flag_values=parser)
    flags.DEFINE_string("output", None, "", flag_values=parser)
    flags.DEFINE_integer("resolution", 128, "", 2, 1024, flag_values=parser)
    flags.DEFINE_float("level", None, "", flag_values=parser)
    flags.DEFINE_float("half_size", 0.36, "", 0.01, 10.0, flag_values=parser)
    flags.DEFINE_bool("overwrite", False, "", flag_values=parser)
    return parser


def _parse(arguments: list[str]) -> flags.FlagValues:
    parser = _parser()
    rest = command.parsed(parser, arguments)
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r} (--help lists all flags)")
    for name in ("workdir", "output"):
        if not parser[name].value:
            raise UserError(f"--{name} is missing (--help lists all flags)")
    return parser


def _output(parser: flags.FlagValues) -> Path:
    output = Path(parser.output)
    if output.suffix.lower() not in WRITERS:
        raise UserError(f"--output={output} must end in {', '.join(WRITERS)}")
    if output.exists() and not parser.overwrite:
        raise UserError(f"{output} is already there; give another name or --overwrite")
    return output


def _export(arguments: list[str]) -> None:
    parser = _parse(arguments)
    output = _output(parser)
    model = headjax.load(parser.workdir)
    half = float(parser.half_size)
    mesh = head_mesh(
        model,
        model.head(parser.head),
        bounds=((-half, -half, -half), (half, half, half)),
        resolution=parser.resolution,
        level=parser.level,
    )
    WRITERS[output.suffix.lower()](output, mesh)
    size = np.ptp(mesh.vertices, axis=0)
    print(
        f"headjax: wrote {parser.head} to {output}: {len(mesh.vertices)} vertices, "
        f"{len(mesh.faces)} triangles, {size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} world units"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    return command.run(_export, argv, help_text=_HELP)


if __name__ == "__main__":
    sys.exit(main())
