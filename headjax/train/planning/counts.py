"""The work of one device in a compiled program: arithmetic and traffic with its memory.

Both are read from the compiled program's text and multiply what a loop does by its count, which
XLA's own cost analysis does not. They cannot look into a kernel (a Mosaic or Triton call); what
kernels compute is counted by `flops.of_jaxpr`.
"""

from __future__ import annotations

import math
import re

import numpy as np

from headjax.train.planning import hlo

# They name or regroup buffers; nothing is read or written.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "async-start",
    "async-update", "async-done", "copy-done", "slice-done", "send", "recv", "domain",
}  # fmt: skip


def matrix_flops(module: hlo.Module) -> float:
    """FLOPs of the matrix products and convolutions that a step runs, 2 a multiply and add.

    Products with padding or with the holes of a dilated operand are not counted.
    """
    total = 0.0
    for run in module.runs():
        if run.instruction.opcode == "convolution":
            total += run.times * _convolution(run.instruction, run.computation)
        elif run.instruction.opcode == "dot":
            total += run.times * _dot(run.instruction, run.computation)
    return total


def kernel_calls(module: hlo.Module) -> int:
    """How many kernels (Mosaic, Triton) a step calls."""
    return sum(
        run.times
        for run in module.runs()
        if re.search(r'custom_call_target="(tpu_custom_call|\w*triton\w*|mosaic\w*)"',
                     run.instruction.attributes)
    )  # fmt: skip


def memory_bytes(module: hlo.Module) -> float:
    """Bytes that a step reads from and writes to the device's main memory.

    What a fusion reads and writes counts, what stays inside does not; nor do buffers that the
    compiler put into on-chip memory. Of an operand that is sliced or gathered from, only what is
    taken counts, and of one that is updated in place only the update.
    """
    total = 0.0
    for run in module.runs():
        if run.fusion is None and run.instruction.opcode not in _FREE:
            total += run.times * _traffic(run.instruction, run.computation, module)
    return total


def _traffic(instruction: hlo.Instruction, computation: hlo.Computation, module) -> float:
    operands = computation.operands(instruction)
    if instruction.opcode == "fusion":
        body = module.computations[instruction.called("calls")[0]]
        return _fusion_traffic(instruction, operands, body)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _main(instruction.buffers)
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        updates = operands[1:2] if instruction.opcode == "dynamic-update-slice" else operands[2:]
        return 2 * sum(_main(update.buffers) for update in updates)
    if instruction.opcode in ("copy-start", "slice-start"):  # (destination, source, context)
        return _main(instruction.buffers[:2])
    if instruction.opcode.endswith("-start"):  # a collective: (operand, result, …)
        return _main(instruction.buffers)
    if instruction.opcode.endswith("-done"):
        return 0.0
    if "AllocateBuffer" in instruction.attributes:
        return 0.0
    return _main(instruction.buffers) + sum(_main(operand.buffers) for operand in operands)


def _fusion_traffic(instruction, operands, body: hlo.Computation) -> float:
    total = 0.0
    parameters = {
        int(i.arguments): i for i in body.instructions.values() if i.opcode == "parameter"
    }
    users: dict[str, list[hlo.Instruction]] = {}
    for inner in body.instructions.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    for number, operand in enumerate(operands):
        for buffer in operand.buffers:
            if buffer.space == 0:
                total += _read(parameters[number], users, body, whole=buffer.bytes)
    results = body.operands(body.root) if body.root.opcode == "tuple" else [body.root]
    for result, buffer in zip(results, instruction.buffers, strict=False):
        if buffer.space == 0:
            total += _written(result, body, whole=buffer.bytes)
    return total


def _read(parameter: hlo.Instruction, users, body, *, whole: float) -> float:
    """Bytes that a fusion reads of a parameter."""
    total = 0.0
    for user in _users(parameter, users):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += sum(buffer.bytes for buffer in user.buffers)
        elif user.opcode == "dynamic-update-slice" and _origin(user, body, 0) is parameter:
            pass
        elif user.opcode not in ("tuple", "custom-call") and not _is_collective(user):
            return whole
    return min(total, whole)


def _users(instruction: hlo.Instruction, users) -> list[hlo.Instruction]:
    """What reads it, seen through bitcasts."""
    found = []
    for user in users.get(instruction.name, []):
        found += _users(user, users) if user.opcode == "bitcast" else [user]
    return found


def _origin(instruction: hlo.Instruction, body: hlo.Computation, number: int) -> hlo.Instruction:
    """An operand, seen through bitcasts."""
    found = body.operands(instruction)[number]
    while found.opcode == "bitcast":
        (found,) = body.operands(found)
    return found


def _written(result: hlo.Instruction, body: hlo.Computation, *, whole: float) -> float:
    """Bytes that a fusion writes of a result."""
    while result.opcode == "bitcast":
        (result,) = body.operands(result)
    if result.opcode == "parameter":  # handed on
        return 0.0
    if result.opcode == "dynamic-update-slice":
        return sum(buffer.bytes for buffer in body.operands(result)[1].buffers)
    return whole


def _is_collective(instruction: hlo.Instruction) -> bool:
    return instruction.opcode.startswith(("all-", "reduce-scatter", "collective-"))


def _main(buffers: tuple[hlo.Buffer, ...]) -> float:
    return sum(buffer.bytes for buffer in buffers if buffer.space == 0)


def _dot(instruction: hlo.Instruction, computation: hlo.Computation) -> float:
    left = computation.operands(instruction)[0].buffers[0].shape
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    summed = math.prod(left[int(d)] for d in found[1].split(",") if d) if found else 1
    return 2.0 * math.prod(instruction.buffers[0].shape) * summed


def _convolution(instruction: hlo.Instruction, computation: hlo.Computation) -> float:
    left, right = (operand.buffers[0].shape for operand in computation.operands(instruction)[:2])
    labels = re.search(r"dim_labels=([^,\s]+)", instruction.attributes)[1]
    of_left, _, rest = labels.partition("_")
    of_right, _, of_out = rest.partition("->")
    out = instruction.buffers[0].shape
    spatial = sorted(label for label in of_out if label.isdigit())
    pairs = math.prod(
        window_pairs(
            left[of_left.index(s)],
            right[of_right.index(s)],
            out[of_out.index(s)],
            **_window(instruction.attributes, int(s)),
        )
        for s in spatial
    )
    # The kernel's input features are those of one group, and the output's batch is, already.
    features = right[of_right.index("i")] * out[of_out.index("b")] * out[of_out.index("f")]
    return 2.0 * features * pairs


def _window(attributes: str, dimension: int) -> dict[str, int]:
    """Stride, padding before and dilations of one dimension of a convolution's window."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in text[1].split()) if text else {}

    def one(name, default):
        return fields[name].split("x")[dimension] if name in fields else default

    return {
        "stride": int(one("stride", "1")),
        "before": int(one("pad", "0_0").split("_")[0]),
        "left_dilation": int(one("lhs_dilate", "1")),
        "right_dilation": int(one("rhs_dilate", "1")),
    }


def window_pairs(
    left: int,
    right: int,
    out: int,
    *,
    stride: int,
    before: int,
    left_dilation: int,
    right_dilation: int,
) -> int:
    """Pairs of an output's and a kernel's place that meet an element of the left operand."""
    places = np.add.outer(np.arange(out) * stride - before, np.arange(right) * right_dilation)
    inside = (places >= 0) & (places <= (left - 1) * left_dilation)
    return int(np.count_nonzero(inside & (places % left_dilation == 0)))
