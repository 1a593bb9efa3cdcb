"""The pickle reader reads numbers faithfully and leaves everything else inert."""

import collections
import io
import json
import pickle
import pickletools
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import scipy.sparse

from headjax.errors import UserError
from headjax.io import safe_pickle
from headjax.io.pickle_families import FLAME, NPY_OBJECT, NUMPY, PLAIN
from headjax.io.pickle_scan import Limits
from headjax.io.pickle_values import GlobalName, Pending, Record
from tests.io import hostile_pickles

VALUES = {
    "double": np.arange(12, dtype=np.float64).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "unsigned": np.array([[4294967295, 0, 1]], dtype=np.uint32),
    "big_endian": np.array([1.5, -2.0], dtype=">f8"),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "zero_d": np.array(3.5),
    "text": np.array(["ab", "c"]),
    "scalar": np.float32(2.5),
    "plain": [1, -(2**70), 2.5, "ü", b"\x00\xff", None, True, (1, (2, 3))],
    "set": {1, 2},
    "frozen": frozenset({3}),
    "nested": {"a": {"b": [1, 2]}},
    "ordered": collections.OrderedDict([("x", 1), ("y", np.ones(2))]),
}


def assert_same(got, expected):
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype.newbyteorder("=") and got.flags.writeable
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    else:
        assert got == expected


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_arrays_and_containers_come_back_as_they_were(name, protocol):
    data = pickle.dumps(VALUES[name], protocol=protocol)
    assert_same(safe_pickle.loads(data, family=NUMPY, source="x"), VALUES[name])


def test_shared_and_self_referring_containers_keep_their_shape():
    inner = [np.ones(3)]
    outer = {"a": inner, "b": inner}
    outer["self"] = outer
    got = safe_pickle.loads(pickle.dumps(outer), family=NUMPY, source="x")
    assert got["a"] is got["b"] and got["self"] is got
    np.testing.assert_array_equal(got["a"][0], np.ones(3))


def _python2_array(values: np.ndarray, *, escaped: bool) -> bytes:
    """What Python 2 writes: module numpy.core.multiarray, data as a (byte) string."""
    raw = values.tobytes()
    if escaped:  # protocol 0: an escaped literal on a line of its own
        body = b"S" + repr(raw)[1:].encode("latin1") + b"\n"
    else:
        body = b"T" + len(raw).to_bytes(4, "little") + raw
    shape = b"(" + b"".join(b"I%d\n" % n for n in values.shape) + b"t"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return start + b"(I1\n" + shape + dtype + b"I00\n" + body + b"tb."


@pytest.mark.parametrize("escaped", [True, False])
def test_arrays_written_by_python_2_are_read(escaped):
    values = np.random.default_rng(0).normal(size=(4, 5))
    data = _python2_array(values, escaped=escaped)
    got = safe_pickle.loads(data, family=NUMPY, source="x")
    np.testing.assert_array_equal(got, values)


def test_python_2_strings_come_as_latin_1():
    got = safe_pickle.loads(b"U\x02\xe9t.", family=PLAIN, source="x")
    assert got == "ét"


class _Ch:
    """What `chumpy.ch.Ch` leaves in a file."""

    def __init__(self, x):
        self.x = x


_Ch.__module__, _Ch.__qualname__ = "chumpy.ch", "Ch"


def _dump_with_chumpy(value, protocol: int) -> bytes:
    """A pickle; the module `chumpy.ch` is there only while it is written."""
    module = types.ModuleType("chumpy.ch")
    module.Ch = _Ch
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
        patch.setitem(sys.modules, "chumpy.ch", module)
        return pickle.dumps(value, protocol=protocol)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_chumpy_objects_are_records_with_their_state(protocol):
    data = _dump_with_chumpy(_Ch(np.eye(2)), protocol)
    got = safe_pickle.loads(data, family=FLAME, source="x")
    assert isinstance(got, Record) and got.global_name == "chumpy.ch.Ch"
    np.testing.assert_array_equal(got.state["x"], np.eye(2))


@pytest.mark.parametrize("form", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix])
def test_sparse_matrices_are_records_with_their_state(form):
    dense = np.array([[0, 2.0, 0], [1, 0, 3]])
    data = pickle.dumps(form(dense), protocol=2)
    got = safe_pickle.loads(data, family=FLAME, source="x")
    assert isinstance(got, Record) and got.global_name.startswith("scipy.sparse.")
    assert sorted(got.state["data"]) == [1, 2, 3] and got.state["_shape"] == (2, 3)


def test_unknown_names_are_refused_or_kept_as_inert_records_by_choice():
    data = pickle.dumps([collections.Counter("ab"), len])
    with pytest.raises(UserError, match=r"x was not read as numpy arrays: it names 'collections"):
        safe_pickle.loads(data, family=NUMPY, source="x")
    counter, name = safe_pickle.loads(data, family=NUMPY, source="x", unknown="record")
    assert counter.global_name == "collections.Counter" and counter.args == ({"a": 1, "b": 1},)
    assert name == GlobalName("builtins.len")


