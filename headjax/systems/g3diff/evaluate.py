"""How well heads reproduce views that training never saw."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from headjax.geometry.cameras import camera_from_label
from headjax.geometry.rays import pixel_rays
from headjax.metrics import images
from headjax.render import gaussian_field as field
from headjax.render.parts import FACE_PARTS, PART_IDS
from headjax.systems.g3diff import autodecoder, settings

# Views within this yaw (and with the face in sight) count for the face.
FRONTAL_DEGREES = 40.0
CONTRAST_PARTS = {
    "brows": ("l_brow", "r_brow"),
    "eyes": ("l_eye", "r_eye"),
    "lips": ("u_lip", "l_lip"),
}
_FACE_IDS = [PART_IDS[name] for name in FACE_PARTS if name != "mouth"]


def make_renderer(config: ml_collections.FrozenConfigDict, *, resolution: int):
    """`render(mlp, heads, labels [b, 25]) -> (rgb [b,h,w,3] in 0..1, depth, alpha)`.

    Only rays that meet the box around their head are marched; the others are white. Their number
    is rounded up to a quarter of the picture, so that at most four programs are compiled.
    """
    options = settings.field_options(config)
    sampling = settings.ray_options(config.render.evaluation)
    total = resolution * resolution

    @jax.jit
    def rays_of(heads, labels):
        origins, directions = pixel_rays(camera_from_label(labels), resolution=resolution)
        near, far = field.head_range(
            heads, origins, directions, box=sampling.box, radii=options.radii
        )
        # Half as long again: `far - near` of a miss may round to just above its length.
        hit = far - near > 1.5 * field.MISS_LENGTH
        return origins, directions, jnp.argsort(~hit, axis=1), jnp.max(jnp.sum(hit, axis=1))

    @functools.partial(jax.jit, static_argnames="count")
    def march(mlp, heads, origins, directions, order, *, count):
        chosen = order[:, :count]
        batch = jnp.arange(chosen.shape[0])[:, None]
        out = field.render_rays(
            mlp,
            heads,
            origins=origins[batch, chosen],
            directions=directions[batch, chosen],
            options=options,
            sampling=sampling,
        )

        def picture(values, empty):
            whole = jnp.full((chosen.shape[0], total, *values.shape[2:]), empty, values.dtype)
            whole = whole.at[batch, chosen].set(values)
            return whole.reshape(-1, resolution, resolution, *values.shape[2:])

        return picture(out.features, 1.0), picture(out.depth, 0.0), picture(out.alpha, 0.0)

    def render(mlp, heads, labels):
        origins, directions, order, hits = rays_of(heads, jnp.asarray(labels))
        count = math.ceil(max(int(hits), 1) / total * 4) * total // 4
        return march(mlp, heads, origins, directions, order, count=count)

    return render


def make_builder(config: ml_collections.FrozenConfigDict, *, valid):
    """`build(params, ids) -> heads` of training identities, jitted."""

    @jax.jit
    def build(params, ids):
        table = autodecoder.rows.take_rows(params["tables"], ids)
        return autodecoder.build_heads(params["shared"], table, valid=valid[ids], config=config)

    return build


def mean_head(
    params: Any, *, registration: autodecoder.Registration, config
) -> field.GaussianHeads:
    """The mean identity: mean code and mean maps, decoded; the baseline that must be beaten."""
    table = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0, keepdims=True), params["tables"])
    valid = jnp.mean(registration.valid, axis=0, keepdims=True) > 0.5
    return autodecoder.build_heads(params["shared"], table, valid=valid, config=config)


def _yaw_degrees(label: np.ndarray) -> float:
    """Angle of the camera about the vertical axis; 0 looks at the face."""
    return math.degrees(math.atan2(label[3], label[11]))


class Tally:
    """Pooled errors of one set of predictions."""

    def __init__(self):
        self.image = images.PooledError()
        self.face = images.PooledError()
        self.silhouette = images.Overlap()
        self.colors = collections.defaultdict(images.PartColor)

    def add(self, record: dict[str, np.ndarray], color: np.ndarray, alpha: np.ndarray) -> None:
        """Adds one view: its record, predicted colour in [0, 1] and silhouette."""
        target = record["image"].astype(np.float64) / 255.0
        parts = record["parts"][..., 0]
        self.image += images.squared_error(color, target)
        self.silhouette += images.overlap(alpha > 0.5, record["mask"][..., 0] > 127)
        if abs(_yaw_degrees(record["camera"])) > FRONTAL_DEGREES:
            return
        self.face += images.squared_error(color, target, where=np.isin(parts, _FACE_IDS))
        for name, members in CONTRAST_PARTS.items():
            ids = tuple(PART_IDS[member] for member in members)
            self.colors[int(record["identity"]), name] += images.part_color(
                color, target, parts=parts, part=ids, skin=PART_IDS["skin"]
            )

    def contrasts(self) -> dict[str, float]:
        """Median over identities of the contrast of brows, eyes and lips."""
        result = {}
        for name in CONTRAST_PARTS:
            values = [c.contrast() for (_, part), c in self.colors.items() if part == name]
            values = [value for value in values if not math.isnan(value)]
            result[name] = float(np.median(values)) if values else math.nan
        return result

    def summary(self) -> dict[str, float]:
        """`psnr`, `psnr_face` (dB), `iou` and `contrast_*` of everything added."""
        result = {
            "psnr": self.image.psnr(),
            "psnr_face": self.face.psnr(),
            "iou": self.silhouette.iou(),
        }
        return result | {f"contrast_{k}": v for k, v in self.contrasts().items()}


def _chunks(source: Any, size: int) -> Iterator[list[dict[str, np.ndarray]]]:
    for start in range(0, len(source), size):
        yield [source[i] for i in range(start, min(start + size, len(source)))]


def heldout_views(
    params: Any,
    source: Any,
    *,
    registration: autodecoder.Registration,
    config: ml_collections.FrozenConfigDict,
    progress=lambda done, total: None,
    chunk: int = 8,
) -> dict[str, float]:
    """Scores views of training identities that training did not see.

    Returns PSNR over the image and over the face (skin, brows, eyes, nose, lips in views within
    ±40° of the front), silhouette IoU, part contrasts, and the same PSNRs of the mean identity.
    """
    resolution = int(source[0]["image"].shape[0])
    render = make_renderer(config, resolution=resolution)
    build = make_builder(config, valid=registration.valid)
    mean = mean_head(params, registration=registration, config=config)
    ours, baseline = Tally(), Tally()
    for number, records in enumerate(_chunks(source, chunk)):
        padded = records + [records[-1]] * (chunk - len(records))
        labels = jnp.asarray(np.stack([record["camera"] for record in padded]))
        ids = jnp.asarray(np.array([int(record["identity"]) for record in padded]))
        same = jax.tree.map(lambda leaf: jnp.repeat(leaf, chunk, axis=0), mean)
        for tally, heads in ((ours, build(params, ids)), (baseline, same)):
            pictures = render(params["shared"]["mlp"], heads, labels)
            color, _, alpha = (np.asarray(picture) for picture in pictures)
            for i, record in enumerate(records):
                tally.add(record, np.clip(color[i], 0.0, 1.0), alpha[i])
        progress(min((number + 1) * chunk, len(source)), len(source))
    worst = baseline.summary()
    return ours.summary() | {
        "psnr_mean_identity": worst["psnr"],
        "psnr_face_mean_identity": worst["psnr_face"],
    }
