"""PyTorch's tensors and its `.pth` files, read with numpy alone.

Three containers hold the same things. A *legacy* file is five pickles in a row (magic number,
protocol, system, the object, the list of its storages' keys) and then, for each key, the number of
elements and the raw data; a *zip* file has the object in `data.pkl` and each storage as a member;
a pickle by `pickle.dump` holds each storage as a legacy file of its own, in a byte string. The
object refers to a storage by a persistent id and to a tensor as a view of it (offset, size,
strides).

Nothing is trusted: a view must lie inside its storage, a storage must have the bytes that it
states, and what views unfold to is charged to the file's budget before a number is read.
"""

import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from headjax.errors import UserError
from headjax.io.pickle_families import NUMPY, PLAIN
from headjax.io.pickle_values import Budget, Family, name_of
from headjax.io.safe_pickle import loads, loads_prefix, read_bytes
from headjax.io.zips import SafeZip, ZipLimits

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_BYTES = 2 << 30
_BFLOAT16 = "bfloat16"
_KINDS = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
    "torch.ComplexFloatStorage": "<c8",
    "torch.ComplexDoubleStorage": "<c16",
}
_MOST = 2**40  # of any count, offset, extent or stride
_INNER = ("params_ema", "params", "state_dict", "model")


class Storage:
    """A run of numbers of one type; the bytes may come after the views of it.

    Attributes:
      kind: numpy's code of the element type, or "bfloat16".
      count: number of elements.
    """

    __slots__ = ("_raw", "count", "kind")

    def __init__(self, kind: str, count: int):
        self.kind, self.count, self._raw = kind, count, None

    @property
    def itemsize(self) -> int:
        return 2 if self.kind == _BFLOAT16 else np.dtype(self.kind).itemsize

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    def fill(self, raw: bytes | memoryview) -> None:
        """Hands over the bytes; UserError if they are not as many as stated."""
        if len(raw) != self.nbytes:
            raise UserError(
                f"its storage of {self.count} elements has {len(raw)} bytes where {self.nbytes} "
                "belong"
            )
        self._raw = raw

    def flat(self) -> Shaped[np.ndarray, "n"]:
        """All elements as they are stored (bfloat16 as its 16 bits, bool as its byte)."""
        if self._raw is None:
            raise UserError("it names a storage whose data is not there")
        code = {_BFLOAT16: "<u2", "|b1": "|u1"}.get(self.kind, self.kind)
        return np.frombuffer(self._raw, dtype=code)


