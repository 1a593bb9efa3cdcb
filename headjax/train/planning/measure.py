"""Compiles a workload for a topology and reads off what a step takes, per chip.

For TPUs the program is the very one that would run there, made by libtpu's compiler. For GPUs it is
compiled for as many simulated CPU devices: its collectives and its state are a GPU run's, its
temporaries and its traffic are only like them (`estimate` is set).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from headjax.errors import UserError
from headjax.train import flops, workload
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.planning import cache, collectives, counts, hlo, kernels, roofline, topology
from headjax.train.workload import Workload

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan(
    stage: Workload,
    where: topology.Topology,
    *,
    options: MeshOptions,
    say: Callable[[str], None] = lambda line: None,
    folder: Any = None,
) -> dict[str, Any]:
    """What a step of `stage` takes on each chip of `where`.

    Args:
        stage: what is trained.
        where: on what.
        options: how the devices are laid out.
        say: is told what is being done.
        folder: a cache of plans; None for none.

    Returns:
        a JSON object: see `docs/pods.md` for its parts.

    Raises:
        UserError: the topology cannot be compiled for here.
    """
    devices = topology.tpu_devices(where) if where.is_tpu else topology.simulated_devices(where)
    mesh = make_mesh(options, devices)
    say(f"{stage.name}: tracing the step for {where.name}")
    program = workload.traced(stage, mesh)
    lowered = workload.lowered(program, mesh)
    key = cache.key(lowered.as_text(), topology=where.name)
    made = cache.load(folder, key) if folder is not None else None
    if made is None:
        say(f"{stage.name}: compiling for {where.name}; a large step may take about 12 minutes")
        made = _compiled(lowered, mesh)
        if folder is not None:
            cache.save(folder, key, made)
    else:
        say(f"{stage.name}: {where.name} was compiled before ({key}.json)")
    return finished(made, stage, where, program, mesh)


def _compiled(lowered: Any, mesh: Any) -> dict[str, Any]:
    """What only the compiler knows; this is what is cached."""
    began = time.monotonic()
    result: dict[str, Any] = {"schema": cache.SCHEMA, "versions": cache.versions()}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (used := bytes_refused(str(error))) is None:
            raise
        return result | {"refused_bytes": used, "compile_seconds": time.monotonic() - began}
    module = hlo.parse(_text(compiled))
    found = collectives.collectives(module, devices=mesh.size)
    return result | {
        "compile_seconds": time.monotonic() - began,
        "memory": _memory(compiled.memory_analysis()),
        "matrix_flops": counts.matrix_flops(module),
        "memory_bytes": counts.memory_bytes(module),
        "xla_cost": _xla_cost(compiled),
        "unknown_loops": module.unknown_loops(),
        "collectives": [
            [c.kind, c.devices, c.full_bytes, c.times, c.source] for c in _merged(found)
        ],
    }


def _merged(found: list[collectives.Collective]) -> list[collectives.Collective]:
    """Collectives alike in kind, group and size from one source as one; their times are summed."""
    alike: dict[tuple, int] = {}
    for c in found:
        place = (c.kind, c.devices, c.full_bytes, c.source)
        alike[place] = alike.get(place, 0) + c.times
    merged = [
        collectives.Collective(kind, devices, size, times, source)
        for (kind, devices, size, source), times in alike.items()
    ]
    return collectives.largest(merged, count=len(merged))


def finished(
    made: dict[str, Any], stage: Workload, where: topology.Topology, program: Any, mesh: Any
) -> dict[str, Any]:
    """The plan: what was compiled, with the workload, the chip's figures and the roofline."""
    result = {
        "stage": stage.name,
        "topology": where.name,
        "chip": where.chip.name,
        "chips": where.chips,
        "mesh": {name: size for name, size in mesh.shape.items()},
        "examples": stage.examples,
        "unit": stage.unit,
        "steps": stage.steps,
        "notes": stage.notes,
        "estimate": not where.is_tpu,
        "state_bytes": state_bytes(stage, mesh, devices=mesh.size // where.chips),
        "usable_bytes": where.chip.usable_bytes,
        "versions": made["versions"],
        "compile_seconds": made["compile_seconds"],
    }
    if "refused_bytes" in made:
        used = made["refused_bytes"] * mesh.size // where.chips
        return result | {"fits": False, "total_bytes": used}
    work = _traced(program.jaxpr.jaxpr, platform=where.chip.platform)
    return result | _rates(made, work, stage, where, mesh)


def _rates(
    made, traced, stage: Workload, where: topology.Topology, mesh: Any
) -> dict[str, Any]:
    """Memory, work, collectives and times of a program that was compiled."""
    each = mesh.size // where.chips
    matrix = made["matrix_flops"] + traced["kernels"]["matrix_flops"]
    if not where.is_tpu and traced["flops"] is not None:
        # The CPU's compiler rewrites convolutions and folds recomputation away.
        matrix = traced["flops"] / mesh.size
    found = [collectives.Collective(*entry) for entry in made["collectives"]]
    bounds = roofline.Roofline(
        compute=matrix * each / where.chip.bf16_flops,
        memory=made["memory_bytes"] * each / where.chip.hbm_bandwidth,
        network=network_seconds(found, where, mesh),
    )
    total = made["memory"]["total"] * each
    return {
        "fits": total <= where.chip.usable_bytes,
        "total_bytes": total,
        "temporary_bytes": made["memory"]["temporaries"] * each,
        "arguments_bytes": made["memory"]["arguments"] * each,
        "program_bytes": made["memory"]["program"] * each,
        "flops": matrix * each,
        "flops_traced": traced["flops"] and traced["flops"] / where.chips,
        "kernels": traced["kernels"],
        "memory_bytes": made["memory_bytes"] * each,
        "xla_cost": made["xla_cost"],
        "unknown_loops": made["unknown_loops"],
        "collectives": collectives.by_kind(found),
        "largest_collectives": made["collectives"][:12],
        "wire_bytes": sum(c.wire_bytes for c in found) * each,
        "roofline": bounds.terms | {
            "seconds": bounds.seconds,
            "seconds_without_overlap": bounds.seconds_without_overlap,
            "bound": bounds.bound,
            "fractions": bounds.fractions,
        },
        "examples_per_second": stage.examples / bounds.seconds,
        "chip_hours": roofline.chip_hours(bounds.seconds, steps=stage.steps, chips=where.chips),
        "chip_hours_without_overlap": roofline.chip_hours(
            bounds.seconds_without_overlap, steps=stage.steps, chips=where.chips
        ),
    }  # fmt: skip


def state_bytes(stage: Workload, mesh: Any, *, devices: int = 1) -> dict[str, float]:
    """Bytes of the state on one chip: `params`, `opt_state`, `ema`, `extras` and `batch`."""
    state, batch, _ = workload.arguments(stage, mesh)

    def held(tree):
        return devices * sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )

    parts = {name: held(getattr(state, name)) for name in ("params", "opt_state", "ema", "extras")}
    return parts | {"batch": held(batch)}


