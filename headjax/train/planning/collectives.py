"""What the devices of a compiled program send each other: by kind, how often, how many bytes.

Bytes on the wire are those that one device sends in ring algorithms over a group of n. With F bytes
of the whole array (of one device's whole operand, for an all-reduce):

    all-gather, reduce-scatter, all-to-all    (n - 1) / n F
    all-reduce                               2 (n - 1) / n F
    collective-permute                                   F
"""

from __future__ import annotations

import dataclasses
import math
import re

from headjax.train.planning import hlo

KINDS = (
    "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute",
)  # fmt: skip
_SPELLINGS = {
    **{kind: kind for kind in KINDS},
    **{f"{kind}-start": kind for kind in KINDS},
    "ragged-all-to-all": "all-to-all",
    "collective-broadcast": "all-gather",
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a step, as one device sees it.

    Attributes:
        kind: one of `KINDS`.
        devices: the size of the groups that exchange.
        full_bytes: of the array that is gathered, scattered, reduced or exchanged.
        times: how often it runs in a step.
        source: what it was made from, as the compiler's metadata say.
    """

    kind: str
    devices: int
    full_bytes: float
    times: int
    source: str

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends for it in a step, by the ring formula."""
        return self.times * wire_bytes(self.kind, self.full_bytes, devices=self.devices)


def wire_bytes(kind: str, full_bytes: float, *, devices: int) -> float:
    """Bytes that one device sends, once, by the ring formula."""
    if kind == "collective-permute":
        return full_bytes
    share = (devices - 1) / devices * full_bytes
    return 2 * share if kind == "all-reduce" else share


def collectives(module: hlo.Module, *, devices: int) -> list[Collective]:
    """The collectives that a step runs among `devices`; those of one device with itself are none.

    A TPU splits an asynchronous collective into a chain of fusions that each name it again; a
    chain counts once. Its reduce-scatter is a fusion named `all-reduce-scatter`.
    """
    found, chains = [], set()
    for run in module.runs():
        kind = _SPELLINGS.get(run.instruction.opcode)
        if kind is None:
            continue
        chain = _chain(run.instruction)
        if chain is not None and chain in chains:
            continue
        chains.add(chain)
        collective = _collective(kind, run, devices=devices)
        if collective.devices > 1:
            found.append(collective)
    return found


def by_kind(found: list[Collective]) -> dict[str, dict[str, float]]:
    """For each kind that occurs: `count` a step, `full_bytes` and `wire_bytes`."""
    table = {}
    for kind in KINDS:
        mine = [c for c in found if c.kind == kind]
        if mine:
            table[kind] = {
                "count": sum(c.times for c in mine),
                "full_bytes": sum(c.times * c.full_bytes for c in mine),
                "wire_bytes": sum(c.wire_bytes for c in mine),
            }
    return table


def largest(found: list[Collective], *, count: int = 12) -> list[Collective]:
    """The collectives that send most: where to look when a plan is bound by the network."""
    return sorted(found, key=lambda c: -c.wire_bytes)[:count]


def group_size(attributes: str, *, devices: int) -> int:
    """The size of the groups, in any of the spellings of `replica_groups`.

    `{{0,1},{2,3}}`, `[2,4]<=[8]` (two groups of four) and `mesh['a'=2,'b'=4] {'b'}` (the groups
    run along b); without any, all devices are one group.
    """
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        # Part of an axis is written 'axis':(before)size.
        along = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in along)
    return devices


def _chain(instruction: hlo.Instruction) -> tuple | None:
    """What the links of one asynchronous chain have in common."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain[1], channel and channel[1], instruction.opcode) if chain else None


def _collective(kind: str, run: hlo.Run, *, devices: int) -> Collective:
    instruction = run.instruction
    own = sum(b.bytes for o in run.computation.operands(instruction) for b in o.buffers)
    size = group_size(instruction.attributes, devices=devices)
    if kind == "all-reduce" and run.computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Collective(
        kind=kind,
        devices=2 if kind == "collective-permute" else size,
        full_bytes=own * size if kind == "all-gather" else own,
        times=run.times,
        source=source[1].replace("\\'", "'") if source else "",
    )
