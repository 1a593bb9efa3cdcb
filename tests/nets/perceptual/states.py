"""State dicts by formula of the networks in `tests/data/parity/perceptual.npz`, and its arrays."""

import functools
import json
from pathlib import Path

import numpy as np

from tests import parity_values

FOLDER = Path(__file__).resolve().parents[2] / "data" / "parity"


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """Outputs of the public PyTorch code in float32 on a CPU."""
    return dict(np.load(FOLDER / "perceptual.npz"))


def state_dict(network: str) -> dict[str, np.ndarray]:
    """The network's parameters and buffers under their public names, in PyTorch's shapes."""
    names = json.loads((FOLDER / "perceptual_names.json").read_text())[network]
    return {n: parity_values.by_perceptual_rules(network, n, tuple(s)) for n, s in names}


def channels_last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """The two pictures a, b in [−1, 1], [2, 64, 64, 3]."""
    noise_a, noise_b = (parity_values.normal(f"input.image_{n}", (2, 3, 64, 64)) for n in "ab")
    a = np.tanh(noise_a)
    return channels_last(a), channels_last(np.tanh(a + np.float32(0.5) * noise_b))


def relative_error(value, wanted: np.ndarray) -> float:
    """Root mean square error over the standard deviation of what is wanted."""
    error = np.asarray(value, np.float64) - wanted
    return float(np.sqrt((error**2).mean()) / wanted.std())
