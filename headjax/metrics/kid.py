"""KID: the kernel distance of two sets of features (Bińkowski et al. 2018).

    MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j)

with k(x, y) = (x·y / d + 1)³, unbiased, averaged over random subsets. It may be negative. Tables of
the papers print it times 100. Alphabet: n m samples, d features.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

DEGREE = 3
SUBSETS, SUBSET_SIZE = 100, 1000


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """The mean over subsets, and their standard deviation."""

    mean: float
    deviation: float


def _kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1.0) ** DEGREE


def unbiased_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The unbiased estimate of MMD² from all of x and y, in float64.

    Raises:
        ValueError: fewer than two samples in a set.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 samples, got {len(x)} and {len(y)}")
    x, y = x.astype(np.float64), y.astype(np.float64)

    def within(z: np.ndarray) -> float:
        kernel = _kernel(z, z)
        return (kernel.sum() - np.trace(kernel)) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2.0 * _kernel(x, y).mean())


def kernel_distance(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """MMD² averaged over random subsets, drawn without replacement from each set.

    Args:
        x, y: features.
        subsets: how many.
        subset_size: samples of each; smaller sets are taken whole.
        seed: of the draws.

    Raises:
        ValueError: fewer than two samples in a set.
    """
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(x), len(y))

    def drawn(z: np.ndarray) -> np.ndarray:
        return z[rng.choice(len(z), size, replace=False)]

    values = [unbiased_mmd(drawn(x), drawn(y)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))
