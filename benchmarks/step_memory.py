"""Memory of an auto-decoder step at Gaussian3Diff's table 2, from the compiled program itself.

  python benchmarks/step_memory.py                       # on this machine's device
  python benchmarks/step_memory.py --topology=v5e:2x2    # for one chip of it, by libtpu, without it
  python benchmarks/step_memory.py --output=FILE         # also writes JSON

The step is the trainer's own: batch 4, 64² rays of 48 samples, 1,024 Gaussians of 8×8 texels, the
17.3-million-parameter decoder and Adam's state, 24 identities, float32. The total is arguments +
outputs − aliased + temporaries; rendering alone is the step minus one that decodes, and learns
from the payload itself. Nothing is run.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headjax.systems.g3diff import autodecoder
from headjax.train import config as configs
from headjax.train.state import new_state

MIB = 1 << 20
IDENTITIES, BATCH, SIDE, SAMPLES = 24, 4, 64, 48


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderStep(autodecoder.AutoDecoderStep):
    """The step without rays: the decoder is asked for a payload of zeros."""

    def loss(self, params, *, ids, views, key):
        shared, table = params
        heads = autodecoder.build_heads(
            shared, table, valid=self.registration.valid[ids], config=self.config
        )
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
    """Shapes of the registration, the state, and a batch of views."""
    grid, batch = config.field.grid, config.autodecoder.batch_identities

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    maps = array(IDENTITIES, grid, grid, 3)
    registration = autodecoder.Registration(
        maps, array(IDENTITIES, grid, grid, dtype=jnp.bool), array(IDENTITIES, 40)
    )
    views = {
        "image": array(batch, SIDE, SIDE, 3, dtype=jnp.uint8),
        "depth": array(batch, SIDE, SIDE, 1),
        "mask": array(batch, SIDE, SIDE, 1, dtype=jnp.uint8),
        "parts": array(batch, SIDE, SIDE, 1, dtype=jnp.uint8),
        "camera": array(batch, 25),
        "identity": array(batch, dtype=jnp.int32),
    }
    tables = {"z": array(IDENTITIES, config.decoder.code_dim)} | dict.fromkeys(
        ("centers", "rpy", "radii"), maps
    )

    def init(key, tables):
        shared = autodecoder.init_shared(key, config=config)
        optimizer = autodecoder.shared_optimizer(config, steps=config.autodecoder.steps)
        return new_state(
            {"shared": shared, "tables": tables},
            {"shared": optimizer.init(shared), "rows": autodecoder.rows.init_rows(tables)},
        )

    state = jax.eval_shape(init, jax.random.key(0), tables)
    return state, registration, views


def compiled_bytes(config, step_class, sharding):
    """Bytes of one compiled step: arguments, outputs, aliased, temporaries, total."""
    state, registration, views = shapes(config)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def update(state, registration, views, key):
        return step_class(config, registration, warm=False)(state, views, key)

    arguments = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        (state, registration, views, key),
    )
    analysis = jax.jit(update, donate_argnums=0).lower(*arguments).compile().memory_analysis()
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }
    total = sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"]
    return sizes | {"total": total}


@functools.cache
def chip(topology):
    """The sharding of arrays that lie whole on one chip of a topology; None for this machine."""
    if not topology:
        return None
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
    return jax.sharding.SingleDeviceSharding(device)


def measure(*, topology, neighbors):
    """MiB of the decoder's step, and of the whole step and rendering alone for each K."""
    sharding = chip(topology)
    decoder = compiled_bytes(table_2(neighbors[0]), DecoderStep, sharding)["total"]
    report = {"decoder_only_mib": round(decoder / MIB, 1), "steps": {}}
    for count in neighbors:
        sizes = compiled_bytes(table_2(count), autodecoder.AutoDecoderStep, sharding)
        row = {f"{name}_mib": round(size / MIB, 1) for name, size in sizes.items()}
        row["rendering_alone_mib"] = round((sizes["total"] - decoder) / MIB, 1)
        report["steps"][f"K={count}"] = row
        print(f"K={count}", row, flush=True)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="", help="for example v5e:2x2")
    parser.add_argument("--neighbors", default="1,3,5")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    neighbors = [int(k) for k in arguments.neighbors.split(",")]
    report = {
        "device": arguments.topology or jax.devices()[0].platform,
        "jax": jax.__version__,
        "batch": BATCH,
        "rays": SIDE**2,
        "samples": SAMPLES,
        **measure(topology=arguments.topology, neighbors=neighbors),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
