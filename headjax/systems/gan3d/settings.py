"""From the config file to the typed settings of the 3D GANs' parts."""

from __future__ import annotations

from typing import get_args

import ml_collections

from headjax.data.config import HeadViewsConfig
from headjax.errors import UserError
from headjax.nets.remat import REMAT
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.superresolution import FORMS
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.train.gan import sections
from headjax.train.gan.augment_settings import PRESETS
from headjax.train.gan.step import Recipe
from headjax.train.mesh import MeshOptions
from pallas_kernels.dispatch import Implementation

DTYPES = ("float32", "bfloat16")
KINDS = ("eg3d", "panohead")
SOURCES = ("procedural", "folder")
_CHOICES = {
    "generator.kind": KINDS,
    "generator.dtype": DTYPES,
    "generator.remat": REMAT,
    "generator.superresolution.form": ("none", "own", *FORMS),
    "generator.rendering.implementation": get_args(Implementation),
    "discriminator.dtype": DTYPES,
    "discriminator.remat": REMAT,
    "adversarial.augment": PRESETS,
    "data.source": SOURCES,
    "mesh.preset": ("dp", "fsdp", "fsdp_tp"),
}


def recipe(config: ml_collections.FrozenConfigDict) -> Recipe:
    """The adversarial step's numbers."""
    return sections.recipe(config.adversarial)


def generator_config(config: ml_collections.FrozenConfigDict) -> GeneratorConfig:
    """The generator of a config."""
    return sections.generator_config(config.generator)


def discriminator_config(config: ml_collections.FrozenConfigDict) -> DiscriminatorConfig:
    """The discriminator of a config."""
    return sections.discriminator_config(config.discriminator, generator=generator_config(config))


def check(config: ml_collections.FrozenConfigDict) -> None:
    """Refuses settings that cannot work together, before anything runs.

    Raises:
        UserError: naming the field, what it is and what would be right.
    """
    sections.check_choices(config, _CHOICES)
    try:
        generator = generator_config(config)
        discriminator_config(config)
        MeshOptions(**config.mesh)
    except ValueError as error:
        raise UserError(f"the config's networks are impossible: {error}") from error
    if config.data.resolution != generator.resolution:
        raise UserError(
            f"data.resolution is {config.data.resolution}, but the generator draws "
            f"{generator.resolution} x {generator.resolution}; make them equal"
        )
    sections.check_warm_start(config, regression="regression", data="data")
    sizes = ladder(config)
    if sizes != sorted(sizes):
        raise UserError(f"adversarial.neural_resolutions are {sizes}; they must ascend")


def head_views(config: ml_collections.FrozenConfigDict) -> HeadViewsConfig:
    """The embedded heads' data set."""
    return sections.head_views(config.data)


def ladder(config: ml_collections.FrozenConfigDict) -> list[int]:
    """The neural resolutions that the adversarial training goes through, in order."""
    return list(config.adversarial.neural_resolutions) or [config.generator.neural_resolution]
