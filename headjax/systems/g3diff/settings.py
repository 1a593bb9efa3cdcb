"""From the config file to the typed settings of Gaussian3Diff's parts."""

from __future__ import annotations

import math
from typing import get_args

import jax
import jax.numpy as jnp
import ml_collections

from headjax.data.config import HeadViewsConfig
from headjax.errors import UserError
from headjax.metrics.sets import FEATURE_SIZE
from headjax.nets.payload_decoder import PayloadDecoderConfig
from headjax.nets.remat import REMAT
from headjax.render.gaussian_field import FieldOptions, RayOptions
from headjax.train.config import field
from headjax.train.mesh import MeshOptions
from pallas_kernels.dispatch import Implementation
from pallas_kernels.knn_blend.types import MOST_NEIGHBORS

DTYPES = ("float32", "bfloat16")
PERCEPTUAL = ("multiscale_l1", "none")
# The fields that name one of several ways; anything else would be a slip of the pen.
_CHOICES = {
    "field.metric": ("euclidean", "rbf"),
    "field.radii": ("std", "variance"),
    "field.blend": ("normalized", "raw"),
    "field.plane_reduce": ("mean", "sum"),
    "field.implementation": get_args(Implementation),
    "render.evaluation.rule": ("midpoint", "left"),
    "decoder.kind": ("grid", "stylegan2"),
    "decoder.remat": REMAT,
    "decoder.dtype": DTYPES,
    "autodecoder.code_init": ("identity", "random"),
    "autodecoder.sampling.kind": ("surface", "stratified"),
    "autodecoder.schedule.decay": ("cosine", "halve"),
    "diffusion.schedule": ("cosine", "scaled_linear"),
    "diffusion.prediction": ("x0", "epsilon", "v"),
    "diffusion.weighting": ("uniform", "min_snr"),
    "diffusion.standardise": ("none", "mean_std"),
    "diffusion.decay": ("cosine", "constant"),
    "diffusion.sampler": ("ddim", "ddpm"),
    "diffusion.unet.remat": REMAT,
    "diffusion.unet.dtype": DTYPES,
}

_COUNT = (1, math.inf)
_OR_NONE = (0, math.inf)
_POSITIVE = (1e-12, math.inf)
_SHARE = (0, 1)
# Every number that could stop a run halfway, or make it learn nothing, with its bounds.
_RANGES = {
    "seed": (0, 2**31 - 1), "log_every": _COUNT,
    "field.grid": _COUNT, "field.patch": _COUNT, "field.tile": _COUNT,
    "field.extent": _POSITIVE, "field.density_scale": _POSITIVE,
    "render.evaluation.samples": (2, math.inf), "render.evaluation.importance": _OR_NONE,
    "render.evaluation.box": _POSITIVE,
    "decoder.code_dim": _COUNT, "decoder.channels": (3, math.inf), "decoder.width": _COUNT,
    "decoder.blocks": _COUNT, "decoder.channel_base": _COUNT, "decoder.channel_max": _COUNT,
    "decoder.head_scale": _OR_NONE,
    "autodecoder.steps": _COUNT, "autodecoder.batch_identities": _COUNT,
    "autodecoder.accumulate": _COUNT, "diffusion.accumulate": _COUNT,
    "autodecoder.keep_every": _OR_NONE, "diffusion.keep_every": _OR_NONE,
    "autodecoder.tv_smooth": _OR_NONE, "input.threads": _COUNT, "input.prefetch": _COUNT,
    "input.workers": _OR_NONE,
    "autodecoder.patches": _COUNT, "autodecoder.patch_side": _COUNT,
    "autodecoder.checkpoint_every": _COUNT, "autodecoder.z_std": _OR_NONE,
    "autodecoder.code_sigma": _POSITIVE, "autodecoder.radii_per_spacing": _POSITIVE,
    "autodecoder.b1": _SHARE, "autodecoder.b2": _SHARE, "autodecoder.clip_norm": _OR_NONE,
    "autodecoder.warmup.steps": _OR_NONE, "autodecoder.warmup.length": _POSITIVE,
    "autodecoder.sampling.near_samples": _COUNT, "autodecoder.sampling.free_samples": _COUNT,
    "autodecoder.sampling.samples": (2, math.inf), "autodecoder.sampling.half_width": _POSITIVE,
    "autodecoder.schedule.warmup_steps": _OR_NONE, "autodecoder.schedule.final": _SHARE,
    "autodecoder.schedule.decay_steps": _COUNT,
    "diffusion.steps": _COUNT, "diffusion.batch_size": _COUNT, "diffusion.timesteps": (2, math.inf),
    "diffusion.checkpoint_every": _COUNT, "diffusion.data_scale": _POSITIVE,
    "diffusion.geometry_weight": _OR_NONE, "diffusion.payload_weight": _OR_NONE,
    "diffusion.lr": _OR_NONE, "diffusion.warmup_steps": _OR_NONE, "diffusion.final": _SHARE,
    "diffusion.b1": _SHARE, "diffusion.b2": _SHARE, "diffusion.clip_norm": _OR_NONE,
    "diffusion.ema": _SHARE, "diffusion.eta": _SHARE, "diffusion.clip": _POSITIVE,
    "diffusion.unet.base": (2, math.inf), "diffusion.unet.blocks": _COUNT,
    "diffusion.unet.heads": _COUNT, "diffusion.unet.head_channels": _COUNT,
    "diffusion.unet.patch": _COUNT, "diffusion.unet.dropout": (0, 0.99),
    "samples.count": _COUNT, "samples.resolution": _COUNT, "samples.turntable_heads": _COUNT,
    "samples.turntable_frames": _COUNT,
}  # fmt: skip
# Groups whose every field is a number of at least 0.
_WEIGHTS = ("autodecoder.lr", "autodecoder.loss", "autodecoder.part_weights")


