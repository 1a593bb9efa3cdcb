"""How the cost of a Gaussian field query grows: with neighbours, with Gaussians, with rays.

  python benchmarks/growth.py                  # everything; under 8 minutes on a CPU, GPU or TPU
  python benchmarks/growth.py --rays=64,128 --output=/tmp/growth.json --picture=/tmp/growth.png

Points lie on the rays of a camera, 48 on each, Gaussians on a head-like surface; one head, patches
of 8×8 texels, 8 channels. Times are medians of runs that take turns; memory is what the compiled
program says of its temporaries and outputs. `forward` and `gradient` (forward and backward) are the
operation as users get it. Beside them stand: on accelerators, the reference; on CPUs, the forward
pass that compares every Gaussian (`all`) and the one through a grid's lists (`cells`).
Writes JSON and a picture of both, and prints a table. What the clock leaves out is shown as —.
"""

import argparse
import functools
import json
import logging
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import plots
from benchmarks.timing import environment, in_turn, mebibytes
from pallas_kernels.knn_blend import cells, knn_blend, reference
from pallas_kernels.knn_blend.specs import Spec, make_inputs, options_of

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 48
SERIES = {
    "forward": "forward",
    "gradient": "forward and backward",
    "forward_reference": "forward, reference",
    "gradient_reference": "forward and backward, reference",
    "all": "forward, all compared",
    "cells": "forward, grid",
}
# Seconds that the runs of one row may take, compilation not counted.
PATIENCE = 4.0


def spec_of(*, neighbors=3, gaussians=1024, rays=64):
    """One head with a square picture of `rays` a side."""
    return Spec(
        heads=1,
        points=rays * rays * SAMPLES,
        grid=round(gaussians**0.5),
        patch=8,
        neighbors=neighbors,
        layout="head",
    )


def _loss(points, table, atlas, *, options):
    features, total, _ = knn_blend(points, table, atlas=atlas, options=options)
    return jnp.sum(jnp.sin(features)) + jnp.sum(jnp.sin(total))


def _forward(points, table, atlas, *, options):
    return knn_blend(points, table, atlas=atlas, options=options)


def _selected(points, table, atlas, *, options, selection):
    table = jax.tree.map(lambda a: a[0], table)
    frames = reference.frames(table, options=options)
    texels = reference.texel_table(atlas[0], patch=options.patch)
    return reference.forward(points[0], frames, texels, options=options, selection=selection)


def programs(spec, *, beside):
    """By name; `beside` adds the forms that the operation's own is compared with."""
    gradient = jax.grad(_loss, argnums=(0, 1, 2), allow_int=True)
    chosen, plain = options_of(spec), options_of(spec, implementation="reference")
    found = {
        "forward": functools.partial(_forward, options=chosen),
        "gradient": functools.partial(gradient, options=chosen),
    }
    if beside and jax.default_backend() == "cpu":
        for selection in ("all", "cells"):
            found[selection] = functools.partial(_selected, options=chosen, selection=selection)
    elif beside:
        found["forward_reference"] = functools.partial(_forward, options=plain)
        found["gradient_reference"] = functools.partial(gradient, options=plain)
    return {name: jax.jit(function) for name, function in found.items()}


def measure(spec, *, beside, runs):
    """One row: milliseconds and MiB by program."""
    inputs = make_inputs(spec)
    compiled = {
        name: program.lower(*inputs).compile()
        for name, program in programs(spec, beside=beside).items()
    }
    medians, count = in_turn(compiled, inputs, runs=runs, patience=PATIENCE)
    grid = cells.pays(
        points=spec.points,
        gaussians=spec.gaussians,
        neighbors=spec.neighbors,
        metric=options_of(spec).metric,
    )
    return {
        "neighbors": spec.neighbors,
        "gaussians": spec.gaussians,
        "points": spec.points,
        "taken": "cells" if grid and jax.default_backend() == "cpu" else "all",
        "runs": count,
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "mib": {name: round(mebibytes(program), 1) for name, program in compiled.items()},
    }


def sweeps(arguments):
    """(name of what varies, its values, whether other forms stand beside)."""
    return (
        ("neighbors", arguments.neighbors, False),
        ("gaussians", [side * side for side in arguments.grids], True),
        ("rays", arguments.rays, True),
    )


def table(report):
    """The report as markdown, one table a sweep."""
    lines = []
    for name, found in report["sweeps"].items():
        columns = list(dict.fromkeys(c for row in found for c in row.get("ms", {})))
        heads = [name, *(f"{c} ms" for c in columns), *(f"{c} MiB" for c in columns), "taken"]
        lines += ["", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
        for row in found:
            label = f"{row['value']}²" if name == "rays" else f"{row['value']:,}"
            cells_of = [row.get(kind, {}).get(c) for kind in ("ms", "mib") for c in columns]
            shown = ["—" if value is None else f"{value:,.1f}" for value in cells_of]
            lines.append("| " + " | ".join([label, *shown, row.get("taken", "—")]) + " |")
    return "\n".join(lines)


def draw(report, path):
    """Time over memory, one column a sweep."""
    labels = {
        "neighbors": "neighbours K",
        "gaussians": "Gaussians N",
        "rays": f"rays a side, {SAMPLES} samples on each",
    }
    panels = []
    for kind, unit in (("ms", "milliseconds"), ("mib", "MiB, temporaries and outputs")):
        for name, found in report["sweeps"].items():
            lines = {}
            for row in found:
                for series, value in row.get(kind, {}).items():
                    lines.setdefault(SERIES[series], []).append((row["value"], value))
            panels.append(plots.Panel(labels[name], unit, lines))
    plots.draw(panels, path, columns=len(report["sweeps"]), title=report["device"])


def parse():
    def numbers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--neighbors", type=numbers, default=list(range(1, 9)))
    parser.add_argument("--grids", type=numbers, default=[16, 32, 64, 128])
    parser.add_argument("--rays", type=numbers, default=[64, 128, 256, 512])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=6.5, help="no row begins later")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path)
    return parser.parse_args()


def main():
    arguments = parse()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pallas_kernels").setLevel(logging.INFO)
    began, platform = time.monotonic(), jax.default_backend()
    report = environment() | {"samples": SAMPLES, "patch": 8, "channels": 8, "sweeps": {}}
    for name, values, beside in sweeps(arguments):
        found = report["sweeps"][name] = []
        for value in values:
            row = {"value": value}
            if time.monotonic() - began < 60 * arguments.minutes:
                row |= measure(spec_of(**{name: value}), beside=beside, runs=arguments.runs)
            print(name, json.dumps(row), file=sys.stderr, flush=True)
            found.append(row)
    report["seconds"] = round(time.monotonic() - began)
    output = arguments.output or ROOT / f"benchmarks/results/growth_{platform}.json"
    output.write_text(json.dumps(report, indent=2) + "\n")
    draw(report, arguments.picture or ROOT / f"docs/pictures/growth_{platform}.png")
    print(table(report))


if __name__ == "__main__":
    main()
