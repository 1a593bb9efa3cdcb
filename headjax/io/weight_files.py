"""Weights files of headjax: one network as safetensors, with its architecture in the metadata.

The tensors keep their public names, PyTorch's shapes (OIHW, NCHW) and the buffers. The metadata
are strings: `format` "headjax", `kind` ("eg3d" or "panohead"), `which` ("G_ema", "G" or "D"),
`architecture` (the arguments that built the network, as JSON) and, where it was converted,
`source_sha256` of the file that it came from.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from jaxtyping import Shaped

from headjax.errors import UserError
from headjax.io import atomic
from headjax.io.network_names import KINDS
from headjax.io.network_pickles import NETWORKS

FORMAT = "headjax"
MAX_BYTES = 4 << 30
_MOST_TENSORS, _MOST_JSON = 100_000, 1 << 20
_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Weights:
    """One network's weights.

    Attributes:
      kind: "eg3d" or "panohead".
      which: "G_ema", "G" or "D".
      architecture: the arguments that built the network, by their public names.
      tensors: public name → array in PyTorch's shape.
      source_sha256: of the file that it was converted from; empty where it was not.
    """

    kind: str
    which: str
    architecture: Mapping[str, Any]
    tensors: Mapping[str, Shaped[np.ndarray, "..."]]
    source_sha256: str = ""


def write_weights(path: str | os.PathLike, weights: Weights) -> None:
    """Writes a weights file, whole or not at all; an older file at `path` is replaced.

    Raises:
      UserError: the place cannot be written to, or a tensor or the architecture does not fit.
    """
    metadata = {
        "format": FORMAT,
        "kind": weights.kind,
        "which": weights.which,
        "architecture": _to_json(path, weights.architecture),
    }
    if weights.source_sha256:
        metadata["source_sha256"] = weights.source_sha256
    _check_labels(path, metadata)
    # Large elements first, so that all are aligned; else in the order given.
    tensors = sorted(weights.tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header = _header(path, tensors, metadata)
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for _, value in tensors:
            file.write(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())


def _header(
    path: str | os.PathLike, tensors: list[tuple[str, np.ndarray]], metadata: Mapping[str, str]
) -> bytes:
    """safetensors' header: its length in 8 bytes, then JSON, filled up to a multiple of 8.

    Written here because the library's own writer shuffles the metadata, so that no two files are
    the same, and keeps the file from other users.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, value in tensors:
        if value.dtype.name not in _NAMES:
            raise UserError(f"{path}: its tensor {name!r:.100} has the type {value.dtype}")
        start, end = end, end + value.nbytes
        kind = _NAMES[value.dtype.name]
        entries[name] = {"dtype": kind, "shape": value.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_weights(path: str | os.PathLike) -> Weights:
    """Reads a weights file.

    Raises:
      UserError: the file is missing, damaged, too large, or no weights file of headjax.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if size > MAX_BYTES:
        raise UserError(f"{path} has {size} bytes; at most {MAX_BYTES} are read.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_labels(path, metadata)
            tensors = _tensors(path, file)
    except (safetensors.SafetensorError, OSError, UnicodeDecodeError) as error:
        reason = str(error)[:100]
        raise UserError(
            f"{path} is not a readable safetensors file ({reason}); convert or copy it again."
        ) from error
    return Weights(
        kind=metadata["kind"],
        which=metadata["which"],
        architecture=_from_json(path, metadata.get("architecture", "")),
        tensors=tensors,
        source_sha256=metadata.get("source_sha256", ""),
    )


def _tensors(path: Path, file: Any) -> dict[str, np.ndarray]:
    names = list(file.keys())
    if len(names) > _MOST_TENSORS:
        raise UserError(f"{path} holds {len(names)} tensors; at most {_MOST_TENSORS} are read.")
    for name in names:
        kind = file.get_slice(name).get_dtype()
        if kind not in _NAMES.values():
            raise UserError(f"{path}: its tensor {name!r:.100} has the type {kind}, not read here.")
    return {name: file.get_tensor(name) for name in names}


def _check_labels(path: str | os.PathLike, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is no weights file of headjax: its metadata say format="
            f"{metadata.get('format')!r:.40}; make one with python -m headjax.tools.convert."
        )
    for label, allowed in (("kind", KINDS), ("which", NETWORKS)):
        if metadata.get(label) not in allowed:
            raise UserError(
                f"{path}: its metadata say {label}={metadata.get(label)!r:.40}, which should be "
                f"one of {', '.join(allowed)}."
            )


def _to_json(path: str | os.PathLike, architecture: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(architecture, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its architecture does not fit into JSON ({error})") from error
    if len(text) > _MOST_JSON:
        raise UserError(f"{path}: its architecture takes more than {_MOST_JSON} characters")
    return text


def _from_json(path: Path, text: str) -> dict[str, Any]:
    value = None
    if len(text) <= _MOST_JSON:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: its metadata hold no readable architecture; convert it from its source again."
        )
    return value
