"""The stages of Gaussian3Diff: data → surface → autodecoder → evaluation → diffusion → samples."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headjax import data
from headjax.errors import UserError
from headjax.geometry.cameras import orbit_labels, view_angle_between
from headjax.io import images, video
from headjax.metrics import sets
from headjax.systems.g3diff import artefacts, autodecoder, diffusion, evaluate, report, settings
from headjax.train import feed, loop
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.stages import Context, Row, Stage, finite, read_json, write_json
from headjax.train.state import new_state, stream_key

_VIEW_FIELDS = (
    "image", "depth", "mask", "parts", "camera", "identity", "uv_positions", "uv_valid",
)  # fmt: skip


def stages(config: Any) -> list[Stage]:
    """The stages that this config runs, in order."""
    settings.check(config)
    make_mesh(MeshOptions(**config.mesh))  # or says why not, before any work
    every = [
        Stage("data", prepare_data, "renders multi-view heads", outputs=("data_sheet.png",)),
        Stage("surface", train_surface, "fits colour and density to the surface",
              outputs=("surface.safetensors",), everywhere=True),
        Stage("autodecoder", train_autodecoder, "fits all heads by rendering",
              outputs=("autodecoder.safetensors",), everywhere=True),
        Stage("evaluation", evaluate_heldout, "scores held-out views",
              outputs=("evaluation.json", "reconstructions.png")),
        Stage("diffusion", train_diffusion, "learns to generate UV maps",
              outputs=("diffusion.safetensors",), everywhere=True),
        Stage("samples", make_samples, "draws and renders new heads",
              outputs=("samples.safetensors", "samples.png", "turntable.mp4", "metrics.json")),
    ]  # fmt: skip
    if not config.autodecoder.warmup.steps:
        every = [stage for stage in every if stage.name != "surface"]
    return [dataclasses.replace(stage, minutes=config.minutes[stage.name]) for stage in every]


def describe(config: Any) -> list[Row]:
    """Parameter counts and memory of each stage, without training."""
    settings.check(config)
    key = jax.random.key(0)

    def numbers(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    shared = jax.eval_shape(lambda k: autodecoder.init_shared(k, config=config), key)
    grid, count = config.field.grid, config.data.train_identities
    table = count * (config.decoder.code_dim + 9 * grid**2)
    unet = jax.eval_shape(lambda k: diffusion.init_params(k, config=config), key)
    side = diffusion.state_side(config)
    views = count * config.data.train_views
    view_bytes = config.data.resolution**2 * (3 + 4 + 1 + 1)
    states = count * side**2 * (9 + config.decoder.channels) * 4
    # Parameters, gradients and two Adam moments are float32; an averaged copy comes on top.
    return [
        Row("data", "training views", memory=views * view_bytes),
        Row("autodecoder", "payload decoder", numbers(shared["decoder"]),
            16 * numbers(shared["decoder"])),
        Row("autodecoder", "rendering MLP", numbers(shared["mlp"]), 16 * numbers(shared["mlp"])),
        Row("autodecoder", "codes and Gaussian maps", table, 12 * table),
        Row("diffusion", "U-Net", numbers(unet), 20 * numbers(unet)),
        Row("diffusion", "UV states", memory=states),
    ]  # fmt: skip


def prepare_data(context: Context) -> None:
    """Renders the data set, or finds it; writes data_sheet.png."""
    section = data.HeadViewsConfig(**context.config.data.to_dict())
    with context.logger.telling("data", unit="view") as tell:
        data.prepare(
            section, context.data_dir, progress=lambda state: tell(state.done, state.total)
        )
    train = data.load_split(context.data_dir, "train")
    images.save_png(context.workdir / "data_sheet.png", data.data_sheet(data.sheet_rows(train)))


def train_surface(context: Context) -> None:
    """Warm-up without ray marching; writes surface.safetensors."""
    registration = registration_of(context)
    if context.config.warm_start:
        params = warm_autodecoder(context, registration)
    else:
        steps = context.config.autodecoder.warmup.steps
        params = _fit_autodecoder(context, registration, warm=True, steps=steps, start=None)
    _keep_autodecoder(context, "surface.safetensors", params, registration)


def train_autodecoder(context: Context) -> None:
    """Trains by rendering rays; writes autodecoder.safetensors."""
    start = None
    registration = registration_of(context)
    if context.config.autodecoder.warmup.steps:
        start = artefacts.load_autodecoder(context.workdir / "surface.safetensors").params
    elif context.config.warm_start:
        start = warm_autodecoder(context, registration)
    steps = context.config.autodecoder.steps
    params = _fit_autodecoder(context, registration, warm=False, steps=steps, start=start)
    _keep_autodecoder(context, "autodecoder.safetensors", params, registration)


def _keep_autodecoder(context: Context, name: str, params: Any, registration: Any) -> None:
    if context.group.leads:
        model = artefacts.AutoDecoder(params, registration)
        artefacts.save_autodecoder(context.workdir / name, model, metadata=context.metadata)


def registration_of(context: Context) -> autodecoder.Registration:
    """Surfaces and identity codes of the training identities, from the data set."""
    train = data.load_split(context.data_dir, "train")
    seen: dict[int, Any] = {}
    for index, identity in enumerate(np.asarray(train.identities)):
        if int(identity) not in seen:
            seen[int(identity)] = train[index]
    records = [seen[identity] for identity in sorted(seen)]
    fields = ("uv_positions", "uv_valid", "identity_code")
    stacked = [jnp.asarray(np.stack([record[name] for record in records])) for name in fields]
    return autodecoder.Registration(*stacked)


def _fit_autodecoder(context, registration, *, warm: bool, steps: int, start: Any) -> Any:
    config = context.config
    train = data.load_split(context.data_dir, "train")
    step = autodecoder.AutoDecoderStep(config, warm=warm)
    name = "surface" if warm else "autodecoder"

    def init(key):
        fresh = autodecoder.init_state(key, registration, config=config, steps=steps)
        if start is None:
            return fresh
        return new_state(jax.tree.map(jnp.asarray, start), fresh.opt_state)

    size = config.autodecoder.batch_identities

    def batches(rows):
        return data.batches(
            train, batch_size=size, seed=context.seed, by_identity=True, fields=_VIEW_FIELDS,
            rows=rows, **config.input,
        )  # fmt: skip

    task = loop.Task(
        name, init, step, batches, batch_size=size, rules=autodecoder.RULES,
        counted=autodecoder.AutoDecoderStep(settings.counted_config(config), warm=warm),
    )  # fmt: skip
    state = loop.fit_stage(context, task, steps=steps, section=config.autodecoder)
    return feed.to_host(state.params)


def warm_autodecoder(context: Context, registration: autodecoder.Registration) -> Any:
    """Parameters of an earlier run's auto-decoder; tables only where its identities are these.

    For other identities the shared parameters are kept, and codes and maps start anew.
    """
    folder = Path(context.config.warm_start)
    saved = artefacts.load_autodecoder(folder / "autodecoder.safetensors")
    key = stream_key(context.seed, "autodecoder/init")
    fresh = autodecoder.init_state(key, registration, config=context.config, steps=1).params
    _check_shapes(fresh["shared"], saved.params["shared"], what="decoder", folder=folder)
    codes = saved.registration.identity_code
    if codes.shape == registration.identity_code.shape and bool(
        jnp.allclose(codes, registration.identity_code)
    ):
        return saved.params
    context.logger.say(
        f"warm start from {folder}: other identities than its own, codes and Gaussians start anew"
    )
    return {"shared": saved.params["shared"], "tables": fresh["tables"]}


def _check_shapes(want: Any, got: Any, *, what: str, folder: Path) -> None:
    same_tree = jax.tree.structure(want) == jax.tree.structure(got)
    if not same_tree or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True)
    ):
        raise UserError(
            f"warm_start={folder} holds a {what} of another size than this config's; use "
            "--config.warm_start='' or the config that it was made with"
        )


def evaluate_heldout(context: Context) -> None:
    """Scores held-out views; writes reconstructions.png and evaluation.json."""
    config = context.config
    model = artefacts.load_autodecoder(context.workdir / "autodecoder.safetensors")
    source = data.load_split(context.data_dir, "val_views")
    with context.logger.telling("evaluation", unit="view") as tell:
        scores = evaluate.heldout_views(
            model.params, source, registration=model.registration, config=config, progress=tell
        )
    write_json(context.workdir / "evaluation.json", {"heldout_views": finite(scores)})
    render = evaluate.make_renderer(config, resolution=config.data.resolution)
    build = evaluate.make_builder(config, valid=model.registration.valid)
    picture = report.reconstruction_rows(
        render, model.params, build=build, records=_shown_records(source)
    )
    images.save_png(context.workdir / "reconstructions.png", picture)
    context.logger.say(
        "held-out views: " + ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
    )


def _shown_records(source: Any, *, count: int = 24) -> list[dict[str, np.ndarray]]:
    """Held-out views to show: of each of some identities a front, a side and a back view."""
    front = orbit_labels([0.0, 90.0, 180.0])
    identities = sorted(set(np.asarray(source.identities).tolist()))
    stride = max(1, len(identities) // max(1, count // 3))
    shown = []
    for identity in identities[::stride][: count // 3]:
        indices = np.flatnonzero(np.asarray(source.identities) == identity)
        mine = [source[i] for i in indices.tolist()]
        for label in front:
            angles = [float(view_angle_between(record["camera"], label)) for record in mine]
            shown.append(mine[int(np.argmin(angles))])
    return shown


def train_diffusion(context: Context) -> None:
    """Trains the U-Net on the auto-decoder's states; writes diffusion.safetensors."""
    config = context.config
    model = artefacts.load_autodecoder(context.workdir / "autodecoder.safetensors")
    states = diffusion.training_states(
        model.params, registration=model.registration, config=config
    )
    standard = diffusion.standard_of(
        states, kind=config.diffusion.standardise, data_scale=config.diffusion.data_scale
    )
    step = diffusion.DiffusionStep(config, standard)
    init = step.init
    if config.warm_start:
        folder = Path(config.warm_start)
        saved = artefacts.load_diffusion(folder / "diffusion.safetensors").params
        shapes = jax.eval_shape(step.init, jax.random.key(0)).params
        _check_shapes(shapes, saved, what="U-Net", folder=folder)

        def init(key):
            return step.init(key).replace(params=saved, ema=jax.tree.map(jnp.copy, saved))

    size, source = config.diffusion.batch_size, diffusion.StateSource(states)
    reading = {**config.input, "workers": 0}  # The states are in memory: not once a process.

    def batches(rows):
        return data.batches(source, batch_size=size, seed=context.seed, rows=rows, **reading)

    counted = diffusion.DiffusionStep(settings.counted_config(config), standard)
    task = loop.Task("diffusion", init, step, batches, batch_size=size, counted=counted)
    state = loop.fit_stage(context, task, steps=config.diffusion.steps, section=config.diffusion)
    averaged = feed.to_host(state.ema)
    if context.group.leads:
        valid = jnp.mean(model.registration.valid, axis=0) > 0.5
        artefacts.save_diffusion(
            context.workdir / "diffusion.safetensors",
            artefacts.Diffusion(averaged, standard, valid),
            metadata=context.metadata,
        )


