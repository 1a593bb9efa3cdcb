"""What the stages leave in the work directory, written and read in one place.

| file | what |
| --- | --- |
| `surface.safetensors` | auto-decoder after the warm-up on surfaces |
| `autodecoder.safetensors` | decoder, rendering MLP, per-identity tables, registered surfaces |
| `diffusion.safetensors` | averaged U-Net, standardisation, valid UV cells |
| `samples.safetensors` | the sampled heads' UV maps |
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from headjax.errors import UserError
from headjax.render.gaussian_field import GaussianHeads
from headjax.systems.g3diff.autodecoder import Registration
from headjax.systems.g3diff.diffusion import Standard
from headjax.train.weights import load_weights, save_weights


@dataclasses.dataclass(frozen=True)
class AutoDecoder:
    """A trained auto-decoder."""

    params: Any
    registration: Registration


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A trained diffusion model."""

    params: Any
    standard: Standard
    valid: Any


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def save_autodecoder(path: Path, model: AutoDecoder, *, metadata: dict[str, Any]) -> None:
    """Writes parameters and registration."""
    tree = {"params": model.params, "registration": _fields(model.registration)}
    save_weights(path, tree, metadata={"artefact": "autodecoder"} | metadata)


def load_autodecoder(path: Path) -> AutoDecoder:
    """Reads what `save_autodecoder` wrote."""
    tree = _load(path, "autodecoder")
    return AutoDecoder(tree["params"], Registration(**tree["registration"]))


def save_diffusion(path: Path, model: Diffusion, *, metadata: dict[str, Any]) -> None:
    """Writes the averaged network, its standardisation and the valid cells."""
    tree = {"params": model.params, "standard": _fields(model.standard), "valid": model.valid}
    save_weights(path, tree, metadata={"artefact": "diffusion"} | metadata)


def load_diffusion(path: Path) -> Diffusion:
    """Reads what `save_diffusion` wrote."""
    tree = _load(path, "diffusion")
    return Diffusion(tree["params"], Standard(**tree["standard"]), tree["valid"])


def save_heads(path: Path, heads: GaussianHeads, *, metadata: dict[str, Any]) -> None:
    """Writes heads' UV maps."""
    save_weights(path, _fields(heads), metadata={"artefact": "heads"} | metadata)


def load_heads(path: Path) -> GaussianHeads:
    """Reads what `save_heads` wrote."""
    return GaussianHeads(**_load(path, "heads"))


def _load(path: Path, kind: str) -> dict[str, Any]:
    tree, metadata = load_weights(path)
    if metadata.get("artefact") != kind:
        raise UserError(
            f"{path} holds {metadata.get('artefact')!r}, but {kind!r} is needed here"
        )
    return jax.tree.map(jnp.asarray, tree)
