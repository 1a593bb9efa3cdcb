"""A reader of foreign pickles that neither imports nor executes anything.

`pickle.Unpickler` calls what `find_class` gives it. Here `find_class` imports nothing and looks
up no attribute: it answers every global name with a class of our own, made on the spot. Calling
that class either runs one of a few builders written in this package (numpy arrays, plain
containers) or fills an inert `Record`. A `Family` says which names a kind of file may hold; any
other name ends the reading. `pickle_scan` has looked at the opcodes before.

Extending it: a new kind of file is a new `Family`, usually `NUMPY.extended(...)`, with builders
`f(budget, *args)` and, where a value arrives later by BUILD, a `Pending` subclass.
`pickle_values` holds these notions, `pickle_families` the families.
"""

import io
import os
import pathlib
import pickle
import re
from typing import Any

from headjax.errors import UserError
from headjax.io.pickle_families import NPY_OBJECT
from headjax.io.pickle_scan import Limits, scan
from headjax.io.pickle_values import (
    Budget,
    Family,
    GlobalName,
    Pending,
    Record,
    StandIn,
    name_of,
)

_ALIASES = (
    ("__builtin__.", "builtins."),
    ("copy_reg.", "copyreg."),
    ("numpy.core.", "numpy._core."),
)
_NPY_OBJECT_HEADER = (rb"'descr':\s*'\|?O'", rb"'shape':\s*\(\s*\)")


class _Unpickler(pickle.Unpickler):
    """Resolves globals by the family's list alone.

    `persistent_load` must be a method: the C implementation ignores one set on the instance.
    """

    def __init__(self, stream, *, family: Family, budget: Budget, limits: Limits, unknown: str):
        super().__init__(stream, encoding="latin1")
        self._family, self._budget, self._limits = family, budget, limits
        self._unknown = unknown
        self._stubs: dict[str, type] = {}

    def find_class(self, module, name):
        full = f"{module}.{name}"
        for old, new in _ALIASES:
            if full.startswith(old):
                full = new + full[len(old) :]
        if full not in self._stubs:
            if len(self._stubs) >= self._limits.globals:
                raise UserError(f"it names more than {self._limits.globals} globals")
            self._stubs[full] = self._stub(full)
        return self._stubs[full]

    def _stub(self, name: str) -> type:
        builder = self._family.builders.get(name)
        if builder is not None:
            budget = self._budget

            def build(cls, *args):
                return builder(budget, *args)

            return type("Call", (StandIn,), {"global_name": name, "__new__": build})
        if self._unknown == "record" or self._family.makes_record(name):
            return type("Record", (Record,), {"global_name": name, "__slots__": ()})
        raise UserError(f"it names {name!r:.80}, which has no place in {self._family.name}")

    def persistent_load(self, pid):
        if self._family.persistent is None:
            raise UserError("it refers to data outside itself")
        return self._family.persistent(pid)


class _Finisher:
    """Puts finished values in place of pending ones, in place, each container once."""

    def __init__(self, depth: int):
        self._depth = depth
        # Keeps each original alive beside its result, so that no id is used twice.
        self._done: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if depth > self._depth:
            raise UserError(f"its contents are nested more than {self._depth} deep")
        if isinstance(value, type):
            return GlobalName(name_of(value))
        if not isinstance(value, (Pending, list, dict, tuple, Record)):
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if isinstance(value, (Pending, tuple)):
            return self._rebuilt(value, depth)
        self._done[id(value)] = (value, value)
        if isinstance(value, Record):
            self._record(value, depth)
        else:
            keys = value if isinstance(value, dict) else range(len(value))
            for key in list(keys):
                value[key] = self(value[key], depth + 1)
        return value

    def _rebuilt(self, value: Any, depth: int) -> Any:
        if id(value) in self._open:
            raise UserError("it holds a tuple or an array that contains itself")
        self._open.add(id(value))
        if isinstance(value, tuple):
            result = tuple(self(item, depth + 1) for item in value)
        else:
            result = self(value.finished(), depth + 1)
        self._done[id(value)] = (value, result)
        return result

    def _record(self, value: Record, depth: int) -> None:
        value.args = self(value.args, depth + 1)
        value.state = self(value.state, depth + 1)
        value.items = self(value.items, depth + 1)
        value.pairs = self(value.pairs, depth + 1)


