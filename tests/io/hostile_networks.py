"""Network files that attack their reader; each is a good small file but for one thing."""

import functools
import struct
from typing import Any

import numpy as np

from tests.io import hostile_pickles
from tests.io.official_pickles import (
    ARCHITECTURES,
    MAGIC,
    SYSTEM,
    Call,
    Global,
    New,
    PersistentId,
    Raw,
    arrays_for,
    dumps,
    legacy_file,
    module_state,
    network,
    network_file,
    ordered,
    persistent,
    storage,
    storage_blob,
    storage_id,
    tensor,
)

KIND, WHICH = "eg3d", "D"
ARCHITECTURE = ARCHITECTURES[KIND, WHICH]
VICTIM = "b8.conv0.weight"  # (4, 4, 3, 3)
FLAT = np.arange(144, dtype=np.float32)


@functools.cache
def _good_arrays() -> dict[str, np.ndarray]:
    return arrays_for(KIND, WHICH, ARCHITECTURE)


def good_file(
    *, tensors: dict | None = None, attributes: dict | None = None, protocol: int = 4, **entries
) -> bytes:
    """A file with one good discriminator, changed as asked."""
    arrays = {**_good_arrays(), **(tensors or {})}
    made = network(arrays, ARCHITECTURE, attributes=dict(attributes or {}))
    return network_file({WHICH: made}, protocol=protocol, **entries)


def _payloads() -> dict[str, Any]:
    system = Call(Global("os", "system"), ("echo pwned",))
    getattr_ = Global("builtins", "getattr")
    return {
        "os.system": system,
        "posix.system": Call(Global("posix", "system"), ("echo pwned",)),
        "eval": Call(Global("builtins", "eval"), ("1",)),
        "exec": Call(Global("builtins", "exec"), ("import antigravity",)),
        "__import__": Call(Global("builtins", "__import__"), ("antigravity",)),
        "Popen by NEWOBJ": New(Global("subprocess", "Popen"), ("ls",)),
        "getattr chain": Call(
            Call(getattr_, (Call(getattr_, (Global("os", "path"), "os")), "system")), ("ls",)
        ),
        "nested reduce": Call(Call(Global("functools", "partial"), (system, "ls")), (system,)),
        "attrgetter": Call(
            Call(Global("operator", "attrgetter"), ("system",)), (Global("os", "x"),)
        ),
        "pickle in a pickle": Call(Global("pickle", "loads"), (dumps(system),)),
        "code object": Call(Global("types", "FunctionType"), (Global("marshal", "loads"), {})),
        "runpy": Call(Global("runpy", "run_path"), ("x.py",)),
    }


def _placed(payload: Any) -> dict[str, bytes]:
    """The payload in every place of a file where something is called, stored or named."""
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    load = Global("torch.storage", "_load_from_bytes")
    on = storage(FLAT)
    shape = (4, 4, 3, 3)
    child = {"b8": payload}
    inside = legacy_file([payload, storage_id("0", 1)], {"0": b"abcd"}, itemsizes={"0": 4})
    in_keys = b"".join(dumps(p, protocol=2) for p in (MAGIC, 1001, SYSTEM, storage_id("0", 1)))
    in_keys += dumps([payload], protocol=2) + struct.pack("<q", 1) + b"abcd"
    lying = legacy_file(storage_id("0", 1, name=payload), {"0": b"abcd"}, itemsizes={"0": 4})
    return {
        "as the whole file": dumps(payload),
        "as a network": network_file({WHICH: payload}),
        "as an entry": good_file(extra=payload),
        "as a key": dumps({WHICH: None, ("key", payload): 1}),
        "as a module": network_file({WHICH: persistent("D", module_state({}, {}, child))}),
        "as a parameter": good_file(tensors={VICTIM: payload}),
        "as a storage": good_file(tensors={VICTIM: tensor(FLAT.reshape(shape), on=payload)}),
        "as a storage's bytes": good_file(
            tensors={VICTIM: tensor(FLAT.reshape(shape), on=Call(load, (payload,)))}
        ),
        "as a shape": good_file(
            tensors={VICTIM: Call(rebuild, (on, 0, payload, (1,), False, None))}
        ),
        "as a hook": good_file(
            tensors={VICTIM: Call(rebuild, (on, 0, shape, (36, 9, 3, 1), False, payload))}
        ),
        "among the arguments": good_file(attributes={"_init_kwargs": payload}),
        "as a class's state": good_file(attributes={"x": New(Global("a", "B"), (), payload)}),
        "inside a storage's bytes": good_file(tensors={VICTIM: _on_blob(inside)}),
        "among a storage's keys": good_file(tensors={VICTIM: _on_blob(in_keys)}),
        "as a storage's type": good_file(tensors={VICTIM: _on_blob(lying)}),
    }