class Tensor:
    """A view of a storage; it stands for a tensor until `array` makes it numbers.

    Attributes:
      shape: the tensor's extents.
    """

    __slots__ = ("_offset", "_storage", "_strides", "shape")

    def __init__(
        self, storage: Storage, *, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ):
        self._storage, self._offset, self.shape, self._strides = storage, offset, shape, strides

    def __setstate__(self, state):
        """Old files attach flags of the gradient tape, which have no meaning here."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        return self._storage.kind == _BFLOAT16 or self._storage.kind[1] == "f"

    def array(self) -> Shaped[np.ndarray, "..."]:
        """The numbers, where possible without a copy and then not writable; bfloat16 as float32.

        Raises:
          UserError: the storage has no data.
        """
        flat = self._storage.flat()
        kind = self._storage.kind
        if self.size == 0:
            view = np.zeros(self.shape, flat.dtype)
        else:
            strides = tuple(flat.itemsize * stride for stride in self._strides)
            start = flat[self._offset :]
            view = np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False)
        if kind == _BFLOAT16:
            return np.asarray(view.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(view != 0) if kind == "|b1" else view


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise UserError(f"its tensor has the {what} {value!r:.40}")
    return value


def _rebuild_tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, *_ignored: Any
) -> Tensor:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
    if not isinstance(storage, Storage):
        raise UserError("its tensor stands on no storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise UserError("its tensor has a malformed shape")
    if len(shape) != len(strides) or len(shape) > 32:
        raise UserError("its tensor has a malformed shape")
    offset = _whole(offset, "offset")
    shape = tuple(_whole(extent, "extent") for extent in shape)
    strides = tuple(_whole(stride, "stride") for stride in strides)
    if math.prod(extent for extent in shape if extent) > _MOST:
        raise UserError(f"its tensor has the impossible shape {shape!r:.60}")
    size = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size and last >= storage.count:
        raise UserError(
            f"its tensor of shape {shape!r:.60} reaches element {last} of a storage of "
            f"{storage.count}"
        )
    budget.spend(size * storage.itemsize + 64)
    return Tensor(storage, offset=offset, shape=shape, strides=strides)


def _rebuild_parameter(budget: Budget, tensor: Any, *_ignored: Any) -> Tensor:
    """`torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`: the tensor."""
    if not isinstance(tensor, Tensor):
        raise UserError("its parameter holds no tensor")
    return tensor


def _rebuild_from_type(
    budget: Budget, function: Any, kind: Any, arguments: Any, state: Any
) -> Tensor:
    """`torch._tensor._rebuild_from_type_v2(...)`: a tensor with attributes, which are left out."""
    makers = {
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
    }
    maker = makers.get(name_of(function))
    is_plain = name_of(kind) in ("torch.Tensor", "torch.nn.parameter.Parameter")
    if maker is None or not is_plain or not isinstance(arguments, tuple) or len(arguments) < 1:
        raise UserError("it holds a tensor of an unknown kind")
    return maker(budget, *arguments)


def _size(budget: Budget, extents: Any = ()) -> tuple:
    if not isinstance(extents, (list, tuple)):
        raise UserError("its tensor has a malformed shape")
    budget.spend(len(extents))
    return tuple(extents)


def _only_named(budget: Budget, *_arguments: Any) -> Any:
    raise UserError("it calls a type of PyTorch that should only be named")


def _load_from_bytes(budget: Budget, blob: Any) -> Storage:
    """`torch.storage._load_from_bytes(blob)`: one storage as a legacy file of its own."""
    if not isinstance(blob, bytes):
        raise UserError("its storage is not a byte string")
    budget.spend(len(blob) + 512)
    try:
        value = _read_legacy(blob, family=_STORAGE, source="its storage")
    except UserError as error:
        raise UserError(str(error).rstrip(".")) from error
    if not isinstance(value, Storage):
        raise UserError("its storage's bytes hold something else")
    return value


_NAMED = dict.fromkeys(_KINDS, _only_named)
_STORAGE = PLAIN.extended("a storage of PyTorch", builders=_NAMED)
TENSOR_BUILDERS: Mapping[str, Callable[..., Any]] = {
    **_NAMED,
    "torch.Tensor": _only_named,
    "torch.Size": _size,
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.storage._load_from_bytes": _load_from_bytes,
}
STATE_DICT = NUMPY.extended("a state dictionary of PyTorch", builders=TENSOR_BUILDERS)


class _Shelf:
    """The storages of one file by key, as its persistent ids name them."""

    def __init__(self):
        self.storages: dict[str, Storage] = {}

    def __call__(self, pid: Any) -> Storage:
        """The storage of `("storage", type, key, location, number of elements, view or None)`."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise UserError("its reference to a storage is malformed")
        _, kind, key, _, count, *view = pid
        code = _KINDS.get(name_of(kind))
        if code is None or not isinstance(key, str):
            raise UserError("its reference to a storage is malformed")
        if any(part is not None for part in view):
            raise UserError("it holds a part of a storage, as only very old files do")
        if type(count) is not int or not 0 <= count <= _MOST:
            raise UserError(f"its storage has the impossible number of elements {count!r:.40}")
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = Storage(code, count)
            self.opened(key, known)
        if (known.kind, known.count) != (code, count):
            raise UserError(f"it states two sizes or types of the storage {key!r:.40}")
        return known

    def opened(self, key: str, storage: Storage) -> None:
        """Called once for each new storage."""


def _read_legacy(data: bytes, *, family: Family, source: str) -> Any:
    """The object of a legacy file, its storages filled with views of `data`."""
    shelf = _Shelf()
    position, parts = 0, []
    for reader in (PLAIN, PLAIN, PLAIN, family.extended(family.name, persistent=shelf), PLAIN):
        if len(parts) == 1 and parts[0] != MAGIC:
            raise UserError(f"{source} does not begin with PyTorch's magic number.")
        part, position = loads_prefix(data, family=reader, source=source, offset=position)
        parts.append(part)
    _, protocol, system, value, keys = parts
    if protocol != PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise UserError(f"{source} is no file of PyTorch's protocol {PROTOCOL}.")
    if system.get("little_endian") is not True:
        raise UserError(f"{source} was written on a big-endian machine, which is not read here.")
    if any(type(key) is not str for key in keys) or sorted(keys) != sorted(shelf.storages):
        raise UserError(f"{source} lists other storages than its contents refer to.")
    position = _fill(shelf, keys, memoryview(data), position=position, source=source)
    if position != len(data):
        raise UserError(f"{source} has {len(data) - position} bytes behind its last storage.")
    return value