def loads_prefix(
    data: bytes,
    *,
    family: Family,
    source: str,
    offset: int = 0,
    unknown: str = "error",
    limits: Limits | None = None,
    outside: int = 0,
) -> tuple[Any, int]:
    """Reads the pickle that starts at `offset`; more data may follow it.

    Args:
      data: the bytes.
      family: what may be in it.
      source: the file's name, for messages.
      offset: where the pickle starts.
      unknown: "error" refuses names outside the family, "record" keeps them as inert records.
      limits: caps on its cost.
      outside: bytes of data outside the pickle that its persistent ids refer to; what it unfolds
        to may be as much larger.

    Returns:
      The value and the position behind the pickle.

    Raises:
      UserError: one sentence that names `source` and what is wrong with it.
    """
    if unknown not in ("error", "record"):
        raise ValueError(f"unknown must be 'error' or 'record', not {unknown!r}")
    limits = limits or Limits()
    try:
        if len(data) > limits.bytes:
            raise UserError(f"it is larger than {limits.bytes} bytes")
        end = scan(data, limits=limits, offset=offset, persistent=family.persistent is not None)
        budget = Budget(4 * (len(data) + outside) + 65536, object_scalars=family.object_scalars)
        # A stream over the whole of `data` shares its memory; files reach half a gigabyte.
        is_whole = offset == 0 and end == len(data)
        stream = io.BytesIO(data if is_whole else memoryview(data)[offset:end])
        reader = _Unpickler(stream, family=family, budget=budget, limits=limits, unknown=unknown)
        return _Finisher(limits.depth)(reader.load()), end
    except UserError as error:
        raise UserError(f"{source} was not read as {family.name}: {error}.") from error
    # Broken pickles raise nearly every built-in exception; all of them mean the same here.
    except Exception as error:
        reason = f"it is no valid pickle ({type(error).__name__}: {str(error)[:100]})"
        raise UserError(f"{source} was not read as {family.name}: {reason}.") from error


def loads(data: bytes, *, family: Family, source: str, **options) -> Any:
    """Reads a pickle that fills `data` to its end; options as in `loads_prefix`."""
    value, end = loads_prefix(data, family=family, source=source, **options)
    if end != len(data):
        raise UserError(f"{source} has {len(data) - end} bytes behind the end of its pickle.")
    return value


def read_bytes(path: str | os.PathLike, *, max_bytes: int = Limits.bytes) -> bytes:
    """The file's bytes; UserError if it is missing, unreadable or larger than `max_bytes`."""
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path} has {size} bytes; at most {max_bytes} are read.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def load(path: str | os.PathLike, *, family: Family, **options) -> Any:
    """Reads a pickle file; options as in `loads_prefix`."""
    return loads(read_bytes(path), family=family, source=str(path), **options)


def load_npy_object(path: str | os.PathLike, *, family: Family = NPY_OBJECT) -> Any:
    """Reads what `numpy.save(path, a_dictionary)` wrote: a 0-d object array, that is a pickle.

    Raises:
      UserError: the file is no .npy, or holds anything but one object.
    """
    data = read_bytes(path)
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise UserError(f"{path} is not a .npy file.")
    wide = data[6] > 1
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    header = data[start : start + length]
    is_object = all(re.search(pattern, header) for pattern in _NPY_OBJECT_HEADER)
    if length > 10_000 or len(header) != length or not is_object:
        raise UserError(f"{path} does not hold one dictionary saved by numpy.save.")
    value, end = loads_prefix(data, family=family, source=str(path), offset=start + length)
    if end != len(data):
        raise UserError(f"{path} has {len(data) - end} bytes behind the end of its pickle.")
    return value