def _on_blob(blob: Any) -> Call:
    load = Global("torch.storage", "_load_from_bytes")
    return tensor(FLAT.reshape(4, 4, 3, 3), on=Call(load, (blob,)))


def _views() -> dict[str, Call]:
    """Tensors that do not fit their storages."""

    def view(shape, strides, offset=0, on=None) -> Call:
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        on = storage(FLAT) if on is None else on
        return Call(rebuild, (on, offset, shape, strides, False, ordered()))

    return {
        "offset beyond": view((4, 4, 3, 3), (36, 9, 3, 1), 1),
        "negative offset": view((4, 4, 3, 3), (36, 9, 3, 1), -1),
        "negative stride": view((4, 4, 3, 3), (-36, 9, 3, 1), 143),
        "negative extent": view((-4, 4, 3, 3), (36, 9, 3, 1)),
        "stride beyond": view((4, 4, 3, 3), (2**39, 9, 3, 1)),
        "overflowing strides": view((4, 4, 3, 3), (2**62, 2**62, 3, 1)),
        "expanded to 2^40": view((2**20, 2**20), (0, 0)),
        "expanded to 2^37 bytes": view((2**35,), (0,)),
        "expanded past the budget": view((2**18,), (0,)),
        "huge empty": view((2**40, 2**40, 0), (1, 1, 1)),
        "too many axes": view((1,) * 70, (0,) * 70),
        "shape and strides differ": view((4, 4), (1,)),
        "list as shape": view([4, 4, 3, 3], [36, 9, 3, 1]),
        "text as extent": view(("4", 4, 3, 3), (36, 9, 3, 1)),
        "float as offset": view((4, 4, 3, 3), (36, 9, 3, 1), 0.0),
        "flag as extent": view((True, 4, 3, 3), (36, 9, 3, 1)),
        "array as storage": view((4,), (1,), on=[1, 2, 3, 4]),
        "tensor as storage": view((4,), (1,), on=tensor(FLAT)),
    }


def _blobs() -> dict[str, Any]:
    """Bytes of storages that lie."""
    good = storage_blob(FLAT)
    one = {"0": b"abcd"}

    def legacy(value: Any, storages=one, **changes) -> bytes:
        return legacy_file(value, storages, itemsizes={"0": 4, "1": 4}, **changes)

    big = struct.pack("<q", 2**40)
    return {
        "2^40 elements in the id": legacy(storage_id("0", 2**40)),
        "2^40 elements in both": legacy(storage_id("0", 2**40), counts={"0": 2**40}),
        "2^70 elements": legacy(storage_id("0", 2**70)),
        "2^40 elements in the data": good[: -FLAT.nbytes - 8] + big + good[-FLAT.nbytes :],
        "negative count": legacy(storage_id("0", 1), counts={"0": -1}),
        "negative count in both": legacy(storage_id("0", -1), counts={"0": -1}),
        "shorter by a byte": good[:-1],
        "longer by a byte": good + b"\0",
        "no data": legacy(storage_id("0", 1), {}, keys=[]),
        "data without a reference": legacy(storage_id("0", 1), {"0": b"abcd", "1": b"abcd"}),
        "key twice": legacy(storage_id("0", 1), keys=["0", "0"]),
        "keys are numbers": legacy(storage_id("0", 1), keys=[0]),
        "keys are no list": legacy(storage_id("0", 1), keys={"0": 1}),
        "two sizes": legacy([storage_id("0", 1), storage_id("0", 2)]),
        "two types": legacy([storage_id("0", 1), storage_id("0", 1, kind="int32")]),
        "no storage": legacy([1, 2], {}, keys=[]),
        "a list of storages": legacy([storage_id("0", 1)]),
        "unknown type": legacy(storage_id("0", 1, name=Global("torch", "EvilStorage"))),
        "type is text": legacy(storage_id("0", 1, name="torch.FloatStorage")),
        "a called type": legacy(
            storage_id("0", 1, name=Call(Global("torch", "FloatStorage"), (1,)))
        ),
        "part of a storage": legacy(storage_id("0", 1, view=(("1", 0, 1),))),
        "id is text": legacy(PersistentId("storage")),
        "id of a module": legacy(PersistentId(("module", Global("os", "x"), "f.py", "source"))),
        "id too short": legacy(PersistentId(("storage", "0"))),
        "id with a list": legacy(PersistentId(("storage", [], [], [], []))),
        "other magic": dumps(1, protocol=2) + good,
        "other protocol": legacy(storage_id("0", 1), protocol=1002),
        "big endian": legacy(storage_id("0", 1), system={**SYSTEM, "little_endian": False}),
        "a blob in the blob": legacy(Call(Global("torch.storage", "_load_from_bytes"), (good,))),
        "not a pickle": b"\x89PNG",
        "empty": b"",
        "text": "text",
        "none": None,
        **{f"hostile: {name}": data for name, data in hostile_pickles.corpus().items()},
    }


