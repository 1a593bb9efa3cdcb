"""Plans as text: one in full for the terminal, several side by side in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headjax.train.logging import duration

GIB = 2.0**30
_PARTS = {
    "params": "parameters", "opt_state": "optimiser's state", "ema": "averaged parameters",
    "extras": "other state", "batch": "batch",
}  # fmt: skip
_TERMS = {"compute": "compute", "memory": "memory traffic", "network": "network"}
ESTIMATE = (
    "An estimate: the state and the collectives are those of this program on so many devices, but\n"
    "temporaries, traffic and what is fused are the CPU compiler's, which keeps what a GPU would\n"
    "compute again; kernels, what the GPU's compiler does, and the network between hosts are not\n"
    "in it."
)


def text(plan: dict[str, Any]) -> str:
    """A plan in full."""
    notes = plan["notes"]
    lines = [
        f"{plan['stage']} on {plan['topology']}: {plan['chips']} chips, mesh {mesh(plan)}",
        f"{notes.get('batch', '')}; {settings(plan)}",
        "",
        *_memory(plan),
    ]
    if "roofline" in plan:
        lines += ["", *_work(plan), "", *_network(plan), "", *_time(plan)]
    if plan["estimate"]:
        lines += ["", ESTIMATE]
    return "\n".join(lines)


def mesh(plan: dict[str, Any]) -> str:
    """`data 1 x fsdp 16`: the axes of the mesh; `model` only where it is used."""
    axes = plan["mesh"].items()
    return " x ".join(f"{name} {size}" for name, size in axes if name != "model" or size > 1)


def settings(plan: dict[str, Any]) -> str:
    """What decides whether it fits."""
    notes = plan["notes"]
    parts = int(notes.get("accumulate", 1))
    accumulation = "no accumulation" if parts == 1 else f"{parts} micro-batches"
    return f"{notes.get('dtype', 'float32')}, remat {notes.get('remat', 'none')}, {accumulation}"


def _memory(plan: dict[str, Any]) -> list[str]:
    usable = plan["usable_bytes"]
    rows = [(_PARTS[name], size) for name, size in plan["state_bytes"].items() if size]
    if "roofline" in plan:
        rows += [
            ("activations and other temporaries", plan["temporary_bytes"]),
            ("program", plan["program_bytes"]),
        ]
    rows.append(("total", plan["total_bytes"]))
    lines = [f"memory of a chip, {gib(usable)} GiB of it usable"]
    lines += [f"  {name:<36}{gib(size):>9} GiB{size / usable:>7.0%}" for name, size in rows]
    over = plan["total_bytes"] - usable
    verdict = "it fits" if plan["fits"] else f"it does NOT fit: {gib(over)} GiB too much"
    return [*lines, f"  {verdict}"]


def _work(plan: dict[str, Any]) -> list[str]:
    line = "a chip's work in a step"
    rows = {
        "compute": f"{plan['flops'] / 1e12:.3g} TFLOP",
        "memory": f"{plan['memory_bytes'] / 1e9:.3g} GB",
        "network": f"{plan['wire_bytes'] / 1e9:.3g} GB",
    }
    terms, shares = plan["roofline"], plan["roofline"]["fractions"]
    lines = [line]
    for name, title in _TERMS.items():
        time = f"{seconds(terms[name]):>10}{shares[name]:>7.0%}" if name in shares else "       n/a"
        lines.append(f"  {title:<20}{rows[name]:>16}{time}")
    if vector := plan["kernels"]["vector_ops"]:
        lines.append(
            f"  (in kernels also {vector / 1e9:.3g} G vector operations, not in these times)"
        )
    if plan["unknown_loops"] or plan["kernels"]["unknown_loops"]:
        lines.append("  (loops whose length depends on values are counted once)")
    return lines


def _network(plan: dict[str, Any]) -> list[str]:
    if not plan["collectives"]:
        return ["no collectives"]
    lines = [f"{'collectives in a step':<22}{'count':>8}{'arrays':>14}{'on the wire':>14}"]
    for kind, row in plan["collectives"].items():
        lines.append(
            f"  {kind:<20}{row['count']:>8.0f}{row['full_bytes'] / 1e9:>11.3g} GB"
            f"{row['wire_bytes'] / 1e9:>11.3g} GB"
        )
    return lines


def _time(plan: dict[str, Any]) -> list[str]:
    bounds, unit = plan["roofline"], plan["unit"]
    run = bounds["seconds"] * plan["steps"]
    return [
        f"a step takes at least {seconds(bounds['seconds'])} (bound by {_TERMS[bounds['bound']]}),"
        f" {seconds(bounds['seconds_without_overlap'])} if nothing overlaps",
        f"at that: {plan['examples_per_second']:,.0f} {unit}s/s; the run of {plan['steps']:,} "
        f"steps: {duration(run)}, {plan['chip_hours']:,.0f} to "
        f"{plan['chip_hours_without_overlap']:,.0f} chip-hours",
    ]


_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("chips", lambda p: f"{p['chips']}"),
    ("mesh", mesh),
    ("batch", lambda p: p["notes"].get("batch", "")),
    ("settings", settings),
    ("parameters, GiB", lambda p: gib(p["state_bytes"]["params"])),
    ("optimiser's state, GiB", lambda p: gib(p["state_bytes"]["opt_state"])),
    ("averaged parameters, GiB", lambda p: gib(p["state_bytes"]["ema"])),
    ("activations and other temporaries, GiB", lambda p: gib(p["temporary_bytes"])),
    ("program, GiB", lambda p: gib(p["program_bytes"])),
    ("**total** of usable, GiB",
     lambda p: f"**{gib(p['total_bytes'])}** of {gib(p['usable_bytes'])}"),
    ("fits", lambda p: "yes" if p["fits"] else "**no**"),
    ("TFLOP", lambda p: f"{p['flops'] / 1e12:.3g}"),
    ("vector operations in kernels, G", lambda p: f"{p['kernels']['vector_ops'] / 1e9:.3g}"),
    ("memory traffic, GB", lambda p: f"{p['memory_bytes'] / 1e9:.3g}"),
    *((f"{kind}: count, wire GB", lambda p, kind=kind: _kind(p, kind))
      for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all",
                   "collective-permute")),
    ("wire in all, GB", lambda p: f"{p['wire_bytes'] / 1e9:.3g}"),
    *((f"{title}: time, share", lambda p, name=name: _term(p, name))
      for name, title in _TERMS.items()),
    ("**step at least**", lambda p: f"**{seconds(p['roofline']['seconds'])}**"),
    ("step without overlap", lambda p: seconds(p["roofline"]["seconds_without_overlap"])),
    ("examples/s", lambda p: f"{p['examples_per_second']:,.0f} {p['unit']}s"),
    ("chip-hours of the run", lambda p: f"{p['chip_hours']:,.0f}"),
)  # fmt: skip


def table(plans: Sequence[dict[str, Any]]) -> str:
    """Plans side by side, a column each; per chip and step where nothing else is said."""
    names = [plan["topology"] for plan in plans]
    lines = ["| per chip | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(plans)]
    for title, show in _ROWS:
        cells = [_cell(plan, show) for plan in plans]
        if any(cell not in ("0.00", "0", "-", "") for cell in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(plans: Sequence[dict[str, Any]]) -> str:
    """Memory and bytes on the wire of a chip as the chips grow, the work of a chip the same."""
    plans = [plan for plan in plans if "wire_bytes" in plan]  # those that fit
    first = plans[0] if plans else {}
    lines = [
        "| chips | topology | mesh | memory, GiB | of the first | wire, GB | of the first |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for plan in plans:
        memory, wire = plan["total_bytes"], plan["wire_bytes"]
        lines.append(
            f"| {plan['chips']} | {plan['topology']} | {mesh(plan)} | {gib(memory)} "
            f"| {memory / first['total_bytes']:.2f} | {wire / 1e9:.3f} "
            f"| {wire / first['wire_bytes']:.2f} |"
        )
    return "\n".join(lines)


def gib(size: float) -> str:
    """Bytes as GiB, two places."""
    return f"{size / GIB:.2f}"


def seconds(value: float) -> str:
    """A short time: `1.24 s`, `3.1 ms`, `40 µs`."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _cell(plan: dict[str, Any], show: Callable[[dict[str, Any]], str]) -> str:
    try:
        return show(plan)
    except KeyError:  # a program that does not fit has no schedule
        return "-"


def _kind(plan: dict[str, Any], kind: str) -> str:
    row = plan["collectives"].get(kind)
    return f"{row['count']:,.0f}, {row['wire_bytes'] / 1e9:.3g}" if row else "-"


def _term(plan: dict[str, Any], name: str) -> str:
    bounds = plan["roofline"]
    return f"{seconds(bounds[name])}, {bounds['fractions'][name]:.0%}" if name in bounds else "n/a"
