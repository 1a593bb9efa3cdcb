"""Moving through the latent space that student and teacher share (Head3D, figures 14 to 16).

Averages and straight lines between styles, and InterFaceGAN's directions (Shen et al. 2020): a
plane that separates styles by an attribute of their pictures, whose normal edits it.

Alphabet: n samples, d numbers of a code (a style, or all style vectors of a head in a row).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

_NEWTON_STEPS = 30


@flax.struct.dataclass
class Direction:
    """A boundary of an attribute: n·x + offset > 0 where it is there.

    Attributes:
        normal: of unit length.
        offset: the origin's signed distance from the boundary.
    """

    normal: Float[Array, "d"]
    offset: Float[Array, ""]

    def distance(self, codes: Float[Array, "n d"]) -> Float[Array, "n"]:
        """Signed distances from the boundary."""
        return codes @ self.normal + self.offset


def average(first: Float[Array, "*b d"], second: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Figure 14: the mean of two codes."""
    return 0.5 * (first + second)


def interpolate(
    first: Float[Array, "*b d"], second: Float[Array, "*b d"], *, steps: int
) -> Float[Array, "t *b d"]:
    """Figure 15: codes in even steps on the line from the first to the second, ends included."""
    share = jnp.linspace(0.0, 1.0, steps).reshape(-1, *(1,) * first.ndim)
    return first + share * (second - first)


def fit_direction(
    codes: Float[Array, "n d"], labels: Bool[np.ndarray, "n"], *, penalty: float = 1e-2
) -> Direction:
    """The boundary between codes with and without an attribute, by logistic regression.

        minimise  mean_i log(1 + exp(-y_i (w x_i + c))) + penalty/2 |w|²,   y_i = ±1

    in standardised codes, by Newton's method; both classes weigh the same, however many they are.
    The original fits a linear support vector machine to the extremes of an attribute's scores;
    give those alone to do the same.

    Args:
        codes: styles.
        labels: whether the attribute is there.
        penalty: of the weights.

    Raises:
        ValueError: all labels are the same.
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        raise ValueError(f"all {len(labels)} labels are {bool(labels[0])}; both kinds are needed")
    codes = jnp.asarray(codes, jnp.float32)
    mean, scale = codes.mean(axis=0), codes.std(axis=0) + 1e-6
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    weights = _newton(
        (codes - mean) / scale, jnp.asarray(labels, jnp.float32), jnp.asarray(share, jnp.float32),
        penalty,
    )  # fmt: skip
    normal = weights[:-1] / scale
    length = jnp.linalg.norm(normal)
    return Direction(normal / length, (weights[-1] - normal @ mean) / length)


@jax.jit
def _newton(
    x: Float[Array, "n d"], y: Float[Array, "n"], share: Float[Array, "n"], penalty: ArrayLike
) -> Float[Array, "d1"]:
    """Weights and intercept of the penalised logistic regression."""
    x = jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)
    decay = jnp.full(x.shape[1], penalty).at[-1].set(1e-6)

    def step(_, weights):
        told = jax.nn.sigmoid(x @ weights)
        gradient = x.T @ (share * (told - y)) + decay * weights
        curvature = (x * (share * told * (1.0 - told))[:, None]).T @ x + jnp.diag(decay)
        move = jnp.linalg.solve(curvature, gradient)
        # A full step may overshoot while the codes are still on one side.
        return weights - move / jnp.maximum(1.0, jnp.linalg.norm(move) / 5.0)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, jnp.zeros(x.shape[1]))


def edit(
    codes: Float[Array, "*b d"], direction: Direction, *, strength: float
) -> Float[Array, "*b d"]:
    """Figure 16: codes moved by `strength` along the direction; below 0, away from it."""
    return codes + strength * direction.normal


def orthogonalise(direction: Direction, others: Sequence[Direction]) -> Direction:
    """The direction without what it shares with others (conditional manipulation).

    Moving along it keeps the signed distances from the boundaries of all of `others`.

    Raises:
        ValueError: nothing is left.
    """
    normal = direction.normal
    if others:
        basis = jnp.stack([other.normal for other in others], axis=1)
        normal = normal - basis @ jnp.linalg.lstsq(basis, normal)[0]
    length = jnp.linalg.norm(normal)
    if length < 1e-4:
        raise ValueError("the direction is a combination of the others; nothing of it is left")
    return Direction(normal / length, direction.offset)