def network_seconds(
    found: list[collectives.Collective], where: topology.Topology, mesh: Any
) -> float | None:
    """Σ over collectives of bytes on the wire / bandwidth of the links of their groups."""
    bandwidths = {}
    total = 0.0
    for c in found:
        if c.devices not in bandwidths:
            group = group_of(mesh, c.devices)
            bandwidths[c.devices] = topology.link_bandwidth(where, group)
        if bandwidths[c.devices] is None:
            return None
        total += c.wire_bytes * (mesh.size // where.chips) / bandwidths[c.devices]
    return total


def group_of(mesh: Any, size: int) -> np.ndarray:
    """Devices that a collective over `size` of them would join: along whole axes of the mesh.

    Where no axes have that size, neighbours along the last axes.
    """
    devices = mesh.devices
    names = list(mesh.axis_names)
    for count in range(1, len(names) + 1):
        for first in range(len(names) - count, -1, -1):
            axes = range(first, first + count)
            if math.prod(devices.shape[a] for a in axes) == size:
                index = tuple(slice(None) if a in axes else 0 for a in range(len(names)))
                return devices[index]
    return devices.reshape(-1)[:size]


def bytes_refused(message: str) -> float | None:
    """Bytes that a program would have taken, from the compiler's refusal; None: another error."""
    found = re.search(r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm", message)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _memory(analysis: Any) -> dict[str, float]:
    """Bytes of one device: what comes in, what stays, what a step makes on its way."""
    arguments, results = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
    temporaries, program = analysis.temp_size_in_bytes, analysis.generated_code_size_in_bytes
    return {
        "arguments": arguments,
        "results": results,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": temporaries,
        "program": program,
        "total": arguments + results - analysis.alias_size_in_bytes + temporaries + program,
    }


def _xla_cost(compiled: Any) -> dict[str, float]:
    """XLA's own analysis, which takes loops once and kernels not at all; to compare with."""
    cost = compiled.cost_analysis() or {}
    return {name: cost[name] for name in ("flops", "bytes accessed") if name in cost}


def _traced(jaxpr: Any, *, platform: str) -> dict[str, Any]:
    """FLOPs of the step as it is written, over all devices, and the kernels' on one device."""
    found = kernels.work(jaxpr, platform=platform)
    return {
        "flops": _total_flops(jaxpr),
        "kernels": {
            "calls": found.calls,
            "matrix_flops": found.matrix_flops,
            "vector_ops": found.vector_ops,
            "unknown_loops": found.unknown_loops,
        },
    }


def _total_flops(jaxpr: Any) -> float | None:
    try:
        return flops.of_jaxpr(jaxpr)
    except flops.Unknown:
        return None


def _text(compiled: Any) -> str:
    """The compiled program.

    Raises:
        UserError: JAX cannot read what libtpu made; seen with large programs for v6e (0.0.51).
    """
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            "the program was compiled, but this JAX cannot read what this libtpu made of it "
            f"({' '.join(str(error).split())[:120]}); try another version of either, or --topology"
        ) from error
