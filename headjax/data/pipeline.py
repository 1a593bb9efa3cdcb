"""Records by index, and batches by step: both pure functions, so that any batch can be resumed.

Batch number `step` depends on (source, seed, step) alone. Every process computes the same global
batch and loads its own rows of it, so that the data order is independent of the process count. An
iterator's state is the step: one process' state stands for all, and for any number of them.
"""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from headjax.data.config import HeadViewsConfig, check_split, split_table
from headjax.data.preparation import read_manifest
from headjax.errors import UserError

Record = dict[str, np.ndarray]

CACHE_BYTES = 2**30

_ENDLESS = 2**62
_PICTURES = ("image", "mask", "parts")


@runtime_checkable
class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class RecordSource:
    """One split of a prepared data set.

    Attributes:
        identities: [n] int32, the identity of every record.
        view_numbers: [n] int32, the view number of every record.
        config: the data set's configuration.
        part_names: names of the part labels.
    """

    def __init__(self, folder: Path, manifest: dict, *, split: str, cache: bool | None = None):
        import tensorflow_datasets as tfds

        self._folder = folder
        self.config = HeadViewsConfig(**manifest["config"])
        self.part_names = tuple(manifest["part_names"])
        self.identities, self.view_numbers = split_table(self.config, split)
        builder = tfds.builder_from_directory(str(folder / manifest["builder"]))
        self._records = builder.as_data_source(
            split, decoders={name: tfds.decode.SkipDecoding() for name in _PICTURES}
        )
        # The cache belongs to the object: records are decoded when first asked for.
        self._cache: dict[int, Record] | None = {}
        if cache is False or (cache is None and self._decoded_bytes() > CACHE_BYTES):
            self._cache = None

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, index: int) -> Record:
        """The record; its arrays are read-only when it comes from the cache."""
        index = range(len(self))[index]
        if self._cache is None:
            return self._decode(index)
        record = self._cache.get(index)
        if record is None:
            record = self._decode(index)
            for value in record.values():
                value.flags.writeable = False
            self._cache[index] = record
        return record

    def _decode(self, index: int) -> Record:
        try:
            stored = self._records[index]
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"record {index} of {self._folder} cannot be read ({type(error).__name__}); delete "
                "the folder to have the data prepared again"
            ) from error
        record = {name: np.asarray(value) for name, value in stored.items()}
        for name in _PICTURES:
            picture = np.asarray(Image.open(io.BytesIO(record[name].item())))
            record[name] = picture if picture.ndim == 3 else picture[..., None]
        # TFDS hands scalars out as Python integers.
        for name in ("identity", "view"):
            record[name] = record[name].astype(np.int32)
        return record

    def _decoded_bytes(self) -> int:
        return len(self) * sum(value.nbytes for value in self._decode(0).values())


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


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    num_epochs: int | None = None,
    shuffle: bool = True,
    by_identity: bool = False,
    fields: Sequence[str] | None = None,
    transform: Callable[[Record], Any] | None = None,
    rows: Callable[[int], slice] | None = None,
):
    """Batches as a grain `DatasetIterator`: `next`, `get_state`, `set_state`.

    An epoch shows every record once in a new order, or with `by_identity` every identity once,
    each with one of its views, all of its views within as many epochs as it has views. What does
    not fill a batch at an epoch's end is left out.

    Args:
        source: random access to records of equal shapes; for `by_identity` with `identities` [n].
        batch_size: of the global batch, which all processes load together.
        seed: of the order.
        num_epochs: None goes on for ever.
        shuffle: False keeps the source's order (identities: ascending, views: ascending).
        by_identity: batches of distinct identities.
        fields: the record's fields to load; all by default.
        transform: applied to each process's stacked batch.
        rows: global batch size ↦ the rows of every global batch that this process loads; None
            loads all.

    Raises:
        UserError: the batch is larger than an epoch or leaves this process no row, or the records
            lack a field.
    """
    import grain

    mine = _own_rows(batch_size, rows)
    order = _identity_order if by_identity else _record_order
    plan = order(source, batch_size=batch_size, seed=seed, shuffle=shuffle)
    if fields is not None:
        _check_fields(source[0], fields)

    def load(step: int) -> Any:
        batch = _stack([source[int(index)] for index in plan(step)[mine]], fields)
        return transform(batch) if transform else batch

    steps = _ENDLESS if num_epochs is None else num_epochs * plan.steps_per_epoch
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.range(steps).map(load).to_iter_dataset(options))


def _own_rows(batch_size: int, rows: Callable[[int], slice] | None) -> slice:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    mine = slice(None) if rows is None else rows(batch_size)
    if not range(batch_size)[mine]:
        raise UserError(
            f"batch_size is {batch_size}, of which this process loads no row; it must give every "
            "process at least one"
        )
    return mine


class _Order:
    """The records of each step: step ↦ [batch] indices."""

    def __init__(
        self, epoch: Callable[[int], np.ndarray], *, size: int, batch_size: int, what: str
    ):
        self.steps_per_epoch = size // batch_size
        if not self.steps_per_epoch:
            raise UserError(f"batch_size is {batch_size}, but there are only {size} {what}")
        self._epoch, self._batch = functools.lru_cache(maxsize=2)(epoch), batch_size

    def __call__(self, step: int) -> Int[np.ndarray, "b"]:
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[within * self._batch : (within + 1) * self._batch]


def _record_order(source: Source, *, batch_size: int, seed: int, shuffle: bool) -> _Order:
    size = len(source)

    def epoch(number: int) -> np.ndarray:
        return _rng(seed, 0, number).permutation(size) if shuffle else np.arange(size)

    return _Order(epoch, size=size, batch_size=batch_size, what="records")


def _identity_order(source: Any, *, batch_size: int, seed: int, shuffle: bool) -> _Order:
    """Epochs of identities: epoch e shows each identity's view number e of a shuffled cycle."""
    identities = getattr(source, "identities", None)
    if identities is None:
        raise UserError("batches by identity need a source that knows the records' identities")
    _, first, counts = np.unique(identities, return_index=True, return_counts=True)
    by_identity = np.argsort(identities, kind="stable")
    starts, most = np.cumsum(counts) - counts, int(counts.max())
    heads = len(first)

    @functools.lru_cache(maxsize=2)
    def cycle(number: int) -> np.ndarray:
        """[heads, most] each head's own views in a new order, then padding."""
        keys = np.broadcast_to(np.arange(most, dtype=float), (heads, most))
        if shuffle:
            keys = _rng(seed, 1, number).random((heads, most))
        return np.argsort(np.where(np.arange(most) < counts[:, None], keys, np.inf), axis=1)

    def epoch(number: int) -> np.ndarray:
        turn, place = divmod(number, most)
        views = cycle(turn)[np.arange(heads), place % counts]
        chosen = by_identity[starts + views]
        return chosen[_rng(seed, 2, number).permutation(heads)] if shuffle else chosen

    return _Order(epoch, size=heads, batch_size=batch_size, what="identities")


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seeds))


def _check_fields(record: Record, fields: Sequence[str]) -> None:
    for name in fields:
        if name not in record:
            raise UserError(f"records have no field {name!r}; they have {', '.join(record)}")


def _stack(records: list[Record], fields: Sequence[str] | None) -> Record:
    names = records[0].keys() if fields is None else fields
    return {name: np.stack([record[name] for record in records]) for name in names}
