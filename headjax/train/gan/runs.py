"""A 3D GAN's trainings as stages run them: by the config's sections, from checkpoint to checkpoint.

Nothing is written but checkpoints; the networks come back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from headjax import data
from headjax.nets import triplane_gan_weights
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.train import feed, loop
from headjax.train.gan import regression, sections
from headjax.train.gan.step import AdversarialStep
from headjax.train.stages import Context
from headjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Networks:
    """A generator and, where it is known, the discriminator that it was trained with.

    Attributes:
        generator: {"params", "buffers"}; the average where one was kept.
        discriminator: parameters, or None.
    """

    generator: Any
    discriminator: Any = None


def regress(
    context: Context,
    name: str,
    *,
    source: Any,
    latents: Float[Any, "n k"],
    generator: GeneratorConfig,
    section: Any,
    start: Any = None,
    by_identity: bool = True,
) -> Networks:
    """The warm start: shows a generator labelled heads together with their latents.

    Args:
        context: of the stage.
        name: of the tasks and their checkpoints; each has its phase after it.
        source: records with `regression.FIELDS` and identities.
        latents: of the source's identities.
        generator: what it is.
        section: of the config, as `RegressionStep` takes it, with its phases.
        start: variables to go on from; None for fresh ones.
        by_identity: every identity is shown as often as any other; False: every view is.
    """

    def batches(rows):
        return data.batches(
            source, batch_size=section.batch_size, seed=context.seed, fields=regression.FIELDS,
            rows=rows, by_identity=by_identity, transform=regression.WithLatents(latents),
            **context.config.input,
        )  # fmt: skip

    for phase in regression.PHASES:
        if not section[phase].steps:
            continue
        step = regression.RegressionStep(generator, section=section, phase=section[phase])
        task = loop.Task(
            f"{name}_{phase}",
            functools.partial(_continued, step, start),
            step,
            batches,
            batch_size=section.batch_size,
        )
        state = loop.fit_stage(context, task, steps=section[phase].steps, section=section)
        start = feed.to_host({"params": state.ema, "buffers": state.extras["buffers"]})
    return Networks(start)


def _continued(step: regression.RegressionStep, start: Any, key: Array) -> TrainState:
    """The state before a phase: fresh, or on the variables that there are."""
    state = step.init(key)
    if start is None:
        return state
    params, average = (jax.tree.map(jnp.array, start["params"]) for _ in range(2))
    return state.replace(params=params, ema=average, extras={"buffers": dict(start["buffers"])})


def adversarial(
    context: Context,
    name: str,
    *,
    source: Any,
    generator: GeneratorConfig,
    discriminator: DiscriminatorConfig,
    section: Any,
    sizes: Sequence[int],
    start: Networks | None = None,
) -> Networks:
    """Trains both networks at each neural resolution in turn.

    Args:
        context: of the stage.
        name: of the tasks; each has its neural resolution after it.
        source: records with `image` and `camera`, for PanoHead `mask` too.
        generator, discriminator: what they are.
        section: of the config: the recipe's numbers, `steps` and those of checkpoints.
        sizes: neural resolutions, ascending; the steps are shared out evenly.
        start: networks to go on from; None, or no discriminator, for fresh ones.
    """
    state: TrainState | None = None
    for index, size in enumerate(sizes):
        step = AdversarialStep(
            generator, discriminator, recipe=sections.recipe(section), neural_resolution=size
        )
        task = loop.Task(
            f"{name}{size}",
            functools.partial(_start, step, state, start),
            step,
            functools.partial(_batches, context, source, index, section.batch_size, generator.kind),
            batch_size=section.batch_size,
        )
        steps = section.steps * (index + 1) // len(sizes)
        state = loop.fit_stage(context, task, steps=steps, section=section)
    host = feed.to_host(
        {"g": state.ema, "d": state.params["d"], "buffers": state.extras["buffers"]}
    )
    return Networks({"params": host["g"], "buffers": host["buffers"]}, host["d"])


def _start(
    step: AdversarialStep, before: TrainState | None, start: Networks | None, key: Array
) -> TrainState:
    """The state before a phase: the last one's, or a new one on the networks that there are."""
    if before is not None:
        return before
    if start is None:
        return step.init(key)
    state = step.init(key, jax.tree.map(jnp.asarray, start.generator))
    if start.discriminator is None:
        return state
    judge = jax.tree.map(jnp.asarray, start.discriminator)
    return state.replace(params=state.params | {"d": judge})


def _batches(
    context: Context, source: Any, phase: int, size: int, kind: str, rows: Any
) -> Any:
    fields = ["image", "camera"] + ["mask"] * (kind == "panohead")
    return data.batches(
        source, batch_size=size, seed=context.seed + 1 + phase, fields=fields, rows=rows,
        **context.config.input,
    )  # fmt: skip


def save(
    context: Context,
    networks: Networks,
    *,
    generator: tuple[str, GeneratorConfig],
    discriminator: tuple[str, DiscriminatorConfig] | None = None,
) -> None:
    """Writes networks into the work directory, each under its file's name; the leader does."""
    if not context.group.leads:
        return
    name, config = generator
    triplane_gan_weights.save(context.workdir / name, networks.generator, config=config)
    if discriminator is not None and networks.discriminator is not None:
        name, config = discriminator
        triplane_gan_weights.save(
            context.workdir / name, {"params": networks.discriminator}, config=config, which="D"
        )


def load(
    context: Context, generator: str, discriminator: str = ""
) -> tuple[Networks, GeneratorConfig]:
    """Networks of the work directory; a discriminator's file may be missing."""
    config, variables = triplane_gan_weights.load(context.workdir / generator)
    path = context.workdir / discriminator
    judge = None
    if discriminator and path.exists():
        judge = triplane_gan_weights.load(path)[1]["params"]
    return Networks(variables, judge), config
