"""What the Pallas kernels of a traced program compute on one device.

A compiled program shows a kernel as one opaque call without a cost. Its body is in the trace: it
is counted as it is written, times the grid, times the loops around it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from headjax.train import flops

# They move or make numbers; everything else computes one operation an element.
_MOVES = {
    "bitcast_convert_type", "broadcast_in_dim", "concatenate", "convert_element_type", "copy",
    "dma_start", "dma_wait", "dynamic_slice", "dynamic_update_slice", "gather", "get", "iota",
    "masked_load", "masked_swap", "multiple_of", "num_programs", "pad", "program_id", "reshape",
    "rev", "roll", "slice", "split", "squeeze", "stop_gradient", "swap", "transpose",
}  # fmt: skip
_NAMES = {"gpu": {"gpu", "cuda", "rocm"}}


@dataclasses.dataclass(frozen=True)
class Work:
    """The kernels of a step on one device.

    Attributes:
        calls: how often kernels are called.
        matrix_flops: of their matrix products.
        vector_ops: their other operations on numbers, one an element.
        unknown_loops: loops in or around them whose count depends on values; they count once.
    """

    calls: float = 0.0
    matrix_flops: float = 0.0
    vector_ops: float = 0.0
    unknown_loops: float = 0.0

    def __add__(self, other: Work) -> Work:
        mine, its = dataclasses.astuple(self), dataclasses.astuple(other)
        return Work(*(a + b for a, b in zip(mine, its, strict=True)))

    def __mul__(self, count: float) -> Work:
        return Work(*(count * value for value in dataclasses.astuple(self)))


def work(jaxpr: Any, *, platform: str = "tpu") -> Work:
    """The kernels' work in a (closed) jaxpr, lowered for `platform`; inside `shard_map`, a shard's.

    Of branches that depend on values the one with the most operations counts.
    """
    total = Work()
    choices = {}
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "platform_index":
            choices[equation.outvars[0]] = _chosen(equation.params["platforms"], platform)
        elif equation.primitive.name == "cond":
            chosen = choices.get(equation.invars[0])
            branches = [work(branch, platform=platform) for branch in equation.params["branches"]]
            total += max(branches, key=_size) if chosen is None else branches[chosen]
        elif equation.primitive.name == "pallas_call":
            body = _body(equation.params["jaxpr"])
            steps = math.prod(equation.params["grid_mapping"].grid)
            total += dataclasses.replace(body * steps, calls=1)
        else:
            programs = flops.programs(equation.params)
            inner = sum((work(program, platform=platform) for program in programs), Work())
            total += inner * equation.params.get("length", 1) if inner.calls else Work()
    return total


def _body(jaxpr: Any) -> Work:
    """One grid step of a kernel."""
    total = Work()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        inner = [_body(program) for program in flops.programs(equation.params)]
        if name == "cond":
            total += max(inner, key=_size)
        elif inner:
            total += sum(inner, Work()) * equation.params.get("length", 1)
            total += Work(unknown_loops=float(name == "while"))
        elif name == "dot_general":
            total += Work(matrix_flops=flops.of_equation(equation))
        elif name not in _MOVES:
            sizes = [math.prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape")]
            total += Work(vector_ops=float(max(sizes, default=0)))
    return total


def _chosen(platforms: Any, platform: str) -> int:
    """Which branch of a choice by platform is lowered; that of None is everybody else's."""
    names = _NAMES.get(platform, {platform})
    fits = [i for i, known in enumerate(platforms) if known is None or names & set(known)]
    return fits[0]


def _size(work: Work) -> float:
    return work.matrix_flops + work.vector_ops
