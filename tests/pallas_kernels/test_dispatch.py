"""The choice between a reference and kernels: by platform, by name, and said in the log."""

import logging

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import dispatch


def double(x):
    return 2.0 * x


def kernel(x, *, interpret):
    return 3.0 * x if interpret else 4.0 * x


def run(operation, **changes):
    """One run on x = 1: the reference gives 2, an interpreted kernel 3, a kernel 4."""
    arguments = {
        "implementation": "auto",
        "reference": double,
        "kernels": {"tpu": kernel, "gpu": kernel},
        "reasons": {"tpu": None, "gpu": None},
    }
    return dispatch.run(operation, (jnp.ones(()),), **(arguments | changes))


def test_a_cpu_gets_the_reference_and_the_log_says_so_once(caplog):
    with caplog.at_level(logging.INFO, logger="pallas_kernels"):
        assert [float(run("said_once")) for _ in range(3)] == [2.0] * 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["said_once: reference, because there is no kernel for cpu"]


def test_the_platform_is_chosen_when_the_program_is_lowered():
    traced = jax.jit(lambda: run("lowered")).trace()
    for platform, factor in (("cpu", 2.0), ("tpu", 4.0), ("cuda", 4.0)):
        assert f"dense<{factor:.6e}>" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_reason_against_a_kernel_leaves_the_reference():
    traced = jax.jit(lambda: run("reasons", reasons={"tpu": "it is small", "gpu": None})).trace()
    assert "dense<2.000000e+00>" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "dense<4.000000e+00>" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_kernel_asked_for_by_name_runs_or_says_why_it_cannot():
    assert float(run("named", implementation="reference")) == 2.0
    assert float(run("named", implementation="tpu_interpret")) == 3.0
    assert float(run("named", implementation="gpu")) == 4.0
    with pytest.raises(ValueError, match="the tpu kernel cannot be used because it is small; use"):
        run("named", implementation="tpu", reasons={"tpu": "it is small", "gpu": None})
    with pytest.raises(ValueError, match="named has no gpu kernel; use implementation='reference'"):
        run("named", implementation="gpu", kernels={"tpu": kernel})
    with pytest.raises(Exception, match="cuda"):
        run("named", implementation="cuda")
