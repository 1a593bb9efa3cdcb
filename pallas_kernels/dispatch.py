"""Which form of an operation runs: the kernel of the platform, or the reference, and why.

An operation has up to three forms: a reference in plain JAX, a TPU kernel and a GPU kernel. The
choice falls when the program is lowered, so that a program traced on a laptop can be compiled for
a pod; what speaks against a kernel for the given shapes is known when it is traced. Put a
`jax.custom_vjp` outside: a choice of platforms has no gradient of its own.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import gpu_memory

Implementation = Literal["auto", "reference", "tpu", "gpu", "tpu_interpret", "gpu_interpret"]

# Triton, the only Pallas backend for GPUs that can address memory by computed indices, lowers for
# Ampere and newer.
_OLDEST_GPU = 8.0

logger = logging.getLogger("pallas_kernels")


def check_implementation(name: str) -> None:
    """Raises ValueError where `name` is none of `Implementation`."""
    if name not in get_args(Implementation):
        raise ValueError(
            f"implementation={name!r} is unknown; one of {', '.join(get_args(Implementation))}"
        )


def tpu_interpreter() -> pltpu.InterpretParams:
    """The TPU interpreter with every check on: races, memory never written, reads out of bounds."""
    return pltpu.InterpretParams(
        detect_races=True,
        uninitialized_memory="nan",
        out_of_bounds_reads="raise",
        dma_execution_mode="on_wait",
    )


@functools.cache
def _log_once(operation: str, form: str, reason: str) -> None:
    logger.info("%s: %s%s", operation, form, f", because {reason}" if reason else "")


def _device_reason() -> str | None:
    """What speaks against a kernel on this machine's own accelerator, if it has one."""
    if jax.default_backend() != "gpu":
        return None
    capability = str(getattr(jax.devices()[0], "compute_capability", "unknown"))
    # An AMD GPU's is a name.
    if not capability.replace(".", "", 1).isdigit() or float(capability) < _OLDEST_GPU:
        return f"the GPU has compute capability {capability}, its kernel needs {_OLDEST_GPU}"
    return None


def _log_auto(operation: str, kernels: Mapping[str, Any], reasons: Mapping[str, str | None]):
    platform = jax.default_backend()
    if platform in kernels and reasons.get(platform) is None:
        _log_once(operation, f"{platform} kernel", "")
    else:
        missing = f"there is no kernel for {platform}"
        _log_once(operation, "reference", reasons.get(platform) or missing)


def _named(operation, name, kernels, reasons):
    """The kernel that a caller asked for by name."""
    platform, _, interpret = name.partition("_")
    if platform not in kernels:
        raise ValueError(f"{operation} has no {platform} kernel; use implementation='reference'")
    if reasons.get(platform) is not None:
        raise ValueError(
            f"{operation}: the {platform} kernel cannot be used because {reasons[platform]}; "
            "use implementation='auto' or 'reference'"
        )
    _log_once(operation, f"{name} kernel", "asked for by name")
    return functools.partial(kernels[platform], interpret=bool(interpret))


def run(
    operation: str,
    arguments: tuple,
    *,
    implementation: Implementation,
    reference: Callable,
    kernels: Mapping[str, Callable],
    reasons: Mapping[str, str | None],
) -> Any:
    """Calls one form of an operation on `arguments`.

    Args:
      operation: its name, for the log.
      arguments: arrays, or trees of them.
      implementation: 'auto' takes the platform's kernel where nothing speaks against it; a
        kernel's name takes that one or fails with the reason; '…_interpret' runs it on a CPU.
      reference: called as `reference(*arguments)`.
      kernels: by platform ('tpu', 'gpu'), called as `kernel(*arguments, interpret=bool)`; their
        results have the reference's shapes and dtypes.
      reasons: by platform, what speaks against its kernel for these shapes; None is nothing.

    Raises:
      ValueError: a kernel asked for by name that does not exist or cannot serve these shapes.
    """
    check_implementation(implementation)
    if implementation == "reference":
        _log_once(operation, "reference", "asked for by name")
        return reference(*arguments)
    if gpu_memory.triton is None:
        reasons = {**reasons, "gpu": "this JAX comes without Triton"}
    if implementation != "auto":
        return _named(operation, implementation, kernels, reasons)(*arguments)
    reasons = {**reasons, "gpu": reasons.get("gpu") or _device_reason()}
    _log_auto(operation, kernels, reasons)
    usable = {
        {"gpu": "cuda"}.get(platform, platform): functools.partial(kernel, interpret=False)
        for platform, kernel in kernels.items()
        if reasons.get(platform) is None
    }
    if not usable:
        return reference(*arguments)
    return jax.lax.platform_dependent(*arguments, default=reference, **usable)


def like(array: jax.Array, shape: tuple[int, ...], dtype=None) -> jax.ShapeDtypeStruct:
    """A kernel's output: its shape, and the mesh axes over which `array` varies (`shard_map`)."""
    return jax.ShapeDtypeStruct(
        shape, dtype or array.dtype, manual_axis_type=jax.typeof(array).manual_axis_type
    )


def varying_alike(tree: Any) -> Any:
    """Arrays that all vary over the same mesh axes, those over which any of them does.

    Inside `jax.shard_map` a kernel's operands must; the transpose sums the gradients of those
    that were alike on all devices.
    """
    leaves, structure = jax.tree.flatten(tree)
    axes = [jax.typeof(leaf).manual_axis_type.varying for leaf in leaves]
    every = frozenset().union(*axes)
    moved = [
        jax.lax.pcast(leaf, tuple(sorted(every - own)), to="varying") if every - own else leaf
        for leaf, own in zip(leaves, axes, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def quiet_triton() -> None:
    """Silences the one warning that is expected: that Pallas' Triton backend will go.

    Call it where a Triton kernel is traced. JAX (from 0.11) warns when it lowers, which may be long
    after the traced call returned, so the filter is set and stays.
    """
    warnings.filterwarnings(
        "ignore", message="The Pallas Triton backend is deprecated", category=DeprecationWarning
    )
