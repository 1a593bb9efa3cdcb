"""The families of pickles that headjax reads, and the builders of their values.

Arrays of Python objects are refused; dtype, shape and size must agree with the bytes that are
there; every copy is charged to the file's budget.
"""

import re
from typing import Any

import numpy as np

from headjax.errors import UserError
from headjax.io.pickle_values import Budget, Builder, Family, Mapped, Pending, Record, name_of

_NUMBER_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,6})")
_OBJECT_DTYPE = re.compile(r"[<>|=]?O[48]?")


class _Dtype(Pending):
    """`numpy.dtype(code)`; BUILD brings the byte order."""

    def __init__(self, code: str):
        if not isinstance(code, str) or len(code) > 8:
            raise UserError(f"its array has the odd dtype {str(code)[:20]!r}")
        self.is_object = bool(_OBJECT_DTYPE.fullmatch(code))
        if not self.is_object and not _NUMBER_DTYPE.fullmatch(code):
            raise UserError(f"its array has the dtype {code!r}, which is neither number nor text")
        self._code = code

    def __setstate__(self, state):
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")):
            raise UserError("its dtype has a malformed state")
        if any(part is not None for part in state[2:5]):
            raise UserError("its array has a structured dtype, which is not allowed")
        self._code = state[1] + self._code.lstrip("<>|=")

    def finished(self) -> np.dtype:
        if self.is_object:
            raise UserError("it holds an array of Python objects, which is not allowed")
        return np.dtype(self._code)


def _bytes_of(data: Any) -> bytes | bytearray:
    """Raw bytes; Python 2 wrote them as strings, which arrive as Latin-1; protocol 5 may share."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise UserError("its array data is not a byte string")
    return data


def _array(budget: Budget, dtype: _Dtype, shape: Any, *, order: str, data: Any) -> np.ndarray:
    """A native, writable array of exactly the bytes that are there."""
    if not isinstance(dtype, _Dtype):
        raise UserError("its array has no dtype")
    kind = dtype.finished()
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise UserError("its array has a malformed shape")
    count = 1
    for extent in shape:
        if type(extent) is not int or extent < 0:
            raise UserError("its array has a malformed shape")
        count *= extent
    raw = _bytes_of(data)
    if count * kind.itemsize != len(raw):
        raise UserError(
            f"its array of shape {shape!r:.60} and dtype {kind} has {len(raw)} bytes where "
            f"{count * kind.itemsize:.4g} belong"
        )
    budget.spend(len(raw) + 64)
    flat = np.frombuffer(raw, dtype=kind) if raw else np.zeros(0, kind)
    return flat.reshape(shape, order=order).astype(kind.newbyteorder("="), order=order)


class _PendingArray(Pending):
    """`numpy._core.multiarray._reconstruct(...)`; BUILD brings shape, dtype and data."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._value = None
        self._is_built = False

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise UserError("its array has a malformed state")
        shape, dtype, is_fortran, data = state[-4:]
        if isinstance(dtype, _Dtype) and dtype.is_object and self._budget.object_scalars:
            if shape != () or not isinstance(data, list) or len(data) != 1:
                raise UserError("it holds an array of several Python objects, which is not allowed")
            self._value = data[0]
        else:
            order = "F" if is_fortran else "C"
            self._value = _array(self._budget, dtype, shape, order=order, data=data)
        self._is_built = True

    def finished(self) -> Any:
        if not self._is_built:
            raise UserError("it holds an array without contents")
        return self._value


def _never_called(budget: Budget, *args) -> Any:
    raise UserError("it calls a class that should only be named")


def _reconstruct(budget: Budget, subtype: Any, shape: Any = (0,), typecode: Any = b"b") -> Pending:
    if name_of(subtype) != "numpy.ndarray":
        raise UserError("it holds a numpy array of an unknown subclass")
    return _PendingArray(budget)


def _scalar(budget: Budget, dtype: _Dtype, data: Any = b"") -> np.generic:
    return _array(budget, dtype, (), order="C", data=data)[()]


def _frombuffer(budget: Budget, data: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    if order not in ("C", "F"):
        raise UserError("its array has an odd memory order")
    return _array(budget, dtype, shape, order=order, data=data)


def _ordered(budget: Budget, pairs: Any = ()) -> Mapped:
    if not isinstance(pairs, (list, tuple, dict)):
        raise UserError("its ordered dictionary is malformed")
    budget.spend(len(pairs))
    return Mapped(pairs)


def _set_of(kind: type) -> Builder:
    def build(budget: Budget, items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise UserError("its set is malformed")
        budget.spend(len(items))
        return kind(items)

    return build


def _encode(budget: Budget, text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode(text, 'latin1')`: how Python 3 writes bytes in protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UserError("its byte string is malformed")
    budget.spend(len(text))
    return text.encode("latin1")


def _empty_bytes(budget: Budget) -> bytes:
    return b""


def _reconstructor(budget: Budget, cls: Any, base: Any, state: Any = None) -> Record:
    """`copyreg._reconstructor(cls, object, None)`: objects in protocols 0 and 1."""
    if not (isinstance(cls, type) and issubclass(cls, Record)) or state is not None:
        raise UserError("it rebuilds an object that is no record")
    return cls()


PLAIN = Family(
    "plain containers",
    {
        "collections.OrderedDict": _ordered,
        "builtins.set": _set_of(set),
        "builtins.frozenset": _set_of(frozenset),
        "builtins.bytes": _empty_bytes,
        "builtins.object": _never_called,
        "_codecs.encode": _encode,
        "copyreg._reconstructor": _reconstructor,
    },
)
NUMPY = PLAIN.extended(
    "numpy arrays",
    builders={
        "numpy.ndarray": _never_called,
        "numpy.dtype": lambda budget, code="", *flags: _Dtype(code),
        "numpy._core.multiarray._reconstruct": _reconstruct,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy._core.numeric._frombuffer": _frombuffer,
    },
)
NPY_OBJECT = NUMPY.extended("a dictionary saved by numpy.save", object_scalars=True)
FLAME = NUMPY.extended("a FLAME model", records=("chumpy.", "scipy.sparse."))
