"""Memory of a training step at Gaussian3Diff's table 2, by the compiled program's own analysis."""

import pytest

from benchmarks import training_step
from headjax.systems.g3diff import autodecoder
from tests.pallas_kernels import gpu_backend

GIB = 1 << 30


def total(neighbors, step, sharding=None):
    config = training_step.table_2(neighbors)
    return training_step.bytes_of(training_step.compiled_step(config, step, sharding)[0])["total"]


def test_a_step_of_table_2_fits_a_gigabyte_and_a_half_and_rendering_is_its_smallest_part():
    decoder = total(3, training_step.DecoderStep)
    whole = total(3, autodecoder.AutoDecoderStep)
    assert whole < 1.5 * GIB
    assert whole - decoder < 0.5 * GIB


@pytest.mark.sweep
def test_five_neighbours_cost_hardly_more_than_one():
    decoder = total(1, training_step.DecoderStep)
    one, five = (total(k, autodecoder.AutoDecoderStep) - decoder for k in (1, 5))
    assert five < 1.3 * one


@pytest.mark.sweep
@pytest.mark.tpu_backend
def test_a_step_of_table_2_fits_a_tpu():
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, comes with the extra 'tpu'")
    chip = training_step.chip("v5e:2x2")
    assert total(3, autodecoder.AutoDecoderStep, chip) < 2.25 * GIB


@pytest.mark.sweep
@pytest.mark.gpu_backend
def test_a_step_of_table_2_fits_a_gigabyte_of_a_gpu():
    gpu = gpu_backend.h200()
    one, five = (total(k, autodecoder.AutoDecoderStep, gpu) for k in (1, 5))
    assert one < GIB
    assert five < 1.1 * one
