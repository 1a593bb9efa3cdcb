"""The training stages of Gaussian3Diff as a plan sees them: shapes, no data."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array

from headjax.systems.g3diff import autodecoder, diffusion, settings
from headjax.train import rows
from headjax.train.state import TrainState, new_state
from headjax.train.workload import Workload


def workloads(config: ml_collections.FrozenConfigDict) -> list[Workload]:
    """The auto-decoder's and the diffusion's training, as this config sets them."""
    settings.check(config)
    return [autodecoder_workload(config), diffusion_workload(config)]


def autodecoder_workload(config: ml_collections.FrozenConfigDict) -> Workload:
    """Fitting all heads by rendering; an example is a ray."""
    train = config.autodecoder
    rays = train.patches * train.patch_side**2
    return Workload(
        name="autodecoder",
        init=functools.partial(_autodecoder_state, config=config),
        step=autodecoder.AutoDecoderStep(config, warm=False),
        batch=view_shapes(config, batch=train.batch_identities),
        batch_size=train.batch_identities,
        examples=train.batch_identities * rays,
        unit="ray",
        steps=train.steps,
        rules=autodecoder.RULES,
        notes=_notes(train, config.decoder)
        | {
            "batch": f"{train.batch_identities} views of {rays} rays",
            "kernels": config.field.implementation,
        },
        fields={"batch": "autodecoder.batch_identities"}
        | ({"remat": "decoder.remat"} if "remat" in config.decoder else {}),
    )


def diffusion_workload(config: ml_collections.FrozenConfigDict) -> Workload:
    """Training the U-Net on UV states; an example is one state."""
    section = config.diffusion
    side, channels = diffusion.state_side(config), diffusion.unet_config(config).channels
    standard = diffusion.Standard(
        mean=jnp.zeros((side, side, channels)), scale=jnp.ones((channels,))
    )
    step = diffusion.DiffusionStep(config, standard)
    state = jax.ShapeDtypeStruct((section.batch_size, side, side, channels), jnp.float32)
    return Workload(
        name="diffusion",
        init=step.init,
        step=step,
        batch={"state": state},
        batch_size=section.batch_size,
        examples=section.batch_size,
        unit="image",
        steps=section.steps,
        notes=_notes(section, section.unet)
        | {"batch": f"{section.batch_size} states of {side} x {side} x {channels}"},
        fields={"batch": "diffusion.batch_size", "remat": "diffusion.unet.remat"},
    )


def view_shapes(config: ml_collections.FrozenConfigDict, *, batch: int) -> dict[str, Any]:
    """A batch of views as the data set gives them: shapes and dtypes."""
    side, grid = config.data.resolution, config.field.grid

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((batch, *shape), dtype)

    return {
        "image": array(side, side, 3, dtype=jnp.uint8),
        "depth": array(side, side, 1),
        "mask": array(side, side, 1, dtype=jnp.uint8),
        "parts": array(side, side, 1, dtype=jnp.uint8),
        "camera": array(25),
        "identity": array(dtype=jnp.int32),
        "uv_positions": array(grid, grid, 3),
        "uv_valid": array(grid, grid, dtype=jnp.bool),
    }


def _autodecoder_state(key: Array, *, config: ml_collections.FrozenConfigDict) -> TrainState:
    """A state of the right form; the tables' first values come from data, their shapes do not."""
    count, grid = config.data.train_identities, config.field.grid
    maps = jnp.zeros((count, grid, grid, 3))
    tables = {"z": jnp.zeros((count, config.decoder.code_dim))} | dict.fromkeys(
        ("centers", "rpy", "radii"), maps
    )
    shared = autodecoder.init_shared(key, config=config)
    optimizer = autodecoder.shared_optimizer(config, steps=config.autodecoder.steps)
    return new_state(
        {"shared": shared, "tables": tables},
        {"shared": optimizer.init(shared), "rows": rows.init_rows(tables)},
    )


def _notes(section: Any, network: Any) -> dict[str, Any]:
    """Settings that decide what fits."""
    return {
        "dtype": str(network.get("dtype", "float32")),
        "remat": str(network.get("remat", "none")),
        "accumulate": int(section.get("accumulate", 1)),
    }
