"""Records by index: what was rendered, read back by field, and damage named."""

import shutil

import numpy as np
import pytest

from headjax.data import SPLITS, FieldSource, batches, load_split
from headjax.data.config import split_heads
from headjax.data.rendering import render_head
from headjax.errors import UserError
from tests.datasets.conftest import SMALL
from tests.datasets.stand_in import StandInSource

FIELDS = ("depth", "camera", "identity", "uv_valid")


def assert_equal(record, expected):
    assert set(record) == set(expected)
    for name, value in expected.items():
        assert record[name].dtype == np.asarray(value).dtype, name
        np.testing.assert_array_equal(record[name], value, err_msg=name)


@pytest.fixture(scope="module")
def train(small_set):
    return load_split(small_set, "train", cache=False)


@pytest.mark.parametrize("split", SPLITS)
def test_records_are_what_was_rendered_to_the_bit(small_set, split):
    records = iter(load_split(small_set, split, cache=False))
    for identity in split_heads(SMALL, split):
        arrays = dict(render_head(SMALL, identity, source=StandInSource()))[split]
        for index in range(len(arrays["view"])):
            rendered = {name: values[index] for name, values in arrays.items()}
            assert_equal(next(records), rendered)
    assert next(records, None) is None


def test_tfds_itself_reads_the_same(small_set, train):
    import tensorflow_datasets as tfds

    folder = small_set / "procedural_heads" / "2.0.0"
    source = tfds.builder_from_directory(str(folder)).as_data_source("train")
    for index in (0, 17, 29):
        expected = {name: np.asarray(value) for name, value in source[index].items()}
        for name in ("identity", "view"):
            expected[name] = expected[name].astype(np.int32)
        assert_equal(train[index], expected)


@pytest.mark.parametrize("cache", [False, True])
def test_fields_are_read_alone_and_are_those_of_the_record(small_set, cache):
    source = load_split(small_set, "train", cache=cache)
    assert isinstance(source, FieldSource)
    some = source.read(-1, fields=FIELDS)
    assert_equal(some, {name: source[-1][name] for name in FIELDS})
    assert not any(value.flags.writeable for value in some.values())


def test_a_batch_decodes_no_other_fields(train, monkeypatch):
    asked = []
    read = type(train).read
    monkeypatch.setattr(
        type(train),
        "read",
        lambda self, index, *, fields: asked.append(fields) or read(self, index, fields=fields),
    )
    batch = next(batches(train, batch_size=4, seed=0, fields=FIELDS))
    assert tuple(batch) == FIELDS and set(asked) == {FIELDS}


def damaged(small_set, folder, change):
    """A copy of the data set with the training split's file changed."""
    shutil.copytree(small_set, folder)
    (file,) = folder.rglob("*-train.array_record*")
    file.write_bytes(change(file.read_bytes()))
    return load_split(folder, "train", cache=False), file.name


DAMAGE = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: data[:100] + bytes(len(data) - 100),
    "another file": lambda data: b"hello" * 20_000,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_with_its_record(small_set, tmp_path, case):
    source, name = damaged(small_set, tmp_path / "set", DAMAGE[case])
    with pytest.raises(UserError, match="record 7 of .*cannot be read") as refused:
        source[7]
    assert f"in {name}" in str(refused.value) and "delete the folder" in str(refused.value)


def test_an_error_in_a_reader_thread_reaches_next_as_it_is(small_set, tmp_path):
    source, name = damaged(small_set, tmp_path / "set", DAMAGE["cut"])
    for threads in (1, 2):
        iterator = batches(
            source, batch_size=2, seed=0, fields=FIELDS, threads=threads, prefetch=threads
        )
        with pytest.raises(UserError, match=f"in {name}, cannot be read"):
            next(iterator)
