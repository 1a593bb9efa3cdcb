"""Trains the judge of the demos: a part segmenter on procedural heads of its own.

Its heads are other ones than those of any data set that a generator learns from
(`refuse_shared_heads`), and nothing that trains a generator may use it: what it says of their
pictures is `headjax.metrics.parts`.

    loss = −mean_p w(y_p) log q_p(y_p)  +  λ (1 − mean_k Σ_p q y / Σ_p (q + y − q y))

over pixels p with class y_p, w their weights and q the probabilities; the second term is the mean
intersection over union of the whole batch, with probabilities for labels.
Alphabet: b batch, h w pixels, k classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer, Key, UInt8

from headjax import data
from headjax.data.config import HeadViewsConfig, head_seed
from headjax.errors import UserError
from headjax.nets import part_segmenter
from headjax.nets.part_segmenter import CLASSES, SIZE, Judge, PartSegmenterConfig
from headjax.train import loop
from headjax.train.state import TrainState, new_state
from headjax.train.weights import load_weights, save_weights

KIND = "part_judge"
# Its own heads, all around. Both of their splits are learnt from; `val_identities` are unseen.
VIEWS = HeadViewsConfig(
    train_identities=320, val_identities=48, train_views=8, val_views=4, resolution=SIZE,
    supersample=3, uv_size=4, seed=0x6A756467,
)  # fmt: skip
SEEN = ("train", "val_views")
UNSEEN = "val_identities"


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """Of the training.

    Attributes:
        steps, batch_size: updates, and pictures of each.
        rate: of Adam at its height, after `warmup` steps; it falls to 0 by a cosine.
        small: weight of the pixels of small parts (brows, eyes, nose, mouth, glasses).
        overlap: λ, the weight of the intersection over union.
        scale, shift: pictures are enlarged by up to 1 ± scale and moved by ± shift pixels.
        blur: the largest share of a Gaussian blur (σ = 1 pixel) in a picture.
        gain, offset: of colours in [0, 1], shared by the channels; half of it for each alone.
        noise: the largest standard deviation, of colours in [0, 1].
        network: sizes of the network.
    """

    steps: int = 1800
    batch_size: int = 24
    rate: float = 4e-3
    warmup: int = 30
    small: float = 3.0
    overlap: float = 1.0
    scale: float = 0.1
    shift: int = 3
    blur: float = 1.0
    gain: float = 0.15
    offset: float = 0.06
    noise: float = 0.03
    network: PartSegmenterConfig = PartSegmenterConfig()


class Pictures:
    """Pictures with their labels, by index.

    Attributes:
        images: [n, h, w, 3] uint8.
        labels: [n, h, w] uint8, numbers of `CLASSES`.
    """

    def __init__(self, images: UInt8[np.ndarray, "n h w 3"], labels: UInt8[np.ndarray, "n h w"]):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One picture and its labels."""
        return {"image": self.images[index], "label": self.labels[index]}


def pictures(data_dir: str | Path, splits: tuple[str, ...] = SEEN) -> Pictures:
    """The pictures of some splits of a prepared data set, all in memory.

    Raises:
        UserError: there is no data set, or it has no such split.
    """
    records = []
    for split in splits:
        source = data.load_split(data_dir, split, cache=False)
        records += [source.read(i, fields=("image", "parts")) for i in range(len(source))]
    parts = np.stack([record["parts"][..., 0] for record in records])
    return Pictures(
        np.stack([record["image"] for record in records]), part_segmenter.classes_of(parts)
    )


def refuse_shared_heads(judged: HeadViewsConfig, *, own: HeadViewsConfig = VIEWS) -> None:
    """Raises `UserError` if a head of the data set is one that the judge learns from."""
    if judged.source != own.source:
        return
    seeds, own_seeds = (
        {head_seed(config, i) for i in range(config.train_identities + config.val_identities)}
        for config in (judged, own)
    )
    if shared := seeds & own_seeds:
        raise UserError(
            f"data.seed is {judged.seed}, by which {len(shared)} heads are the judge's own; "
            "choose another seed"
        )


