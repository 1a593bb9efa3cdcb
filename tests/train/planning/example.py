"""A plan of round numbers, and a workload so small that it compiles at once."""

import jax
import jax.numpy as jnp

from headjax.train.state import new_state
from headjax.train.workload import Workload

GIB = 2.0**30


def plan(**changes):
    """A plan as `measure.plan` makes them."""
    made = {
        "stage": "diffusion", "topology": "v5e:4x4", "chip": "v5e", "chips": 16,
        "mesh": {"data": 1, "fsdp": 16, "model": 1}, "examples": 96, "unit": "image",
        "steps": 1000, "estimate": False, "fits": True, "unknown_loops": 0,
        "notes": {"dtype": "bfloat16", "remat": "block", "accumulate": 1, "batch": "96 states"},
        "state_bytes": {"params": GIB, "opt_state": 2 * GIB, "ema": GIB, "extras": 0, "batch": 0},
        "usable_bytes": 16 * GIB, "total_bytes": 12 * GIB, "temporary_bytes": 8 * GIB,
        "program_bytes": 0.25 * GIB, "flops": 20e12, "flops_traced": 20e12, "memory_bytes": 80e9,
        "kernels": {"calls": 0, "matrix_flops": 0, "vector_ops": 0, "unknown_loops": 0},
        "collectives": {"all-gather": {"count": 90, "full_bytes": 4e9, "wire_bytes": 3.75e9}},
        "wire_bytes": 3.75e9,
        "roofline": {
            "compute": 0.1, "memory": 0.06, "network": 0.04, "seconds": 0.1, "bound": "compute",
            "seconds_without_overlap": 0.2,
            "fractions": {"compute": 0.5, "memory": 0.3, "network": 0.2},
        },
        "examples_per_second": 960.0, "chip_hours": 0.44, "chip_hours_without_overlap": 0.89,
        "versions": {"jax": "0"}, "compile_seconds": 1.0,
    }  # fmt: skip
    return made | changes


def too_large():
    """The plan of a program that the compiler refused."""
    made = plan(fits=False, total_bytes=20 * GIB)
    for name in ("roofline", "temporary_bytes", "program_bytes", "collectives", "wire_bytes",
                 "flops", "memory_bytes", "examples_per_second", "chip_hours"):  # fmt: skip
        del made[name]
    return made


def workload(*, width=64, batch=16, examples=None, **fields):
    """One matrix product, its gradient, and a momentum."""

    def init(key):
        weights = {"kernel": jax.random.normal(key, (width, width))}
        return new_state(weights, {"momentum": jax.tree.map(jnp.zeros_like, weights)}, ema=True)

    def step(state, batch, key):
        def loss(params):
            return jnp.mean(jnp.square(jnp.tanh(batch["x"] @ params["kernel"])))

        total, gradient = jax.value_and_grad(loss)(state.params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state.opt_state["momentum"], gradient)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, state.params, momentum)
        return state.replace(params=params, opt_state={"momentum": momentum}), {"loss": total}

    return Workload(
        name="toy", init=init, step=step,
        batch={"x": jax.ShapeDtypeStruct((batch, width), jnp.float32)}, batch_size=batch,
        examples=examples or batch, unit="row", steps=100, notes={"batch": f"{batch} rows"},
        **fields,
    )  # fmt: skip
