"""The auto-decoder's losses (Gaussian3Diff, supplement §1.1), each a scalar before its weight.

Alphabet: `b` heads, `g` side of the UV grid, `r` rays, `p` side of a pixel patch. Colours are in
[-1, 1] as in the paper's images, distances in world units. The corrections are those that the
equations need: the volume term uses the product of the radii (equation 7 as printed would reward
growth), and total variation is taken between valid neighbours only (a UV seam is no neighbour).

Some terms are sums over a number of pixels or cells that depends on the batch. Where a batch is a
part of a larger one, that number is its share of the larger one's (`Counts`), so that the parts'
mean is the whole's.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from headjax.render.gaussian_field import GaussianHeads


@flax.struct.dataclass
class Counts:
    """What sums are divided by; None for what there is in the batch itself.

    Attributes:
      pixels: rays that see the head.
      cells: UV cells that hold a Gaussian, over all heads.
    """

    pixels: Float[Array, ""] | None = None
    cells: Float[Array, ""] | None = None


def share_of_counts(
    mask: Float[Array, "b r"], valid: Bool[Array, "b g g"], *, parts: int
) -> Counts:
    """The counts of each of `parts` equal parts of a batch."""
    return Counts(pixels=_pixels(mask, None) / parts, cells=_cells(valid, None) / parts)


def _pixels(mask: Float[Array, "b r"], count: Float[Array, ""] | None) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(mask), 1.0) if count is None else count


def _cells(valid: Bool[Array, "b g g"], count: Float[Array, ""] | None) -> Array:
    return jnp.maximum(jnp.sum(valid), 1) if count is None else count


def l1(prediction: Float[Array, "b r 3"], target: Float[Array, "b r 3"]) -> Float[Array, ""]:
    """Equation 1: mean |I − Î|."""
    return jnp.mean(jnp.abs(prediction - target))


def multiscale_l1(
    prediction: Float[Array, "b r 3"], target: Float[Array, "b r 3"], *, side: int
) -> Float[Array, ""]:
    """The stand-in for LPIPS (equation 2) where its weights are not there.

    Mean L1 of horizontal and vertical differences of p×p patches, over the pyramid that halves
    them down to one pixel, plus the L1 of each coarser level. It needs no network and is no
    LPIPS: the output names it `multiscale_l1`.
    """
    error = (prediction - target).reshape(prediction.shape[0], -1, side, side, 3)
    total, levels = jnp.float32(0.0), 0
    while error.shape[2] > 1:
        total += jnp.mean(jnp.abs(error[:, :, 1:] - error[:, :, :-1]))
        total += jnp.mean(jnp.abs(error[:, :, :, 1:] - error[:, :, :, :-1]))
        half = error.shape[2] // 2
        error = error[:, :, : 2 * half, : 2 * half]
        error = error.reshape(*error.shape[:2], half, 2, half, 2, 3).mean(axis=(3, 5))
        total += jnp.mean(jnp.abs(error))
        levels += 1
    return total / max(levels, 1)


def depth(
    prediction: Float[Array, "b r"],
    target: Float[Array, "b r"],
    mask: Float[Array, "b r"],
    *,
    count: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Equation 3: mean squared difference where the data set has a surface."""
    return jnp.sum(mask * (prediction - target) ** 2) / _pixels(mask, count)


def silhouette(
    prediction: Float[Array, "b r"], mask: Float[Array, "b r"]
) -> Float[Array, ""]:
    """Equation 8: mean squared difference of Σw and the mask."""
    return jnp.mean((prediction - mask) ** 2)


def coverage(rbf_sum: Float[Array, "b *s"], *, neighbors: int) -> Float[Array, ""]:
    """Equation 6: mean over samples of (1/K) Σ_k g_k, unnormalised RBF values."""
    return jnp.mean(rbf_sum) / neighbors


def volume(heads: GaussianHeads, *, count: Float[Array, ""] | None = None) -> Float[Array, ""]:
    """Equation 7, sign mended: (4π/3) mean ∏ radii over the valid Gaussians."""
    product = jnp.prod(jnp.abs(heads.radii), axis=-1)
    return 4.0 * jnp.pi / 3.0 * _mean_valid(product, heads.valid, count)


def total_variation(
    heads: GaussianHeads, *, smooth: float = 0.0, count: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """Equation 9: (1/N) Σ |G_{h+1,w} − G_{h,w}| + |G_{h,w+1} − G_{h,w}| over valid pairs.

    With `smooth` > 0, |x| is √(x² + smooth²) − smooth. At its kink the L1 norm makes opposite
    gradients of differences that rounding alone decides, and neighbours' rotations all start there.
    """
    maps = jnp.concatenate([heads.centers, heads.rpy, heads.radii], axis=-1)
    valid = heads.valid

    def size(x):
        return jnp.abs(x) if smooth == 0.0 else jnp.sqrt(x**2 + smooth**2) - smooth

    rows = size(maps[:, 1:] - maps[:, :-1]).sum(-1) * (valid[:, 1:] & valid[:, :-1])
    columns = size(maps[:, :, 1:] - maps[:, :, :-1]).sum(-1)
    columns = columns * (valid[:, :, 1:] & valid[:, :, :-1])
    return (jnp.sum(rows) + jnp.sum(columns)) / _cells(valid, count)


def mesh(
    heads: GaussianHeads,
    surface: Float[Array, "b g g 3"],
    *,
    count: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """L_mesh: mean over valid cells of ‖v − μ‖², v the registered surface."""
    return _mean_valid(jnp.sum((heads.centers - surface) ** 2, axis=-1), heads.valid, count)


def code(z: Float[Array, "b d"], *, sigma: float) -> Float[Array, ""]:
    """Equation 11: mean over heads of ‖z‖² / σ²."""
    return jnp.mean(jnp.sum(z**2, axis=-1)) / sigma**2


def tanh_range(payload: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """L_tanh: mean (h − tanh h)², which keeps the payload where its normaliser is invertible.

    The supplement gives its weight and not its formula.
    """
    return jnp.mean((payload - jnp.tanh(payload)) ** 2)


def surface_color(
    prediction: Float[Array, "b r n 3"],
    target: Float[Array, "b r 3"],
    mask: Float[Array, "b r"],
    *,
    count: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Warm-up: mean |colour at the known surface − the pixel's colour| over foreground rays."""
    error = jnp.mean(jnp.abs(prediction - target[:, :, None]), axis=(-1, -2))
    return jnp.sum(mask * error) / _pixels(mask, count)


def occupancy(
    sigma: Float[Array, "b *r"], target: Float[Array, "b *r"], *, length: float
) -> Float[Array, ""]:
    """Warm-up: cross-entropy of the opacity over `length` (1 − exp(−σ·length)) with 0 or 1."""
    optical = sigma * length
    inside = -jnp.log(-jnp.expm1(-jnp.maximum(optical, 1e-4)))
    return jnp.mean(target * inside + (1.0 - target) * optical)


def _mean_valid(
    values: Float[Array, "b g g"], valid: Bool[Array, "b g g"], count: Float[Array, ""] | None
) -> Float[Array, ""]:
    return jnp.sum(jnp.where(valid, values, 0.0)) / _cells(valid, count)


def weighted(
    terms: dict[str, Float[Array, ""]], weights: dict[str, float]
) -> Float[Array, ""]:
    """Σ λ·term; every term must have a weight."""
    return sum(weights[name] * value for name, value in terms.items())
