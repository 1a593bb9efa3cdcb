"""Measures of pictures that pool over pixels: sums first, one division at the end.

Alphabet: `v` views, `h w` pixels. Colours are in [0, 1]. NumPy in float64, so that a metric does
not depend on how views were batched.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8


@dataclasses.dataclass(frozen=True)
class PooledError:
    """Squared error summed over colour values; adding two pools them."""

    squared: float = 0.0
    count: float = 0.0

    def __add__(self, other: PooledError) -> PooledError:
        return PooledError(self.squared + other.squared, self.count + other.count)

    def psnr(self) -> float:
        """−10·log10 of the mean squared error, dB; infinite for a perfect match."""
        if self.count == 0:
            return math.nan
        return math.inf if self.squared == 0 else -10.0 * math.log10(self.squared / self.count)


def squared_error(
    prediction: Float[np.ndarray, "*v h w 3"],
    target: Float[np.ndarray, "*v h w 3"],
    *,
    where: Bool[np.ndarray, "*v h w"] | None = None,
) -> PooledError:
    """Squared error over all pixels, or over those chosen."""
    error = (prediction.astype(np.float64) - target) ** 2
    if where is not None:
        error = error[where]
    return PooledError(float(error.sum()), float(error.size))


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Intersection and union of silhouettes, in pixels."""

    intersection: float = 0.0
    union: float = 0.0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    def iou(self) -> float:
        return self.intersection / self.union if self.union else math.nan


def overlap(prediction: Bool[np.ndarray, "*v h w"], target: Bool[np.ndarray, "*v h w"]) -> Overlap:
    """Intersection and union of two sets of masks."""
    return Overlap(float((prediction & target).sum()), float((prediction | target).sum()))


@dataclasses.dataclass(frozen=True)
class PartColor:
    """Colour sums of one part and of the skin around it, predicted and true."""

    part: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 3)))
    part_pixels: int = 0
    skin: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 3)))
    skin_pixels: int = 0

    def __add__(self, other: PartColor) -> PartColor:
        return PartColor(
            self.part + other.part,
            self.part_pixels + other.part_pixels,
            self.skin + other.skin,
            self.skin_pixels + other.skin_pixels,
        )

    def contrast(self) -> float:
        """How much of the part's true colour difference to the skin is there: 1 is all of it.

        d = mean colour of the part − that of the skin; ⟨d̂, d⟩ / ⟨d, d⟩, NaN without pixels.
        """
        if not self.part_pixels or not self.skin_pixels:
            return math.nan
        predicted, true = self.part / self.part_pixels - self.skin / self.skin_pixels
        square = float(true @ true)
        return float(predicted @ true) / square if square > 0 else math.nan


def part_color(
    prediction: Float[np.ndarray, "*v h w 3"],
    target: Float[np.ndarray, "*v h w 3"],
    *,
    parts: UInt8[np.ndarray, "*v h w"],
    part: tuple[int, ...],
    skin: int,
) -> PartColor:
    """Colour sums over the pixels with one of the labels `part`, and over the skin's."""
    is_part, is_skin = np.isin(parts, part), parts == skin

    def sums(where):
        return np.stack([image[where].astype(np.float64).sum(0) for image in (prediction, target)])

    return PartColor(sums(is_part), int(is_part.sum()), sums(is_skin), int(is_skin.sum()))
