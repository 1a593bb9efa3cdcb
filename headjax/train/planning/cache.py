"""Plans that were made before, kept as JSON: a large step takes minutes to compile.

A plan's key is a hash of the lowered program, the topology, and the versions of the compiler; the
same key always means the same plan.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

import jax
import jaxlib

from headjax.errors import UserError
from headjax.train.stages import read_json, write_json

# Raised whenever what is measured, or how, changes.
SCHEMA = 1
_LOCATION = re.compile(r"\s*loc\([^\n]*\)|^#loc.*$", re.MULTILINE)


def default_folder() -> Path:
    """`headjax/plans` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headjax" / "plans"


def key(program: str, *, topology: str) -> str:
    """The key of a plan, from the lowered program's text (StableHLO)."""
    digest = hashlib.sha256(_LOCATION.sub("", program).encode())
    for part in (topology, str(SCHEMA), *versions().values()):
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()[:32]


def versions() -> dict[str, str]:
    """Versions of what compiles."""
    try:
        libtpu = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        libtpu = "none"
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "libtpu": libtpu}


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """The plan of that key, or None where there is none that can be read."""
    path = folder / f"{name}.json"
    try:
        kept = read_json(path) if path.is_file() else None
    except UserError:  # damaged: it is made again
        return None
    return kept if isinstance(kept, dict) and kept.get("schema") == SCHEMA else None


def save(folder: Path, name: str, plan: dict[str, Any]) -> None:
    """Keeps a plan.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{name}.json", plan)
    except OSError as error:
        raise UserError(
            f"the plan cannot be kept in {folder} ({error}); give another folder by --cache"
        ) from error
