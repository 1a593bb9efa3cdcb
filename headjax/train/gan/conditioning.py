"""Which camera, background and styles a generated sample is told, and which images repeat.

Alphabet: b batch, l style layers, d width of a style. Labels are EG3D's 25-vectors.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from headjax.geometry.cameras import mirror_label

# The camera's z in a label: the last number of the pose's third row.
_CAMERA_Z = 11


def _from_neighbours(key: PRNGKeyArray, values: Array, probability: ArrayLike) -> Array:
    """Each sample's value, or with the probability that of the sample before it."""
    shape = (values.shape[0],) + (1,) * (values.ndim - 1)
    swaps = jax.random.uniform(key, shape) < probability
    return jnp.where(swaps, jnp.roll(values, 1, axis=0), values)


def swap_labels(
    key: PRNGKeyArray, labels: Float[Array, "b c"], *, probability: ArrayLike
) -> Float[Array, "b c"]:
    """What the mapping network is told: the camera's label, or with `probability` a neighbour's.

    EG3D's pose conditioning: the generator must not know for certain from where it is looked at.
    The image is rendered, and judged, under the true label.
    """
    return _from_neighbours(key, labels, probability)


def swap_backgrounds(
    key: PRNGKeyArray, ws: Float[Array, "b l d"], *, probability: ArrayLike = 0.2
) -> Float[Array, "b l d"]:
    """Styles of the background: the head's, or with `probability` a neighbour's (PanoHead)."""
    return _from_neighbours(key, ws, probability)


def mix_styles(
    key: PRNGKeyArray,
    ws: Float[Array, "b l d"],
    others: Float[Array, "b l d"],
    *,
    probability: ArrayLike,
) -> Float[Array, "b l d"]:
    """StyleGAN's mixing: with `probability` layers from a random one on come from `others`.

    One cut, uniform in 1 .. l - 1, for the whole batch, as in the original. EG3D trains without.
    """
    where, whether = jax.random.split(key)
    layers = ws.shape[1]
    cut = jax.random.randint(where, (), 1, layers)
    cut = jnp.where(jax.random.uniform(whether) < probability, cut, layers)
    return jnp.where((jnp.arange(layers) < cut)[:, None], ws, others)


def mirror(
    images: Mapping[str, Float[Array, "b h w _"]],
    labels: Float[Array, "b 25"],
    *,
    flips: Bool[Array, "b"],
) -> tuple[dict[str, Float[Array, "b h w _"]], Float[Array, "b 25"]]:
    """Samples where `flips` is true become their mirror images, with the label of those."""
    choose = flips[:, None, None, None]
    flipped = {name: jnp.where(choose, x[:, :, ::-1], x) for name, x in images.items()}
    return flipped, jnp.where(flips[:, None], mirror_label(labels), labels)


def repeat_back_views(labels: Float[np.ndarray, "n 25"], *, times: int = 4) -> Int[np.ndarray, "m"]:
    """Indices of a data set in which every back view occurs `times` times (PanoHead's 4).

    A back view has its camera behind the head, z < 0; the world's head looks along +z. Indices are
    in order: all images once, then the repetitions.

    Raises:
        ValueError: fewer than one time.
    """
    if times < 1:
        raise ValueError(f"back views repeated {times} times: at least 1")
    back = np.flatnonzero(labels[:, _CAMERA_Z] < 0)
    return np.concatenate([np.arange(len(labels)), np.tile(back, times - 1)])
