"""Machines that are not there: TPU topologies by libtpu's compiler, GPUs by simulated devices."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from headjax.errors import UserError
from headjax.train.chips import CHIPS, Chip, chip_named

# Cards that share fast links; what joins two such groups is in no maker's table.
GPUS_OF_A_HOST = 8
_LIBTPU_NAMES = {"v7x": "tpu7x"}
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # ask no cloud which machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the compiler alone locks no chip
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of a kind.

    Attributes:
        name: as given, "v5e:4x4" or "h100:8".
        chip: the chip's published figures.
        shape: chips along each axis of the torus; (count,) for GPUs.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def of_libtpu(self) -> str:
        """Its name in libtpu's own words."""
        sizes = "x".join(str(size) for size in self.shape)
        return f"{_LIBTPU_NAMES.get(self.chip.name, self.chip.name)}:{sizes}"

    @property
    def is_tpu(self) -> bool:
        return self.chip.platform == "tpu"


def parse(name: str) -> Topology:
    """The topology of a name such as v5e:4x4, v5p:2x2x4 or h100:8.

    Raises:
        UserError: the name has another form, no such chip is known, or it has another number of
          axes.
    """
    found = re.fullmatch(r"([\w-]+):(\d+(?:x\d+)*)", name.strip().lower())
    if found is None:
        raise UserError(
            f"--topology={name!r} must be a chip and its numbers, as v5e:4x4, v5p:2x2x4 or h100:8"
        )
    try:
        chip = chip_named(found[1])
    except ValueError as error:
        raise UserError(
            f"--topology={name}: the chip {found[1]!r} is unknown; choose one of {', '.join(CHIPS)}"
        ) from error
    shape = tuple(int(size) for size in found[2].split("x"))
    axes = chip.torus or 1
    if len(shape) != axes or 0 in shape:
        example = f"{found[1]}:{'x'.join(['4'] * axes) if axes > 1 else 8}"
        raise UserError(
            f"--topology={name}: {chip.name} has {axes} ax{'e' if axes > 1 else 'i'}s of chips, "
            f"each at least 1; for example {example}"
        )
    return Topology(name.strip().lower(), chip, shape)


def tpu_devices(topology: Topology) -> Sequence[Any]:
    """The devices of a TPU topology, which programs can be compiled for.

    Raises:
        UserError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"planning for {topology.name} needs libtpu, the TPU compiler (no TPU is needed): "
            "pip install 'headjax[tpu]'"
        )
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        with _silent_loading():
            return topologies.get_topology_desc(topology.of_libtpu, platform="tpu").devices
    except Exception as error:  # libtpu's own errors have no class of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--topology={topology.name}: libtpu knows no such slice ({reason}); "
            "v5e and v6e have 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16, v4 and v5p multiples of "
            "2x2x1 such as 2x2x2, 4x4x4"
        ) from error


@contextlib.contextmanager
def _silent_loading() -> Iterator[None]:
    """libtpu complains on standard error, past Python, of a machine without TPUs."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def simulated_devices(topology: Topology) -> Sequence[Any]:
    """As many CPU devices as the topology has cards.

    Raises:
        UserError: this process has fewer; JAX makes them when it starts.
    """
    found = jax.devices("cpu")
    if len(found) < topology.chips:
        raise UserError(
            f"{topology.name} needs {topology.chips} simulated devices, this process has "
            f"{len(found)}; start it with XLA_FLAGS={device_flag(topology.chips)}"
        )
    return found[: topology.chips]


def device_flag(count: int) -> str:
    """The XLA flag that makes so many CPU devices."""
    return f"--xla_force_host_platform_device_count={count}"


def link_bandwidth(topology: Topology, devices: np.ndarray) -> float | None:
    """Bytes/s that the worst placed device of a group can send to the others; None: unknown.

    In a torus: one way over the links along every axis that the group spans, two where the axis
    closes to a ring within it, else one, which is what its corner has. GPUs of one host: all their
    links. Beyond a host no published figure of a card says anything.

    Args:
        topology: what the devices belong to.
        devices: those of one group, any shape.
    """
    chip = topology.chip
    if not topology.is_tpu:
        return chip.ici_bandwidth if topology.chips <= GPUS_OF_A_HOST else None
    places = np.array([device.coords for device in devices.flat])
    links, wraps_at = 0, chip.wraps_at
    if chip.torus == 3 and any(length % (wraps_at or 1) for length in topology.shape):
        wraps_at = 0  # optical links close slices of whole cubes only
    for axis, length in enumerate(topology.shape):
        spanned = len(set(places[:, axis]))
        closed = spanned == length and wraps_at and length % wraps_at == 0
        links += 0 if spanned == 1 else 2 if closed else 1
    return max(links, 1) * chip.link_bandwidth
