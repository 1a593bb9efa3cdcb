"""From sections of a config file to the typed settings of a 3D GAN's parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import ml_collections

from headjax.data.config import HeadViewsConfig
from headjax.errors import UserError
from headjax.head.procedural.latent import latent_size
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.superresolution import FORMS, Form
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.render.triplane import TriplaneOptions
from headjax.train.config import field
from headjax.train.gan.regression import LOSSES, PHASES
from headjax.train.gan.step import Recipe


def check_choices(
    config: ml_collections.FrozenConfigDict, choices: Mapping[str, Sequence[str]]
) -> None:
    """Refuses a field that is none of its choices.

    Args:
        config: the whole configuration.
        choices: dotted name of a field -> what it may be.
    Raises:
        UserError: naming the field, what it is and what it may be.
    """
    for name, allowed in choices.items():
        if (value := field(config, name)) not in allowed:
            raise UserError(f"{name} is {value!r}; one of {', '.join(map(str, allowed))}")


def head_views(section: ml_collections.FrozenConfigDict) -> HeadViewsConfig:
    """The embedded heads of a data section, which may say more than they need."""
    own = {part.name for part in dataclasses.fields(HeadViewsConfig)}
    return HeadViewsConfig(**{name: value for name, value in section.items() if name in own})


def recipe(section: ml_collections.FrozenConfigDict) -> Recipe:
    """The adversarial step's numbers; −1 stands for None where None is allowed."""
    values = {part.name: section[part.name] for part in dataclasses.fields(Recipe)}
    for name in ("blur_kimg", "ema_kimg", "ema_ramp"):
        values[name] = None if values[name] < 0 else values[name]
    return Recipe(**values)


def generator_config(section: ml_collections.FrozenConfigDict) -> GeneratorConfig:
    """The generator of a config's section; a crop of −1 stands for none."""
    return GeneratorConfig(
        **{name: section[name] for name in _COPIED},
        rendering=TriplaneOptions(
            **{
                name: None if value == -1.0 and name == "crop" else value
                for name, value in section.rendering.items()
            }
        ),
        superresolution=_form(section.superresolution),
        dtype=jnp.dtype(section.dtype),
    )


_COPIED = (
    "kind", "z_dim", "w_dim", "mapping_layers", "c_scale", "channel_base", "channel_max",
    "plane_resolution", "plane_features", "plane_depth", "decoder_hidden", "neural_resolution",
    "background_resolution", "raw_torgb", "remat",
)  # fmt: skip


def _form(section: ml_collections.FrozenConfigDict) -> Form | None:
    if section.form == "none":
        return None
    if section.form != "own":
        return FORMS[section.form]
    return Form(section.entry, tuple(section.features), tuple(section.up))


def discriminator_config(
    section: ml_collections.FrozenConfigDict, *, generator: GeneratorConfig
) -> DiscriminatorConfig:
    """The discriminator of a config's section, for the images of this generator."""
    return DiscriminatorConfig(
        kind=generator.kind,
        resolution=generator.resolution,
        channel_base=section.channel_base,
        channel_max=section.channel_max,
        mapping_layers=section.mapping_layers,
        group=section.group,
        dtype=jnp.dtype(section.dtype),
        remat=section.remat,
    )


def warm(section: ml_collections.FrozenConfigDict) -> bool:
    """Whether a section `regression` has any steps."""
    return any(section[phase].steps for phase in PHASES)


def check_warm_start(
    config: ml_collections.FrozenConfigDict, *, regression: str, data: str
) -> None:
    """Refuses a warm start whose heads have no latents or longer ones than z, or a wrong stride.

    Args:
        config: the whole configuration; the generator's sizes are in `generator`.
        regression, data: names of its sections.
    Raises:
        UserError: naming the field, what it is and what would be right.
    """
    if not warm(config[regression]):
        return
    if config[data].source != "procedural":
        raise UserError(
            f"{regression} has steps, but {data}.source is {config[data].source!r}, whose heads "
            f"have no latents; set {regression}.surface.steps and {regression}.pictures.steps to 0"
        )
    if config.generator.z_dim < (needed := latent_size()):
        raise UserError(
            f"generator.z_dim is {config.generator.z_dim}, but a person's latent has {needed} "
            f"numbers; make it at least {needed}, or leave the warm start out"
        )
    for phase in PHASES:
        weights = {name for name, weight in config[regression][phase].loss.items() if weight}
        known = LOSSES - (set() if config.generator.kind == "panohead" else {"camera"})
        if not weights or weights - known:
            raise UserError(
                f"{regression}.{phase}.loss weighs {', '.join(sorted(weights)) or 'nothing'}; "
                f"weigh some of {', '.join(sorted(known))}"
            )
    stride, generator = config[regression].stride, generator_config(config.generator)
    if stride < 1 or generator.neural_resolution % stride:
        raise UserError(
            f"{regression}.stride is {stride}; it must divide {generator.neural_resolution}, the "
            "generator's neural resolution"
        )
    if stride > 1 and generator.superresolution is not None:
        raise UserError(
            f"{regression}.stride is {stride}, but super-resolution needs whole pictures; make it 1"
        )
