"""One head's records: rendered, quantised and kept as arrays with a leading view axis."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from headjax.data.config import (
    HeadViewsConfig,
    ViewList,
    head_seed,
    head_views,
    is_training_identity,
)
from headjax.data.sources import HeadSource, HeadState, sample_expression
from headjax.geometry.cameras import camera_from_label, label_from_camera, orbit
from headjax.render.mesh import View, render_views

Arrays = dict[str, np.ndarray]

_TOGETHER = 8  # Views rendered between two reports of progress.


def camera_labels(views: Float[np.ndarray, "v 2"]) -> Float[np.ndarray, "v 25"]:
    """EG3D's labels of cameras that stand at (yaw, pitch) and look at the origin."""
    return np.asarray(label_from_camera(orbit(views[:, 0], views[:, 1])), dtype=np.float32)


def quantise(view: View) -> Arrays:
    """Rendered views as records' image, depth, mask and parts.

    Colours and coverage are rounded to 1/255; depth and parts are 0 where the mask is 0.
    """
    mask = np.rint(view.mask * 255).astype(np.uint8)
    seen = mask > 0
    return {
        "image": np.rint(np.clip(view.color, 0, 1) * 255).astype(np.uint8),
        "depth": np.where(seen, view.depth, 0).astype(np.float32)[..., None],
        "mask": mask[..., None],
        "parts": np.where(seen, view.parts, 0).astype(np.uint8)[..., None],
    }


def splits_of(config: HeadViewsConfig, identity: int) -> tuple[str, ...]:
    """The splits that show this head."""
    if is_training_identity(config, identity):
        return ("train", "val_views")
    return ("val_identities",)


def render_head(
    config: HeadViewsConfig,
    identity: int,
    *,
    source: HeadSource,
    on_views: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[str, Arrays]]:
    """Renders one head for all the splits that show it.

    Args:
        config: of the data set.
        identity: the head's number.
        source: the family of heads that it belongs to.
        on_views: told after each few views how many they were.

    Yields:
        (split, arrays): the record's fields, each with a leading view axis.
    """
    shared = None if config.expression == "per_view" else _state(config, source, identity)
    step = _TOGETHER if shared else 1
    for split in splits_of(config, identity):
        shown = head_views(config, identity, split=split)
        pieces = []
        for start in range(0, len(shown), step):
            views = shown.views[start : start + step]
            state = shared or _state(config, source, identity, view=int(shown.numbers[start]))
            pieces.append(_render_views(state, camera_labels(views), config))
            on_views(len(views))
        yield split, _joined(shown, pieces)


def _state(
    config: HeadViewsConfig, source: HeadSource, identity: int, *, view: int | None = None
) -> HeadState:
    """The head in its expression, or in that of one of its views."""
    seed, size = head_seed(config, identity), source.expression_size
    expression = np.zeros(size, dtype=np.float32)
    if config.expression != "neutral":
        entropy = [seed] if view is None else [seed, view]
        expression_seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        expression = sample_expression(expression_seed, size=size)
    return source.head(seed, expression=expression, uv_size=config.uv_size)


def _render_views(
    state: HeadState, labels: Float[np.ndarray, "v 25"], config: HeadViewsConfig
) -> Arrays:
    """Records of one state, with a leading view axis."""
    view = render_views(
        state.scene,
        camera_from_label(labels),
        resolution=config.resolution,
        supersample=config.supersample,
    )
    shared = {
        "identity_code": state.identity_code,
        "expression_code": state.expression_code,
        "uv_positions": state.uv_positions,
        "uv_valid": state.uv_valid,
    }
    repeated = {name: np.stack([value] * len(labels)) for name, value in shared.items()}
    return {**quantise(view), "camera": labels, **repeated}


def _joined(shown: ViewList, pieces: list[Arrays]) -> Arrays:
    joined = {}
    if pieces:
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    joined["identity"] = np.full(len(shown), shown.identity, dtype=np.int32)
    joined["view"] = shown.numbers.astype(np.int32)
    return joined
