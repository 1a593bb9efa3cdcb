"""Trying batch, rematerialisation and mesh: which of what fits trains fastest."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from headjax.errors import UserError

# From the least memory to the most; a policy that does not fit rules out those after it.
REMAT = ("block", "weights", "dots", "none")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One setting of a sweep.

    Attributes:
        batch: rows of the whole batch.
        remat: the policy; None where the stage has none.
        mesh: (preset, most devices that share one copy of the state).
    """

    batch: int
    remat: str | None
    mesh: tuple[str, int]

    def __str__(self) -> str:
        preset, fsdp = self.mesh
        shared = f"{preset}={fsdp}" if fsdp else preset
        remat = f", remat {self.remat}" if self.remat else ""
        return f"batch {self.batch}{remat}, mesh {shared}"


def choices(
    batch: int, *, remat: bool, chips: int, factors: Sequence[float] = (0.25, 0.5, 1, 2, 4)
) -> list[Choice]:
    """Parts and multiples of the batch, every policy, and meshes from dp to fsdp."""
    shared = sorted({min(16, chips), chips})
    meshes = [("dp", 0), *(("fsdp", size) for size in shared if size > 1)]
    return [
        Choice(max(1, round(batch * factor)), policy, mesh)
        for mesh, factor, policy in itertools.product(meshes, factors, REMAT if remat else (None,))
    ]


def run(
    every: Sequence[Choice],
    plan_of: Callable[[Choice], dict[str, Any]],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[Choice, dict[str, Any]]]:
    """Plans of the choices; those that cannot fit, as a smaller one does not, are left out."""
    made: list[tuple[Choice, dict[str, Any]]] = []
    for number, choice in enumerate(every, 1):
        if any(_needs_less(other, choice) for other, plan in made if not plan["fits"]):
            say(f"[{number}/{len(every)}] {choice}: left out, a smaller one does not fit")
            continue
        say(f"[{number}/{len(every)}] {choice}")
        try:
            made.append((choice, plan_of(choice)))
        except UserError as error:  # such as more rows than there are identities
            say(f"[{number}/{len(every)}] {choice}: left out, {error}")
    if not made:
        raise UserError("this config allows none of the sweep's settings; the lines above say why")
    return made


def best(made: Sequence[tuple[Choice, dict[str, Any]]]) -> tuple[Choice, dict[str, Any]] | None:
    """The choice that fits with the most examples/s, by the roofline; None where none fits."""
    fits = [entry for entry in made if entry[1]["fits"]]
    return max(fits, key=lambda entry: entry[1]["examples_per_second"]) if fits else None


def table(made: Sequence[tuple[Choice, dict[str, Any]]]) -> str:
    """One line a choice, the best first."""
    width = max(len(str(choice)) for choice, _ in made)
    lines = [f"{'':<{width}}   GiB a chip   step at least   examples/s   bound by"]
    order = sorted(made, key=lambda e: (not e[1]["fits"], -e[1].get("examples_per_second", 0)))
    for choice, plan in order:
        size = f"{plan['total_bytes'] / 2**30:>10.2f}"
        if plan["fits"]:
            bounds = plan["roofline"]
            rest = f"{bounds['seconds']:>12.4g} s{plan['examples_per_second']:>13,.0f}"
            lines.append(f"{choice!s:<{width}}   {size}  {rest}   {bounds['bound']}")
        else:
            lines.append(f"{choice!s:<{width}}   {size}   does not fit")
    return "\n".join(lines)


def _needs_less(other: Choice, choice: Choice) -> bool:
    """Whether `other`, on the same mesh, needs no more memory than `choice` in any way."""
    if other.mesh != choice.mesh or other.batch > choice.batch:
        return False
    ranks = [REMAT.index(c.remat) if c.remat in REMAT else 0 for c in (other, choice)]
    return ranks[0] <= ranks[1]
