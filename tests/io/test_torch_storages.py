"""Tensors and state dictionaries of PyTorch come back exactly, or are refused in one sentence."""

import io
import struct
import zipfile

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.io.pickle_families import NUMPY
from headjax.io.safe_pickle import loads
from headjax.io.torch_storages import TENSOR_BUILDERS, Tensor, load_state_dict
from tests.io.official_pickles import (
    Call,
    Global,
    New,
    dumps,
    legacy_file,
    ordered,
    parameter,
    storage,
    storage_id,
    tensor,
)

FAMILY = NUMPY.extended("tensors", builders=TENSOR_BUILDERS)
RNG = np.random.default_rng(0)
NUMBERS = {
    "float32": RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "float64": RNG.standard_normal((5,)),
    "float16": RNG.standard_normal((3, 2)).astype(np.float16),
    "int64": np.array([[-(2**60), 7]]),
    "int32": np.array([1, -2], np.int32),
    "int16": np.array([300, -300], np.int16),
    "int8": np.array([-128, 127], np.int8),
    "uint8": np.array([0, 255], np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(2.5, np.float32),
    "true": np.array(True),
    "empty": np.zeros((0, 3), np.float32),
}


def read(node, *, protocol: int = 4):
    return loads(dumps(node, protocol=protocol), family=FAMILY, source="x")


def assert_same(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_type_of_number_comes_back(name, protocol):
    for node in (tensor(NUMBERS[name]), parameter(NUMBERS[name])):
        got = read(node, protocol=protocol)
        assert isinstance(got, Tensor) and got.shape == NUMBERS[name].shape
        assert_same(got.array(), NUMBERS[name])


def test_bfloat16_is_widened_exactly():
    values = np.array([[1.0, -2.5], [3.0e38, 1e-30]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    on = storage(bits.ravel(), kind="bfloat16")
    got = read(tensor(bits, on=on))
    assert got.is_floating
    assert_same(got.array(), widened)
    assert_same(read(tensor(bits[1, 0], on=on, offset=2)).array(), np.asarray(widened[1, 0]))


def test_tensors_may_share_a_storage_and_be_turned_cut_and_repeated():
    flat = np.arange(24, dtype=np.float32)
    on = storage(flat)
    grid = flat.reshape(4, 6)
    views = {
        "whole": (grid, 0, (6, 1)),
        "turned": (grid.T, 0, (1, 6)),
        "cut": (grid[1:3, 2::2], 8, (6, 2)),
        "row": (grid[3], 18, (1,)),
        "repeated": (np.broadcast_to(grid[0, :1], (5, 1)), 0, (0, 1)),
        "channels last": (flat.reshape(1, 2, 4, 3).transpose(0, 3, 1, 2), 0, (24, 1, 12, 3)),
    }
    nodes = {
        name: tensor(values, on=on, offset=offset, strides=strides)
        for name, (values, offset, strides) in views.items()
    }
    got = read(nodes)
    for name, (values, _, _) in views.items():
        assert_same(got[name].array(), values)
    assert np.shares_memory(got["whole"].array(), got["turned"].array())
    assert not got["whole"].array().flags.writeable


def test_tensors_of_older_and_newer_kinds_are_read():
    values = NUMBERS["float32"]
    plain = tensor(values)
    hooks = ordered()
    utils, kind = "torch._utils", Global("torch.nn.parameter", "Parameter")
    rebuild = Global("torch._tensor", "_rebuild_from_type_v2")
    nodes = [
        Call(Global(utils, "_rebuild_tensor"), plain.arguments[:4]),
        Call(Global(utils, "_rebuild_parameter_with_state"), (plain, True, hooks, {"a": 1})),
        Call(rebuild, (Global(utils, "_rebuild_parameter"), kind, (plain, True, hooks), {"a": 1})),
        New(kind, (plain,), (True, False, hooks)),
    ]
    for node in nodes:
        assert_same(read(node).array(), values)


def test_a_parameter_around_something_else_is_refused():
    with pytest.raises(UserError, match="holds no tensor"):
        read(parameter(Call(Global("collections", "OrderedDict"), ())))
    rebuild = Global("torch._tensor", "_rebuild_from_type_v2")
    with pytest.raises(UserError, match="unknown kind"):
        read(Call(rebuild, (Global("torch", "Size"), Global("torch", "Tensor"), ((1,),), {})))


def reference(key: str, values: np.ndarray) -> Call:
    on = storage_id(key, values.size, kind=values.dtype.name)
    return tensor(values, on=on)


def legacy(arrays: dict, *, wrap=lambda value: value) -> bytes:
    keys = {name: str(1000 + n) for n, name in enumerate(arrays)}
    value = ordered({name: reference(keys[name], values) for name, values in arrays.items()})
    return legacy_file(
        wrap(value),
        {keys[name]: values.tobytes() for name, values in arrays.items()},
        itemsizes={keys[name]: values.itemsize for name, values in arrays.items()},
    )


def zipped(arrays: dict, *, root: str = "archive/", extra: dict | None = None) -> bytes:
    keys = {name: str(n) for n, name in enumerate(arrays)}
    value = ordered({name: reference(keys[name], values) for name, values in arrays.items()})
    members = {"data.pkl": dumps(value, protocol=2), "version": b"3\n", "byteorder": b"little"}
    members |= {f"data/{keys[name]}": values.tobytes() for name, values in arrays.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in {**members, **(extra or {})}.items():
            archive.writestr(root + name, data)
    return stream.getvalue()


@pytest.mark.parametrize("form", [legacy, zipped])
def test_state_dictionaries_are_read_in_order(form, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(form(NUMBERS))
    got = load_state_dict(path)
    assert list(got) == list(NUMBERS)
    for name, values in NUMBERS.items():
        assert_same(got[name], values)


def test_a_large_zip_is_no_larger_than_its_budget(tmp_path):
    path = tmp_path / "weights.pth"
    values = np.ones((500, 1000), np.float32)
    path.write_bytes(zipped({"w": values}))
    assert_same(load_state_dict(path)["w"], values)


@pytest.mark.parametrize("entry", ["params_ema", "params", "state_dict", "model"])
def test_a_wrapped_state_dictionary_is_found(entry, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(
        legacy({"w": NUMBERS["float32"]}, wrap=lambda value: {"step": 3, entry: value})
    )
    assert list(load_state_dict(path)) == ["w"]
    assert list(load_state_dict(path, key=entry)) == ["w"]
    with pytest.raises(UserError, match="no tensors by name under 'other'"):
        load_state_dict(path, key="other")


def without(data: bytes, member: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
    return stream.getvalue()


ARRAYS = {"w": NUMBERS["float32"]}
LIE = ordered({"w": tensor(ARRAYS["w"], on=storage_id("0", 2**40))})
BROKEN = {
    "a missing storage": (without(zipped(ARRAYS), "archive/data/0"), "no member"),
    "a missing object": (without(zipped(ARRAYS), "archive/data.pkl"), "none that PyTorch saved"),
    "a short storage": (zipped(ARRAYS, extra={"data/0": b"abcd"}), "."),
    "a big-endian machine": (zipped({}, extra={"byteorder": b"big"}), "."),
    "a compiled program": (zipped(ARRAYS, extra={"constants.pkl": b"]."}), "TorchScript"),
    "nothing by name": (zipped({}), "no tensors by name"),
    "an impossible storage": (legacy_file(LIE, {"0": b""}, itemsizes={"0": 4}), "."),
    "no storages": (legacy(ARRAYS)[: -ARRAYS["w"].nbytes - 8], "before the data"),
    "a plain pickle": (dumps({"w": 1}), "magic number"),
    "text": (b"hello", "was not read"),
    "nothing": (b"", "was not read"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_end_in_one_sentence(what, tmp_path):
    path = tmp_path / "weights.pth"
    data, message = BROKEN[what]
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load_state_dict(path)
    assert "weights.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(LIE, protocol=2))
        archive.writestr("archive/data/0", ARRAYS["w"].tobytes())
    path.write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="impossible size"):
        load_state_dict(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth cannot be read"):
        load_state_dict(tmp_path / "nothing.pth")


@pytest.mark.parametrize("form", [legacy, zipped])
def test_truncation_is_refused(form, tmp_path):
    path = tmp_path / "weights.pth"
    data = form({name: NUMBERS[name] for name in ("float32", "int64")})
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            load_state_dict(path)


def test_a_count_that_differs_from_the_reference_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    data = legacy(ARRAYS)
    at = len(data) - ARRAYS["w"].nbytes - 8
    path.write_bytes(data[:at] + struct.pack("<q", 23) + data[at + 8 :])
    with pytest.raises(UserError, match="states 24 and 23 elements"):
        load_state_dict(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_by_pytorch_itself_are_read(is_zip, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'parity')")
    path = tmp_path / "weights.pth"
    layer = torch.nn.Conv2d(3, 4, 3).half()
    state = {**layer.state_dict(), "turned": torch.arange(6.0).reshape(2, 3).t()}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    got = load_state_dict(path)
    assert list(got) == list(state)
    for name, values in state.items():
        assert_same(got[name], values.numpy())
