"""What the benchmarks share: the device's name, and times and memory of compiled programs."""

import json
import os
import platform
import re
import statistics
import time
from pathlib import Path

import jax


def device_name(device):
    """The accelerator's name; for CPUs the processor's and the number of cores."""
    if device.platform != "cpu":
        return device.device_kind
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def environment():
    """What a table of times is worthless without."""
    device = jax.devices()[0]
    return {
        "device": device_name(device),
        "platform": device.platform,
        "jax": jax.__version__,
    }


def tell(report, output=None):
    """Prints a report as JSON, and writes it to the file `output` where there is one."""
    text = json.dumps(report, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n")


def milliseconds(program, inputs=()):
    """One run's time; what it returns is waited for."""
    began = time.perf_counter()
    jax.block_until_ready(program(*inputs))
    return 1e3 * (time.perf_counter() - began)


def in_turn(programs, inputs=(), *, runs, patience=120.0, rest=0.0):
    """Median milliseconds by name, and of how many runs they are.

    The programs take turns, so that a drifting machine drifts for all. The first turn warms up;
    the others take about `patience` seconds at most. Where the first alone takes longer, it is all
    there is. Each run begins `rest` seconds after the last: another library's idle threads may go
    on spinning for a while.
    """

    def turn():
        times = {}
        for name, program in programs.items():
            time.sleep(rest)
            times[name] = milliseconds(program, inputs)
        return times

    turns = [turn()]
    seconds = sum(turns[0].values()) / 1e3
    if seconds < patience:
        turns = [turn() for _ in range(max(1, min(runs, int(patience / seconds))))]
    return {n: statistics.median(turn[n] for turn in turns) for n in programs}, len(turns)


def mebibytes(program):
    """Temporaries and outputs of a compiled program, by its own analysis."""
    analysis = program.memory_analysis()
    return (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20
