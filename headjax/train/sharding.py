"""Where the arrays of a training run live: one mesh over all devices, batches split along it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from headjax.errors import UserError

DATA = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one Auto axis, `data`, over `devices` (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves this process' part of a batch to the devices, split along its leading axis.

    Raises:
        UserError: a leading axis that the devices of this process do not divide.
    """
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    local = len(mesh.local_devices)

    def put(array):
        array = np.asarray(array)
        if array.ndim == 0 or array.shape[0] % local:
            raise UserError(
                f"a batch of shape {array.shape} cannot be split over {local} devices; "
                f"make its size a multiple of {local}"
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(put, batch)
