"""What pictures of heads show, told from labelled pixels: the judge of the generators' demos.

`headjax.train.part_judge` trains the segmenter, `labels_of` applies it, and everything else here
works on label maps, true or told alike. Labels are numbers of `CLASSES`; the parts of a face that
are judged are `FACIAL`.

Alphabet: b pictures, h w pixels, k classes. Pictures are square; row 0 is the top.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from headjax.geometry.cameras import FOCAL
from headjax.nets.part_segmenter import CLASSES, SIZE, Judge, PartSegmenter, PartSegmenterConfig
from headjax.nets.resize import resize

FACIAL = ("brows", "eyes", "nose", "mouth")

View = Literal["front", "turned"]

# The least that makes a part one, in shares of the face's pixels; of true heads at 64 x 64 none
# has less than 1.3 times as much. Turned by 40° the far eye may hide behind the nose.
LEAST = {
    "front": {"brows": 0.005, "eyes": 0.007, "nose": 0.03, "mouth": 0.012},
    "turned": {"brows": 0.004, "eyes": 0.003, "nose": 0.02, "mouth": 0.01},
}
# How far a pair reaches from side to side in views from the front, in shares of the face's width.
LEAST_REACH = {"brows": 0.35, "eyes": 0.4}

_FACE = ("skin", *FACIAL, "glasses")
_TOGETHER = 32  # pictures labelled at a time


def labels_of(judge: Judge, images: Float[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b 64 64"]:
    """What the judge sees in pictures in [-1, 1]; they are resized to 64 x 64 first."""
    count = len(images)
    padded = np.zeros((-(-count // _TOGETHER) * _TOGETHER, *images.shape[1:]), np.float32)
    padded[:count] = images
    labels = [
        np.asarray(_labelled(judge.params, padded[start : start + _TOGETHER], judge.config))
        for start in range(0, len(padded), _TOGETHER)
    ]
    return np.concatenate([np.zeros((0, SIZE, SIZE), np.uint8), *labels])[:count]


@functools.partial(jax.jit, static_argnums=2)
def _labelled(params: Any, images: Float[Array, "b h w 3"], config: PartSegmenterConfig) -> Array:
    logits = PartSegmenter(config).apply({"params": params}, resize(images, SIZE))
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassOverlap:
    """Pixels in common and in either, by class; adding two pools them."""

    common: np.ndarray
    either: np.ndarray

    def __add__(self, other: ClassOverlap) -> ClassOverlap:
        return ClassOverlap(self.common + other.common, self.either + other.either)

    def iou(self) -> dict[str, float]:
        """Intersection over union by class; NaN for a class that is nowhere."""
        pairs = zip(self.common, self.either, strict=True)
        shares = [float(common / either) if either else math.nan for common, either in pairs]
        return dict(zip(CLASSES, shares, strict=True))

    def mean(self, names: tuple[str, ...] = CLASSES) -> float:
        """mIoU: the mean over those of the classes that are anywhere."""
        shares = self.iou()
        return float(np.nanmean([shares[name] for name in names]))


def class_overlap(
    told: UInt8[np.ndarray, "b h w"], true: UInt8[np.ndarray, "b h w"]
) -> ClassOverlap:
    """Pixels in common and in either of two sets of labels, by class."""
    pairs = [(told == number, true == number) for number in range(len(CLASSES))]
    return ClassOverlap(
        np.array([np.sum(a & b) for a, b in pairs]), np.array([np.sum(a | b) for a, b in pairs])
    )


def where(labels: UInt8[np.ndarray, "*b h w"], *names: str) -> Bool[np.ndarray, "*b h w"]:
    """The pixels of any of these classes."""
    return np.isin(labels, [CLASSES.index(name) for name in names])


def found(
    labels: UInt8[np.ndarray, "b h w"], *, view: View = "front"
) -> dict[str, Bool[np.ndarray, "b"]]:
    """Whether brows, eyes, nose and mouth are there, each in its place.

    A part is found if it has its share of the face's pixels (`LEAST`), if, seen from the front, a
    pair reaches to both sides (`LEAST_REACH`), and if it is in order: brows over eyes, over the
    nose, over the mouth, by the means of their rows. Parts that are missing hold no other back.

    Args:
        labels: of the pictures.
        view: 'front' (within about ±15° of yaw) or 'turned' (to about ±45°).
    """
    face = where(labels, *_FACE)
    area, width = np.maximum(face.sum((1, 2)), 1), np.maximum(_reach(face), 1)
    there, heights = {}, {}
    for name in FACIAL:
        part = where(labels, name)
        there[name] = part.sum((1, 2)) >= LEAST[view][name] * area
        if view == "front" and name in LEAST_REACH:
            there[name] &= _reach(part) >= LEAST_REACH[name] * width
        heights[name] = _mean_row(part)
    return {name: there[name] & _in_order(name, there, heights) for name in FACIAL}


def _in_order(
    name: str, there: dict[str, np.ndarray], heights: dict[str, np.ndarray]
) -> Bool[np.ndarray, "b"]:
    """Whether the part lies below those before it in `FACIAL` and above those after it."""
    place, right = FACIAL.index(name), np.ones(len(heights[name]), bool)
    for number, other in enumerate(FACIAL):
        if number != place:
            lower = (heights[name] - heights[other]) * np.sign(place - number)
            right &= ~there[other] | (lower > 0)
    return right


def _reach(mask: Bool[np.ndarray, "b h w"]) -> np.ndarray:
    """Columns from the first to the last with a pixel of the mask; 0 without any."""
    columns = mask.any(axis=1)
    last = columns.shape[1] - np.argmax(columns[:, ::-1], axis=1)
    return np.where(columns.any(axis=1), last - np.argmax(columns, axis=1), 0)


def _mean_row(mask: Bool[np.ndarray, "b h w"]) -> Float[np.ndarray, "b"]:
    rows = mask.sum(axis=2)
    return (rows * np.arange(rows.shape[1])).sum(1) / np.maximum(rows.sum(1), 1)


def all_found(labels: UInt8[np.ndarray, "b h w"], *, view: View = "front") -> Bool[np.ndarray, "b"]:
    """Whether a picture shows all of `FACIAL`."""
    return np.all(list(found(labels, view=view).values()), axis=0)


def facial_share(
    labels: UInt8[np.ndarray, "b h w"], head: Bool[np.ndarray, "b h w"] | None = None
) -> Float[np.ndarray, "b"]:
    """The share of the head's pixels that are brows, eyes, nose or mouth; NaN without a head.

    Args:
        labels: of the pictures.
        head: where the head is; by default all that is not background.
    """
    head = ~where(labels, "background") if head is None else head
    facial = (where(labels, *FACIAL) & head).sum((1, 2))
    size = head.sum((1, 2))
    return np.where(size > 0, facial / np.maximum(size, 1), np.nan)


def nose_stands_out(
    depth: Float[np.ndarray, "b h w"],
    labels: UInt8[np.ndarray, "b h w"],
    *,
    focal: float = FOCAL,
) -> Float[np.ndarray, "b"]:
    """How much nearer the tip of the nose is than both eyes' outer corners, in head widths.

        (min over the corners of their depth − depth of the tip) / the head's width

    of views near the front. The tip is where the nose is nearest: the median of its three nearest
    pixels. A corner is an end of the eyes' pixels: the median of the three outermost. The head's
    width is that of all that is not background, hair included, at the eyes' depth.

    Args:
        depth: along the rays, world units.
        labels: of the same pixels.
        focal: focal length in image sizes.

    Returns:
        [b] shares, negative where the nose lies behind; NaN where nose or eyes are not found.
    """
    return np.array([_stands_out(*one, focal) for one in zip(depth, labels, strict=True)])


def _stands_out(
    depth: Float[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"], focal: float
) -> float:
    nose, eyes = where(labels, "nose"), where(labels, "eyes")
    if nose.sum() < 3 or eyes.sum() < 6:
        return math.nan
    tip = np.median(np.sort(depth[nose])[:3])
    by_column = np.argsort(np.nonzero(eyes)[1], kind="stable")
    across = depth[eyes][by_column]
    corners = np.array([np.median(across[:3]), np.median(across[-3:])])
    width = _reach(~where(labels, "background")[None])[0]
    return float((corners.min() - tip) / (width * corners.mean() / (focal * depth.shape[1])))
