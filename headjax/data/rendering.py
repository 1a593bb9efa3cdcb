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
from headjax.geometry.cameras import Camera, camera_from_label, label_from_camera, orbit
from headjax.render.mesh import View, render_scene

Arrays = dict[str, np.ndarray]


def camera_labels(views: Float[np.ndarray, "v 2"]) -> Float[np.ndarray, "v 25"]:
    """EG3D's labels of cameras that stand at (yaw, pitch) and look at the origin."""
    return np.asarray(label_from_camera(orbit(views[:, 0], views[:, 1])), dtype=np.float32)


def quantise(view: View) -> Arrays:
    """A rendered view as a record's image, depth, mask and parts.

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
    on_view: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Arrays]]:
    """Renders one head for all the splits that show it.

    Yields:
        (split, arrays): the record's fields, each with a leading view axis.
    """
    neutral = np.zeros(source.expression_size, dtype=np.float32)
    seed, state = head_seed(config, identity), None
    if config.expression != "per_view":
        expression = neutral
        if config.expression == "per_identity":
            expression = sample_expression(seed, size=source.expression_size)
        state = source.head(seed, expression=expression, uv_size=config.uv_size)
    for split in splits_of(config, identity):
        shown = head_views(config, identity, split=split)
        records = []
        for number, label in zip(shown.numbers, camera_labels(shown.views), strict=True):
            records.append(
                _record(config, label, state or _state_of_view(config, source, seed, number))
            )
            on_view()
        yield split, _stack(shown, records)


def _state_of_view(
    config: HeadViewsConfig, source: HeadSource, seed: int, number: int
) -> HeadState:
    """The head in the expression of one view."""
    view_seed = int(np.random.SeedSequence([seed, int(number)]).generate_state(1)[0])
    expression = sample_expression(view_seed, size=source.expression_size)
    return source.head(seed, expression=expression, uv_size=config.uv_size)


def _record(config: HeadViewsConfig, label: Float[np.ndarray, "25"], state: HeadState) -> Arrays:
    camera = camera_from_label(label)
    view = render_scene(
        state.scene,
        Camera(cam2world=np.asarray(camera.cam2world), intrinsics=np.asarray(camera.intrinsics)),
        resolution=config.resolution,
        supersample=config.supersample,
    )
    return {
        **quantise(view),
        "camera": label,
        "identity_code": state.identity_code,
        "expression_code": state.expression_code,
        "uv_positions": state.uv_positions,
        "uv_valid": state.uv_valid,
    }


def _stack(shown: ViewList, records: list[Arrays]) -> Arrays:
    stacked = {}
    if records:
        stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    stacked["identity"] = np.full(len(shown), shown.identity, dtype=np.int32)
    stacked["view"] = shown.numbers.astype(np.int32)
    return stacked