def test_a_family_is_extended_by_builders_pending_values_and_persistent_ids():
    class Later(Pending):
        def __setstate__(self, state):
            self.state = state

        def finished(self):
            return {"built": self.state}

    family = NUMPY.extended(
        "toys",
        builders={"toy.add": lambda budget, a, b: a + b, "toy.Later": lambda budget: Later()},
        persistent=lambda pid: ("storage", pid),
    )
    data = b"(ctoy\nadd\n(I1\nI2\ntRctoy\nLater\n)RI7\nbU\x01kQt."
    got = safe_pickle.loads(data, family=family, source="x")
    assert got == (3, {"built": 7}, ("storage", "k"))
    with pytest.raises(UserError, match="BINPERSID"):
        safe_pickle.loads(b"U\x01kQ.", family=NUMPY, source="x")


def test_pickles_in_a_row_are_read_one_by_one():
    data = pickle.dumps(1) + pickle.dumps("two") + b"raw"
    first, end = safe_pickle.loads_prefix(data, family=PLAIN, source="x")
    second, end = safe_pickle.loads_prefix(data, family=PLAIN, source="x", offset=end)
    assert (first, second, data[end:]) == (1, "two", b"raw")
    with pytest.raises(UserError, match="behind the end"):
        safe_pickle.loads(data, family=PLAIN, source="x")


def test_a_dictionary_saved_by_numpy_is_read(tmp_path):
    path = tmp_path / "embedding.npy"
    np.save(path, {"faces": np.arange(3), "bary": np.eye(3)}, allow_pickle=True)
    got = safe_pickle.load_npy_object(path)
    np.testing.assert_array_equal(got["bary"], np.eye(3))


@pytest.mark.parametrize(
    "value", [np.eye(2), np.array([{}, None], object), np.array([[1]], object)]
)
def test_other_npy_files_are_refused(tmp_path, value):
    path = tmp_path / "x.npy"
    np.save(path, value, allow_pickle=True)
    with pytest.raises(UserError, match="x.npy does not hold one dictionary"):
        safe_pickle.load_npy_object(path)
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="not a .npy file"):
        safe_pickle.load_npy_object(path)


@pytest.mark.parametrize("name", hostile_pickles.corpus())
def test_hostile_pickles_end_in_one_sentence(name):
    data = hostile_pickles.corpus()[name]
    for family in (NUMPY, FLAME, NPY_OBJECT):
        with pytest.raises(UserError, match=r"^evil was not read as .*\.$"):
            safe_pickle.loads(data, family=family, source="evil")


def test_hostile_pickles_touch_nothing():
    """No import, no execution, no file, no process, under an audit hook in a fresh interpreter."""
    code = """
        import json, sys
        from headjax.errors import UserError
        from headjax.io import safe_pickle
        from headjax.io.pickle_families import NUMPY
        from tests.io import hostile_pickles

        corpus = hostile_pickles.corpus()
        before, events = set(sys.modules), []
        FORBIDDEN = ("import", "exec", "compile", "open", "os.", "subprocess.", "pickle.",
                     "ctypes.", "socket.", "shutil.", "code.")
        sys.addaudithook(lambda event, args: events.append((event, str(args)[:200]))
                         if event.startswith(FORBIDDEN) else None)
        kept = 0
        for unknown in ("error", "record"):
            for name, data in corpus.items():
                try:
                    safe_pickle.loads(data, family=NUMPY, source=name, unknown=unknown)
                    kept += 1
                except UserError:
                    pass
        sys.stdout.write(json.dumps([events, sorted(set(sys.modules) - before), kept]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    events, modules, kept = json.loads(done.stdout)
    assert events == [] and modules == []
    assert kept > 0  # as inert records


def _sample() -> bytes:
    value = {"a": np.arange(4.0), "o": collections.OrderedDict(x=(1, "two")), "n": [None, b"x"]}
    return pickle.dumps(value, protocol=2)


def test_truncation_anywhere_is_refused():
    data = _sample()
    for length in range(len(data)):
        with pytest.raises(UserError, match="was not read as"):
            safe_pickle.loads(data[:length], family=NUMPY, source="cut")


def _survives(data: bytes) -> None:
    try:
        safe_pickle.loads(data, family=NUMPY, source="flip")
    except UserError:
        pass


def test_flipped_bytes_give_a_value_or_our_error():
    rng = np.random.default_rng(0)
    for data in [_sample(), *hostile_pickles.corpus().values()]:
        if not 0 < len(data) < 5000:
            continue
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 2):
                broken[at] = rng.integers(256)
            _survives(bytes(broken))


@pytest.mark.sweep
def test_any_flipped_byte_gives_a_value_or_our_error():
    for data in [_sample(), *hostile_pickles.corpus().values()]:
        for at in range(len(data) if len(data) < 2000 else 0):
            for value in range(at % 11, 256, 11):
                _survives(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(bytes=10), "larger than 10 bytes"),
        (Limits(opcodes=5), "more than 5 opcodes"),
        (Limits(globals=1), "more than 1 globals"),
        (Limits(depth=1), "nested more than 1 deep"),
        (Limits(memo=2), "memo index 3"),
    ],
)
def test_each_cap_is_kept(limits, message):
    with pytest.raises(UserError, match=message):
        safe_pickle.loads(_sample(), family=NUMPY, source="x", limits=limits)


def test_the_scan_ends_where_pickletools_ends():
    for protocol in range(6):
        data = pickle.dumps(VALUES["plain"], protocol=protocol)
        _, end = safe_pickle.loads_prefix(data + b"tail", family=NUMPY, source="x")
        stream = io.BytesIO(data + b"tail")
        list(pickletools.genops(stream))
        assert end == stream.tell()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pkl cannot be read"):
        safe_pickle.load(tmp_path / "nothing.pkl", family=NUMPY)
