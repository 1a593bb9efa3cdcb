"""Records by index, and batches by step: both pure functions, so that any batch can be resumed.

Batch number `step` depends on (source, seed, step) alone. Every process computes the same global
batch and loads its own rows of it, so that the data order is independent of the process count. An
iterator's state is the step: one process' state stands for all, and for any number of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from headjax.errors import UserError
from headjax.io.workers import LoadedAhead

Record = dict[str, np.ndarray]
# Global batch size -> which of its rows: a slice, or ascending row numbers.
Rows = Callable[[int], slice | np.ndarray]

_ENDLESS = 2**62


@runtime_checkable
class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class FieldSource(Source, Protocol):
    """Random access to some fields of a record; batches load no others.

    Attributes:
        fields: the names that there are.
    """

    fields: Sequence[str]

    def read(self, index: int, *, fields: Sequence[str]) -> Record: ...


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
    rows: Rows | None = None,
    threads: int = 1,
    prefetch: int = 2,
    workers: int = 0,
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
        threads: of this process that load batches, each a whole one, where there are no `workers`;
            more than one help where a record costs more than Python's own share of it: large
            pictures, a slow file system.
        prefetch: batches that are kept ready, at least `threads` and `workers`.
        workers: processes that load batches in place of this one, each a whole one; 0 for none.
            Order, batches and states stay the same. Source and transform must be picklable; each
            process has its own cache.

    Raises:
        UserError: the batch is larger than an epoch or leaves this process no row, the records
            lack a field, `threads`, `prefetch` and `workers` make no sense, or the source is not
            picklable. On `next`: the source's own, or a batch's records do not have one shape.
    """
    if not 1 <= threads <= prefetch or not 0 <= workers <= prefetch:
        raise UserError(
            f"threads is {threads} and prefetch {prefetch}, workers is {workers}; there must be at "
            "least one thread, no negative number of workers, and a batch ready for each"
        )
    mine = _own_rows(batch_size, rows)
    order = _identity_order if by_identity else _record_order
    plan = order(source, batch_size=batch_size, seed=seed, shuffle=shuffle)
    load = _Load(_reader(source, fields), transform)

    def records(step: int) -> Int[np.ndarray, "b"]:
        return plan(step)[mine]

    steps = _ENDLESS if num_epochs is None else num_epochs * plan.steps_per_epoch
    if workers:
        return LoadedAhead(load, records, steps=steps, workers=workers, ahead=prefetch)
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    numbers = grain.MapDataset.range(steps)
    return iter(numbers.map(lambda step: load(records(step))).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Load:
    """Record numbers ↦ their batch; picklable if its parts are."""

    read: Callable[[int], Record]
    transform: Callable[[Record], Any] | None

    def __call__(self, records: Int[np.ndarray, "b"]) -> Any:
        indices = records.tolist()
        batch = _stack([self.read(index) for index in indices], indices)
        return self.transform(batch) if self.transform else batch


def _own_rows(batch_size: int, rows: Rows | None) -> np.ndarray:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    mine = np.arange(batch_size)[slice(None) if rows is None else rows(batch_size)]
    if not len(mine):
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


def _reader(source: Source, fields: Sequence[str] | None) -> Callable[[int], Record]:
    """index ↦ the record's fields."""
    if fields is None:
        return source.__getitem__
    partial = isinstance(source, FieldSource)
    known = source.fields if partial else source[0]
    for name in fields:
        if name not in known:
            raise UserError(f"records have no field {name!r}; they have {', '.join(known)}")
    if partial:
        return functools.partial(source.read, fields=tuple(fields))
    return functools.partial(_chosen, source, tuple(fields))


def _chosen(source: Source, fields: tuple[str, ...], index: int) -> Record:
    record = source[index]
    return {name: record[name] for name in fields}


def _stack(records: list[Record], indices: list[int]) -> Record:
    try:
        return {name: np.stack([record[name] for record in records]) for name in records[0]}
    except (ValueError, KeyError) as error:
        raise UserError(_mismatch(records, indices)) from error


def _mismatch(records: list[Record], indices: list[int]) -> str:
    """Which record of a batch is not like its first."""
    first = {name: np.shape(value) for name, value in records[0].items()}
    for index, record in zip(indices, records, strict=True):
        shapes = {name: np.shape(value) for name, value in record.items()}
        if shapes != first:
            return (
                f"record {index} has {shapes}, record {indices[0]} has {first}; all records must "
                "have the same fields and shapes"
            )
    return f"the fields of records {indices} cannot be stacked"
