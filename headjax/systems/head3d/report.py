"""What a run of Head3D shows of its heads: pictures, scores, and the analysis of tri-planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from headjax.geometry.cameras import orbit_labels
from headjax.io import images, video
from headjax.io.images import image_grid, to_uint8
from headjax.metrics import networks, parts
from headjax.metrics.consistency import Settings
from headjax.metrics.views import quality_of
from headjax.nets import triplane_gan_weights
from headjax.nets.perceptual.weights import Missing
from headjax.systems.head3d import analysis, latents, sources
from headjax.systems.head3d import evaluate as scores
from headjax.train.gan import pictures
from headjax.train.gan.pictures import parts_of, views_of
from headjax.train.part_judge import load_judge
from headjax.train.stages import Context, finite, write_json
from headjax.train.state import stream_key

TEACHER, STUDENT = "teacher.safetensors", "generator.safetensors"
FRONT, SIDE, BACK = 0.0, 90.0, 180.0
NO_JUDGE = "n/a (needs a part segmenter of headjax: set --config.weights.judge=PATH)"
# Heads whose tri-planes are exchanged in the analysis' picture, two by two.
SHOWN = 6


def drawer(context: Context, name: str) -> pictures.Drawer:
    """A generator of the work directory, for pictures."""
    return pictures.Drawer(*triplane_gan_weights.load(context.workdir / name))


def _latents(context: Context, stream: str, count: int, z_dim: int) -> Float[Array, "n d"]:
    return jax.random.normal(stream_key(context.seed, stream), (count, z_dim))


def make_samples(context: Context) -> None:
    """New heads; writes samples.png, comparison.png (with the teacher's) and turntable.mp4."""
    section = context.config.samples
    student, teacher = drawer(context, STUDENT), drawer(context, TEACHER)
    z = _latents(context, "samples", section.identities, student.config.z_dim)
    ws = student.styles(z, psi=section.truncation)
    with context.logger.telling("samples", unit="head") as tell:
        heads = student.views(ws, yaws=(FRONT, SIDE, BACK), progress=tell)
    faces = teacher.views(teacher.styles(z, psi=section.truncation), yaws=(FRONT,))
    images.save_png(context.workdir / "samples.png", pictures.sample_sheet(heads, heads_per_row=2))
    images.save_png(context.workdir / "comparison.png", comparison(faces, heads))
    frames = pictures.turntable(student, ws[: section.turntable_heads], section)
    video.save_mp4(context.workdir / "turntable.mp4", frames, fps=12)


def comparison(faces: list[list[Any]], heads: list[list[Any]]) -> UInt8[np.ndarray, "a b 3"]:
    """The teacher's front view beside the student's views of the same latent, two heads a row."""
    cells = [
        to_uint8(np.clip(view.image, -1.0, 1.0))
        for face, head in zip(faces, heads, strict=True)
        for view in (face[0], *head)
    ]
    return pictures.sheet(np.stack(cells), columns=2 * (1 + len(heads[0])))


def evaluate(context: Context) -> None:
    """Scores the student; writes metrics.json."""
    config, student = context.config, drawer(context, STUDENT)
    z = _latents(context, "evaluation", config.evaluation.identities, student.config.z_dim)
    arcface = networks.load("arcface", config.weights.to_dict())
    judge = load_judge(Path(config.weights.judge)) if config.weights.judge else None
    mine: list[dict] = []
    with context.logger.telling("evaluation", unit="head") as tell:
        for part in parts_of(z):
            mine.append(_seen(student, part, arcface, yaws=(FRONT, BACK), judge=judge))
            tell(len(mine) * pictures.CHUNK, len(z))
    teacher = drawer(context, TEACHER)
    theirs = [_seen(teacher, part, arcface, yaws=(FRONT,)) for part in parts_of(z)]
    heads, faces = (_joined(seen) for seen in (mine, theirs))
    told: dict[str, Any] = scores.identity_kept(heads["face"], faces["face"])
    told["id"] = scores.arcface_identity(heads["embedding"], faces["embedding"])
    told |= {f"spread_{name}": scores.spread(heads[name]) for name in ("front", "back")}
    told["back_faceless"] = NO_JUDGE if judge is None else scores.faceless(heads["labels"])
    halves = sources.front_and_back(_source(context, "faces"), _source(context, "heads"))
    told |= quality_of(
        student.new_heads, halves, count=config.evaluation.images,
        network=networks.load("inception", config.weights.to_dict()),
        key=stream_key(context.seed, "quality"),
    )  # fmt: skip
    if config.evaluation.consistency_heads:
        told["consistency_psnr"] = _consistency(context, student, z)
    if config.method == "head3d":
        told["perceptual"] = config.distill.perceptual
    write_json(context.workdir / "metrics.json", finite(told))
    kept = told["identity_kept"]
    context.logger.say(f"evaluation: identity kept for {100 * kept:.0f} % of {len(z)} latents")


def _seen(
    draw: pictures.Drawer, z: Array, arcface: Any, *, yaws: tuple[float, ...], judge: Any = None
) -> dict[str, Any]:
    """What is kept of some heads' pictures."""
    heads = draw.views(draw.styles(z), yaws=yaws)
    fronts = views_of(heads, 0)
    kept = {"face": scores.face_crop(fronts), "front": scores.small(fronts)}
    kept["embedding"] = scores.face_embeddings(arcface, fronts)
    if BACK in yaws:
        backs = views_of(heads, -1)
        kept["back"] = scores.small(backs)
        if judge is not None:
            kept["labels"] = parts.labels_of(judge, backs)
    return kept


def _joined(seen: list[dict]) -> dict[str, Any]:
    """All heads' by name; what is missing is so for all."""
    first = seen[0]
    return {
        name: value if isinstance(value, Missing) else np.concatenate([part[name] for part in seen])
        for name, value in first.items()
    }


def _source(context: Context, name: str) -> Any:
    return sources.of_section(context.config[name], context.data_dir / name)


def _consistency(context: Context, student: pictures.Drawer, z: Array) -> float:
    section = context.config.evaluation
    ws = student.styles(z[: section.consistency_heads])

    def views(head: int, labels: np.ndarray) -> np.ndarray:
        style = ws[head : head + 1]
        planes = student.planes(style)
        drawn = [student.draw(style, jnp.asarray(c[None]), planes=planes).image for c in labels]
        return np.concatenate([np.asarray(image) for image in drawn])

    return scores.consistency_psnr(
        views, heads=len(ws), count=section.consistency_views,
        settings=Settings(steps=section.consistency_steps),
        key=stream_key(context.seed, "consistency"),
    )  # fmt: skip


def analyse(context: Context) -> None:
    """Figures 2 to 5, 14, 15 and table 1 on own heads; writes analysis.png and analysis.json."""
    section = context.config.analysis
    teacher, student = drawer(context, TEACHER), drawer(context, STUDENT)
    z = _latents(context, "analysis", section.identities, teacher.config.z_dim)
    faces, heads = _Set(teacher, z), _Set(student, z)
    pairs = range(0, min(len(z), SHOWN) - 1, 2)
    rows = [
        [pictures.shown(picture) for picture in row]
        for i in pairs
        for row in figures(faces, heads, i, i + 1)
    ]
    images.save_png(context.workdir / "analysis.png", image_grid(rows, gap=2))
    arcface = networks.load("arcface", context.config.weights.to_dict())

    def embed(seen: np.ndarray) -> np.ndarray:
        return networks.face_embeddings(arcface, to_uint8(seen))

    missing = isinstance(arcface, Missing)
    table = analysis.swap_table(
        faces.planes, render=faces.fronts, embed=None if missing else embed
    )
    told = {"identities": len(z), "table_1": table} | ({"id": str(arcface)} if missing else {})
    write_json(context.workdir / "analysis.json", told)


class _Set:
    """Heads of one generator: styles and planes of latents.

    Attributes:
        ws, planes: of all latents.
    """

    def __init__(self, draw: pictures.Drawer, z: Float[Array, "n d"]):
        self.draw, self.ws = draw, draw.styles(z)
        self.planes = jnp.concatenate([draw.planes(part) for part in parts_of(self.ws)])

    def picture(self, planes: Array, number: int, yaw: float = FRONT) -> UInt8[np.ndarray, "h w 3"]:
        """Planes [n, h, w, f] from a yaw, super-resolved with the styles of head `number`."""
        label = jnp.asarray(orbit_labels([yaw]))
        seen = self.draw.draw(self.ws[number][None], label, planes=planes[None])
        return to_uint8(np.clip(np.asarray(seen.image[0]), -1.0, 1.0))

    def fronts(self, planes: Array, numbers: np.ndarray) -> Float[np.ndarray, "m h w 3"]:
        """Front views of planes [m, n, h, w, f]."""
        labels = jnp.asarray(np.repeat(orbit_labels([FRONT]), len(planes), axis=0))
        return np.asarray(self.draw.draw(self.ws[numbers], labels, planes=planes).image)


def figures(faces: _Set, heads: _Set, i: int, j: int) -> list[list[np.ndarray]]:
    """Rows of six pictures of two latents: figures 2, 3, 4, 5 and 15, in this order."""
    one, other = faces.planes[i : i + 1], faces.planes[j : j + 1]
    box = faces.draw.config.rendering.box
    both = [faces.picture(one[0], i), faces.picture(other[0], j)]
    swapped = [
        faces.picture(analysis.swap_planes(one, other, which=(plane,))[0], i) for plane in range(3)
    ]
    eyes = analysis.swap_region(one, other, box=box)[0]
    channels = [
        analysis.swap_channels(one, other, count=one.shape[-1] // 2, most=most)[0]
        for most in (True, False)
    ]
    mine = heads.planes[i : i + 1]
    transplanted = analysis.swap_planes(mine, other)[0]
    line = latents.interpolate(heads.ws[i], heads.ws[j], steps=6)
    labels = jnp.asarray(np.repeat(orbit_labels([FRONT]), len(line), axis=0))
    between = to_uint8(np.clip(np.asarray(heads.draw.draw(line, labels).image), -1.0, 1.0))
    rows = [
        [*both, *swapped],
        [*both, *(faces.picture(eyes, i, yaw) for yaw in (FRONT, -30.0, 30.0))],
        [*both, *(faces.picture(planes, i) for planes in channels)],
        [both[1], heads.picture(mine[0], i),
         *(heads.picture(transplanted, i, yaw) for yaw in (FRONT, SIDE, BACK))],
        list(between),
    ]  # fmt: skip
    blank = np.full_like(both[0], 255)
    return [row + [blank] * (6 - len(row)) for row in rows]
