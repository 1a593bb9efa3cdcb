"""Tri-plane rendering beside a torch program of the same maths, in one run.

  python benchmarks/triplane_render.py                  # 64² rays, 48 + 48 samples, 3x32x256²
  python benchmarks/triplane_render.py --output=FILE    # also writes JSON

Needs torch (`pip install 'headjax[parity]'`). Both programs get the same planes, decoder, rays,
jitter and importance numbers; the pictures are compared before anything is timed. The two are
timed in turn, so that a drifting machine drifts for both; medians are quoted.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import torch_triplane
from benchmarks.timing import environment, in_turn, tell
from headjax.render import triplane
from pallas_kernels.ray_march import Decoder

SIDE, CHANNELS, HIDDEN, RESOLUTION = 64, 32, 64, 256


def make_inputs(options, *, seed=0):
    """Planes, decoder, rays from radius 2.7 at 18.8° and the renderer's random numbers."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return np.float32(scale * rng.standard_normal(shape))

    planes = normal(1, 3, RESOLUTION, RESOLUTION, CHANNELS)
    decoder = {
        "w0": normal(CHANNELS, HIDDEN, scale=CHANNELS**-0.5),
        "b0": normal(HIDDEN, scale=0.1),
        "w1": normal(HIDDEN, 1 + CHANNELS, scale=HIDDEN**-0.5),
        "b1": normal(1 + CHANNELS, scale=0.1),
    }
    center = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    x, y = np.meshgrid(center, center)
    directions = np.stack([x / 4.2647, -y / 4.2647, -np.ones_like(x)], -1).reshape(1, -1, 3)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    rays = {
        "origins": np.broadcast_to(np.float32([0, 0, 2.7]), directions.shape).copy(),
        "directions": np.float32(directions),
        "jitter": np.float32(rng.random((1, SIDE**2, options.samples))),
        "uniform": np.float32(rng.random((1, SIDE**2, options.importance))),
    }
    return planes, decoder, rays


def torch_program(planes, decoder, rays, options):
    planes = torch.from_numpy(planes[0]).permute(0, 3, 1, 2).contiguous()
    decoder = {name: torch.from_numpy(value) for name, value in decoder.items()}
    rays = {name: torch.from_numpy(value[0]) for name, value in rays.items()}

    def run():
        with torch.no_grad():
            return torch_triplane.render(planes, decoder, rays, options)

    return run


def jax_program(planes, decoder, rays, options):
    render = jax.jit(
        lambda decoder, planes, rays: triplane.render_rays(
            decoder, planes, options=options, **rays
        ).features
    )
    arguments = jax.tree.map(jnp.asarray, (Decoder(**decoder), planes, rays))
    return lambda: jax.block_until_ready(render(*arguments))


def measure(*, runs, implementation):
    options = triplane.TriplaneOptions(implementation=implementation)
    inputs = make_inputs(options)
    ours, theirs = jax_program(*inputs, options), torch_program(*inputs, options)
    a, b = np.asarray(ours())[0], theirs().numpy()
    result = {"largest_difference_in_std": float(np.abs(a - b).max() / b.std())}
    medians, count = in_turn({"headjax": ours, "torch": theirs}, runs=runs, rest=0.3)
    result |= {f"{name}_ms": round(value, 2) for name, value in medians.items()}
    result["runs"] = count
    return result | {"headjax_over_torch": round(medians["headjax"] / medians["torch"], 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--implementation", default="auto")
    arguments = parser.parse_args()
    report = {
        **environment(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "rays": SIDE**2,
        "planes": [3, CHANNELS, RESOLUTION, RESOLUTION],
        **measure(runs=arguments.runs, implementation=arguments.implementation),
    }
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
