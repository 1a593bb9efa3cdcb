"""FID and KID of a generator's views, seen by the cameras of real pictures.

Alphabet: n pictures, h w pixels. A network that is missing gives "n/a" and why.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from headjax.geometry.cameras import camera_from_label
from headjax.io.images import to_uint8
from headjax.metrics import feature_sets, networks
from headjax.metrics.feature_sets import FeatureSet, yaws_of
from headjax.nets.perceptual.weights import Missing

# Pictures [n, h, w, 3] uint8 and their yaws [n]; n may differ from part to part.
Part = tuple[np.ndarray, np.ndarray]


def image_quality(
    reals: Iterable[Part],
    fakes: Iterable[Part],
    *,
    network: Any,
    features: Callable[..., np.ndarray] = networks.inception_features,
) -> dict[str, float | str]:
    """FID and KID of all views, of the front and of the back (Head3D's tables 2 and 3).

    Args:
        reals, fakes: 8-bit pictures and their yaws (radians), a part at a time; of a `Missing`
            network none is asked for.
        network: Inception, or what says which file is missing.
        features: (network, pictures) -> what they are compared by.
    """
    if isinstance(network, Missing):
        return feature_sets.quality(network, network)
    kept = []
    for side in (reals, fakes):
        told = [FeatureSet(features(network, pictures), yaws) for pictures, yaws in side]
        kept.append(functools.reduce(operator.add, told))
    return feature_sets.quality(*kept)


def quality_of(
    draw: Callable[[Array, Array], Float[np.ndarray, "n h w 3"]],
    sources: Sequence[Any],
    *,
    count: int,
    network: Any,
    key: Array,
    together: int = 8,
) -> dict[str, float | str]:
    """`image_quality` of new heads, seen by the cameras of the real pictures.

    Args:
        draw: (key, labels [n, 25]) -> pictures of n new heads in [-1, 1].
        sources: of real pictures with their cameras.
        count: pictures of each source, evenly chosen.
        network: Inception, or what says which file is missing.
        key: of the heads.
        together: pictures that are drawn at a time.
    """
    every = []
    for source in sources:
        places = np.linspace(0, len(source) - 1, count).astype(int)
        every += [(source, places[i : i + together]) for i in range(0, count, together)]

    def reals():
        for source, part in every:
            labels = chosen(source, part, "camera")
            yield chosen(source, part, "image"), yaws_of(camera_from_label(labels))

    def fakes():
        for number, (source, part) in enumerate(every):
            labels = chosen(source, part, "camera")
            image = draw(jax.random.fold_in(key, number), jnp.asarray(labels))
            yield to_uint8(np.clip(image, -1.0, 1.0)), yaws_of(camera_from_label(labels))

    return image_quality(reals(), fakes(), network=network)


def chosen(source: Any, indices: Integer[np.ndarray, "n"], field: str) -> np.ndarray:
    """One field of some records, [n, …]; no other is read."""
    return np.stack([source.read(int(i), fields=(field,))[field] for i in indices])
