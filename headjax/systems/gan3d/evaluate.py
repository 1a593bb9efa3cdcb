"""Scores of a generator's new heads: parts of the face, relief, variety, likeness to the data.

Alphabet: n heads, v views, h w pixels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from headjax import data
from headjax.geometry.cameras import orbit_labels
from headjax.metrics import networks, parts, sets
from headjax.metrics.views import quality_of
from headjax.nets.part_segmenter import SIZE
from headjax.systems.gan3d import settings
from headjax.train import part_judge
from headjax.train.gan.pictures import Drawer, parts_of, views_of
from headjax.train.stages import Context
from headjax.train.state import stream_key

TURNED = (-40.0, 40.0)
# The tip of the nose is nearer than both eyes' corners by this share of the head's width.
RELIEF = 0.03
NO_JUDGE = "n/a (needs headjax's part segmenter: set --config.weights.judge=PATH, docs/metrics.md)"
NO_HEADS = "n/a (the pictures of a folder do not say whose they are)"
AROUND = 180.0


def scores(
    context: Context, draw: Drawer, *, source: Any, psi: float
) -> dict[str, float | str]:
    """All scores of `config.evaluation.identities` new heads.

    Args:
        context: of the stage.
        draw: the generator.
        source: the training images.
        psi: truncation of the styles.
    """
    config = context.config
    latent = (config.evaluation.identities, draw.config.z_dim)
    ws = draw.styles(jax.random.normal(stream_key(context.seed, "evaluation"), latent), psi=psi)
    procedural = config.data.source == "procedural"
    found: dict[str, float | str] = {"identities": float(len(ws))}
    yaws = (0.0, 90.0, 180.0) if procedural and config.data.max_yaw >= AROUND else (0.0,)
    with context.logger.telling("evaluation", unit="head") as tell:
        heads = draw.views(ws, yaws=(*yaws, *TURNED), progress=tell)
    found |= faces(heads, depth=front_depth(draw, ws), judge=_judge(config))
    canonical = np.stack([views_of(heads, view) for view in range(len(yaws))], axis=1)
    found |= variety(context, canonical, yaws) if procedural else {"sample_to_sample": NO_HEADS}
    return found | quality_of(
        draw.new_heads, [source], count=config.evaluation.images,
        network=networks.load("inception", config.weights.to_dict()),
        key=stream_key(context.seed, "quality"),
    )  # fmt: skip


def _judge(config: Any) -> Any:
    if not config.weights.judge:
        return None
    if config.data.source == "procedural":
        part_judge.refuse_shared_heads(settings.head_views(config))
    return part_judge.load_judge(Path(config.weights.judge))


def faces(
    heads: list[list[Any]], *, depth: Float[np.ndarray, "n 64 64"], judge: Any
) -> dict[str, float | str]:
    """Shares of heads whose faces have all their parts, and whose noses stand out.

    Args:
        heads: views of each; the front first, those at `TURNED` last.
        depth: of the fronts.
        judge: the part segmenter; None for "n/a".
    """
    names = ("front_faces", "turned_faces_left", "turned_faces_right", "noses_stand_out")
    if judge is None:
        return dict.fromkeys(names, NO_JUDGE)
    front, left, right = (parts.labels_of(judge, views_of(heads, view)) for view in (0, -2, -1))
    shares = (
        parts.all_found(front, view="front"),
        parts.all_found(left, view="turned"),
        parts.all_found(right, view="turned"),
        parts.nose_stands_out(depth, front) >= RELIEF,
    )
    each = {f"front_{name}": told for name, told in parts.found(front).items()}
    told = zip((*names, *each), (*shares, *each.values()), strict=True)
    return {name: float(np.mean(share)) for name, share in told}


def front_depth(draw: Drawer, ws: Float[Array, "n l e"]) -> Float[np.ndarray, "n 64 64"]:
    """Front views' distances along the rays at the judge's size, rendered at that size."""
    config = dataclasses.replace(draw.config, neural_resolution=SIZE, superresolution=None)
    plain = Drawer(config, draw.variables)
    label = jnp.asarray(orbit_labels([0.0]))
    seen = [
        plain.draw(part, jnp.broadcast_to(label, (len(part), 25))).depth for part in parts_of(ws)
    ]
    return np.concatenate([np.asarray(depth)[..., 0] for depth in seen])


def variety(
    context: Context, views: Float[np.ndarray, "n v h w 3"], yaws: tuple[float, ...]
) -> dict[str, float]:
    """Distances of samples to each other and to the training heads, beside the data's own.

    Args:
        context: of the stage.
        views: of the samples, in [-1, 1], from `yaws`.
        yaws: degrees.
    """
    labels, size = orbit_labels(list(yaws)), min(sets.FEATURE_SIZE, views.shape[2])

    def features(split: str) -> np.ndarray:
        source = data.load_split(context.data_dir, split)
        return sets.render_features(data.nearest_views(source, labels), size=size)

    samples = sets.render_features(0.5 * views + 0.5, size=size)
    return sets.sample_quality(samples, train=features("train"), heldout=features("val_identities"))
