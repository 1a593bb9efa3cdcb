"""Three stages: pairs are made, a map is learned from them, its error is reported."""

import io
import os
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from headjax.io import atomic
from headjax.train import feed, loop
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.stages import Row, Stage, write_json
from headjax.train.state import ema_update, new_state
from headjax.train.weights import load_weights, save_weights

WIDTH = 6
# Makes a step long enough for a signal to hit it.
PAUSE = float(os.environ.get("HEADJAX_TOY_PAUSE", "0"))


def stages(config):
    return [
        Stage("data", make_pairs, summary=f"makes {config.pairs} pairs"),
        Stage("train", train, summary=f"{config.train.steps} steps", minutes=0.1, everywhere=True),
        Stage("report", report, summary="writes metrics.json"),
    ]


def describe(config):
    return [
        Row("data", "pairs", memory=config.pairs * WIDTH * 8),
        Row("train", "map", parameters=WIDTH * WIDTH, memory=4 * WIDTH * WIDTH * 4),
    ]


def make_pairs(context):
    rng = np.random.default_rng(context.seed)
    x = rng.standard_normal((context.config.pairs, WIDTH)).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=x @ np.linspace(-1, 1, WIDTH * WIDTH, dtype=np.float32).reshape(6, 6))
    atomic.write_bytes(context.data_dir / "pairs.npz", buffer.getvalue())


def train(context):
    settings = context.config.train
    with np.load(context.data_dir / "pairs.npz") as pairs:
        x, y = pairs["x"], pairs["y"]
    state = loop.fit(
        linear_task(x, y, settings=settings),
        folder=context.workdir / "checkpoints" / "train",
        seed=context.seed,
        steps=settings.steps,
        logger=context.logger,
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        mesh=make_mesh(MeshOptions(**context.config.get("mesh", {}))),
    )
    weights = feed.to_host({"params": state.params, "ema": state.ema})
    if context.group.leads:
        notes = {"config_hash": context.config_hash}
        save_weights(context.workdir / "map.safetensors", weights, metadata=notes)


def report(context):
    weights, _ = load_weights(context.workdir / "map.safetensors")
    write_json(
        context.workdir / "metrics.json", {"norm": float(np.linalg.norm(weights["ema"]["w"]))}
    )


def linear_task(x, y, *, settings) -> loop.Task:
    optimiser = optax.adam(settings.learning_rate)

    def init(key):
        params = {"w": jax.random.normal(key, (WIDTH, WIDTH)), "b": jnp.zeros(WIDTH)}
        return new_state(params, optimiser.init(params), ema=settings.average)

    def loss(params, batch, key):
        noise = settings.noise * jax.random.normal(key, batch["y"].shape)
        return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"] + noise) ** 2)

    def step(state, batch, key):
        value, grads = jax.value_and_grad(loss)(state.params, batch, key)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = (
            ema_update(state.ema, params, step=state.step, decay=0.9) if settings.average else None
        )
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return state.replace(params=params, opt_state=opt_state, ema=ema), metrics

    def batches(rows):
        mine = rows(settings.batch_size)

        def pair(i):
            time.sleep(PAUSE / settings.batch_size)
            return {"x": x[i], "y": y[i]}

        order = grain.MapDataset.range(len(x)).seed(5).shuffle().repeat()
        whole = order.batch(settings.batch_size)
        ours = whole.map(lambda batch: np.asarray(batch)[mine])
        pairs = ours.map(lambda batch: jax.tree.map(lambda *r: np.stack(r), *map(pair, batch)))
        return iter(pairs.to_iter_dataset(grain.ReadOptions(1, 1)))

    return loop.Task("train", init, step, batches, batch_size=settings.batch_size)
