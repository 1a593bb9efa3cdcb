"""How many operations a program does, counted on the program as it is written.

Matrix products and convolutions count, two operations for each multiplication with its sum: what
"model FLOPs" mean in the literature. XLA's own analysis is no substitute for a training step: it
takes the body of a loop once, however often the loop runs, and knows nothing of custom calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


class Unknown(Exception):
    """The count depends on data: a `while` loop with products in it."""


def count(function: Callable, *args: Any) -> float | None:
    """FLOPs of one call, over all devices; None where they depend on data or cannot be counted.

    What the backward pass computes again (`jax.checkpoint`) is counted as often as it is computed:
    for the FLOPs of the model alone, hand in the function without rematerialisation.

    Args:
        function: what to trace; it is not run.
        args: arrays or `jax.ShapeDtypeStruct`s.
    """
    try:
        return of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)
    except Exception:
        # A figure for the log is not worth a run: a later JAX may write its programs otherwise.
        return None


def of_jaxpr(jaxpr: core.Jaxpr) -> float:
    """FLOPs of a program that is traced already.

    Raises:
        Unknown: they depend on data.
    """
    return sum(of_equation(equation) for equation in jaxpr.eqns)


def of_equation(equation: core.JaxprEqn) -> float:
    """FLOPs of one line of a program, what it calls included."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [of_jaxpr(jaxpr) for jaxpr in programs(params)]
    if not any(inner):
        return 0.0
    if name == "while":
        raise Unknown("a while loop does as many products as its data ask for")
    if name == "cond":
        # Of forms for several platforms it is the one for any: a kernel's own products are not
        # the model's.
        platforms = params.get("branches_platforms")
        return inner[platforms.index(None)] if platforms and None in platforms else max(inner)
    return sum(inner) * _repeats(name, params)


def _repeats(name: str, params: dict[str, Any]) -> int:
    """How often the programs inside an equation run."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        # The program inside is one shard's.
        manual = params.get("manual_axes") or params["mesh"].axis_names
        return math.prod(params["mesh"].shape[axis] for axis in manual)
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def programs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs inside an equation, which its parameters hold."""
    for value in params.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def _of_dot(equation: core.JaxprEqn) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracting)


def _of_convolution(equation: core.JaxprEqn) -> float:
    """Products with what is there: padding, and the zeros that dilation puts between, are free."""
    params = equation.params
    numbers = params["dimension_numbers"]
    left, right = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    pairs = 1
    for axis, (low, _) in enumerate(params["padding"]):
        pairs *= _taps(
            left[numbers.lhs_spec[2 + axis]],
            taps=right[numbers.rhs_spec[2 + axis]],
            out=out[numbers.out_spec[2 + axis]],
            low=low,
            stride=params["window_strides"][axis],
            lhs_dilation=params["lhs_dilation"][axis],
            rhs_dilation=params["rhs_dilation"][axis],
        )
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    return 2.0 * pairs * batch * features * right[numbers.rhs_spec[1]]


def _taps(
    size: int, *, taps: int, out: int, low: int, stride: int, lhs_dilation: int, rhs_dilation: int
) -> int:
    """Pairs of an output place and a tap, along one axis, that meet an input."""
    place = np.arange(out)[:, None] * stride + np.arange(taps) * rhs_dilation - low
    there = (place >= 0) & (place <= (size - 1) * lhs_dilation) & (place % lhs_dilation == 0)
    return int(there.sum())
