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
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    """The same maths by `grid_sample`, linear layers, `searchsorted` and `sort`."""
    planes = torch.from_numpy(planes[0]).permute(0, 3, 1, 2).contiguous()
    w = {name: torch.from_numpy(value) for name, value in decoder.items()}
    rays = {name: torch.from_numpy(value[0]) for name, value in rays.items()}
    axes = [list(pair) for pair in triplane.AXES[options.axes]]

    def field(depths):
        points = rays["origins"][:, None] + depths[..., None] * rays["directions"][:, None]
        points = points.reshape(-1, 3) * (2 / options.box)
        grid = torch.stack([points[:, pair] for pair in axes])[:, None]
        found = F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False)
        features = found[:, :, 0].mean(0).T
        out = F.softplus(features @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]
        color = torch.sigmoid(out[:, 1:]) * 1.002 - 0.001
        return color.reshape(*depths.shape, -1), out[:, 0].reshape(depths.shape)

    def weigh(sigma, depths):
        density = F.softplus((sigma[:, 1:] + sigma[:, :-1]) / 2 - 1)
        alpha = 1 - torch.exp(-density * (depths[:, 1:] - depths[:, :-1]))
        through = torch.cumprod(1 - alpha + 1e-10, -1)
        through = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
        return alpha * through

    def resampled(weights, depths):
        smooth = F.max_pool1d(weights[:, None], 2, 1, padding=1)
        smooth = F.avg_pool1d(smooth, 2, 1)[:, 0] + 0.01
        inner = smooth[:, 1:-1] + 1e-5
        edges = (depths[:, 1:] + depths[:, :-1]) / 2
        cdf = torch.cumsum(inner / inner.sum(-1, keepdim=True), -1)
        cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], -1)
        u = rays["uniform"].contiguous()
        above = torch.searchsorted(cdf, u, right=True)
        low, high = (above - 1).clamp(min=0), above.clamp(max=inner.shape[1])
        span = cdf.gather(1, high) - cdf.gather(1, low)
        span = torch.where(span < 1e-5, torch.ones_like(span), span)
        start, end = edges.gather(1, low), edges.gather(1, high)
        return start + (u - cdf.gather(1, low)) / span * (end - start)

    def run():
        with torch.no_grad():
            spacing = (options.far - options.near) / (options.samples - 1)
            even = torch.linspace(options.near, options.far, options.samples)
            depths = even + spacing * rays["jitter"]
            color, sigma = field(depths)
            new = resampled(weigh(sigma, depths), depths)
            more, denser = field(new)
            depths, order = torch.sort(torch.cat([depths, new], -1), -1)
            color = torch.cat([color, more], 1)
            color = color.gather(1, order[..., None].expand(-1, -1, color.shape[-1]))
            weights = weigh(torch.cat([sigma, denser], 1).gather(1, order), depths)
            middle = (color[:, 1:] + color[:, :-1]) / 2
            return (weights[..., None] * middle).sum(1)

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
