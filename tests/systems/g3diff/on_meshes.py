"""Trains every stage of the smoke config for some steps on meshes over simulated devices.

    python -m tests.systems.g3diff.on_meshes DATA_DIR STEPS dp:1 fsdp:8 …

Run it with `--xla_force_host_platform_device_count=8`. Prints a JSON object: for each mesh the
losses of each stage by step, and the bytes of parameters and optimiser state on the first device.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax

from headjax.systems.g3diff import pipeline
from headjax.train import config as configs
from headjax.train import loop
from headjax.train.logging import Logger
from headjax.train.stages import Context

STAGES = {
    "data": pipeline.prepare_data,
    "surface": pipeline.train_surface,
    "autodecoder": pipeline.train_autodecoder,
    "diffusion": pipeline.train_diffusion,
}


def context(workdir, data_dir, *, steps, mesh):
    preset, _, count = mesh.partition(":")
    overrides = [f"autodecoder.steps={steps}", f"autodecoder.warmup.steps={steps}",
                 f"diffusion.steps={steps}", "log_every=1", f"mesh.preset={preset}"]  # fmt: skip
    values = configs.load("g3diff:smoke", overrides=[f"--config.{o}" for o in overrides]).values
    pipeline.make_mesh.devices = jax.devices()[: int(count)]
    return Context(values, workdir, data_dir, Logger(workdir), seed=0)


def state_bytes(state):
    """Bytes of parameters and optimiser state that the first device holds."""
    leaves = jax.tree.leaves((state.params, state.opt_state))
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


def train(mesh, *, data_dir, steps, workdir):
    """Losses by stage and bytes by stage."""
    sizes, fit = {}, loop.fit

    def counted(task, **arguments):
        state = fit(task, **arguments)
        sizes[task.name] = state_bytes(state)
        return state

    loop.fit = counted
    try:
        run = context(workdir, data_dir, steps=steps, mesh=mesh)
        for stage in STAGES.values():
            stage(run)
    finally:
        loop.fit = fit
        run.logger.close()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {
        name: [line["loss"] for line in lines if line["stage"] == name and "loss" in line]
        for name in sizes
    }
    return {"losses": losses, "bytes": sizes}


def main(data_dir, steps, *meshes):
    """The tables of all meshes, on standard output."""
    make_mesh = pipeline.make_mesh
    chosen = lambda options: make_mesh(options, chosen.devices)  # noqa: E731
    pipeline.make_mesh = chosen
    results = {}
    for mesh in meshes:
        with tempfile.TemporaryDirectory() as folder:
            results[mesh] = train(
                mesh, data_dir=Path(data_dir), steps=int(steps), workdir=Path(folder)
            )
        jax.clear_caches()
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
