"""What a foreign pickle may become: inert records, pending values, families of names."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from headjax.errors import UserError

Builder = Callable[..., Any]


class Record:
    """An object of a foreign class, inert: its name, arguments, state and contents.

    Attributes:
      global_name: `module.name` as the file gives it (Python-2 and old numpy modules renamed).
      args: the arguments it was made with.
      state: what BUILD handed over, or None.
      items: what was appended or added.
      pairs: what was set by key, as (key, value).
    """

    __slots__ = ("args", "items", "pairs", "state")
    global_name = ""

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self.args = args + ((kwargs,) if kwargs else ())
        self.state, self.items, self.pairs = None, [], []
        return self

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.pairs.append((key, value))

    def append(self, item):
        self.items.append(item)

    add = append

    def extend(self, items):
        self.items.extend(items)


@dataclasses.dataclass(frozen=True)
class GlobalName:
    """A global that the file names without calling it."""

    name: str


class Pending(abc.ABC):
    """A value that BUILD completes; the finished tree holds `finished()` in its place."""

    __hash__ = None  # never a key: it would stay unfinished there

    @abc.abstractmethod
    def finished(self) -> Any:
        """The completed value; raises UserError if it never was completed."""


class Mapped(dict):
    """An ordered dictionary; what BUILD attaches to it is kept aside in `state`."""

    state = None

    def __setstate__(self, state):
        self.state = state


class Budget:
    """Counts the bytes and elements that builders copy, so that sharing cannot multiply them."""

    def __init__(self, total: int, *, object_scalars: bool = False):
        self._left = total
        self.object_scalars = object_scalars

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise UserError("its contents unfold into more than the file can hold")


@dataclasses.dataclass(frozen=True)
class Family:
    """What the pickles of one kind of file may contain.

    Attributes:
      name: for messages.
      builders: global name → `f(budget, *args)`, which makes a real value.
      records: global names read as `Record`; a name that ends in "." stands for all below it.
      accepts: says of any other global name whether it is read as `Record`; None refuses all.
      persistent: resolves a persistent id; None forbids them.
      object_scalars: whether a 0-d object array (as `numpy.save` writes a dictionary) is opened.
    """

    name: str
    builders: Mapping[str, Builder]
    records: tuple[str, ...] = ()
    accepts: Callable[[str], bool] | None = None
    persistent: Callable[[Any], Any] | None = None
    object_scalars: bool = False

    def extended(
        self, name: str, *, builders: Mapping[str, Builder] | None = None, **changes
    ) -> "Family":
        """This family with a new name, more builders and any other field replaced."""
        merged = {**self.builders, **(builders or {})}
        return dataclasses.replace(self, name=name, builders=merged, **changes)

    def makes_record(self, name: str) -> bool:
        if any(name.startswith(r) if r.endswith(".") else name == r for r in self.records):
            return True
        return self.accepts is not None and self.accepts(name)


class StandIn:
    """Base of the classes that stand for a global with a builder."""

    __slots__ = ()
    global_name = ""

    def __setstate__(self, state):
        raise UserError("it sets the state of a function")


def name_of(value: Any) -> str:
    """The global name that a class made by the unpickler stands for, or an empty string."""
    is_stub = isinstance(value, type) and issubclass(value, (Record, StandIn))
    return value.global_name if is_stub else ""