def make_samples(context: Context) -> None:
    """Samples heads, renders and scores them; writes pictures, heads and metrics.json."""
    config = context.config
    count, resolution = config.samples.count, config.samples.resolution
    model = artefacts.load_diffusion(context.workdir / "diffusion.safetensors")
    mlp = artefacts.load_autodecoder(context.workdir / "autodecoder.safetensors").params["shared"][
        "mlp"
    ]
    heads = jax.jit(
        lambda params, key: diffusion.sample_heads(
            params,
            key=key,
            count=count,
            standard=model.standard,
            valid=model.valid,
            config=config,
        )
    )(model.params, stream_key(context.seed, "samples"))
    artefacts.save_heads(
        context.workdir / "samples.safetensors", heads, metadata=context.metadata
    )
    labels = orbit_labels(list(report.CANONICAL_YAWS.values()))
    render = evaluate.make_renderer(config, resolution=resolution)
    with context.logger.telling("samples", unit="head") as tell:
        chunks = []
        for start in range(0, count, 4):
            part = report.take_heads(heads, slice(start, min(start + 4, count)))
            chunks.append(report.views_of(render, mlp, part, labels=labels))
            tell(min(start + 4, count), count)
    color, depth, alpha = (np.concatenate([chunk[i] for chunk in chunks]) for i in range(3))
    images.save_png(context.workdir / "samples.png", report.sample_sheet(color, depth, alpha))
    turning = report.take_heads(heads, slice(0, config.samples.turntable_heads))
    frames = report.turntable(render, mlp, turning, frames=config.samples.turntable_frames)
    video.save_mp4(context.workdir / "turntable.mp4", frames, fps=12)
    _write_metrics(context, np.clip(color, 0.0, 1.0))


def _write_metrics(context: Context, color: np.ndarray) -> None:
    """metrics.json: scores of held-out views and of the samples, and what stood in for what."""
    truth = {name: canonical_views(context, name) for name in ("train", "val_identities")}
    features = {name: sets.render_features(views) for name, views in truth.items()}
    scores = sets.sample_quality(
        sets.render_features(color), train=features["train"], heldout=features["val_identities"]
    )
    values = {
        "heldout_views": read_json(context.workdir / "evaluation.json")["heldout_views"],
        "samples": finite(scores),
        "perceptual_loss": context.config.autodecoder.perceptual,
        "lpips": "n/a: needs the LPIPS weights",
        "identity_similarity": "n/a: needs the ArcFace weights",
        "warm_start": context.config.warm_start,
    }
    write_json(context.workdir / "metrics.json", values)
    context.logger.say(
        "samples: " + ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
    )


def canonical_views(context: Context, split: str) -> np.ndarray:
    """The true front, side and back views of every identity of a split, [n, 3, h, w, 3] in 0..1."""
    labels = orbit_labels(list(report.CANONICAL_YAWS.values()))
    return data.nearest_views(data.load_split(context.data_dir, split), labels)
