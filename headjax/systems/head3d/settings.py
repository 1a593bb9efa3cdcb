"""From the config file to the typed settings of Head3D's parts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import ml_collections

from headjax.errors import UserError
from headjax.nets.perceptual import weights
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.systems.head3d.step import Lessons
from headjax.train.gan import sections
from headjax.train.gan.augment_settings import PRESETS
from headjax.train.mesh import MeshOptions

METHODS = ("head3d", "dft", "fh")
SOURCES = ("procedural", "folder")
PERCEPTUAL = ("multiscale_gradients", "lpips_vgg")
_CHOICES = {
    "method": METHODS,
    "faces.source": SOURCES,
    "heads.source": SOURCES,
    "distill.planes": ("xy", "all"),
    "distill.perceptual": PERCEPTUAL,
    "teacher_adversarial.augment": PRESETS,
    "finetune.augment": PRESETS,
    "distill.augment": PRESETS,
    "mixed.augment": PRESETS,
}
# Which training stages a method has (§4.2), after the teacher's.
PHASES = {"head3d": ("finetune", "distill"), "dft": ("mixed",), "fh": ("finetune", "mixed")}


def check(config: ml_collections.FrozenConfigDict) -> None:
    """Refuses settings that cannot work together, before anything runs.

    Raises:
        UserError: naming the field, what it is and what would be right.
    """
    sections.check_choices(config, _CHOICES)
    try:
        own = generator_config(config)
        sections.discriminator_config(config.discriminator, generator=own)
        MeshOptions(**config.mesh)
    except ValueError as error:
        raise UserError(f"the config's networks are impossible: {error}") from error
    if own.kind != "eg3d":
        raise UserError(f"generator.kind is {own.kind!r}; Head3D distils tri-planes: 'eg3d'")
    if not config.teacher and own.resolution != config.heads.resolution:
        raise UserError(
            f"heads.resolution is {config.heads.resolution}, but the generator draws "
            f"{own.resolution} x {own.resolution}; make them equal"
        )
    if config.faces.resolution != config.heads.resolution:
        raise UserError(
            f"faces.resolution is {config.faces.resolution} and heads.resolution "
            f"{config.heads.resolution}; make them equal"
        )
    _check_counts(config)
    _check_files(config)


def _check_counts(config: ml_collections.FrozenConfigDict) -> None:
    """Numbers of heads, and warm starts that have nothing to show."""
    if config.evaluation.identities < 2:
        raise UserError(f"evaluation.identities is {config.evaluation.identities}; at least 2")
    if config.analysis.identities == 1:
        raise UserError("analysis.identities is 1; 0 for no analysis, or at least 2")
    if config.finetune_regression.faces < 0:
        raise UserError(
            f"finetune_regression.faces is {config.finetune_regression.faces}; 0 for none, or more"
        )
    for stage, source in (("teacher_regression", "faces"), ("finetune_regression", "heads")):
        sections.check_warm_start(config, regression=stage, data=source)
    if config.finetune_regression.faces:
        sections.check_warm_start(config, regression="finetune_regression", data="faces")


def _check_files(config: ml_collections.FrozenConfigDict) -> None:
    """Paths that the run will need."""
    if config.teacher:
        teacher_file(config)
    if config.method == "head3d" and config.distill.perceptual == "lpips_vgg":
        weights.require("vgg", config.weights.vgg, purpose="distill.perceptual='lpips_vgg'")
    for name in ("faces", "heads"):
        if config[name].source == "folder" and not Path(config[name].folder).exists():
            raise UserError(
                f"{name}.folder is {config[name].folder!r}; it must be a folder or zip of images "
                "in EG3D's format"
            )


def teacher_file(config: ml_collections.FrozenConfigDict) -> Path:
    """The generator's weights that `teacher` stands for: a file, or a run's.

    Raises:
        UserError: there are none.
    """
    path = Path(config.teacher)
    if path.is_dir():
        path = path / "generator.safetensors"
    if not path.is_file():
        raise UserError(
            f"teacher is {config.teacher!r}; it must be a generator's safetensors, or the work "
            "directory of a finished run of configs/eg3d.py"
        )
    return path


def teacher_judge_file(config: ml_collections.FrozenConfigDict) -> Path | None:
    """The teacher's discriminator, where there is one: named, or that of its run.

    Raises:
        UserError: `teacher_discriminator` is set and is no file.
    """
    if config.teacher_discriminator:
        path = Path(config.teacher_discriminator)
        if not path.is_file():
            raise UserError(
                f"teacher_discriminator is {config.teacher_discriminator!r}; it must be a "
                "discriminator's safetensors, or empty"
            )
        return path
    path = Path(config.teacher) / "discriminator.safetensors"
    return path if path.is_file() else None


def generator_config(config: ml_collections.FrozenConfigDict) -> GeneratorConfig:
    """The generator that the config's own section describes: an own teacher's."""
    return sections.generator_config(config.generator)


def student_config(
    config: ml_collections.FrozenConfigDict, teacher: GeneratorConfig
) -> GeneratorConfig:
    """The teacher's network; its rays are `head_rays`, raw size and computing `generator`'s."""
    rendering = dataclasses.replace(
        teacher.rendering, near=config.head_rays.near, far=config.head_rays.far
    )
    own = generator_config(config)
    return dataclasses.replace(
        teacher, rendering=rendering, neural_resolution=own.neural_resolution, dtype=own.dtype,
        remat=own.remat,
    )  # fmt: skip


def discriminator_config(
    config: ml_collections.FrozenConfigDict, generator: GeneratorConfig
) -> DiscriminatorConfig:
    """A discriminator of this generator's images."""
    return sections.discriminator_config(config.discriminator, generator=generator)


def lessons(config: ml_collections.FrozenConfigDict) -> Lessons:
    """What is distilled."""
    section = config.distill
    loss = section.loss
    return Lessons(
        kd=loss.kd, map=loss.map, rgb=loss.rgb, perceptual=loss.perceptual,
        gan_front=loss.gan_front, gan_back=loss.gan_back,
        gamma_front=section.gamma, gamma_back=section.gamma_back,
        tau=math.radians(section.tau), planes=section.planes, dual=section.dual,
    )  # fmt: skip
