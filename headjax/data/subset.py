"""Some records of a source, perhaps several times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int


class Subset:
    """The records of `source` at `indices`, in that order; repetitions are allowed.

    Attributes:
        fields: names of the records' fields.
        identities: [n] of the records, where the source knows them.
    """

    def __init__(self, source: Any, indices: Int[np.ndarray, "n"]):
        """Takes a source of records by index, and which of them are meant.

        Raises:
            IndexError: an index that the source has not.
        """
        self._source, self._indices = source, np.asarray(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(source):
            raise IndexError(
                f"indices run from {indices.min()} to {indices.max()}, the source has "
                f"{len(source)} records"
            )
        self.fields = tuple(source.fields)
        if hasattr(source, "identities"):
            self.identities = np.asarray(source.identities)[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The record."""
        return self._source[int(self._indices[index])]

    def read(self, index: int, *, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Some fields of the record."""
        return self._source.read(int(self._indices[index]), fields=fields)
