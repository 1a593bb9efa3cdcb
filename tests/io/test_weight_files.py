"""Weights files come back as they were written; others are refused in one sentence."""

import json

import numpy as np
import pytest
import safetensors.numpy

from headjax.errors import UserError
from headjax.io.weight_files import Weights, read_weights, write_weights

GOOD = Weights(
    kind="eg3d",
    which="G_ema",
    architecture={"z_dim": 512, "rendering_kwargs": {"ray_start": 2.25, "auto": None}},
    tensors={
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a.half": np.ones(3, np.float16),
        "a.scalar": np.array(2, np.float32),
    },
    source_sha256="0" * 64,
)
LABELS = {"format": "headjax", "kind": "eg3d", "which": "G_ema", "architecture": "{}"}


def test_weights_come_back_as_they_were(tmp_path):
    path = tmp_path / "folder" / "w.safetensors"
    write_weights(path, GOOD)
    got = read_weights(path)
    assert (got.kind, got.which, got.architecture) == ("eg3d", "G_ema", GOOD.architecture)
    assert got.source_sha256 == GOOD.source_sha256 and set(got.tensors) == set(GOOD.tensors)
    for name, values in GOOD.tensors.items():
        assert got.tensors[name].dtype == values.dtype
        assert got.tensors[name].shape == values.shape
        np.testing.assert_array_equal(got.tensors[name], values)


def test_the_file_is_the_same_each_time_and_readable_by_others(tmp_path):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        write_weights(path, GOOD)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]
    tensors = safetensors.numpy.load_file(paths[0])
    np.testing.assert_array_equal(tensors["a.turned"], GOOD.tensors["a.turned"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "no weights file of headjax"),
        ({**LABELS, "format": "pt"}, "format='pt'"),
        ({**LABELS, "kind": "gaussian"}, "kind='gaussian', which should be one of eg3d, panohead"),
        ({**LABELS, "which": "E"}, "which='E'"),
        ({**LABELS, "architecture": "{"}, "no readable architecture"),
        ({**LABELS, "architecture": "[1]"}, "no readable architecture"),
        ({**LABELS, "architecture": "[" * 100_000}, "no readable architecture"),
        ({**LABELS, "architecture": json.dumps({"a": "b" * (1 << 20)})}, "no readable arch"),
    ],
)
def test_other_metadata_are_refused(labels, message, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, path, metadata=labels or None)
    with pytest.raises(UserError, match=message):
        read_weights(path)


def test_other_types_of_number_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    header = {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, "__metadata__": LABELS}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(UserError, match="type BF16"):
        read_weights(path)


def test_truncation_and_other_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, GOOD)
    data = path.read_bytes()
    for broken in [data[:length] for length in range(0, len(data), 7)] + [
        data + b"x",
        b"\x80\x04.",
    ]:
        path.write_bytes(broken)
        with pytest.raises(UserError, match="w.safetensors is not a readable safetensors file"):
            read_weights(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.safetensors cannot be read"):
        read_weights(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match=str(tmp_path)):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"a": float("nan")}}, "does not fit into JSON"),
        ({"architecture": {"a": object()}}, "does not fit into JSON"),
        ({"architecture": {"a": "b" * (1 << 21)}}, "takes more than"),
        ({"kind": "other"}, "kind='other'"),
        ({"tensors": {"a": np.ones(2, np.complex64)}}, "its tensor 'a' has the type complex64"),
    ],
)
def test_what_does_not_fit_is_not_written(change, message, tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=message):
        write_weights(path, Weights(**{**vars(GOOD), **change}))
    assert list(tmp_path.iterdir()) == []