def _structures() -> dict[str, bytes]:
    """Trees without end, odd names, and what is no network at all."""
    loop: dict = module_state({}, {}, {})
    module = persistent("D", loop)
    loop["_modules"].items["again"] = module
    shared: Any = persistent("D", module_state({}, {}, {}))
    for _ in range(10):
        shared = persistent("D", module_state({}, {}, {str(n): shared for n in range(30)}))
    laughs: Any = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    self_list: list = []
    self_list.append(self_list)
    names = {"dotted": "a.b", "empty": "", "line break": "a\nb", "number": 1, "long": "a" * 200}
    odd = {
        f"{what} name of a parameter": network_file(
            {WHICH: persistent("D", module_state({name: tensor(FLAT)}, {}, {}))}
        )
        for what, name in names.items()
    }
    many = [
        Call(Global("torch.storage", "_load_from_bytes"), (b,)) for b in [storage_blob(FLAT)] * 9
    ]
    kernel = FLAT.reshape(4, 4, 3, 3)
    repeated = b"".join([b"h\x01h\x03\x85R0"] * 100_000)
    return {
        **odd,
        "module in itself": network_file({WHICH: module}),
        "modules shared without end": network_file({WHICH: shared}),
        "arguments that unfold": good_file(attributes={"_init_kwargs": {"x": laughs}}),
        "arguments that hold themselves": good_file(attributes={"_init_kwargs": {"x": self_list}}),
        "arguments without names": good_file(attributes={"_init_args": tuple(range(9))}),
        "arguments are a list": good_file(attributes={"_init_kwargs": [1]}),
        "storages but no network": dumps(many),
        "one storage a hundred thousand times": (
            b"\x80\x04]\x94\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93\x94C\x03abc\x940"
            + b"h\x01B" + struct.pack("<I", len(storage_blob(FLAT))) + storage_blob(FLAT)
            + b"\x94\x85R0" + repeated + b"."
        ),
        "a module of another type": dumps(
            {WHICH: Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"),
                         ({"type": "module", "module_src": "import os"},))}
        ),
        "a module without arguments": dumps(
            {WHICH: Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), ())}
        ),
        "state by BUILD only": dumps({WHICH: New(Global("a", "B"), (), {"_parameters": 1})}),
        "network is a number": dumps({WHICH: 1}),
        "no networks": dumps({"a": 1}),
        "a list": dumps([1]),
        "text of protocol 0": b"(dV%s\nNs." % WHICH.encode(),
        "persistent id outside": dumps({WHICH: PersistentId(("storage", "x"))}),
        "extension code": dumps({WHICH: Raw(b"\x82\x01")}),
        "parameter is a number": good_file(tensors={VICTIM: 1.5}),
        "not finite": good_file(tensors={VICTIM: tensor(np.full_like(kernel, np.nan))}),
        "whole numbers": good_file(tensors={VICTIM: tensor(kernel.astype(np.int64))}),
    }  # fmt: skip


@functools.cache
def corpus() -> dict[str, bytes]:
    """name → file; each must be refused."""
    files = {f"pickle: {name}": data for name, data in hostile_pickles.corpus().items()}
    for name, payload in _payloads().items():
        files.update({f"{name} {place}": data for place, data in _placed(payload).items()})
    files.update({f"view: {n}": good_file(tensors={VICTIM: v}) for n, v in _views().items()})
    files.update(
        {f"blob: {n}": good_file(tensors={VICTIM: _on_blob(b)}) for n, b in _blobs().items()}
    )
    return {**files, **_structures()}


def inert() -> dict[str, tuple[bytes, str]]:
    """name → (a good file with unknown content, the name to be listed); each is converted."""
    unknown = {
        "torch.load": Call(Global("torch", "load"), ("x.pt",)),
        "torch.hub.load": Call(Global("torch.hub", "load"), ("a/b", "c")),
        "numpy.load": Call(Global("numpy", "load"), ("x.npy",)),
        "a.deeply.Evil": New(Global("a.deeply", "Evil"), ("x",), {"__reduce__": 1}),
        "os_.system": Call(Global("os_", "system"), ("echo pwned",)),
    }
    return {name: (good_file(augment_pipe=value), name) for name, value in unknown.items()}
