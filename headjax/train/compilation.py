"""A folder of compiled programs, so that the next run need not compile them again. Off by default.

What lies in the folder is trusted: JAX loads and runs the programs that it finds there, so whoever
can write into it can run code as you. Keep it on a disk of your own, copy none from elsewhere, and
delete it freely: it is only a cache. A program is found again by JAX's key of its text, its
options, the devices and the versions. That key leaves out the instructions that a host's CPU
knows, so each kind of machine gets a folder of its own here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from headjax.errors import UserError
from headjax.io import atomic


def use_cache(folder: Path) -> Path:
    """Compiled programs are kept in `folder` from now on; it is made if it is not there.

    Call it before the first program is compiled, and after `jax.distributed` is set up: it asks
    JAX for its devices.

    Args:
        folder: where, for all machines; nobody but its owner may write there.

    Returns:
        The folder inside for this kind of machine and device.

    Raises:
        UserError: the folder is another's, is open to others, or cannot be made.
    """
    inside = Path(folder) / machine()
    with atomic.telling_errors(inside):
        # `parents=True` would make the folders above with everyone's usual mode.
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        for place in (Path(folder), inside):
            place.mkdir(mode=0o700, exist_ok=True)
            _check_private(place)
    jax.config.update("jax_compilation_cache_dir", str(inside))
    # A cache that is open already, of an earlier call, would go on to be used.
    compilation_cache.reset_cache()
    return inside


def machine() -> str:
    """The kind of this machine and its devices: `cpu-3f0c…`, `tpu-a61b…`."""
    backend = jax.default_backend()
    kinds = sorted({device.device_kind for device in jax.devices()})
    parts = (platform.machine(), _cpu_features(), *kinds, jax.__version__, jaxlib.__version__)
    return f"{backend}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def _cpu_features() -> str:
    """What the host's CPU knows, as the system tells it: compiled programs use all of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "|".join(sorted({line for line in lines if line.startswith(wanted)}))


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise UserError(
            f"the compilation cache {folder} belongs to another user, and what lies in it would "
            "be run; name a folder of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"the compilation cache {folder} can be written by others, and what lies in it would "
            f"be run; close it with `chmod go-w {folder}` or name another"
        )
