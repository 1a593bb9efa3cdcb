"""Runs all benchmarks of kernels, networks and input on this machine's device, one after another.

  python benchmarks/everything.py      # writes benchmarks/results/<benchmark>_<device>.json

Each runs in a process of its own and may take 150 seconds; one that fails or takes longer is named
at the end and the exit status is 1. The comparisons with torch are left out where torch is missing.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import environment

FOLDER = Path(__file__).resolve().parent
SECONDS = 150


def suffix():
    """The platform, on accelerators the device's name: what file names end with."""
    found = environment()
    name = found["platform"] if found["platform"] == "cpu" else found["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commands(device):
    """Arguments of each benchmark, by name."""
    results, pictures = FOLDER / "results", FOLDER.parent / "docs/pictures"
    found = {
        "field_query": [],
        "training_step": [],
        "input_pipeline": [],
        "growth": [f"--picture={pictures / f'growth_{device}.png'}"],
    }
    if importlib.util.find_spec("torch"):
        found |= {"triplane_render": [], "gan_generator": []}
    return {
        name: [f"--output={results / f'{name}_{device}.json'}", *more]
        for name, more in found.items()
    }


def main():
    # This process only asks for the device's name; its memory is left to the benchmarks.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device, failed = suffix(), []
    for name, arguments in commands(device).items():
        began = time.perf_counter()
        command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
        try:
            status = subprocess.run(command, timeout=SECONDS).returncode
        except subprocess.TimeoutExpired:
            status = f"more than {SECONDS} s"
        print(f"{name}: {time.perf_counter() - began:.0f} s, status {status}", flush=True)
        failed += [name] if status else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
