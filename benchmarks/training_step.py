"""An auto-decoder step at Gaussian3Diff's table 2: memory by the compiled program, and time.

  python benchmarks/training_step.py                       # on this machine's device
  python benchmarks/training_step.py --runs=0              # memory only, nothing is run
  python benchmarks/training_step.py --topology=v5e:2x2    # memory on a chip, by libtpu alone
  python benchmarks/training_step.py --output=FILE         # also writes JSON

The step is the trainer's own: batch 4, 64² rays of 48 samples, 1,024 Gaussians of 8×8 texels, the
17.3-million-parameter decoder and Adam's state, 24 identities, float32. The total is arguments +
outputs − aliased + temporaries; rendering alone is the step minus one that decodes, and learns
from the payload itself. Times are medians of whole steps, the state handed on from one to the next.
"""

import argparse
import dataclasses
import functools
import math
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import environment, tell
from headjax.geometry.cameras import label_from_camera, orbit
from headjax.systems.g3diff import autodecoder
from headjax.systems.g3diff.workloads import autodecoder_workload
from headjax.train import config as configs

MIB = 1 << 20
IDENTITIES, BATCH, SIDE, SAMPLES = 24, 4, 64, 48


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderStep(autodecoder.AutoDecoderStep):
    """The step without rays: the decoder is asked for a payload of zeros."""

    def loss(self, params, batch, *, counts):
        shared, table = params
        heads = autodecoder.build_heads(shared, table, valid=batch.valid, config=self.config)
        total = jnp.mean(jnp.square(heads.payload))
        return total, {"payload": total}


def table_2(neighbors):
    """The paper preset at the setting of table 2."""
    changes = {
        "data.train_identities": IDENTITIES,
        "data.resolution": SIDE,
        "autodecoder.batch_identities": BATCH,
        "autodecoder.patches": 1,
        "autodecoder.patch_side": SIDE,
        "autodecoder.sampling.samples": SAMPLES,
        "field.neighbors": neighbors,
    }
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    return configs.load("g3diff:paper", overrides=overrides).values


def shapes(config):
    """Shapes of the state and of a batch of views."""
    stage = autodecoder_workload(config)
    return jax.eval_shape(stage.init, jax.random.key(0)), stage.batch


def compiled_step(config, step_class, sharding):
    """One compiled step, and the shapes of its arguments."""
    state, views = shapes(config)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def update(state, views, key):
        return step_class(config, warm=False)(state, views, key)

    arguments = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        (state, views, key),
    )
    return jax.jit(update, donate_argnums=0).lower(*arguments).compile(), arguments


def bytes_of(compiled):
    """Arguments, outputs, aliased, temporaries, total."""
    analysis = compiled.memory_analysis()
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }
    total = sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"]
    return sizes | {"total": total}


def filled(shape):
    """Numbers for a shape: a camera before the head, a key, small ones ≥ 0 (Adam's moments are)."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if shape.shape[1:] == (25,):
        label = label_from_camera(orbit(0.0, 0.0))
        return jnp.broadcast_to(jnp.asarray(label, shape.dtype), shape.shape)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        count = math.prod(shape.shape)
        return (jnp.arange(count) % 255).astype(shape.dtype).reshape(shape.shape)
    return 0.1 * jax.random.uniform(jax.random.key(len(shape.shape)), shape.shape, shape.dtype)


def step_milliseconds(compiled, arguments, *, runs):
    """Median time of a step."""
    state, *others = jax.tree.map(filled, arguments)
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        state, metrics = compiled(state, *others)
        jax.block_until_ready((state, metrics))
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:])


@functools.cache
def chip(topology):
    """The sharding of arrays that lie whole on one chip of a topology; None for this machine."""
    if not topology:
        return None
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
    return jax.sharding.SingleDeviceSharding(device)


def measure(*, topology, neighbors, runs):
    """The decoder's step, and for each K the whole step and rendering alone: MiB and ms."""
    sharding = chip(topology)
    compiled, _ = compiled_step(table_2(neighbors[0]), DecoderStep, sharding)
    decoder = bytes_of(compiled)["total"]
    report = {"decoder_only_mib": round(decoder / MIB, 1), "steps": {}}
    for count in neighbors:
        compiled, arguments = compiled_step(table_2(count), autodecoder.AutoDecoderStep, sharding)
        sizes = bytes_of(compiled)
        row = {f"{name}_mib": round(size / MIB, 1) for name, size in sizes.items()}
        row["rendering_alone_mib"] = round((sizes["total"] - decoder) / MIB, 1)
        if runs and not topology:
            row["step_ms"] = round(step_milliseconds(compiled, arguments, runs=runs), 1)
        report["steps"][f"K={count}"] = row
        print(f"K={count}", row, flush=True)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="", help="for example v5e:2x2")
    parser.add_argument("--neighbors", default="1,3,5")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    neighbors = [int(k) for k in arguments.neighbors.split(",")]
    report = {
        **(environment() | ({"device": arguments.topology} if arguments.topology else {})),
        "batch": BATCH,
        "rays": SIDE**2,
        "samples": SAMPLES,
        **measure(topology=arguments.topology, neighbors=neighbors, runs=arguments.runs),
    }
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
