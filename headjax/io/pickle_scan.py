"""A look at a pickle's opcodes before anything is built from them.

The scan walks the opcode stream with `pickletools`' table and replays only the stack's shape.
It refuses what a restricted unpickler could not stop once it runs: extension codes (they bypass
`find_class`), memo indices that would allocate gigabytes, and tuples whose nesting or shared
references make their hash take for ever.
"""

import dataclasses
import encodings.raw_unicode_escape  # noqa: F401  protocol 0's texts need it: no import later on
import io
import pickletools
import struct
from typing import NamedTuple

from headjax.errors import UserError

BANNED = frozenset({"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"})
PERSISTENT = frozenset({"PERSID", "BINPERSID"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})


@dataclasses.dataclass(frozen=True)
class Limits:
    """Caps on one pickle; the defaults leave room for every published head model.

    Attributes:
      bytes: length of the file.
      opcodes: number of opcodes.
      memo: largest memo index.
      globals: number of different global names.
      tuple_size: elements of one tuple when all that it refers to is written out.
      depth: nesting depth of tuples, and of everything in the finished value.
      work: sum of the written-out sizes of all that is pushed.
    """

    bytes: int = 2 << 30
    opcodes: int = 4_000_000
    memo: int = 1 << 22
    globals: int = 1000
    tuple_size: int = 100_000
    depth: int = 64
    work: int = 40_000_000


class _Size(NamedTuple):
    """Written-out size and depth of a stack entry; anything but a tuple counts as one."""

    size: int = 1
    depth: int = 0
    is_mark: bool = False


_ONE = _Size()
_MARK = _Size(is_mark=True)


def _tuple_of(items: list[_Size]) -> _Size:
    return _Size(1 + sum(i.size for i in items), 1 + max((i.depth for i in items), default=0))


class _Replay:
    """The stack and the memo, as sizes."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.stack: list[_Size] = []
        self.memo: dict[int, _Size] = {}
        self.work = 0

    def push(self, entry: _Size) -> None:
        self.work += entry.size
        if entry.size > self.limits.tuple_size or self.work > self.limits.work:
            raise UserError("its shared references unfold into too much")
        if entry.depth > self.limits.depth:
            raise UserError(f"its tuples are nested more than {self.limits.depth} deep")
        self.stack.append(entry)

    def pop(self) -> _Size:
        if not self.stack:
            raise UserError("its stack runs empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[_Size]:
        items = []
        while not (entry := self.pop()).is_mark:
            items.append(entry)
        return items

    def remember(self, index: int) -> None:
        if not 0 <= index <= self.limits.memo:
            raise UserError(f"its memo index {index} lies outside 0..{self.limits.memo}")
        self.memo[index] = self.stack[-1] if self.stack else _ONE

    def step(self, opcode, argument) -> None:
        name = opcode.name
        if name in _PUTS:
            self.remember(argument)
        elif name == "MEMOIZE":
            self.remember(len(self.memo))
        elif name in _GETS:
            if argument not in self.memo:
                raise UserError(f"it asks for memo entry {argument}, which was never stored")
            self.push(self.memo[argument])
        elif name == "DUP":
            self.push(self.stack[-1] if self.stack else self.pop())
        elif name in ("POP", "POP_MARK"):
            self.pop() if name == "POP" else self.pop_to_mark()
        else:
            self._generic(opcode)

    def _generic(self, opcode) -> None:
        """Pop and push by `pickletools`' table; the popped entries size a new tuple."""
        before, after = list(opcode.stack_before), opcode.stack_after
        popped: list[_Size] = []
        if pickletools.markobject in before:
            popped = self.pop_to_mark()
            before = before[: before.index(pickletools.markobject)]
        popped += [self.pop() for _ in before]
        for kind in after:
            if kind is pickletools.markobject:
                self.stack.append(_MARK)
            else:
                self.push(_tuple_of(popped) if opcode.name in _TUPLES else _ONE)


def _opcodes(data: bytes, offset: int):
    """Yields (opcode, argument) up to STOP and returns the position behind it.

    `pickletools.genops`, save that protocol-0 strings with bytes above 127 (numpy arrays written
    by Python 2) are read instead of refused.
    """
    stream = io.BytesIO(data)
    stream.seek(offset)
    while True:
        code = stream.read(1)
        if not code:
            raise UserError("it ends before its STOP")
        opcode = pickletools.code2op.get(code.decode("latin1"))
        if opcode is None:
            raise UserError(f"byte {stream.tell() - 1} is no pickle opcode ({code!r})")
        if opcode.name == "STRING":
            argument = stream.readline()
        else:
            argument = opcode.arg.reader(stream) if opcode.arg is not None else None
        yield opcode, argument
        if opcode.name == "STOP":
            return stream.tell()


def scan(data: bytes, *, limits: Limits, offset: int = 0, persistent: bool = False) -> int:
    """Checks the pickle that starts at `offset` and returns the position behind its STOP.

    Args:
      data: the file's bytes.
      limits: what it may cost.
      offset: where the pickle starts.
      persistent: whether persistent ids are allowed.

    Raises:
      UserError: what is wrong, as the second half of a sentence about the file.
    """
    replay = _Replay(limits)
    stream = _opcodes(data, offset)
    for count in range(limits.opcodes):
        try:
            opcode, argument = next(stream)
        except StopIteration as stop:
            return stop.value
        except (ValueError, struct.error, OverflowError, IndexError, KeyError) as error:
            raise UserError(f"opcode {count} cannot be read ({error})") from error
        if opcode.name in BANNED or (opcode.name in PERSISTENT and not persistent):
            raise UserError(f"it uses opcode {opcode.name}, which is not allowed")
        replay.step(opcode, argument)
    raise UserError(f"it has more than {limits.opcodes} opcodes")
