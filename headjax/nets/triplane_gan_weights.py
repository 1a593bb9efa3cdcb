"""Weights files of EG3D's and PanoHead's networks: configurations and variables, and back.

A converted file says how its network was built by the public names of the arguments; a network
that headjax trained says it by the fields of its configuration, under the key `headjax`.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headjax.errors import UserError
from headjax.io.network_names import OPTIONAL
from headjax.io.weight_files import Weights, read_weights, write_weights
from headjax.nets.stylegan2 import state_dict_from_variables, variables_from_state_dict
from headjax.nets.stylegan2_discriminator import Discriminator, DiscriminatorConfig
from headjax.nets.superresolution import FORMS, Form
from headjax.nets.triplane_gan import Generator, GeneratorConfig
from headjax.render.triplane import TriplaneOptions

Config = GeneratorConfig | DiscriminatorConfig
Variables = Mapping[str, Any]
# The key under which our own configurations stand in a file's architecture.
OWN = "headjax"
# Half precision, on which the public code clamps activations; files run in float32 with the clamp.
HALF_CLAMP = 256.0
_COLORS = {"sigmoid": "sigmoid", "none": "none", "lrelu": "leaky_relu"}
_MODULE = "SuperresolutionHybrid"


def load(path: str | os.PathLike) -> tuple[Config, Variables]:
    """The network of a weights file: its configuration and its variables, float32.

    Raises:
        UserError: the file is no weights file, its architecture is not known here, or names and
            shapes of its tensors are not those of its architecture.
    """
    weights = read_weights(path)
    try:
        config = config_of(weights)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its architecture is not known here: {error}") from error
    state = {
        name: value.astype(np.float32)
        for name, value in weights.tensors.items()
        if name not in OPTIONAL
    }
    variables = variables_from_state_dict(state)
    _check(path, variables, shapes(config))
    return config, {name: tree for name, tree in variables.items() if tree}


def save(
    path: str | os.PathLike, variables: Variables, *, config: Config, which: str = "G_ema"
) -> None:
    """Writes a network that `load` reads again; names and shapes are the public ones.

    Args:
        path: a .safetensors file; one that is there is replaced.
        variables: {"params", "buffers"} of the network.
        config: what the network is.
        which: "G_ema", "G" or "D".
    """
    fields = dataclasses.asdict(config)
    fields["dtype"] = jnp.dtype(config.dtype).name
    tensors = state_dict_from_variables(variables)
    write_weights(path, Weights(config.kind, which, {OWN: fields}, tensors))


def shapes(config: Config) -> Variables:
    """Shapes of a network's variables."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    key = jax.eval_shape(lambda: jax.random.key(0))
    if isinstance(config, DiscriminatorConfig):
        size = config.resolution
        images = {
            "image": array(size, size, 3), "image_raw": array(8, 8, 3), "mask": array(8, 8, 1)
        }  # fmt: skip
        return jax.eval_shape(Discriminator(config).init, key, images, array(config.c_dim))
    init = functools.partial(Generator(config).init, neural_resolution=8)
    return jax.eval_shape(init, key, array(config.z_dim), array(25))


def config_of(weights: Weights) -> Config:
    """The configuration that a weights file's architecture stands for.

    Raises:
        ValueError, KeyError, TypeError: it asks for what is not known here.
    """
    fields = weights.architecture
    if OWN in fields:
        return _own(fields[OWN], which=weights.which)
    make = _discriminator if weights.which == "D" else _generator
    return make(weights.kind, fields)


def _own(fields: Mapping[str, Any], *, which: str) -> Config:
    fields = dict(fields) | {"dtype": jnp.dtype(fields["dtype"])}
    if which == "D":
        return DiscriminatorConfig(**fields)
    rendering, form = TriplaneOptions(**fields["rendering"]), fields["superresolution"]
    if form is not None:
        form = Form(form["entry"], tuple(form["features"]), tuple(form["up"]))
    return GeneratorConfig(**fields | {"rendering": rendering, "superresolution": form})


