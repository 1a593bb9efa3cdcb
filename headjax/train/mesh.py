"""The mesh: how the devices of a run are laid out along the axes `data`, `fsdp` and `model`.

`data` and `fsdp` split the batch; devices along `fsdp` also share one copy of the state, and those
along `model` share the work of a layer. A preset is only a way to lay the devices out: along an
axis of size 1 every sharding rule leaves arrays whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from headjax.errors import UserError

DATA, FSDP, MODEL = AXES = ("data", "fsdp", "model")
PRESETS = ("dp", "fsdp", "fsdp_tp")


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How the devices are laid out; the fields of `config.mesh`.

    Attributes:
      preset: 'dp' copies the state to every device; 'fsdp' shares it out; 'fsdp_tp' also splits
        layers along `model`.
      fsdp: at most so many devices share one copy of the state, the rest repeats them along
        `data`; 0 for all of a slice. 'dp' has 1.
      model: at most so many devices split a layer; 0 for 2. 'fsdp_tp' only.
      slices: groups of devices with fast links among them (TPU slices); only `data` crosses them.
    """

    preset: str = "dp"
    fsdp: int = 0
    model: int = 0
    slices: int = 1

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise UserError(f"mesh.preset={self.preset!r} is none of {', '.join(PRESETS)}")
        if self.fsdp < 0 or self.model < 0 or self.slices < 1:
            raise UserError(
                f"mesh.fsdp={self.fsdp}, mesh.model={self.model} must be at least 0 and "
                f"mesh.slices={self.slices} at least 1"
            )


def mesh_shape(options: MeshOptions, count: int) -> tuple[int, int, int]:
    """Sizes of (data, fsdp, model) for `count` devices; each limit is taken down to a divisor.

    Raises:
      UserError: the slices do not divide the devices.
    """
    if count % options.slices:
        raise UserError(f"mesh.slices={options.slices} does not divide the {count} devices")
    left = count // options.slices
    model = _divisor(left, options.model or 2) if options.preset == "fsdp_tp" else 1
    left //= model
    fsdp = 1 if options.preset == "dp" else _divisor(left, options.fsdp or left)
    return count // (fsdp * model), fsdp, model


def make_mesh(options: MeshOptions = MeshOptions(), devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (all by default): neighbours in a slice along fsdp and model."""
    devices = jax.devices() if devices is None else devices
    data, fsdp, model = mesh_shape(options, len(devices))
    known = {getattr(device, "slice_index", None) for device in devices}
    try:
        if options.slices == 1:
            placed = mesh_utils.create_device_mesh(
                (data, fsdp, model), devices, allow_split_physical_axes=True
            )
        else:
            placed = mesh_utils.create_hybrid_device_mesh(
                (data // options.slices, fsdp, model),
                (options.slices, 1, 1),
                devices,
                process_is_granule=len(known) != options.slices,
                allow_split_physical_axes=True,
            )
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"mesh.slices={options.slices} is not how these devices are grouped ({error})"
        ) from error
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def abstract_mesh(options: MeshOptions, count: int) -> AbstractMesh:
    """The mesh of so many devices that are not there, for lowering and for `specs`."""
    return AbstractMesh(mesh_shape(options, count), AXES, axis_types=(AxisType.Auto,) * 3)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)
