"""A step's least time by its three rates, and the price of a run."""

import pytest

from headjax.train.planning.roofline import Roofline, chip_hours


def test_a_step_takes_its_longest_term_at_least_and_their_sum_at_most():
    bounds = Roofline(compute=0.3, memory=0.1, network=0.2)
    assert bounds.seconds == 0.3 and bounds.bound == "compute"
    assert bounds.seconds_without_overlap == pytest.approx(0.6)
    assert bounds.fractions == pytest.approx({"compute": 0.5, "memory": 1 / 6, "network": 1 / 3})


def test_a_term_that_is_not_known_is_left_out():
    bounds = Roofline(compute=0.3, memory=0.7, network=None)
    assert bounds.terms == {"compute": 0.3, "memory": 0.7}
    assert bounds.seconds == 0.7 and bounds.bound == "memory"


def test_nothing_to_do_takes_no_time():
    bounds = Roofline(compute=0.0, memory=0.0, network=0.0)
    assert bounds.seconds == 0.0 and set(bounds.fractions.values()) == {0.0}


def test_half_a_million_steps_of_half_a_second_on_sixteen_chips():
    # 500,000 x 0.5 s = 69.444 h; times 16
    assert chip_hours(0.5, steps=500_000, chips=16) == pytest.approx(1111.1111)