def _generator(kind: str, fields: Mapping[str, Any]) -> GeneratorConfig:
    rendering = fields.get("rendering_kwargs") or {}
    is_grid = kind == "panohead"
    name = str(rendering["superresolution_module"]).rpartition(".")[2]
    form = name.removeprefix(_MODULE).lower()
    if form not in FORMS:
        raise ValueError(f"the super-resolution {name!r} is none of {', '.join(FORMS)}")
    has_background = is_grid and bool(rendering.get("use_background"))
    return GeneratorConfig(
        kind=kind,
        z_dim=fields["z_dim"],
        c_dim=fields["c_dim"],
        w_dim=fields["w_dim"],
        mapping_layers=_layers(fields),
        c_scale=0.0 if rendering.get("c_gen_conditioning_zero") else rendering.get("c_scale", 1.0),
        channel_base=fields.get("channel_base", 32768),
        channel_max=fields.get("channel_max", 512),
        plane_resolution=rendering.get("triplane_size", 256) if is_grid else 256,
        plane_depth=rendering.get("triplane_depth", 1) if is_grid else 0,
        decoder_lr_multiplier=rendering.get("decoder_lr_mul", 1.0),
        rendering=_rendering(kind, rendering),
        neural_resolution=fields.get("neural_rendering_resolution", 64),
        superresolution=FORMS[form],
        sr_antialias=bool(rendering.get("sr_antialias", True)),
        sr_noise=rendering.get("superresolution_noise_mode", "none"),
        background_resolution=FORMS[form].entry if has_background else 0,
        raw_torgb=is_grid and bool(rendering.get("use_torgb_raw")),
        clamp=fields.get("conv_clamp"),
        sr_clamp=HALF_CLAMP if fields.get("sr_num_fp16_res", 0) else None,
    )


def _rendering(kind: str, rendering: Mapping[str, Any]) -> TriplaneOptions:
    near, far = rendering["ray_start"], rendering["ray_end"]
    if isinstance(near, str) or isinstance(far, str):
        raise ValueError(f"rays from {near!r} to {far!r}; two distances were expected")
    if rendering.get("disparity_space_sampling"):
        raise ValueError("samples evenly spaced in disparity; only distances are known")
    color = rendering.get("decoder_activation", "sigmoid")
    if color not in _COLORS:
        raise ValueError(f"decoder_activation={color!r}; one of {', '.join(_COLORS)} was expected")
    is_grid = kind == "panohead"
    return TriplaneOptions(
        axes="panohead" if is_grid else "eg3d",
        box=float(rendering["box_warp"]),
        near=float(near),
        far=float(far),
        samples=rendering["depth_resolution"],
        importance=rendering["depth_resolution_importance"],
        color=_COLORS[color],
        crop=float(rendering.get("triplane_crop", 0.1)) if is_grid else None,
        white_back=bool(rendering.get("white_back", False)),
    )


def _discriminator(kind: str, fields: Mapping[str, Any]) -> DiscriminatorConfig:
    epilogue = fields.get("epilogue_kwargs") or {}
    return DiscriminatorConfig(
        kind=kind,
        resolution=fields["img_resolution"],
        c_dim=fields["c_dim"],
        channel_base=fields.get("channel_base", 32768),
        channel_max=fields.get("channel_max", 512),
        mapping_layers=_layers(fields),
        group=epilogue.get("mbstd_group_size", 4) or 0,
        std_channels=epilogue.get("mbstd_num_channels", 1),
        clamp=fields.get("conv_clamp"),
    )


def _layers(fields: Mapping[str, Any]) -> int:
    return (fields.get("mapping_kwargs") or {}).get("num_layers", 8)


def _check(path: str | os.PathLike, variables: Variables, expected: Variables) -> None:
    """Names and shapes, before anything is computed from them."""

    def listed(tree: Variables) -> dict[str, tuple[int, ...]]:
        return {
            jax.tree_util.keystr(key, simple=True, separator="."): tuple(leaf.shape)
            for group in tree.values()
            for key, leaf in jax.tree_util.tree_leaves_with_path(group)
        }

    have, want = listed(variables), listed(expected)
    for name in want:
        if name not in have:
            raise UserError(f"{path} lacks {name}, which its architecture has; convert it again.")
        if have[name] != want[name]:
            raise UserError(
                f"{path}: {name} has the shape {have[name]} where its architecture has "
                f"{want[name]} (in our layout); convert it again."
            )
    if extra := [name for name in have if name not in want]:
        raise UserError(f"{path} has {extra[0]}, which its architecture has not; convert it again.")
