"""What networks say of many pictures: features, embeddings and distances, a batch at a time.

A metric asks for its network with `load`; without weights it gets `Missing`, whose text is the
metric's value. Pictures are 8-bit RGB, `n h w 3`; results are NumPy.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from headjax.nets.perceptual import arcface, weights
from headjax.nets.perceptual.weights import Missing, Network

BATCH = 32
_LOADERS: dict[str, Callable[[Path], Network]] = {
    "inception": weights.load_inception,
    "arcface": functools.partial(weights.load_arcface, precision="highest"),
    "vgg": functools.partial(weights.load_lpips, trunk="vgg", precision="highest"),
    "alex": functools.partial(weights.load_lpips, trunk="alex", precision="highest"),
}


def load(field: str, paths: Mapping[str, str]) -> Network | Missing:
    """The network of `weights.<field>`, or what says which file is missing.

    Args:
        field: 'inception', 'arcface', or LPIPS' trunk 'vgg' or 'alex'.
        paths: the config's `weights`; an absent field is one that is not set.

    Raises:
        UserError: the path is set and the file is not there, or not this network's.
    """
    found = weights.find(field, paths.get(field, ""))
    return found if isinstance(found, Missing) else _LOADERS[field](found)


def digest(path: str | Path) -> str:
    """SHA-256 of a weights file, for what is kept of its results."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inception_features(
    network: Network, images: UInt8[np.ndarray, "n h w 3"], *, batch: int = BATCH
) -> Float[np.ndarray, "n 2048"]:
    """The pool3 features that FID and KID compare."""
    run = functools.partial(_pool3, network)
    return _in_batches(run, images, batch=batch)


def face_embeddings(
    network: Network, images: UInt8[np.ndarray, "n h w 3"], *, batch: int = BATCH
) -> Float[np.ndarray, "n d"]:
    """Embeddings (512 numbers) of aligned square pictures, cut out as the public losses do."""
    run = functools.partial(_embedding, network)
    return _in_batches(run, images, batch=batch)


def lpips_distances(
    network: Network,
    a: UInt8[np.ndarray, "n h w 3"],
    b: UInt8[np.ndarray, "n h w 3"],
    *,
    batch: int = BATCH,
) -> Float[np.ndarray, "n"]:
    """LPIPS of each pair of pictures."""
    run = functools.partial(_distance, network)
    return _in_batches(run, a, b, batch=batch)


def _signed(images: UInt8[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    return images.astype(jnp.float32) / 127.5 - 1.0


@jax.jit
def _pool3(network: Network, images):
    return network(images).pool3


@jax.jit
def _embedding(network: Network, images):
    return network(arcface.crop_face(_signed(images)))


@jax.jit
def _distance(network: Network, a, b):
    return network(_signed(a), _signed(b)).total


def _in_batches(run: Callable[..., Array], *arrays: np.ndarray, batch: int) -> np.ndarray:
    """`run` over slices of `batch`; the last one is filled up, so that one program serves all."""
    results = [np.asarray(run(*slices))[:count] for slices, count in _slices(arrays, batch)]
    return np.concatenate(results)


def _slices(arrays: tuple[np.ndarray, ...], batch: int) -> Iterator[tuple[list, int]]:
    for start in range(0, len(arrays[0]), batch):
        slices = [array[start : start + batch] for array in arrays]
        count = len(slices[0])
        fill = [(0, batch - count), *[(0, 0)] * (arrays[0].ndim - 1)]
        yield [jnp.asarray(np.pad(piece, fill)) for piece in slices], count
