"""How good full heads are, and whether they keep the identities of the teacher's faces.

Alphabet: n heads, v views, h w pixels, d features. Pictures are in [-1, 1]; NumPy in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from headjax.geometry.cameras import camera_from_label, orbit_labels
from headjax.io.images import to_uint8
from headjax.metrics import identity, networks, parts, sets
from headjax.metrics.consistency import Settings, consistency
from headjax.nets.perceptual.weights import Missing
from headjax.nets.resize import resize

# Where the face is in a front view, in shares of the side: (top, bottom), (left, right).
FACE = ((19 / 64, 51 / 64), (16 / 64, 48 / 64))
FACE_SIZE = sets.FEATURE_SIZE
# Brows, eyes, nose and mouth cover less of a back view of a head.
FACELESS = 0.01


def face_crop(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n 32 32 3"]:
    """The faces of front views at 32²: of 64² these are pixels as they are.

    What lies outside [-1, 1] is cut off first, as in the pictures that are shown.
    """
    (top, bottom), (left, right) = FACE
    height, width = images.shape[1:3]
    rows = slice(round(top * height), round(bottom * height))
    columns = slice(round(left * width), round(right * width))
    return small(images[:, rows, columns])


def small(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n 32 32 3"]:
    """Pictures at the size that heads are compared by, cut off at [-1, 1]."""
    shown = np.clip(images, -1.0, 1.0).astype(np.float32)
    return np.asarray(resize(jnp.asarray(shown), FACE_SIZE), np.float64)


def identity_kept(
    student: Float[np.ndarray, "n h w 3"], teacher: Float[np.ndarray, "m h w 3"]
) -> dict[str, float]:
    """Whose face a student's is nearest to: its own teacher's, or another latent's.

    Faces of the same n latents by both (`face_crop`), RGB, by Euclidean distance.

    Returns:
        `identity_kept`, the share of latents whose own teacher is strictly the nearest;
        `identity_latents`, n; `front_distance`, the median distance to the own teacher, and
        `front_distance_to_others`, that to the nearest other, as root mean squares.

    Raises:
        ValueError: fewer than two latents, or not as many faces of one as of the other.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f"{len(student)} and {len(teacher)} faces; at least two of both, of the same latents, "
            "were expected"
        )
    mine, theirs = (faces.reshape(len(faces), -1) for faces in (student, teacher))
    # Not by the expanded square: near pictures would be told apart by rounding.
    between = np.stack([np.sqrt(np.square(row - theirs).mean(axis=1)) for row in mine])
    own = np.diagonal(between).copy()
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    return {
        "identity_kept": float(np.mean(own < nearest)),
        "identity_latents": float(len(own)),
        "front_distance": float(np.median(own)),
        "front_distance_to_others": float(np.median(nearest)),
    }


def face_embeddings(
    network: Any, images: Float[np.ndarray, "n h w 3"]
) -> Float[np.ndarray, "n d"] | Missing:
    """ArcFace's embeddings of front views, or what says which file is missing."""
    if isinstance(network, Missing):
        return network
    return networks.face_embeddings(network, to_uint8(np.clip(images, -1.0, 1.0)))


def arcface_identity(student: Any, teacher: Any) -> float | str:
    """Table 4's ID: mean cosine of embeddings with the teacher's, or "n/a" and why."""
    if isinstance(student, Missing):
        return str(student)
    return identity.similarity(student, teacher)


def spread(images: Float[np.ndarray, "n h w 3"]) -> float:
    """Median distance of a head to the nearest other, as a root mean square; small: collapsed."""
    features = images.reshape(len(images), -1).astype(np.float64)
    return float(np.median(sets.nearest_other(features))) / math.sqrt(features.shape[1])


def faceless(labels: UInt8[np.ndarray, "n h w"]) -> float:
    """The share of back views that show no face: its parts on less than 1 % of the head's pixels.

    Args:
        labels: of back views, as the judge tells them (`headjax.metrics.parts.labels_of`). A view
            without a head counts as none of these.
    """
    return float(np.mean(parts.facial_share(labels) < FACELESS))


def consistency_psnr(
    views: Callable[[int, np.ndarray], Float[np.ndarray, "v h w 3"]],
    *,
    heads: int,
    count: int,
    settings: Settings,
    key: Any,
) -> float:
    """Table 3's last column: mean PSNR of held-out views of a field fitted to the others, dB.

    Half of `count` views all around are fitted. The field is `headjax.metrics.consistency`'s own.

    Args:
        views: (head, labels [v, 25]) -> its pictures in [-1, 1].
        heads: how many.
        count: views of a head.
        settings: of the field.
        key: of the fits.
    """
    psnr = []
    for head in range(heads):
        turn = (np.arange(count) + 0.5) / count
        pitch = 15.0 * np.sin(14.0 * np.pi * turn)
        labels = orbit_labels(360.0 * turn - 180.0, pitch_degrees=pitch)
        pictures = np.clip(0.5 * views(head, labels) + 0.5, 0.0, 1.0)
        fitted = consistency(
            pictures, camera_from_label(labels), key=jax.random.fold_in(key, head),
            settings=settings,
        )  # fmt: skip
        psnr.append(fitted.psnr)
    return float(np.mean(psnr))