def field_options(config: ml_collections.ConfigDict) -> FieldOptions:
    """The field's options; the patch size follows from the decoder's grid."""
    fields = {k: v for k, v in config.field.items() if k != "grid"}
    return FieldOptions(**fields)


def ray_options(section: ml_collections.ConfigDict) -> RayOptions:
    """How a picture is sampled, for one of the config's `render` sections."""
    return RayOptions(**section.to_dict())


def decoder_config(config: ml_collections.ConfigDict) -> PayloadDecoderConfig:
    """Size and kind of the payload decoder."""
    fields = config.decoder.to_dict()
    fields["dtype"] = jnp.dtype(fields["dtype"])
    return PayloadDecoderConfig(grid=config.field.grid, patch=config.field.patch, **fields)


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses settings that cannot work, before anything runs.

    Raises:
      UserError: names the field, its value and what would be right.
    """
    for name, choices in _CHOICES.items():
        if (value := field(config, name)) not in choices:
            raise UserError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
    for name, bounds in _RANGES.items():
        _check_range(name, field(config, name), bounds=bounds)
    for group in _WEIGHTS:
        for name, value in field(config, group).items():
            _check_range(f"{group}.{name}", value, bounds=_OR_NONE)
    HeadViewsConfig(**config.data.to_dict())
    MeshOptions(**config.mesh.to_dict())
    _check_implementation(config)
    _check_autodecoder(config)
    _check_sizes(config)
    _check_diffusion(config.diffusion, config=config)


def counted_config(config: ml_collections.FrozenConfigDict) -> ml_collections.FrozenConfigDict:
    """The config of the same training whose operations are the model's.

    Nothing is computed twice, and no kernel does by matrix products what the model does not.
    """
    plain = ml_collections.ConfigDict(config)
    plain.field.implementation = "reference"
    plain.decoder.remat = plain.diffusion.unet.remat = "none"
    return ml_collections.FrozenConfigDict(plain)


def _check_range(name: str, value, *, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not low <= value <= high or not math.isfinite(value):
        upper = "" if high == math.inf else f" and at most {high}"
        least = "above 0" if bounds == _POSITIVE else f"at least {low}"
        raise UserError(f"{name}={value} must be {least}{upper}")


def _check_implementation(config: ml_collections.ConfigDict) -> None:
    wanted, platform = config.field.implementation, jax.default_backend()
    if wanted in ("tpu", "gpu") and wanted != platform:
        raise UserError(
            f"field.implementation={wanted!r} needs a {wanted}, this machine's platform is "
            f"{platform!r}; choose 'auto', which takes a kernel wherever it can"
        )
    most = MOST_NEIGHBORS
    if wanted not in ("auto", "reference") and config.field.neighbors > most:
        raise UserError(
            f"field.implementation={wanted!r} serves up to {most} neighbours, but "
            f"field.neighbors={config.field.neighbors}; choose 'auto'"
        )


def _check_autodecoder(config: ml_collections.ConfigDict) -> None:
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
    _check_accumulation("autodecoder", train.accumulate, of=("batch_identities", train))
    low, high = (*train.radii_range, -1.0, -1.0)[:2]
    if len(train.radii_range) != 2 or not 0 < low <= high:
        raise UserError(
            f"autodecoder.radii_range={tuple(train.radii_range)} must be two numbers, 0 < least <= "
            "largest, in world units"
        )
    if train.patch_side > config.data.resolution:
        raise UserError(
            f"autodecoder.patch_side={train.patch_side} is larger than the "
            f"{config.data.resolution}-pixel views; lower it"
        )


def _check_accumulation(stage: str, parts: int, *, of: tuple[str, ml_collections.ConfigDict]):
    name, section = of
    if section[name] % parts:
        raise UserError(
            f"{stage}.accumulate={parts} must divide {stage}.{name}={section[name]}: a batch is "
            "taken in parts of equal size"
        )


def _check_sizes(config: ml_collections.ConfigDict) -> None:
    grid, side = config.field.grid, config.field.grid * config.field.patch
    if config.data.uv_size != grid:
        raise UserError(
            f"data.uv_size={config.data.uv_size} must equal field.grid={grid}: "
            "the Gaussians start from the position map"
        )
    if not 1 <= config.field.neighbors <= grid**2:
        raise UserError(
            f"field.neighbors={config.field.neighbors} must lie between 1 and the number of "
            f"Gaussians, {grid**2}"
        )
    if config.decoder.channels % 3:
        raise UserError(
            f"decoder.channels={config.decoder.channels} must be a multiple of 3, for three planes"
        )
    if config.decoder.kind == "stylegan2" and (side < 4 or side & (side - 1)):
        raise UserError(
            f"field.grid x field.patch is {side}; decoder.kind='stylegan2' needs a power of two, "
            "at least 4"
        )
    for name, least in (("train_identities", 2), ("val_identities", 1), ("val_views", 2)):
        if config.data[name] < least:
            raise UserError(
                f"data.{name}={config.data[name]} leaves nothing to score; at least {least}"
            )
    for name in ("data.resolution", "samples.resolution"):
        if field(config, name) % FEATURE_SIZE:
            raise UserError(
                f"{name}={field(config, name)} must be a multiple of {FEATURE_SIZE}: samples are "
                "compared with the data at that size"
            )


def _check_diffusion(section, *, config: ml_collections.ConfigDict) -> None:
    side = config.field.grid * config.field.patch
    multipliers = section.unet.multipliers
    if not multipliers or not all(isinstance(m, int) and m > 0 for m in multipliers):
        raise UserError(
            f"diffusion.unet.multipliers={tuple(multipliers)} must be whole numbers from 1 on, one "
            "for each level"
        )
    if section.unet.base % 2:
        raise UserError(f"diffusion.unet.base={section.unet.base} must be even")
    factor = section.unet.patch * 2 ** (len(multipliers) - 1)
    if side % factor:
        raise UserError(
            f"UV maps are {side} texels wide (field.grid x field.patch), which the U-Net cannot "
            f"halve often enough: diffusion.unet.patch and multipliers need a multiple of {factor}"
        )
    if section.batch_size > config.data.train_identities:
        raise UserError(
            f"diffusion.batch_size={section.batch_size} is more than "
            f"data.train_identities={config.data.train_identities}; lower it"
        )
    _check_accumulation("diffusion", section.accumulate, of=("batch_size", section))
    if not 1 <= section.sample_steps <= section.timesteps:
        raise UserError(
            f"diffusion.sample_steps={section.sample_steps} must lie between 1 and "
            f"diffusion.timesteps={section.timesteps}"
        )
