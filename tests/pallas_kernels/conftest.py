"""Set-up shared by the kernels' tests: TPU chips to compile for, where there is none."""

import functools
import os

import jax
import numpy as np
import pytest

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")


@pytest.fixture(scope="session")
def tpu_sharding():
    """`tpu_sharding(topology)`: arrays whole on one chip of it; a skip without the compiler."""
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, comes with the extra 'tpu'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    @functools.cache
    def sharding(topology: str) -> jax.sharding.NamedSharding:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
        mesh = jax.sharding.Mesh(np.array(devices[:1]), ("chip",))
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    return sharding
