"""FID: the Fréchet distance of two sets of features, each seen as a Gaussian (Heusel et al. 2017).

    d²((μ₁, C₁), (μ₂, C₂)) = |μ₁ − μ₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½

Alphabet: n samples, d features. Float64 throughout.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

_BLOCK = 4096  # rows that are turned to float64 at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Sums over features; adding two gives those of both sets.

    Attributes:
        count: n.
        total: Σ x.
        outer: Σ x xᵀ.
    """

    count: int
    total: Float[np.ndarray, "d"]
    outer: Float[np.ndarray, "d d"]

    @classmethod
    def empty(cls, size: int) -> Moments:
        """Those of no features of length `size`."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def mean(self) -> Float[np.ndarray, "d"]:
        return self.total / self.count

    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased covariance, as the public FID programs take it.

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.count}")
        mean = self.mean()
        return (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """The sums of a set, taken in blocks."""
    gathered = Moments.empty(features.shape[1])
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64)
        gathered = gathered + Moments(len(block), block.sum(axis=0), block.T @ block)
    return gathered


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """L with L Lᵀ = C and as many columns as C has rank; eigenvalues that are rounding are left."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rounding = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance of the Gaussians with these means and covariances.

    With C₁ = L₁ L₁ᵀ and C₂ = L₂ L₂ᵀ, tr (C₁ C₂)^½ is the sum of the singular values of L₁ᵀ L₂.
    That holds for covariances of any rank (fewer pictures than features), where the matrix square
    root of C₁ C₂ that is usually taken is ill-defined and returns complex numbers.

    Raises:
        ValueError: fewer than two features in a set.
    """
    first, second = a.covariance(), b.covariance()
    difference = a.mean() - b.mean()
    between = _root(first).T @ _root(second)
    overlap = np.linalg.svd(between, compute_uv=False).sum() if between.size else 0.0
    spread = np.trace(first) + np.trace(second) - 2.0 * overlap
    return float(difference @ difference + spread)
