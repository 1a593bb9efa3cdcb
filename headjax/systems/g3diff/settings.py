"""From the config file to the typed settings of Gaussian3Diff's parts."""

from __future__ import annotations

import ml_collections

from headjax.errors import UserError
from headjax.nets.payload_decoder import PayloadDecoderConfig
from headjax.render.gaussian_field import FieldOptions, RayOptions

PERCEPTUAL = ("multiscale_l1", "none")


def field_options(config: ml_collections.ConfigDict) -> FieldOptions:
    """The field's options; the patch size follows from the decoder's grid."""
    fields = {k: v for k, v in config.field.items() if k != "grid"}
    return FieldOptions(**fields)


def ray_options(section: ml_collections.ConfigDict) -> RayOptions:
    """How a picture is sampled, for one of the config's `render` sections."""
    return RayOptions(**section.to_dict())


def decoder_config(config: ml_collections.ConfigDict) -> PayloadDecoderConfig:
    """Size and kind of the payload decoder."""
    return PayloadDecoderConfig(
        grid=config.field.grid, patch=config.field.patch, **config.decoder.to_dict()
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses settings that cannot work, before anything runs.

    Raises:
      UserError: names the field, its value and what would be right.
    """
    train = config.autodecoder
    if train.perceptual not in PERCEPTUAL:
        raise UserError(
            f"autodecoder.perceptual={train.perceptual!r} needs network weights that are not "
            f"there; choose one of {', '.join(PERCEPTUAL)}"
        )
    if train.batch_identities > config.data.train_identities:
        raise UserError(
            f"autodecoder.batch_identities={train.batch_identities} is more than "
            f"data.train_identities={config.data.train_identities}; lower it"
        )
    if config.data.uv_size != config.field.grid:
        raise UserError(
            f"data.uv_size={config.data.uv_size} must equal field.grid={config.field.grid}: "
            "the Gaussians start from the position map"
        )
    if train.patch_side > config.data.resolution:
        raise UserError(
            f"autodecoder.patch_side={train.patch_side} is larger than the "
            f"{config.data.resolution}-pixel views; lower it"
        )
