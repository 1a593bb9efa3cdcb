"""Records of a prepared data set by index: the ArrayRecord files behind TFDS, read without TFDS.

A record's arrays lie in its tf.Example as plain bytes, and the file packs the whole record; so a
record costs one read and a view of each field that is asked for. TFDS's own reader gives the same
arrays, several times slower, because it goes through every feature.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headjax.data.config import HeadViewsConfig, check_split, split_table
from headjax.data.preparation import read_manifest
from headjax.errors import UserError

Record = dict[str, np.ndarray]

CACHE_BYTES = 2**30


class RecordSource:
    """One split of a prepared data set; its records' arrays are read-only.

    Attributes:
        fields: names of the records' fields.
        identities: [n] int32, the identity of every record.
        view_numbers: [n] int32, the view number of every record.
        config: the data set's configuration.
        part_names: names of the part labels.
    """

    def __init__(self, folder: Path, manifest: dict, *, split: str, cache: bool | None = None):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        self._folder, self._manifest, self._split = folder, manifest, split
        self.config = HeadViewsConfig(**manifest["config"])
        self.part_names = tuple(manifest["part_names"])
        self.identities, self.view_numbers = split_table(self.config, split)
        builder = tfds.builder_from_directory(str(folder / manifest["builder"]))
        self._forms = {
            name: (np.dtype(feature.np_dtype), feature.shape)
            for name, feature in sorted(builder.info.features.items())
        }
        self.fields = tuple(self._forms)
        self._shards = [
            (Path(file.filename).name, file.examples_in_shard)
            for file in builder.info.splits[split].file_instructions
        ]
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._records = builder.as_data_source(split, deserialize_method=raw)
        self._parse = tf_example_pb2.Example.FromString
        # The cache belongs to the object: records are decoded when first asked for.
        self._cache: dict[int, Record] | None = {}
        if cache is False or (cache is None and self._decoded_bytes() > CACHE_BYTES):
            self._cache = None

    def __reduce__(self) -> tuple:
        """Another process opens the files anew, and has a cache of its own."""
        opened = functools.partial(type(self), split=self._split, cache=self._cache is not None)
        return opened, (self._folder, self._manifest)

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, index: int) -> Record:
        """The record.

        Raises:
            UserError: it cannot be read.
        """
        return self.read(index, fields=self.fields)

    def read(self, index: int, *, fields: Sequence[str]) -> Record:
        """Some fields of the record; the others are not decoded.

        Raises:
            UserError: it cannot be read.
        """
        index = range(len(self))[index]
        if self._cache is None:
            return self._decode(index, fields)
        record = self._cache.get(index)
        if record is None:
            record = self._cache[index] = self._decode(index, self.fields)
        return record if fields is self.fields else {name: record[name] for name in fields}

    def _decode(self, index: int, fields: Sequence[str]) -> Record:
        forms = {name: self._forms[name] for name in fields}
        try:
            stored = self._parse(self._records[index]).features.feature
            return {name: _array(stored[name], *form) for name, form in forms.items()}
        except MemoryError:
            raise
        except Exception as error:  # The file's and the message's parsers raise their own kinds.
            raise UserError(
                f"record {index} of {self._folder}, in {self._shard(index)}, cannot be read "
                f"({type(error).__name__}: {error}); delete the folder to have the data prepared "
                "again"
            ) from error

    def _shard(self, index: int) -> str:
        for name, count in self._shards:
            if index < count:
                return name
            index -= count
        return "no file"

    def _decoded_bytes(self) -> int:
        return len(self) * sum(value.nbytes for value in self[0].values())


def _array(stored: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A feature as `builders` writes it: bytes of an array, or one integer; read-only."""
    if shape:
        return np.frombuffer(stored.bytes_list.value[0], dtype).reshape(shape)
    (number,) = stored.int64_list.value
    scalar = np.array(number, dtype)
    scalar.flags.writeable = False
    return scalar


def load_split(data_dir: str | Path, split: str, *, cache: bool | None = None) -> RecordSource:
    """A split of a prepared data set as a random-access source.

    Args:
        data_dir: the folder given to `prepare`.
        split: 'train', 'val_views' or 'val_identities'.
        cache: keep decoded records in memory; by default if they fit into 1 GiB.

    Raises:
        UserError: no data set there, no such split, or the split is empty.
    """
    check_split(split)
    manifest = read_manifest(data_dir)
    if not manifest["records"][split]:
        raise UserError(f"split {split} of {data_dir} is empty by its configuration")
    return RecordSource(Path(data_dir), manifest, split=split, cache=cache)
