"""The least time that a step can take: what each of a chip's three rates allows.

    compute = FLOPs / peak      memory = bytes / bandwidth of the memory
    network = Σ over collectives of bytes on the wire / bandwidth of the group's links

A step takes at least the longest of the three, and that is the estimate; the sum of the three is
what it would take if nothing overlapped. Real steps lie above the first and rarely above the
second: matrix units are seldom full, work that is not a matrix product is only seen by its traffic,
and latencies, the host and the input are not in here.
"""

from __future__ import annotations

import dataclasses

HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step by each rate; `network` is None where the links are not known."""

    compute: float
    memory: float
    network: float | None

    @property
    def terms(self) -> dict[str, float]:
        """The known terms."""
        named = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def seconds(self) -> float:
        """The longest term: everything overlaps."""
        return max(self.terms.values())

    @property
    def seconds_without_overlap(self) -> float:
        """The sum of the terms."""
        return sum(self.terms.values())

    @property
    def bound(self) -> str:
        """The name of the longest term."""
        return max(self.terms, key=self.terms.__getitem__)

    @property
    def fractions(self) -> dict[str, float]:
        """Each term's share of the sum."""
        total = self.seconds_without_overlap
        return {name: value / total if total else 0.0 for name, value in self.terms.items()}


def chip_hours(seconds: float, *, steps: int, chips: int) -> float:
    """Chip-hours of `steps` steps of so many seconds each on `chips` chips."""
    return seconds * steps * chips / HOUR
