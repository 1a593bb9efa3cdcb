"""What the implementations of ray marching share: options, decoders and results."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
from jaxtyping import Array, Float

from pallas_kernels.dispatch import Implementation, check_implementation

# An array of a tree that transformations take apart and put together again, for a moment with
# placeholders in its places; its shape stands in the docstring.
Leaf = Any
Rule = Literal["midpoint", "left"]
Density = Literal["given", "softplus"]
Color = Literal["sigmoid", "none", "leaky_relu"]


def _check(name: str, value: str, choices) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is unknown; one of {', '.join(get_args(choices))}")


@dataclasses.dataclass(frozen=True)
class MarchOptions:
    """How samples along a ray become what it sees.

    Attributes:
      rule: 'midpoint' (EG3D's MipRayMarcher2): an interval lies between two samples and has the
        mean of their densities, features and distances; S − 1 intervals. 'left': an interval
        begins at each sample; the last has the mean length of the others.
      density: what an interval's density is: 'given', or 'softplus' of the given one minus one
        (EG3D: after the mean of the midpoint rule).
      tile: samples that the reference works on at a time, about.
      implementation: which form runs, see `dispatch.run`.
    """

    rule: Rule = "midpoint"
    density: Density = "given"
    tile: int = 4096
    implementation: Implementation = "auto"

    def __post_init__(self):
        _check("rule", self.rule, Rule)
        _check("density", self.density, Density)
        check_implementation(self.implementation)
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1, got {self.tile}")


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """How the outputs of the rendering MLP are read.

    Attributes:
      color: of the features: 'sigmoid' with a margin of 0.001 at both ends, so that exact black
        and white are reachable (EG3D); 'none' and 'leaky_relu' (slope 0.2, gain √2; PanoHead).
      density: of the first output: 'given' as it is, 'softplus' of it minus one.
      scale: factor of the density.
      gate: c of the density's factor min(1, c·Σg), Σg being the field's RBF values at the point;
        None for no gate.
      crop: where |x| or |z| exceeds it the density is −1000 (PanoHead: half the box minus 0.1);
        None for nowhere. World units.
    """

    color: Color = "sigmoid"
    density: Density = "given"
    scale: float = 1.0
    gate: float | None = None
    crop: float | None = None

    def __post_init__(self):
        _check("color", self.color, Color)
        _check("density", self.density, Density)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoder:
    """The rendering MLP c → h → 1 + o: density first, then features. One for all heads.

    Attributes:
      w0, b0: [c, h] and [h].
      w1, b1: [h, 1 + o] and [1 + o].
    """

    w0: Leaf
    b0: Leaf
    w1: Leaf
    b1: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marched:
    """What rays saw.

    Attributes:
      features: [b, r, c], Σ w·features.
      distance: [b, r], Σ w·t, t being the distance along the ray; over alpha the mean depth.
      alpha: [b, r], Σ w, the silhouette.
    """

    features: Leaf
    distance: Leaf
    alpha: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FieldMarched(Marched):
    """`Marched` of a field, with what its samples were.

    Attributes:
      reach: [b, r], Σ over samples of the field's RBF values (a Gaussian field's Σ_k g_k, else 0).
      depths: [b, r, s], the samples' distances, ascending; without gradient.
      sigma: [b, r, s], their densities, before the activation of `MarchOptions`; without gradient.
    """

    reach: Leaf
    depths: Leaf
    sigma: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rays:
    """Rays [b, r, 3] of several heads; directions of length one where depths are distances."""

    origins: Leaf
    directions: Leaf


def points_of(rays: Rays, depths: Float[Array, "*b r s"]) -> Float[Array, "*b r s 3"]:
    """The samples' positions, world units."""
    along = depths[..., None] * rays.directions[..., None, :]
    return rays.origins[..., None, :] + along


def no_gradient(tree):
    """The arrays of a tree, as constants."""
    return jax.lax.stop_gradient(tree)
