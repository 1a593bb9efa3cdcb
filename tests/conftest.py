"""Shared set-up of the tests: CPU, run-time shape checks, the facts' data beside the clone."""

import gc
import os
from pathlib import Path

# Read when JAX first looks for devices, which is after this file.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping
import pytest

import tests.typechecker  # noqa: F401  (the hook below finds it among the loaded modules)

ROOT = Path(__file__).resolve().parents[1]

# Must come before the first import of either package.
jaxtyping.install_import_hook(["headjax", "pallas_kernels"], "tests.typechecker.check")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with reference data that is not part of the repository, or a skip that says so."""
    folder = Path(os.environ.get("HEADJAX_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"reference data not found in {folder} (set HEADJAX_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(request) -> None:
    """Compiled programs are kept between runs, and shared with the runs in subprocesses."""
    if not hasattr(request.config, "cache"):
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(request.config.cache.mkdir("xla")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Lets go of a module's programs at its end: each holds memory maps, and these are limited."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()
