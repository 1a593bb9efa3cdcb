"""EG3D's generator at 512² beside a torch program of the same maths, in one run.

  python benchmarks/gan_generator.py                  # FFHQ's sizes, rendered at 64², one latent
  python benchmarks/gan_generator.py --output=FILE    # also writes JSON

Needs torch (`pip install 'headjax[parity]'`). Both programs get the same weights, latent, camera,
jitter and importance numbers, and constant noise; the pictures are compared before anything is
timed, and if they differ nothing is. The whole and its parts (backbone with the mapping,
rendering, super-resolution, each from the one before) are timed in turn; medians are quoted.
"""

import argparse
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import torch_generator
from benchmarks.timing import environment, in_turn, tell
from headjax.geometry.cameras import orbit_labels
from headjax.nets.stylegan2 import state_dict_from_variables
from headjax.nets.triplane_gan import Generator, GeneratorConfig
from headjax.nets.triplane_gan_weights import shapes

# About how many seconds each may take.
PARTS = {"whole": 30.0, "backbone": 12.0, "render": 12.0, "superresolution": 12.0}
# Root mean square difference of the images, in standard deviations, beyond which nothing is timed.
BAR = 1e-3


def make_variables(config, rng):
    """Weights as at the beginning of training, biases and noise as after it: none is zero."""

    def value(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        drawn = rng.standard_normal(leaf.shape, dtype=np.float32)
        if name.endswith("affine/bias"):
            return 1 + 0.1 * drawn
        if name.endswith(("bias", "noise_strength")):
            return 0.1 * drawn
        return 100 * drawn if "mapping/fc" in name else drawn

    return jax.tree_util.tree_map_with_path(value, shapes(config))


def make_inputs(config, rng):
    """A latent, a camera on EG3D's orbit, the renderer's random numbers."""
    rays = config.neural_resolution**2
    return {
        "z": rng.standard_normal((1, config.z_dim), dtype=np.float32),
        "c": np.float32(orbit_labels(np.array([20.0]), pitch_degrees=10.0)),
        "jitter": rng.random((1, rays, config.rendering.samples), dtype=np.float32),
        "uniform": rng.random((1, rays, config.rendering.importance), dtype=np.float32),
    }


def jax_programs(config, variables, inputs):
    """The parts as functions without arguments, by name."""
    generator = Generator(config)
    variables = jax.tree.map(jnp.asarray, dict(variables))
    z, c, *drawn = (jnp.asarray(inputs[name]) for name in ("z", "c", "jitter", "uniform"))

    def apply(variables, method, *args, **options):
        return generator.apply(variables, *args, method=method, **options)

    @jax.jit
    def backbone(variables, z, c):
        ws = apply(variables, "mapping", z, c)
        return ws, apply(variables, "planes", ws)

    @jax.jit
    def render(variables, ws, planes, c, jitter, uniform):
        return apply(variables, "render", planes, c, ws=ws, jitter=jitter, uniform=uniform)

    @jax.jit
    def superresolution(variables, ws, seen):
        return apply(variables, "superresolved", seen, ws)

    @jax.jit
    def whole(variables, z, c, jitter, uniform):
        return generator.apply(variables, z, c, jitter=jitter, uniform=uniform).image

    ws, planes = backbone(variables, z, c)
    seen = render(variables, ws, planes, c, *drawn)
    return {
        "whole": lambda: jax.block_until_ready(whole(variables, z, c, *drawn)),
        "backbone": lambda: jax.block_until_ready(backbone(variables, z, c)),
        "render": lambda: jax.block_until_ready(render(variables, ws, planes, c, *drawn)),
        "superresolution": lambda: jax.block_until_ready(superresolution(variables, ws, seen)),
    }


def torch_programs(config, variables, inputs):
    """The same of the torch program."""
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in state_dict_from_variables(variables).items()
    }
    state = torch_generator.State(tensors)
    z, c, *drawn = (torch.from_numpy(inputs[name]) for name in ("z", "c", "jitter", "uniform"))
    drawn = {name: value[0] for name, value in zip(("jitter", "uniform"), drawn, strict=True)}

    def backbone():
        w = torch_generator.mapping(state.under("backbone.mapping"), z, c)
        return w, torch_generator.planes(state.under("backbone.synthesis"), w)

    def render(planes):
        decoder = state.under("decoder")
        return torch_generator.render(decoder, planes, c, drawn, config=config)

    def superresolution(w, features):
        entry = config.superresolution.entry
        last = state.under("superresolution")
        return torch_generator.superresolved(last, features, w, entry=entry)

    def whole():
        w, planes = backbone()
        return superresolution(w, render(planes))

    with torch.inference_mode():
        w, planes = backbone()
        features = render(planes)
    return {
        "whole": torch.inference_mode()(whole),
        "backbone": torch.inference_mode()(backbone),
        "render": torch.inference_mode()(lambda: render(planes)),
        "superresolution": torch.inference_mode()(lambda: superresolution(w, features)),
    }


def difference(ours, theirs):
    """Root mean square of the images' difference, in standard deviations."""
    a, b = np.asarray(ours()), theirs().numpy().transpose(0, 2, 3, 1)
    return float(np.sqrt(np.mean(np.square(a - b))) / b.std())


def measure(*, runs):
    config, rng = GeneratorConfig(), np.random.default_rng(0)
    variables, inputs = make_variables(config, rng), make_inputs(config, rng)
    ours = jax_programs(config, variables, inputs)
    theirs = torch_programs(config, variables, inputs)
    found = difference(ours["whole"], theirs["whole"])
    if not found <= BAR:
        sys.exit(f"the images differ by {found:.1e} standard deviations; {BAR} is the most")
    report = {"rms_difference_in_std": found}
    for part, seconds in PARTS.items():
        programs = {"headjax": ours[part], "torch": theirs[part]}
        medians, count = in_turn(programs, runs=runs, patience=seconds, rest=0.3)
        report[part] = {f"{name}_ms": round(value, 1) for name, value in medians.items()}
        report[part]["headjax_over_torch"] = round(medians["headjax"] / medians["torch"], 3)
        report[part]["runs"] = count
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    report = {
        **environment(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        **measure(runs=arguments.runs),
    }
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
