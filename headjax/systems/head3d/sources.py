"""What the phases of Head3D are shown: frontal faces, full heads, and both of them.

A source is random access to records with `image` and `camera` (`headjax.data.FieldSource`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from headjax import data
from headjax.data.subset import Subset
from headjax.errors import UserError
from headjax.systems.head3d.losses import is_front

SHOWN = ("image", "camera")


def of_section(section: Any, folder: Path) -> Any:
    """The images of a config's data section; `folder` is where prepared data lies."""
    if section.source == "procedural":
        return data.load_split(folder, "train")
    return data.Eg3dDataset(section.folder)


class Joined:
    """The records of one source after another's, with the fields that both have.

    Attributes:
        fields: names of the records' fields.
    """

    def __init__(self, *sources: Any, first: Sequence[int] | None = None):
        """Takes the sources, and what each one's identities are counted on from (0 by default)."""
        self._sources = sources
        self._first = first or [0] * len(sources)
        self._ends = np.cumsum([len(source) for source in sources])
        common = set.intersection(*(set(source.fields) for source in sources))
        self.fields = tuple(name for name in sources[0].fields if name in common)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The record."""
        return self.read(index, fields=self.fields)

    def read(self, index: int, *, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Some fields of the record."""
        index = range(len(self))[index]
        place = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[place - 1]) if place else 0
        record = self._sources[place].read(index - start, fields=fields)
        if "identity" in record and self._first[place]:
            record = record | {"identity": record["identity"] + self._first[place]}
        return record


class Pairs:
    """A view of the front with one of the back: `image`, `camera`, `back_image`, `back_camera`.

    As many as the larger source has; the smaller one's records come again and again.

    Attributes:
        fields: names of the records' fields.
    """

    fields = (*SHOWN, *(f"back_{name}" for name in SHOWN))

    def __init__(self, front: Any, back: Any):
        self._front, self._back = front, back

    def __len__(self) -> int:
        return max(len(self._front), len(self._back))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The pair."""
        return self.read(index, fields=self.fields)

    def read(self, index: int, *, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Some fields of the pair."""
        index = range(len(self))[index]
        front = self._front.read(index % len(self._front), fields=SHOWN)
        back = self._back.read(index % len(self._back), fields=SHOWN)
        pair = {**front, **{f"back_{name}": back[name] for name in SHOWN}}
        return {name: pair[name] for name in fields}


def cameras_of(source: Any) -> Float[np.ndarray, "n 25"]:
    """The camera labels of all records."""
    if getattr(source, "cameras", None) is not None:
        return np.asarray(source.cameras)
    return np.stack([source.read(i, fields=("camera",))["camera"] for i in range(len(source))])


def front_and_back(faces: Any, heads: Any) -> tuple[Any, Any]:
    """What D_front and D_back are shown: faces with the heads' front views, and their back views.

    Raises:
        UserError: the multi-view heads have no view of the back.
    """
    front = np.asarray(is_front(jnp.asarray(cameras_of(heads))))
    if front.all():
        raise UserError(
            "the multi-view heads have no view beyond ±90° of yaw; full heads need views of the "
            "back"
        )
    fronts, backs = np.flatnonzero(front), np.flatnonzero(~front)
    of_heads = Subset(heads, fronts)
    return (Joined(faces, of_heads) if len(fronts) else faces), Subset(heads, backs)
