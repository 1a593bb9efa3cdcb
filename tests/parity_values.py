"""Parameters and inputs by formula: the arrays that the golden numbers were computed from.

The goldens in `tests/data` hold outputs only. Whoever compares with them fills a network with these
values: each array is drawn from a generator seeded by the CRC-32 of its name, then scaled by rules
that read the name. Names and shapes are the public PyTorch ones (weights are `O I kh kw`).
"""

import math
import re
import zlib
from typing import Any

import jax
import numpy as np

RESAMPLE_FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
_PRELU = re.compile(r"(input_layer|res_layer)\.2\.weight$")


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values that depend on the name and the shape only."""
    values = _generator(name).standard_normal(tuple(shape), dtype=np.float32)
    return np.asarray(values, np.float32)


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float32 values in [0, 1) that depend on the name and the shape only."""
    return np.asarray(_generator(name).random(tuple(shape), dtype=np.float32), np.float32)


def by_gan_rules(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or buffer of EG3D's and PanoHead's networks (`eg3d.npz`, `panohead.npz`)."""
    if name.endswith("resample_filter"):
        return RESAMPLE_FILTER
    value = normal(name, shape)
    if re.match(r"(backbone\.)?mapping\.fc\d+\.weight$", name):
        return 100 * value
    if re.match(r"(backbone\.)?mapping\.fc\d+\.bias$", name):
        return 10 * value
    if name.endswith("affine.bias"):
        return 1 + np.float32(0.1) * value
    if name.endswith(("noise_strength", "w_avg", "bias")):
        return np.float32(0.1) * value
    return value


def state_by_gan_rules(variables: Any, *, prefix: str = "") -> dict[str, np.ndarray]:
    """A public state dict for flax variables (or their shapes) of EG3D's kind of networks.

    Their names are the public ones behind `prefix`; their layouts are those of
    `headjax.nets.stylegan2`.
    """
    state = {}
    for tree in variables.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator=".")
            state[name] = by_gan_rules(name, _public_shape(name, leaf.shape))
    return state


def _public_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The PyTorch shape of a parameter."""
    if name.endswith(".const"):
        return shape[2], *shape[:2]
    if name.endswith("weight"):
        return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
    return shape


def by_perceptual_rules(network: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or buffer of the networks of `perceptual.npz` and `diffusion.npz`.

    PReLU slopes are known by their place in ArcFace's blocks: a state dict does not tell them from
    a normalisation's scales.
    """
    value = normal(f"{network}.{name}", shape)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(value)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.1) * value
    if len(shape) == 1 and network == "ir_se50" and _PRELU.search(name):
        return np.float32(0.25) + np.float32(0.05) * value
    if len(shape) == 1:
        return 1 + np.float32(0.1) * value
    return value * np.float32(math.sqrt(2 / math.prod(shape[1:])))
