"""Measures of sets of heads in a fixed feature space: are samples new, and like the data?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Side of the views that heads are compared by.
FEATURE_SIZE = 32


def distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Euclidean distances between all rows of two sets."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return np.sqrt(np.maximum(square, 0.0))


def nearest_other(a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Distance of each row to the nearest other row."""
    between = distances(a, a)
    np.fill_diagonal(between, np.inf)
    return between.min(axis=1)


def render_features(
    views: Float[np.ndarray, "n v h w 3"], *, size: int = FEATURE_SIZE
) -> Float[np.ndarray, "n d"]:
    """RGB of a head's views box-averaged to size×size, concatenated: [n, v·size²·3] float64.

    Raises:
      ValueError: the views' side is not a multiple of `size`.
    """
    count, number, height, width, _ = views.shape
    if height % size or width % size:
        raise ValueError(f"views of {height}x{width} pixels do not shrink evenly to {size}x{size}")
    blocks = views.astype(np.float64).reshape(
        count, number, size, height // size, size, width // size, 3
    )
    return blocks.mean(axis=(3, 5)).reshape(count, -1)


def sample_quality(
    samples: Float[np.ndarray, "n d"],
    *,
    train: Float[np.ndarray, "t d"],
    heldout: Float[np.ndarray, "h d"],
) -> dict[str, float]:
    """Distances of samples to the training heads beside those that the data themselves show.

    Returns medians: `sample_to_train`, `sample_to_sample` (nearest other), `train_to_train`
    (nearest other) and `heldout_to_train`, and the first two relative to `train_to_train`.
    """
    spread = float(np.median(nearest_other(train)))
    to_train = float(np.median(distances(samples, train).min(axis=1)))
    to_sample = float(np.median(nearest_other(samples))) if len(samples) > 1 else float("nan")
    return {
        "sample_to_train": to_train,
        "sample_to_sample": to_sample,
        "train_to_train": spread,
        "heldout_to_train": float(np.median(distances(heldout, train).min(axis=1))),
        "sample_to_train_relative": to_train / spread,
        "sample_to_sample_relative": to_sample / spread,
    }
