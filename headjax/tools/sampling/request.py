"""What a command line asks of sampling: EG3D's flags, read and checked before anything runs."""

import dataclasses
import math
import re
from pathlib import Path

from absl import flags

from headjax.errors import UserError
from headjax.geometry.orbits import PATHS
from headjax.tools import command

SHAPE_FORMATS = ("ply", "obj", "glb")
MAX_SEEDS = 100_000
# EG3D's names of flags that have another one here.
_ALIASES = {"network": "weights", "nrr": "neural_resolution", "w_frames": "frames"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked command line; the flags' help says what each means."""

    weights: Path
    seeds: tuple[int, ...]
    outdir: Path
    trunc: float
    trunc_cutoff: int | None
    fov_deg: float | None
    orbit: str | None
    pivot: tuple[float, float, float] | None
    pictures: bool
    depth: bool
    grid: tuple[int, int] | None
    video: bool
    interpolate: bool
    frames: int
    num_keyframes: int | None
    fps: float
    shapes: bool
    shape_res: int
    shape_level: float
    shape_format: str
    texture: bool
    texture_size: int | None
    neural_resolution: int | None
    sample_mult: float
    noise_mode: str
    overwrite: bool

    @property
    def keyframes(self) -> int:
        """Latents that each cell of an interpolation passes."""
        columns, rows = self.grid or (1, 1)
        return self.num_keyframes or len(self.seeds) // (columns * rows)


def parse_seeds(text: str) -> tuple[int, ...]:
    """EG3D's list of seeds: '0,1,4-6' -> (0, 1, 4, 5, 6), both ends of a range included."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part, re.ASCII)
        if not found:
            raise UserError(f"--seeds={text} is no list of seeds; write it like 0,1,4-6")
        first = int(found[1])
        last = int(found[2]) if found[2] else first
        if last < first or last >= 2**32:
            raise UserError(
                f"--seeds: {part.strip()!r} should be a number below 2^32, or two, the lesser first"
            )
        if len(seeds) + last - first >= MAX_SEEDS:
            raise UserError(f"--seeds={text} are too many; at most {MAX_SEEDS} are drawn at once")
        seeds += range(first, last + 1)
    return tuple(seeds)


def parse_grid(text: str) -> tuple[int, int]:
    """EG3D's 'WxH' or 'W,H' -> (columns, rows)."""
    found = re.fullmatch(r"(\d{1,3})[x,](\d{1,3})", text, re.ASCII)
    if not found or 0 in (int(found[1]), int(found[2])):
        raise UserError(f"--grid={text} should be columns x rows, like 3x3")
    return int(found[1]), int(found[2])


def parse_point(text: str) -> tuple[float, float, float]:
    """'x,y,z' -> three finite numbers."""
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise UserError(f"--pivot={text} should be three numbers, like 0,0,0.2")
    return x, y, z


def _parser() -> flags.FlagValues:
    parser = flags.FlagValues()

    def text(name: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, "", flag_values=parser)

    def whole(name: str, default: int | None, *limits: int) -> None:
        flags.DEFINE_integer(name, default, "", *limits, flag_values=parser)

    def number(name: str, default: float | None, *limits: float) -> None:
        flags.DEFINE_float(name, default, "", *limits, flag_values=parser)

    def choice(name: str, default: str | None, values: tuple[str, ...]) -> None:
        flags.DEFINE_enum(name, default, values, "", flag_values=parser)

    for name in ("weights", "seeds", "outdir", "grid", "pivot"):
        text(name)
    number("trunc", 1.0, -10.0, 10.0)
    whole("trunc_cutoff", None, 0, 100)
    number("fov_deg", None, 1.0, 170.0)
    choice("orbit", None, PATHS)
    for name, default in {
        "pictures": True, "depth": False, "video": False, "interpolate": True, "shapes": False,
        "texture": False, "overwrite": False,
    }.items():  # fmt: skip
        flags.DEFINE_bool(name, default, "", flag_values=parser)
    whole("frames", 120, 1, 100_000)
    whole("num_keyframes", None, 1, 10_000)
    number("fps", 60.0, 1.0, 240.0)
    whole("shape_res", 512, 8, 1024)
    number("shape_level", 10.0, -1e6, 1e6)
    choice("shape_format", "ply", (*SHAPE_FORMATS, *(f".{name}" for name in SHAPE_FORMATS)))
    whole("texture_size", None, 64, 16384)
    whole("neural_resolution", None, 4, 1024)
    number("sample_mult", 1.0, 0.1, 16.0)
    choice("noise_mode", "const", ("const", "none"))
    return parser


def _spelled(argument: str) -> str:
    """A flag with underscores for hyphens, and this command's name for EG3D's."""
    found = re.fullmatch(r"(--?)([A-Za-z][\w-]*)(=.*)?", argument, re.DOTALL)
    if not found:
        return argument
    name = found[2].replace("-", "_")
    return f"{found[1]}{_ALIASES.get(name, name)}{found[3] or ''}"


def parse(arguments: list[str]) -> Request:
    """Reads and checks a command line.

    Raises:
        UserError: one sentence about what is wrong.
    """
    parser = _parser()
    rest = command.parsed(parser, [*map(_spelled, arguments)])
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}; values follow their flag by =, as in --shapes=true "
            "(--help lists all flags)"
        )
    for name in ("weights", "seeds", "outdir"):
        if not parser[name].value:
            raise UserError(f"--{name} is missing (--help lists all flags)")
    values = {field.name: parser[field.name].value for field in dataclasses.fields(Request)}
    values |= {
        "weights": Path(parser.weights),
        "outdir": Path(parser.outdir),
        "seeds": parse_seeds(parser.seeds),
        "grid": parse_grid(parser.grid) if parser.grid else None,
        "pivot": parse_point(parser.pivot) if parser.pivot else None,
        "shape_format": parser.shape_format.lstrip("."),
    }
    request = Request(**values)
    _check(request)
    return request


def _check(request: Request) -> None:
    columns, rows = request.grid or (1, 1)
    if request.video and not request.interpolate and request.grid:
        raise UserError("--grid needs --interpolate=true: without it every seed has its own video")
    wanted = request.grid or request.video and request.interpolate
    if wanted and not request.num_keyframes and len(request.seeds) % (columns * rows):
        raise UserError(
            f"--grid={columns}x{rows} needs a multiple of {columns * rows} seeds, not "
            f"{len(request.seeds)}; or give --num-keyframes"
        )
    if request.texture and not request.shapes:
        raise UserError("--texture belongs to meshes; add --shapes")
    if request.texture and request.shape_format == "ply":
        raise UserError("PLY holds no texture; --texture needs --shape-format=obj or glb")
    results = ("pictures", "depth", "grid", "video", "shapes")
    if not any(getattr(request, name) for name in results):
        raise UserError("nothing is asked for; leave out --nopictures, or add --video or --shapes")
