"""K-nearest Gaussian blending beside its naive form, forward and forward+backward, in one run.

On a GPU or TPU the kernel stands beside both.

  python benchmarks/field_query.py                  # 65,536 points, N=1,024, K=3 and the demo's
  python benchmarks/field_query.py --output=FILE    # also writes JSON

The forms are timed in turn, so that a drifting machine drifts for all; medians are quoted.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import environment, in_turn, tell
from pallas_kernels.knn_blend import knn_blend
from pallas_kernels.knn_blend.naive import knn_blend_naive
from pallas_kernels.knn_blend.specs import SPECS, make_inputs, options_of

# Name in the report → program and the options that it gets.
FORMS = {
    "tiled": (knn_blend, {"implementation": "reference"}),
    "naive": (knn_blend_naive, {}),
}
if jax.default_backend() != "cpu":
    FORMS = {"kernel": (knn_blend, {}), **FORMS}


def programs(form, spec):
    """Compiled forward, and forward with the gradients of points, Gaussians and atlas."""
    form, changes = form
    options = options_of(spec, **changes)

    def forward(points, table, atlas):
        features, total, _ = form(points, table, atlas=atlas, options=options)
        return features, total

    def loss(points, table, atlas):
        features, total = forward(points, table, atlas)
        return jnp.sum(jnp.sin(features)) + jnp.sum(jnp.sin(total))

    gradient = jax.grad(loss, argnums=(0, 1, 2), allow_int=True)
    return {"forward": jax.jit(forward), "forward_backward": jax.jit(gradient)}


def measure(name, *, runs):
    """Medians and ratios of one shape."""
    spec = SPECS[name]
    inputs = make_inputs(spec)
    compiled = {form: programs(function, spec) for form, function in FORMS.items()}
    result = {"points": spec.heads * spec.points, "gaussians": spec.gaussians,
              "neighbors": spec.neighbors, "patch": spec.patch}  # fmt: skip
    for kind in ("forward", "forward_backward"):
        medians, _ = in_turn({form: compiled[form][kind] for form in FORMS}, inputs, runs=runs)
        result[kind] = {f"{form}_ms": round(value, 2) for form, value in medians.items()}
        result[kind]["naive_over_tiled"] = round(medians["naive"] / medians["tiled"], 2)
        if "kernel" in medians:
            ratio = medians["tiled"] / medians["kernel"]
            result[kind]["tiled_over_kernel"] = round(ratio, 2)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    report = environment() | {
        "runs": arguments.runs,
        "shapes": {name: measure(name, runs=arguments.runs) for name in ("query", "query_demo")},
    }
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
