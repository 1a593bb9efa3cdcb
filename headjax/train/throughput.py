"""How fast a stage trains: steps, examples, the share of the peak, waiting, memory.

These are measurements: they go to `metrics.jsonl` and TensorBoard and nowhere else. A figure that
is not known is left out ("n/a" in `line`), never guessed.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from headjax.train.chips import peak_flops

STEPS, EXAMPLES = "speed/steps_per_second", "speed/examples_per_second"
UTILISATION, WAITING = "speed/mfu", "speed/waiting_share"
DEVICE_MEMORY, HOST_MEMORY = "memory/device_peak_bytes", "memory/host_peak_bytes"


class Throughput:
    """Counts steps and the time spent waiting for data, between one report and the next.

    The clock starts when the first step is counted, so that compiling the program is not taken for
    training. Host and devices work side by side: `waiting_share` is the share of the time in which
    the loop stood still for data, at least as long as the devices did.

    Args:
        examples_per_step: the global batch.
        flops_per_step: of one step over all devices (`headjax.train.flops`), or None; may be set
            later, when the program is there.
        devices: all devices of the mesh, other processes' too.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        examples_per_step: int,
        flops_per_step: float | None,
        devices: Sequence[Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._examples, self._devices = examples_per_step, devices
        self.flops_per_step = flops_per_step
        self._peak = peak_flops(devices)
        self._clock = clock
        self._since: float | None = None
        self._steps, self._waited = 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around `next(iterator)`: time spent inside is waiting for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    def count(self) -> None:
        """One more step is done."""
        if self._since is None:
            self._restart()
        else:
            self._steps += 1

    def report(self) -> dict[str, float]:
        """The figures since the last report, by name; the counts begin again.

        `speed/…` are missing where no step was timed, `speed/mfu` (0 to 1) where the FLOPs of a
        step or a device's peak are not known.
        """
        values = peak_memory(self._devices)
        if self._steps:
            seconds = max(self._clock() - self._since, 1e-9)
            rate = self._steps / seconds
            values |= {
                STEPS: rate,
                EXAMPLES: rate * self._examples,
                WAITING: min(self._waited / seconds, 1.0),
            }
            if self.flops_per_step is not None and self._peak is not None:
                values[UTILISATION] = rate * self.flops_per_step / self._peak
            self._restart()
        return values

    def _restart(self) -> None:
        self._since, self._steps, self._waited = self._clock(), 0, 0.0


def peak_memory(devices: Sequence[Any]) -> dict[str, float]:
    """The fullest of this process' devices at its peak, bytes; the host's peak on a CPU."""
    mine = [d for d in devices if d.process_index == jax.process_index()]
    peaks = [stats["peak_bytes_in_use"] for d in mine if (stats := _memory_stats(d))]
    if peaks:
        return {DEVICE_MEMORY: float(max(peaks))}
    if any(d.platform == "cpu" for d in mine):
        # Linux counts KiB, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return {HOST_MEMORY: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    return {}


def _memory_stats(device: Any) -> Mapping[str, int] | None:
    """What the device's runtime tells; None where it tells nothing of its peak."""
    try:
        stats = device.memory_stats()
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return None
    return stats if stats and "peak_bytes_in_use" in stats else None


def line(values: Mapping[str, float]) -> str:
    """A report in a line: `2.5 steps/s, 40 examples/s, MFU n/a, 3% waiting for data, 1.2 GiB`."""

    def show(name: str, form: Callable[[float], str]) -> str:
        return form(values[name]) if name in values else "n/a"

    memory = DEVICE_MEMORY if DEVICE_MEMORY in values else HOST_MEMORY
    where = "device" if memory == DEVICE_MEMORY else "host"
    return ", ".join(
        (
            f"{show(STEPS, '{:.3g}'.format)} steps/s",
            f"{show(EXAMPLES, '{:.3g}'.format)} examples/s",
            f"MFU {show(UTILISATION, '{:.1%}'.format)}",
            f"{show(WAITING, '{:.0%}'.format)} waiting for data",
            f"{where} peak {show(memory, lambda size: f'{size / 2**30:.2f} GiB')}",
        )
    )
