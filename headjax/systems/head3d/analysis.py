"""What tri-planes hold (Head3D §3.2): planes, regions and channels exchanged between heads.

The functions take the planes of two heads, or of two sets of heads one by one, and give the first
with parts of the second. The second may come from another model of the same sizes: what the first
model draws of the result is figure 5, and of the teacher's F_xy the ablation of figure 12a.

F_yz is the third plane. In EG3D's released weights it is the ZX plane, because of a mistake in its
axes that was kept (`TriplaneOptions.axes`).

Alphabet: b heads, n planes, h w rows and columns, f features (channels), d of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from headjax.metrics.identity import similarity
from headjax.systems.head3d.evaluate import face_crop
from headjax.systems.head3d.losses import XY

Planes = Float[Array, "b n h w f"]
XZ, YZ = 1, 2
# Table 1's rows: which planes are the second head's.
TABLE_1 = {"xy": (XY,), "xz": (XZ,), "yz": (YZ,), "none": (), "all": (XY, XZ, YZ)}
# Figure 3: where the eyes are on F_xy, world units: (x from, x to), (y from, y to).
EYES = ((-0.11, 0.11), (-0.03, 0.07))

_TOGETHER = 8
Region = tuple[tuple[float, float], tuple[float, float]]


def swap_planes(first: Planes, second: Planes, *, which: Sequence[int] = (XY,)) -> Planes:
    """Figure 2 and table 1: `first` with the planes `which` of `second`."""
    if not which:
        return first
    return first.at[:, jnp.asarray(which)].set(second[:, jnp.asarray(which)])


def swap_region(
    first: Planes, second: Planes, *, region: Region = EYES, box: float = 1.0
) -> Planes:
    """Figure 3: `first` with a part of F_xy of `second`.

    Args:
        first, second: planes.
        region: ((x from, x to), (y from, y to)), world units; texels whose centres lie in it.
        box: side of the cube that the planes cover.
    """
    height, width = first.shape[2:4]
    # Columns follow x, and rows y: the first row is at the bottom of the head.
    (left, right), (low, high) = region
    columns = slice(*(round((x / box + 0.5) * width) for x in (left, right)))
    rows = slice(*(round((y / box + 0.5) * height) for y in (low, high)))
    return first.at[:, XY, rows, columns].set(second[:, XY, rows, columns])


def channel_dissimilarity(
    first: Float[Array, "h w f"], second: Float[Array, "h w f"]
) -> Float[Array, "f"]:
    """How different the distributions of a plane's channels are: their Wasserstein-1 distances.

    The paper orders channels by the "distribution of different channels" and names no measure. Of
    equally many values this is the mean difference of sorted ones.
    """
    a, b = (x.reshape(-1, x.shape[-1]) for x in (first, second))
    return jnp.abs(jnp.sort(a, axis=0) - jnp.sort(b, axis=0)).mean(axis=0)


def swap_channels(
    first: Planes, second: Planes, *, count: int, most: bool = True, plane: int = XY
) -> Planes:
    """Figure 4: `first` with the `count` most (or least) dissimilar channels of one plane.

    The paper exchanges the halves of 32 channels: 16 at a time.

    Raises:
        ValueError: a count outside 0 … f.
    """
    if not 0 <= count <= first.shape[-1]:
        raise ValueError(f"count is {count}; between 0 and {first.shape[-1]} was expected")
    results = []
    for one, other in zip(first, second, strict=True):
        order = jnp.argsort(channel_dissimilarity(one[plane], other[plane]))
        chosen = order[first.shape[-1] - count :] if most else order[:count]
        results.append(one.at[plane, :, :, chosen].set(other[plane, :, :, chosen]))
    return jnp.stack(results)


def swap_table(
    planes: Planes,
    *,
    render: Callable[[Planes, np.ndarray], Float[np.ndarray, "m h w 3"]],
    embed: Callable[[np.ndarray], Float[np.ndarray, "m d"]] | None = None,
) -> dict[str, dict[str, float]]:
    """Table 1: how alike a head with exchanged planes is to the two that gave them.

    Over all ordered pairs of different heads.

    Args:
        planes: of the heads.
        render: (planes [m, ...], numbers of the heads whose styles go with them [m]) -> front
            views in [-1, 1].
        embed: pictures -> ArcFace embeddings; None where its weights are not there.

    Returns:
        By row of the table: `id1` and `id2`, mean cosines (only with `embed`), and
        `color_distance1` and `color_distance2`, which are no identities: root mean square
        differences of the face's colours at 32².
    """
    heads = np.arange(len(planes))
    pairs = np.array([(i, j) for i in heads for j in heads if i != j])
    fronts = np.concatenate([render(planes[part], part) for part in _parts(heads)])
    rows = {}
    for name, which in TABLE_1.items():
        drawn = [
            render(swap_planes(planes[i], planes[j], which=which), i)
            for i, j in (part.T for part in _parts(pairs))
        ]
        rows[name] = _alike(np.concatenate(drawn), fronts, pairs, embed)
    return rows


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    """Rows that are drawn at a time."""
    return [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]


def _alike(drawn: np.ndarray, fronts: np.ndarray, pairs: np.ndarray, embed) -> dict[str, float]:
    """One row: `drawn` against both heads of its pair."""
    row = {}
    faces, colors = face_crop(drawn), face_crop(fronts)
    for side in (0, 1):
        error = np.square(faces - colors[pairs[:, side]]).mean(axis=(1, 2, 3))
        row[f"color_distance{side + 1}"] = float(np.sqrt(error).mean())
    if embed is not None:
        mine, theirs = embed(drawn), embed(fronts)
        row |= {f"id{side + 1}": similarity(mine, theirs[pairs[:, side]]) for side in (0, 1)}
    return row
