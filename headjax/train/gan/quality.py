"""How good a generator's pictures are: FID and KID of its views, and how its heads differ.

Alphabet: n pictures or heads, v views, h w pixels. Networks that are missing give "n/a" and why.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

from headjax.geometry.cameras import camera_from_label
from headjax.io.images import to_uint8
from headjax.metrics import feature_sets, networks
from headjax.metrics.feature_sets import FeatureSet, yaws_of
from headjax.nets.perceptual.weights import Missing
from headjax.train.gan.pictures import CHUNK, Drawer

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
    draw: Drawer, sources: Sequence[Any], *, count: int, network: Any, key: Array
) -> dict[str, float | str]:
    """`image_quality` of new heads, seen by the cameras of the real pictures.

    Args:
        draw: the generator.
        sources: of real pictures with their cameras.
        count: pictures of each source, evenly chosen.
        network: Inception, or what says which file is missing.
        key: of the heads.
    """
    every = [
        (source, part)
        for source in sources
        for part in parts_of(np.linspace(0, len(source) - 1, count).astype(int))
    ]

    def reals():
        for source, part in every:
            shown, labels = chosen_views(source, part)
            yield shown, yaws_of(camera_from_label(labels))

    def fakes():
        for number, (source, part) in enumerate(every):
            _, labels = chosen_views(source, part)
            latent = (len(labels), draw.config.z_dim)
            ws = draw.styles(jax.random.normal(jax.random.fold_in(key, number), latent))
            image = np.asarray(draw.draw(ws, jnp.asarray(labels)).image)
            yield to_uint8(np.clip(image, -1.0, 1.0)), yaws_of(camera_from_label(labels))

    return image_quality(reals(), fakes(), network=network)


def parts_of(rows: Any) -> list[Any]:
    """What is drawn at a time."""
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def chosen_views(
    source: Any, indices: Integer[np.ndarray, "n"]
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n 25"]]:
    """Images and cameras of some records."""
    records = [source.read(int(i), fields=("image", "camera")) for i in indices]
    return (
        np.stack([record["image"] for record in records]),
        np.stack([record["camera"] for record in records]),
    )


def for_json(scores: Mapping[str, float | str]) -> dict[str, float | str]:
    """Scores as JSON knows them: "n/a" for what nothing could tell."""
    return {
        name: value if isinstance(value, str) or math.isfinite(value) else "n/a"
        for name, value in scores.items()
    }


def views_of(heads: Sequence[Sequence[Any]], view: int) -> Float[np.ndarray, "n h w 3"]:
    """The images of one of the views that `Drawer.views` gives, cut off at [-1, 1]."""
    return np.stack([np.clip(views[view].image, -1.0, 1.0) for views in heads])
