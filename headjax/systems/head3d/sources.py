"""What the phases of Head3D are shown: frontal faces, full heads, and both of them.

A source is random access to records with `image` and `camera` (`headjax.data.FieldSource`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from headjax import data
from headjax.data.subset import Subset
from headjax.errors import UserError
from headjax.io.images import to_uint8
from headjax.systems.head3d.losses import is_front
from headjax.train.gan import pictures
from headjax.train.gan.regression import latents_to_z

SHOWN = ("image", "camera")
# A pixel that is as light as this may be background.
WHITE = 240


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


class Redrawn:
    """A source's records with other values in some of their fields.

    Attributes:
        fields: names of the records' fields.
    """

    def __init__(self, source: Any, drawn: Mapping[str, np.ndarray]):
        """Takes the source, and what stands in the place of its fields, a row a record."""
        self._source, self._drawn = source, drawn
        self.fields = tuple(source.fields)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The record."""
        return self.read(index, fields=self.fields)

    def read(self, index: int, *, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Some fields of the record."""
        kept = [name for name in fields if name not in self._drawn]
        record = self._source.read(index, fields=kept)
        return record | {name: self._drawn[name][index] for name in fields if name in self._drawn}


def redrawn(
    source: Any, drawer: pictures.Drawer, *, latents: Float[np.ndarray, "n k"], key: Array
) -> Redrawn:
    """A data set's views as a generator makes them of the same latents.

    Its images stand in the place of the source's. Silhouettes and distances stay, because a
    generator that knows the front alone has white things before a white background that nobody
    sees; where picture and silhouette contradict each other the mask says 128, which is neither
    head nor background.

    Args:
        source: records with `identity`, `camera`, `mask` and `depth`, on white.
        drawer: of the generator; its images are as large as the source's.
        latents: by identity.
        key: of what the generator's z has beyond a latent.
    """
    fields = ("identity", "camera", "mask", "depth")
    records = [source.read(i, fields=fields) for i in range(len(source))]
    drawn: dict[str, list[np.ndarray]] = {"image": [], "depth": [], "mask": []}
    for part in pictures.parts_of(records):
        batch = {name: np.stack([record[name] for record in part]) for name in fields}
        latent = jnp.asarray(latents[batch["identity"]])
        z = latents_to_z(latent, key, z_dim=drawer.config.z_dim)
        seen = drawer.draw(drawer.styles(z), jnp.asarray(batch["camera"]))
        image = to_uint8(np.clip(np.asarray(seen.image), -1.0, 1.0))
        white = image.min(axis=-1, keepdims=True) >= WHITE
        unsure = white == (batch["mask"] >= 128)
        drawn["image"] += [*image]
        drawn["mask"] += [*np.where(unsure, np.uint8(128), batch["mask"])]
        drawn["depth"] += [*np.where(unsure, np.float32(0.0), batch["depth"])]
    return Redrawn(source, {name: np.stack(rows) for name, rows in drawn.items()})


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
