"""What a stage says of its speed, by a clock that the tests turn."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from headjax.train import throughput
from headjax.train.chips import CHIPS

V5E = "TPU v5 lite"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def chip(kind=V5E, platform="tpu", stats=None, process=0, coords=(0, 0, 0)):
    return SimpleNamespace(
        device_kind=kind, platform=platform, process_index=process, coords=coords,
        core_on_chip=0, slice_index=0, memory_stats=lambda: stats,
    )  # fmt: skip


def trained(speed, clock, *, steps, step=0.5, wait=0.0):
    for _ in range(steps):
        with speed.waiting():
            clock.now += wait
        clock.now += step - wait
        speed.count()


@pytest.fixture
def clock():
    return Clock()


def test_rates_count_from_the_end_of_the_first_step(clock):
    speed = throughput.Throughput(96, None, jax.devices(), clock=clock)
    with speed.waiting():
        clock.now += 30
    clock.now += 700  # compiling
    speed.count()
    trained(speed, clock, steps=10, step=0.5, wait=0.1)
    values = speed.report()
    np.testing.assert_allclose(values[throughput.STEPS], 2.0)
    np.testing.assert_allclose(values[throughput.EXAMPLES], 192.0)
    np.testing.assert_allclose(values[throughput.WAITING], 0.2)


def test_each_report_begins_again(clock):
    speed = throughput.Throughput(4, None, jax.devices(), clock=clock)
    trained(speed, clock, steps=3, step=1.0, wait=0.5)
    speed.report()
    trained(speed, clock, steps=4, step=0.25)
    values = speed.report()
    np.testing.assert_allclose(values[throughput.STEPS], 4.0)
    assert values[throughput.WAITING] == 0.0


def test_without_a_timed_step_there_is_no_rate(clock):
    speed = throughput.Throughput(4, 1e12, jax.devices(), clock=clock)
    assert throughput.STEPS not in speed.report()
    speed.count()
    assert throughput.STEPS not in speed.report()


def test_utilisation_is_the_share_of_all_chips_peak(clock):
    chips = [chip(coords=(x, 0, 0)) for x in range(4)]
    flops = 4 * CHIPS["v5e"].bf16_flops * 0.5
    speed = throughput.Throughput(96, flops, chips, clock=clock)
    trained(speed, clock, steps=5, step=2.0)
    np.testing.assert_allclose(speed.report()[throughput.UTILISATION], 0.25)


@pytest.mark.parametrize(("flops", "kind"), [(None, V5E), (1e12, "TPU v99"), (1e12, "cpu")])
def test_utilisation_is_left_out_where_it_is_not_known(flops, kind, clock):
    speed = throughput.Throughput(96, flops, [chip(kind)], clock=clock)
    trained(speed, clock, steps=5)
    values = speed.report()
    assert throughput.UTILISATION not in values
    assert "MFU n/a" in throughput.line(values)


def test_memory_is_that_of_the_fullest_device_of_this_process():
    stats = [{"peak_bytes_in_use": n} for n in (5, 9, 70)]
    chips = [chip(stats=s, process=p) for s, p in zip(stats, (0, 0, 1), strict=True)]
    assert throughput.peak_memory(chips) == {throughput.DEVICE_MEMORY: 9.0}
    assert throughput.peak_memory([chip(stats={"bytes_in_use": 3})]) == {}


def test_on_a_cpu_memory_is_the_hosts():
    name, value = throughput.peak_memory(jax.devices()).popitem()
    assert name == throughput.HOST_MEMORY
    assert 20 * 2**20 < value < 2**40


def test_a_report_reads_as_a_line(clock):
    stats = {"peak_bytes_in_use": 3 * 2**29}
    speed = throughput.Throughput(16, CHIPS["v5e"].bf16_flops / 5, [chip(stats=stats)], clock=clock)
    trained(speed, clock, steps=5, step=0.4, wait=0.1)
    assert throughput.line(speed.report()) == (
        "2.5 steps/s, 40 examples/s, MFU 50.0%, 25% waiting for data, device peak 1.50 GiB"
    )


def test_every_value_is_a_plain_float(clock):
    speed = throughput.Throughput(16, 1e9, [chip()], clock=clock)
    trained(speed, clock, steps=2)
    assert {type(value) for value in speed.report().values()} == {float}
