"""The stages of EG3D and PanoHead.

data → regression (small defaults) → adversarial → samples → evaluation
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from headjax import data
from headjax.data.subset import Subset
from headjax.io import images, video
from headjax.nets import triplane_gan_weights
from headjax.systems.gan3d import evaluate, settings
from headjax.train.gan import pictures, runs, sections
from headjax.train.gan.conditioning import repeat_back_views
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.stages import Context, Row, Stage, finite, write_json
from headjax.train.state import stream_key

GENERATOR, DISCRIMINATOR = "generator.safetensors", "discriminator.safetensors"
REGRESSED = "regressed.safetensors"


def stages(config: Any) -> list[Stage]:
    """The stages that this config runs, in order."""
    settings.check(config)
    make_mesh(MeshOptions(**config.mesh))  # or says why not, before any work
    every = [
        Stage("data", prepare_data, "renders heads, or looks at the folder of images",
              outputs=("data_sheet.png",)),
        Stage("regression", train_regression, "shows the generator labelled heads",
              outputs=(REGRESSED,), everywhere=True),
        Stage("adversarial", train_adversarial, "trains generator and discriminator",
              outputs=(GENERATOR, DISCRIMINATOR), everywhere=True),
        Stage("samples", make_samples, "draws new heads",
              outputs=("samples.png", "turntable.mp4")),
        Stage("evaluation", score, "scores new heads", outputs=("metrics.json",)),
    ]  # fmt: skip
    if not sections.warm(config.regression):
        every = [stage for stage in every if stage.name != "regression"]
    return [dataclasses.replace(stage, minutes=config.minutes[stage.name]) for stage in every]


def describe(config: Any) -> list[Row]:
    """Parameter counts and memory of each stage, without training."""
    settings.check(config)
    generator = triplane_gan_weights.shapes(settings.generator_config(config))["params"]
    discriminator = triplane_gan_weights.shapes(settings.discriminator_config(config))["params"]
    rows = []
    for what, tree, copies in (("generator", generator, 20), ("discriminator", discriminator, 16)):
        # Parameters, gradients and two moments are float32; the generator's average comes on top.
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        rows.append(Row("adversarial", what, count, copies * count))
    return rows


def prepare_data(context: Context) -> None:
    """Renders the data set, or finds it; writes data_sheet.png."""
    section = context.config.data
    if section.source == "procedural":
        with context.logger.telling("data", unit="view") as tell:
            data.prepare(
                settings.head_views(context.config), context.data_dir,
                progress=lambda state: tell(state.done, state.total),
            )  # fmt: skip
    source = source_of(context)
    places = np.linspace(0, len(source) - 1, 24).astype(int).tolist()
    shown = [source.read(i, fields=("image",))["image"] for i in places]
    images.save_png(context.workdir / "data_sheet.png", pictures.sheet(np.stack(shown), columns=8))


def source_of(context: Context) -> Any:
    """The training images: records by index."""
    section = context.config.data
    if section.source == "procedural":
        return data.load_split(context.data_dir, "train")
    source = data.Eg3dDataset(section.folder, masks=section.masks or None)
    if section.back_repeat > 1:
        source = Subset(source, repeat_back_views(source.cameras, times=section.back_repeat))
    return source


def train_regression(context: Context) -> None:
    """Warm start of the generator; writes regressed.safetensors."""
    config = context.config
    generator = settings.generator_config(config)
    networks = runs.regress(
        context, "regression", source=source_of(context),
        latents=data.latents(settings.head_views(config)), generator=generator,
        section=config.regression,
    )  # fmt: skip
    runs.save(context, networks, generator=(REGRESSED, generator))


def train_adversarial(context: Context) -> None:
    """Trains at each neural resolution in turn; writes both networks' weights."""
    config = context.config
    generator, start = settings.generator_config(config), None
    discriminator = settings.discriminator_config(config)
    if sections.warm(config.regression):
        start, _ = runs.load(context, REGRESSED)
    networks = runs.adversarial(
        context, "adversarial", source=source_of(context), generator=generator,
        discriminator=discriminator, section=config.adversarial, sizes=settings.ladder(config),
        start=start,
    )  # fmt: skip
    runs.save(
        context, networks, generator=(GENERATOR, generator),
        discriminator=(DISCRIMINATOR, discriminator),
    )  # fmt: skip


def make_samples(context: Context) -> None:
    """Draws new heads; writes samples.png and turntable.mp4."""
    section = context.config.samples
    config, variables = triplane_gan_weights.load(context.workdir / GENERATOR)
    draw = pictures.Drawer(config, variables)
    z = jax.random.normal(stream_key(context.seed, "samples"), (section.count, config.z_dim))
    ws = draw.styles(z, psi=section.truncation)
    with context.logger.telling("samples", unit="head") as tell:
        views = draw.views(ws, yaws=section.yaws, progress=tell)
    images.save_png(context.workdir / "samples.png", pictures.sample_sheet(views))
    frames = pictures.turntable(draw, ws[: section.turntable_heads], section)
    video.save_mp4(context.workdir / "turntable.mp4", frames, fps=12)


def score(context: Context) -> None:
    """Scores new heads; writes metrics.json."""
    config = context.config
    draw = pictures.Drawer(*triplane_gan_weights.load(context.workdir / GENERATOR))
    told = evaluate.scores(
        context, draw, source=source_of(context), psi=config.samples.truncation
    )
    told["warm_start"] = sections.warm(config.regression)
    write_json(context.workdir / "metrics.json", finite(told))
