"""Cuts a mesh along a plane and closes it, as a linear map that also applies to blend shapes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.geometry.meshes import boundary_edges

RING_WIDTH = 0.1  # of the lid


class Cut(NamedTuple):
    """Every new vertex as a mixture of old ones.

    The new vertices are: those that stay; the rim, on cut edges; a narrow ring inside the lid, one
    vertex for each of the rim's; the lid's middle. (The ring gives the lid rows in an atlas.)

    Attributes:
      faces: [f, 3] triangles over the new vertices.
      kept: [n] old vertices that stay.
      ends, share: [m, 2], [m] the rim: (1 - share) first end + share second end.
    """

    faces: Int[np.ndarray, "f 3"]
    kept: Int[np.ndarray, "n"]
    ends: Int[np.ndarray, "m 2"]
    share: Float[np.ndarray, "m"]

    def __call__(self, values: Float[np.ndarray, "v *c"]) -> Float[np.ndarray, "w *c"]:
        """Values per old vertex carried over to the new vertices."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        rim = (1 - share) * values[self.ends[:, 0]] + share * values[self.ends[:, 1]]
        middle = rim.mean(0, keepdims=True)
        ring = middle + RING_WIDTH * (rim - middle)
        return np.concatenate([values[self.kept], rim, ring, middle]).astype(values.dtype)

    @property
    def rim(self) -> slice:
        """The rim among the new vertices."""
        return slice(len(self.kept), len(self.kept) + len(self.ends))

    @property
    def lid(self) -> slice:
        """Ring and middle among the new vertices."""
        return slice(self.rim.stop, self.rim.stop + len(self.ends) + 1)


def _with_corner_first(faces: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """Each face turned so that its one marked corner leads."""
    turn = (np.argmax(is_first, 1)[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, turn, 1)


def cut_above(faces: Int[np.ndarray, "f 3"], height: Float[np.ndarray, "v"]) -> Cut:
    """Keeps what has `height` > 0 and closes the opening with a lid.

    Args:
      faces: [f, 3]; the cut must be one loop.
      height: [v] signed distance of every vertex from the plane.
    """
    inside: Bool[np.ndarray, "f 3"] = (height > 0)[faces]
    count = inside.sum(1)
    one = _with_corner_first(faces[count == 1], inside[count == 1])
    two = _with_corner_first(faces[count == 2], ~inside[count == 2])
    crossing = np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [1, 0]], two[:, [2, 0]]])
    ends, index = np.unique(crossing, axis=0, return_inverse=True)
    rim = index.reshape(-1) + len(height)  # numbered behind the old vertices for now
    a, b, c, d = np.split(rim, np.cumsum([len(one), len(one), len(two)]))
    whole = np.concatenate(
        [
            faces[count == 3],
            np.stack([one[:, 0], a, b], 1),
            np.stack([two[:, 1], two[:, 2], d], 1),
            np.stack([two[:, 1], d, c], 1),
        ]
    )
    edges = boundary_edges(whole)
    edges = edges[(edges >= len(height)).all(1)]
    every = np.concatenate([whole, _lid(edges, len(ends), len(height) + 2 * len(ends))])
    kept = np.unique(every[every < len(height)])
    renumber = np.full(len(height) + 2 * len(ends) + 1, -1)
    renumber[kept] = np.arange(len(kept))
    renumber[len(height) :] = len(kept) + np.arange(2 * len(ends) + 1)
    share = height[ends[:, 0]] / (height[ends[:, 0]] - height[ends[:, 1]])
    return Cut(renumber[every].astype(np.int32), kept, ends, share.astype(np.float32))


def _lid(edges: Int[np.ndarray, "e 2"], count: int, middle: int) -> Int[np.ndarray, "f 3"]:
    """Two triangles from each edge of the rim to the ring (`count` further), one to the middle."""
    a, b = edges.T
    return np.concatenate(
        [
            np.stack([b, a, a + count], 1),
            np.stack([b, a + count, b + count], 1),
            np.stack([b + count, a + count, np.full(len(a), middle)], 1),
        ]
    )
