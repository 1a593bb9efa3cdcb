"""A GPU to lower and to compile for, where there is none."""

import functools

import jax
import pytest
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    SingleDeviceSharding,
    use_abstract_mesh,
)

KERNEL = "__gpu$xla.gpu.triton"
# On a machine with a GPU: JAX_PLATFORMS=cuda pytest -m gpu tests/pallas_kernels
FORMS = ("gpu_interpret", pytest.param("gpu", marks=pytest.mark.gpu))
# From jax 0.11 Triton lowers for a device that is named, be it there or not.
_DEVICE = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
# What XLA asks of a device's description (its specs for the H100, with the H200's memory).
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: 4800000000000
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  device_memory_size: 149636579328
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H200"
"""


def need_device(form: str) -> None:
    """Skips a test of the kernels themselves where there is no GPU."""
    if form == "gpu" and jax.default_backend() != "gpu":
        pytest.skip("there is no GPU (JAX_PLATFORMS=cuda where there is one)")


def mesh_of(count: int) -> AbstractMesh:
    """H200s along an axis x."""
    return AbstractMesh((count,), ("x",), axis_types=(AxisType.Auto,), abstract_device=_DEVICE)


def lower(function, *arguments, devices: int = 1):
    """A function lowered for H200s from a machine without one."""
    with use_abstract_mesh(mesh_of(devices)):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))


def kernels_in(function, *arguments, devices: int = 1) -> int:
    """How many kernels the lowered function calls."""
    return lower(function, *arguments, devices=devices).as_text().count(KERNEL)


@functools.cache
def h200() -> SingleDeviceSharding:
    """A described H200, for arrays of programs to compile; a skip without the CUDA plugin."""
    from jax.experimental import topologies

    for version in (13, 12):
        try:
            __import__(f"jax_plugins.xla_cuda{version}")
        except ImportError:
            continue
        names = {"target_config": _TARGET, "topology": "1x1x1"}
        topology = topologies.get_topology_desc("h200", platform="cuda", **names)
        return SingleDeviceSharding(topology.devices[0])
    pytest.skip("XLA's CUDA compiler comes with the extra 'cuda'")