def task(source: Pictures, *, settings: JudgeSettings, seed: int) -> loop.Task:
    """The judge's training, for `loop.fit`; the parameters are those of its last step."""
    tune = optimizer(settings)

    def init(key: Key[Array, ""]) -> TrainState:
        params = part_segmenter.init_params(settings.network, key)
        return new_state(params, tune.init(params))

    def step(state: TrainState, batch: Mapping[str, Array], key: Key[Array, ""]):
        images, labels = augment(
            key, batch["image"] / 127.5 - 1.0, batch["label"], settings=settings
        )
        (_, terms), slope = jax.value_and_grad(loss, has_aux=True)(
            state.params, images, labels, settings=settings
        )
        updates, opt_state = tune.update(slope, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, opt_state=opt_state), terms

    def batches(rows: loop.Rows):
        return data.batches(source, batch_size=settings.batch_size, seed=seed, rows=rows)

    return loop.Task(KIND, init, step, batches, batch_size=settings.batch_size)


def train_judge(
    source: Pictures,
    *,
    settings: JudgeSettings | None = None,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> Judge:
    """Trains without a folder: nothing is logged or saved. `task` is for those who want both.

    Args:
        source: what is learnt from.
        settings: of the training.
        seed: of the start, the order and the changes of the pictures.
        progress: told how many steps more were taken.
    """
    settings = settings or JudgeSettings()
    work = task(source, settings=settings, seed=seed)
    init_key, key = jax.random.split(jax.random.key(seed))
    state, step = jax.jit(work.init)(init_key), jax.jit(work.step, donate_argnums=0)
    rows = work.batches(lambda size: slice(size))
    for number in range(settings.steps):
        state, _ = step(state, next(rows), jax.random.fold_in(key, number))
        if progress is not None:
            progress(1)
    return Judge(settings.network, state.params)


def optimizer(settings: JudgeSettings) -> optax.GradientTransformation:
    """Adam with a bounded gradient, warmed up and let down to 0."""
    warmup = min(settings.warmup, settings.steps // 4)
    rate = optax.warmup_cosine_decay_schedule(
        settings.rate / 20, settings.rate, warmup, settings.steps
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))


def loss(
    params: Any,
    images: Float[Array, "b h w 3"],
    labels: Integer[Array, "b h w"],
    *,
    settings: JudgeSettings,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The sum and the terms of the loss (the module's equation)."""
    logits = part_segmenter.PartSegmenter(settings.network).apply({"params": params}, images)
    logs = jax.nn.log_softmax(logits)
    truth = jax.nn.one_hot(labels, logits.shape[-1])
    terms = {
        "cross_entropy": -(logs * truth * _class_weights(settings)).sum(-1).mean(),
        "overlap": 1.0 - soft_overlap(jnp.exp(logs), truth),
    }
    total = terms["cross_entropy"] + settings.overlap * terms["overlap"]
    return total, terms | {"loss": total}


def _class_weights(settings: JudgeSettings) -> Float[Array, "k"]:
    small = {"brows", "eyes", "nose", "mouth", "glasses"}
    return jnp.array([settings.small if name in small else 1.0 for name in CLASSES])


def soft_overlap(
    shares: Float[Array, "b h w k"], truth: Float[Array, "b h w k"]
) -> Float[Array, ""]:
    """Mean intersection over union of the classes that the batch has, of probabilities."""
    common = (shares * truth).sum((0, 1, 2))
    either = (shares + truth - shares * truth).sum((0, 1, 2))
    there = truth.any((0, 1, 2))
    return jnp.where(there, common / jnp.maximum(either, 1.0), 0.0).sum() / there.sum()


def augment(
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
    labels: Integer[Array, "b h w"],
    *,
    settings: JudgeSettings,
) -> tuple[Float[Array, "b h w 3"], Integer[Array, "b h w"]]:
    """Pictures as a generator may make them: mirrored, moved, scaled, soft, tinted and noisy.

    Half of them are scaled and half are blurred, each draw on its own; beyond the border there is
    white background.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 8)
    scale = 1.0 + settings.scale * _sometimes(keys[0], _signed(keys[1], (count,)))
    move = jax.random.randint(keys[2], (2, count), -settings.shift, settings.shift + 1)
    down = _places(height, scale, move[0])
    along = _places(width, scale, move[1])
    along = jnp.where(jax.random.bernoulli(keys[3], shape=(count, 1)), along[:, ::-1], along)
    soft = settings.blur * _sometimes(keys[4], jax.random.uniform(keys[5], (count,)))
    rows, columns = (_blurred(_weights(places), soft) for places in (down, along))
    images = 1.0 + jnp.einsum("bij,bjkc,blk->bilc", rows, images - 1.0, columns)
    images = images + 2.0 * _tint(keys[6], images, settings)
    noise_key, most_key = jax.random.split(keys[7])
    most = 2.0 * settings.noise * jax.random.uniform(most_key, (count, 1, 1, 1))
    images = images + most * jax.random.normal(noise_key, images.shape)
    return jnp.clip(images, -1.0, 1.0), _nearest(_nearest(labels, down, 1), along, 2)


def _signed(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def _sometimes(key: Key[Array, ""], values: Float[Array, "b"]) -> Float[Array, "b"]:
    """Half of the values; 0 for the others."""
    return jnp.where(jax.random.bernoulli(key, shape=values.shape), values, 0.0)


def _places(size: int, scale: Float[Array, "b"], move: Int[Array, "b"]) -> Float[Array, "b n"]:
    """Which place along an axis each new pixel shows."""
    centre = (size - 1) / 2
    return (jnp.arange(size) - centre - move[:, None]) / scale[:, None] + centre


def _weights(places: Float[Array, "b n"]) -> Float[Array, "b n n"]:
    """Linear interpolation along an axis as a matrix: new pixel, old pixel."""
    old = jnp.arange(places.shape[-1])
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[..., None] - old))


def _blurred(weights: Float[Array, "b n n"], share: Float[Array, "b"]) -> Float[Array, "b n n"]:
    """The matrix, followed by `share` of a blur with (1, 4, 6, 4, 1) / 16."""
    size = weights.shape[-1]
    blur = sum(
        tap * jnp.eye(size, k=offset)
        for tap, offset in zip((0.0625, 0.25, 0.375, 0.25, 0.0625), range(-2, 3), strict=True)
    )
    soft = jnp.einsum("ij,bjk->bik", blur, weights)
    return weights + share[:, None, None] * (soft - weights)


def _nearest(
    labels: Integer[Array, "b h w"], places: Float[Array, "b n"], axis: int
) -> Integer[Array, "b h w"]:
    """The labels at the nearest old pixels along an axis, background beyond the border."""
    index = jnp.round(places).astype(jnp.int32)
    form = (-1, index.shape[1], 1) if axis == 1 else (-1, 1, index.shape[1])
    inside = (index >= 0) & (index < labels.shape[axis])
    clipped = jnp.clip(index, 0, labels.shape[axis] - 1).reshape(form)
    taken = jnp.take_along_axis(labels, clipped, axis=axis)
    return jnp.where(inside.reshape(form), taken, jnp.zeros((), labels.dtype))


def _tint(
    key: Key[Array, ""], images: Float[Array, "b h w 3"], settings: JudgeSettings
) -> Float[Array, "b h w 3"]:
    """What other light and other paper add to colours, of a range of 1."""
    count, keys = len(images), jax.random.split(key, 4)

    def drawn(both: Array, each: Array) -> Array:
        return _signed(both, (count, 1, 1, 1)) + 0.5 * _signed(each, (count, 1, 1, 3))

    gain, offset = drawn(*keys[:2]), drawn(*keys[2:])
    return settings.gain * gain * (images + 1.0) / 2.0 + settings.offset * offset


def save_judge(path: Path, judge: Judge, *, metadata: Mapping[str, Any]) -> None:
    """Writes a judge as safetensors, with its sizes in the metadata.

    Raises:
        UserError: the place cannot be written.
    """
    sizes = {"widths": list(judge.config.widths), "margin": judge.config.margin}
    notes = {"kind": KIND, "classes": list(CLASSES)} | sizes
    save_weights(path, judge.params, metadata=dict(metadata) | notes)


def load_judge(path: Path) -> Judge:
    """The judge that `save_judge` wrote.

    Raises:
        UserError: no such file, or it holds something else.
    """
    params, notes = load_weights(path)
    if notes.get("kind") != KIND or notes.get("classes") != list(CLASSES):
        raise UserError(
            f"{path}: no judge of {len(CLASSES)} classes (kind {notes.get('kind')!r}); delete it "
            "to have it trained again"
        )
    config = PartSegmenterConfig(widths=tuple(notes["widths"]), margin=notes["margin"])
    form = jax.eval_shape(lambda: part_segmenter.init_params(config, jax.random.key(0)))
    there = jax.tree.map(np.shape, params)
    if there != jax.tree.map(np.shape, form):
        raise UserError(f"{path}: its arrays are not those of a judge; delete it to train it again")
    return Judge(config, jax.tree.map(jnp.asarray, params))
