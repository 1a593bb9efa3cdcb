"""Reading a compiled program's text (XLA's HLO): what runs, on which shapes, how often.

XLA's own cost analysis counts the body of a loop once, says nothing of collectives and nothing of
where a buffer lies; the text says all three. It is stable enough to be read by line: the tests
compile small programs whose answers are known.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations)=(\{[^{}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array: its element type, its shape, and the memory that it lies in (0: the device's)."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        """Its size without padding."""
        count = 1
        for size in self.shape:
            count *= size
        return count * _bits(self.dtype) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = type opcode(operands), attributes`."""

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def called(self, *kinds: str) -> list[str]:
        """Names of the computations that the attributes `calls`, `body`, … name."""
        found = []
        for kind, names in _CALLED.findall(self.attributes):
            if kind in kinds:
                found += [name.strip(" %{}") for name in names.split(",")]
        return found


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it reads."""
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction as it is run: where, how many times, inside which fusion (or none)."""

    instruction: Instruction
    computation: Computation
    times: int
    fusion: Instruction | None


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which of them is run."""

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Iterator[Run]:
        """Every instruction that runs, loops' bodies with their counts, fusions opened.

        Every branch of a conditional counts as if it were taken.
        """
        yield from self._runs(self.entry, 1, None)

    def unknown_loops(self) -> int:
        """Loops that run and whose count is not in the text; they count once."""
        loops = [run for run in self.runs() if run.instruction.opcode == "while"]
        return sum(trip_count(self, run.instruction, run.computation) is None for run in loops)

    def _runs(self, name: str, times: int, fusion: Instruction | None) -> Iterator[Run]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Run(instruction, computation, times, fusion)
            if instruction.opcode == "while":
                count = trip_count(self, instruction, computation) or 1
                for body in instruction.called("body"):
                    yield from self._runs(body, times * count, fusion)
            elif instruction.opcode == "fusion":
                for body in instruction.called("calls"):
                    yield from self._runs(body, times, fusion or instruction)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for body in instruction.called("to_apply", "calls", "branch_computations"):
                    yield from self._runs(body, times, fusion)


def parse(text: str) -> Module:
    """The program of `compiled.as_text()`.

    Raises:
        ValueError: no entry computation is in the text.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], root=bool(found[1]))
            current.instructions[found[2]] = instruction
    if entry is None:
        raise ValueError("the text holds no ENTRY computation: it is not a compiled program's")
    return Module(computations, entry)


def buffers_of(text: str) -> tuple[Buffer, ...]:
    """The arrays of a type: one, or a tuple's, flattened."""
    found = []
    for dtype, sizes, layout in _SHAPE.findall(text):
        space = _SPACE.search(layout)
        shape = tuple(int(size.strip("<=")) for size in sizes.split(",") if size)
        found.append(Buffer(dtype, shape, int(space[1]) if space else 0))
    return tuple(found)


def trip_count(module: Module, loop: Instruction, computation: Computation) -> int | None:
    """How often a `while` runs its body; None where the text does not say.

    Compilers either write the count down or leave a condition `i < constant`, i from a constant on
    in steps of one, as `jax.lax.scan` makes it.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(known[1])
    found = [c for name in loop.called("condition") for c in _comparisons(module, name)]
    (start,) = computation.operands(loop)
    if len(found) != 1 or start.opcode != "tuple":
        return None
    direction, counter, limit = found[0]
    entering = computation.operands(start)
    first, last = (
        _value(entering[side.index], computation) if isinstance(side, _Element) else side
        for side in (counter, limit)
    )
    if direction not in ("LT", "LE") or not isinstance(first, int) or not isinstance(last, int):
        return None
    return max(0, last - first + (direction == "LE"))


@dataclasses.dataclass(frozen=True)
class _Element:
    """A loop's variable: which element of its tuple."""

    index: int


def _comparisons(module: Module, name: str, *, arguments: tuple = ()) -> Iterator[tuple]:
    """The direction and both sides of every comparison of a loop's condition."""
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        sides = [_value(side, computation, arguments) for side in computation.operands(instruction)]
        if instruction.opcode == "fusion":
            inner = instruction.called("calls")[0]
            yield from _comparisons(module, inner, arguments=tuple(sides))
        if instruction.opcode == "compare":
            yield re.search(r"direction=(\w+)", instruction.attributes)[1], *sides


def _value(
    instruction: Instruction, computation: Computation, arguments: tuple = ()
) -> int | _Element | None:
    """A number that is known, an element of the loop's tuple, or None."""
    while instruction.opcode in ("copy", "bitcast", "convert", "reshape"):
        (instruction,) = computation.operands(instruction)
    if instruction.opcode == "get-tuple-element":
        return _Element(int(re.search(r"index=(\d+)", instruction.attributes)[1]))
    if instruction.opcode == "parameter" and arguments:
        return arguments[int(instruction.arguments)]
    is_number = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.arguments)
    return int(instruction.arguments) if is_number else None


def _instruction(name: str, text: str, *, root: bool) -> Instruction:
    kind, rest = _type(text)
    opcode, _, rest = rest.partition("(")
    arguments, attributes = _closed("(" + rest)
    return Instruction(
        name=name,
        opcode=opcode.strip(),
        buffers=buffers_of(kind),
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=attributes,
        root=root,
    )


def _type(text: str) -> tuple[str, str]:
    """The result's type, and what follows it."""
    if text.startswith("("):
        kind, rest = _closed(text)
        return kind, rest.lstrip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closed(text: str) -> tuple[str, str]:
    """What is inside the bracket that `text` starts with, and what follows it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:place], text[place + 1 :]
    return text[1:], ""


def _bits(dtype: str) -> int:
    if dtype.startswith("f8"):
        return 8
    return _BITS.get(dtype, 0)
