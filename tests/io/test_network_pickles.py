"""Official network pickles give their tensors and arguments; their code stays a string."""

import pickle

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.io.network_pickles import read_networks
from tests.io import official_pickles as official
from tests.io.official_pickles import (
    Call,
    Global,
    New,
    easy,
    ordered,
    parameter,
    persistent,
    tensor,
)


def written(tmp_path, networks, *, protocol=4, **entries):
    path = tmp_path / "network.pkl"
    path.write_bytes(official.network_file(networks, protocol=protocol, **entries))
    return path


def small(children=None, *, parameters=None, buffers=None, **attributes):
    """A network with one parameter."""
    parameters = {"weight": parameter(np.ones(2, np.float32))} if parameters is None else parameters
    state = official.module_state(parameters, buffers or {}, children or {}, **attributes)
    return persistent("TriPlaneGenerator", state)


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_writer_is_for_protocols_2_to_4(protocol):
    with pytest.raises(AssertionError):
        official.dumps(1, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_writer_writes_what_python_reads(protocol):
    shared = ["x" * 300, b"\x00\xff" * 40000, -1, 300, 2**40, 1.5, None, True, (), (1, 2, 3, 4)]
    value = {"a": shared, "b": shared, "set": {1, 2}, "empty": [], "big": b"x" * 70000}
    got = pickle.loads(official.dumps(value, protocol=protocol))
    assert got == value and got["a"] is got["b"]


@pytest.mark.parametrize(
    ("kind", "protocol"), [("eg3d", 2), ("eg3d", 4), ("panohead", 3), ("panohead", 4)]
)
def test_networks_come_back_with_their_tensors_in_order_and_their_arguments(
    kind, protocol, tmp_path
):
    arrays, networks = {}, {}
    for seed, which in enumerate(["G", "D", "G_ema"]):
        architecture = official.ARCHITECTURES[kind, "D" if which == "D" else "G_ema"]
        arrays[which] = official.arrays_for(kind, which, architecture, seed=seed)
        networks[which] = official.network(arrays[which], architecture)
    got = read_networks(written(tmp_path, networks, protocol=protocol))
    assert set(got.networks) == {"G", "D", "G_ema"} and got.unknown == ()
    for which, network in got.networks.items():
        architecture = official.ARCHITECTURES[kind, "D" if which == "D" else "G_ema"]
        assert list(network.tensors) == list(arrays[which])
        for name, values in arrays[which].items():
            assert network.tensors[name].shape == values.shape
            np.testing.assert_array_equal(network.tensors[name].array(), values)
        assert network.architecture == architecture and network.skipped == ()
        assert network.class_name == architecture["class_name"]
        assert network.source == official.SOURCE


def test_arguments_without_names_get_their_public_ones(tmp_path):
    network = small(_init_args=(512, 25, 512), _init_kwargs=easy({"img_resolution": 128}))
    (got,) = read_networks(written(tmp_path, {"G": network})).networks.values()
    wanted = {"z_dim": 512, "c_dim": 25, "w_dim": 512, "img_resolution": 128}
    assert got.architecture == {**wanted, "class_name": "TriPlaneGenerator"}
    network = small(_init_args=(25, 512, 3))
    (got,) = read_networks(written(tmp_path, {"D": network})).networks.values()
    assert got.architecture["c_dim"] == 25 and got.architecture["img_channels"] == 3


def test_the_state_at_the_end_outweighs_the_arguments_at_the_start(tmp_path):
    network = small(
        _init_kwargs={"rendering_kwargs": {"ray_start": 1.0}},
        rendering_kwargs=easy({"ray_start": 2.25}),
        neural_rendering_resolution=128,
    )
    (got,) = read_networks(written(tmp_path, {"G_ema": network})).networks.values()
    assert got.architecture["rendering_kwargs"] == {"ray_start": 2.25}
    assert got.architecture["neural_rendering_resolution"] == 128


def test_arguments_that_are_no_plain_values_are_listed(tmp_path):
    scalar = Call(
        Global("numpy.core.multiarray", "scalar"),
        (
            Call(Global("numpy", "dtype"), ("f4",), (3, "<", None, None, None, -1, -1, 0)),
            b"\0\0\0@",
        ),
    )
    kwargs = {
        "good": [1, (2.5, "x", None, True)],
        "scalar": scalar,
        "set": {1, 2},
        "dtype": Global("torch", "float32"),
        "device": Call(Global("torch", "device"), ("cuda", 0)),
        "evil": New(Global("some.where", "Evil"), (), {"a": 1}),
        "inf": float("inf"),
        "nested": {"bytes": b"x", "good": 1},
        3: "a number as key",
    }
    network = small(_init_kwargs=easy(kwargs))
    file = read_networks(written(tmp_path, {"G": network}, surprise=1))
    (got,) = file.networks.values()
    assert got.architecture["good"] == [1, [2.5, "x", None, True]]
    assert got.architecture["scalar"] == 2.0 and got.architecture["nested"] == {"good": 1}
    assert set(got.architecture) == {"good", "scalar", "nested", "class_name"}
    assert got.skipped == (
        "G.set (set)", "G.dtype (torch.float32)", "G.device (torch.device)",
        "G.evil (some.where.Evil)", "G.inf (float)", "G.nested.bytes (bytes)", "G.3 (int)",
    )  # fmt: skip
    assert file.unknown == ("some.where.Evil", "entry 'surprise'")


def test_modules_of_pytorch_and_of_the_original_code_are_walked_through(tmp_path):
    values = {name: np.full(2, n, np.float32) for n, name in enumerate("abcdef")}
    linear = official.module_state(
        {"weight": parameter(values["c"]), "bias": None}, {"later": tensor(values["d"])}, {}
    )
    fleeting = official.module_state(
        {}, {"kept": tensor(values["e"]), "gone": tensor(values["f"])}, {}
    )
    fleeting["_non_persistent_buffers_set"] = {"gone"}
    sequential = official.module_state(
        {},
        {},
        {
            "0": New(Global("torch.nn.modules.linear", "Linear"), (), linear),
            "1": New(
                Global("torch.nn.modules.activation", "Softplus"),
                (),
                official.module_state({}, {}, {}, beta=1, threshold=20),
            ),
            "2": New(Global("_imported_module_0f", "Layer"), (), fleeting),
            "3": None,
        },
    )
    network = small(
        {"net": New(Global("torch.nn.modules.container", "Sequential"), (), sequential)},
        parameters={"weight": parameter(values["a"])},
        buffers={"average": tensor(values["b"])},
    )
    file = read_networks(written(tmp_path, {"G": network}))
    names = ["weight", "average", "net.0.weight", "net.0.later", "net.2.kept"]
    (got,) = file.networks.values()
    assert list(got.tensors) == names
    for name, letter in zip(names, "abcde", strict=True):
        np.testing.assert_array_equal(got.tensors[name].array(), values[letter])
    assert file.unknown == ("_imported_module_0f.Layer",)


def test_a_module_may_be_there_twice(tmp_path):
    child = persistent("Layer", official.module_state({"w": parameter(np.ones(1))}, {}, {}))
    (got,) = read_networks(
        written(tmp_path, {"G": small({"a": child, "b": child})})
    ).networks.values()
    assert list(got.tensors) == ["weight", "a.w", "b.w"]
    assert got.tensors["a.w"] is got.tensors["b.w"]


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        (("pathlib", "PosixPath"), True),
        (("argparse", "Namespace"), True),
        (("metrics.metric_utils", "X"), True),
        (("os", "getcwd"), False),
        (("pathlib2", "Path"), True),
        (("_io", "FileIO"), False),
        (("builtins", "print"), False),
        (("__builtin__", "print"), False),
        (("nt", "system"), False),
        (("collections", "namedtuple"), False),
    ],
)
def test_names_of_pythons_own_library_are_refused_but_for_plain_ones(name, is_read, tmp_path):
    path = written(tmp_path, {"G": small()}, extra=Call(Global(*name), ("x",)))
    if is_read:
        assert set(read_networks(path).networks) == {"G"}
    else:
        with pytest.raises(UserError, match="has no place in a network file"):
            read_networks(path)


def test_hashes_differ_with_the_file(tmp_path):
    first = read_networks(written(tmp_path, {"G": small()})).sha256
    again = read_networks(written(tmp_path, {"G": small()})).sha256
    other = read_networks(written(tmp_path, {"G_ema": small()})).sha256
    assert first == again != other and len(first) == 64


def test_a_network_without_parameters_is_refused(tmp_path):
    with pytest.raises(UserError, match="network G has no parameters"):
        read_networks(written(tmp_path, {"G": small(parameters=ordered().items)}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pkl cannot be read"):
        read_networks(tmp_path / "nothing.pkl")
