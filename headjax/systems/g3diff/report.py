"""The pictures that a user gets: reconstructions, samples, turntable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from headjax.geometry.cameras import orbit_labels
from headjax.io.colormaps import colorize_depth
from headjax.io.images import enlarge, image_grid, to_uint8
from headjax.render.gaussian_field import GaussianHeads

# Yaw of the three canonical views, degrees.
CANONICAL_YAWS = {"front": 0.0, "side": 90.0, "back": 180.0}


def signed(color: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] → images in [−1, 1]."""
    return np.clip(color, 0.0, 1.0) * 2.0 - 1.0


def depth_picture(depth: np.ndarray, alpha: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in false colours where the silhouette is, white elsewhere."""
    return colorize_depth(depth.astype(np.float32), inside=alpha > 0.5)


def views_of(
    render: Any, mlp: Any, heads: GaussianHeads, *, labels: Float[np.ndarray, "v 25"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every head from every label: colours [n, v, h, w, 3], depth and alpha [n, v, h, w]."""
    count = heads.centers.shape[0]
    columns = []
    for label in labels:
        repeated = jnp.broadcast_to(jnp.asarray(label), (count, 25))
        columns.append([np.asarray(a) for a in render(mlp, heads, repeated)])
    return tuple(np.stack([column[i] for column in columns], axis=1) for i in range(3))


def reconstruction_rows(
    render: Any, params: Any, *, build: Any, records: list[dict[str, np.ndarray]]
) -> UInt8[np.ndarray, "h w 3"]:
    """Held-out views: truth, prediction and depth side by side, three views a row."""
    cells = []
    for record in records:
        heads = build(params, jnp.asarray([int(record["identity"])]))
        label = jnp.asarray(record["camera"])[None]
        color, depth, alpha = (
            np.asarray(a)[0] for a in render(params["shared"]["mlp"], heads, label)
        )
        cells.append([record["image"], to_uint8(signed(color)), depth_picture(depth, alpha)])
    rows = [sum(cells[i : i + 3], []) for i in range(0, len(cells) - len(cells) % 3, 3)]
    return image_grid([[enlarge(cell, 2) for cell in row] for row in rows], gap=4)


def sample_sheet(
    color: np.ndarray, depth: np.ndarray, alpha: np.ndarray, *, heads_per_row: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
    """Front, side, back and the front's depth of every sample."""
    cells = []
    for i in range(color.shape[0]):
        pictures = [to_uint8(signed(view)) for view in color[i]]
        cells.append([*pictures, depth_picture(depth[i, 0], alpha[i, 0])])
    rows = [
        sum(cells[i : i + heads_per_row], []) for i in range(0, len(cells), heads_per_row)
    ]
    width = max(len(row) for row in rows)
    blank = np.full_like(cells[0][0], 255)
    return image_grid([row + [blank] * (width - len(row)) for row in rows], gap=4)


def turntable(
    render: Any, mlp: Any, heads: GaussianHeads, *, frames: int
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """A full turn of some heads side by side, one picture a frame."""
    pictures = []
    for yaw in np.linspace(0.0, 360.0, frames, endpoint=False):
        color, _, _ = views_of(render, mlp, heads, labels=orbit_labels([yaw]))
        pictures.append(image_grid([[to_uint8(signed(view[0])) for view in color]], gap=0))
    return pictures


def take_heads(heads: GaussianHeads, index: Any) -> GaussianHeads:
    """Some of a batch of heads."""
    return jax.tree.map(lambda leaf: leaf[index], heads)