def _fill(shelf: _Shelf, keys: list[str], data: memoryview, *, position: int, source: str) -> int:
    """Gives each storage its bytes; returns the position behind the last."""
    for key in keys:
        storage = shelf.storages[key]
        start = position + 8
        if start > len(data):
            raise UserError(f"{source} ends before the data of its storages.")
        (count,) = struct.unpack("<q", data[position:start])
        if count != storage.count:
            raise UserError(
                f"{source} states {storage.count} and {count} elements of the same storage."
            )
        position = start + storage.nbytes
        if position > len(data):
            raise UserError(
                f"{source} ends {position - len(data)} bytes before the end of its storages."
            )
        storage.fill(data[start:position])
    return position


class _ZipShelf(_Shelf):
    """Storages that are members of a zip archive."""

    def __init__(self, archive: SafeZip, root: str):
        super().__init__()
        self._archive, self._root = archive, root

    def opened(self, key: str, storage: Storage) -> None:
        name = f"{self._root}data/{key}"
        if storage.nbytes > MAX_BYTES:
            raise UserError(f"its storage {key!r:.40} has the impossible size {storage.nbytes}")
        storage.fill(self._archive.read(name, max_bytes=max(storage.nbytes, 1)))


def _read_zip(path: Path, *, family: Family) -> Any:
    """The object of a zip file."""
    limits = ZipLimits(members=100_000, member_bytes=MAX_BYTES, total_bytes=MAX_BYTES)
    with SafeZip(path, limits=limits) as archive:
        found = [name for name in archive.names if name.split("/")[-1] == "data.pkl"]
        if len(found) != 1 or found[0].count("/") > 1:
            raise UserError(f"{path} is a zip archive, but none that PyTorch saved.")
        root = found[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in archive:
            raise UserError(
                f"{path} holds a compiled program (TorchScript), which is not read here; give a "
                "file with its state dictionary."
            )
        order = f"{root}byteorder"
        if order in archive and archive.read(order, max_bytes=64) != b"little":
            raise UserError(f"{path} was written on a big-endian machine, which is not read here.")
        reader = family.extended(family.name, persistent=_ZipShelf(archive, root))
        data, outside = archive.read(found[0]), path.stat().st_size
        return loads(data, family=reader, source=str(path), outside=outside)


def load_state_dict(
    path: str | os.PathLike, *, key: str | None = None
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The tensors of a `.pth` file, in its order, under their public names.

    Args:
      path: what `torch.save` wrote, in its zip form or the older stream.
      key: the entry that holds the state dictionary. By default the file's own, or, where that
        has no tensors, its entry params_ema, params, state_dict or model.

    Returns:
      name → array in PyTorch's shape; bfloat16 as float32. The arrays may be views that are not
      writable. Entries that are no tensors are left out.

    Raises:
      UserError: the file is missing, damaged, holds anything but numbers and plain containers, or
        has no tensors there. Nothing in it is executed or imported.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        value = _read_zip(path, family=STATE_DICT)
    else:
        data = read_bytes(path, max_bytes=MAX_BYTES)
        value = _read_legacy(data, family=STATE_DICT, source=str(path))
    tensors = _tensors(value)
    if key is not None or not tensors:
        inner = [name for name in ((key,) if key is not None else _INNER) if _has(value, name)]
        tensors = _tensors(value[inner[0]]) if inner else {}
    if not tensors:
        place = f" under {key!r}" if key is not None else ""
        raise UserError(f"{path} holds no tensors by name{place}.")
    return {name: _numbers(tensor) for name, tensor in tensors.items()}


def _has(value: Any, name: str) -> bool:
    return isinstance(value, dict) and name in value


def _tensors(value: Any) -> dict[str, Any]:
    entries = value.items() if isinstance(value, dict) else ()
    kinds = (Tensor, np.ndarray)
    return {n: t for n, t in entries if isinstance(n, str) and isinstance(t, kinds)}


def _numbers(tensor: Tensor | np.ndarray) -> np.ndarray:
    return tensor.array() if isinstance(tensor, Tensor) else tensor
