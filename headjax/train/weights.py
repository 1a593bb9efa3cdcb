"""The weights that finished stages leave behind: safetensors with JSON metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from headjax.errors import UserError
from headjax.io import atomic

SCHEMA_VERSION = 1


def save_weights(path: Path, tree: Any, *, metadata: Mapping[str, Any]) -> None:
    """Writes a finished stage's arrays as safetensors, whole or not at all.

    Names are the tree's keys joined by '/'; the metadata is JSON, with `schema_version` added, and
    names where the weights come from (`config_hash` and the like). The same arguments give the
    same bytes.

    Args:
        path: where to; the ending is `.safetensors`.
        tree: nested dicts, dataclasses or lists of arrays.
        metadata: anything that JSON can hold.

    Raises:
        UserError: the place cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(tree), sep="/")
    arrays = {name: np.ascontiguousarray(jax.device_get(array)) for name, array in flat.items()}
    notes = json.dumps(dict(metadata) | {"schema_version": SCHEMA_VERSION}, sort_keys=True)
    atomic.write_bytes(path, safetensors.numpy.save(arrays, metadata={"headjax": notes}))


def load_weights(path: Path) -> tuple[dict, dict]:
    """The arrays (nested dicts, NumPy) and the metadata that `save_weights` wrote.

    Raises:
        UserError: no such file, not safetensors, not headjax's, or of a newer schema.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            notes = json.loads((file.metadata() or {}).get("headjax", "null"))
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such weights file") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a readable safetensors file ({why})") from error
    if not isinstance(notes, dict):
        raise UserError(f"{path}: these weights were not written by headjax (no metadata of its)")
    if notes["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"{path}: weights of schema {notes['schema_version']}, this headjax reads up to "
            f"{SCHEMA_VERSION}; update headjax"
        )
    return flax.traverse_util.unflatten_dict(flat, sep="/"), notes
