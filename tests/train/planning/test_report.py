"""Plans as text and as tables."""

import pytest

from headjax.train.planning import report
from tests.train.planning import example

WHOLE = """\
diffusion on v5e:4x4: 16 chips, mesh data 1 x fsdp 16
96 states; bfloat16, remat block, no accumulation

memory of a chip, 16.00 GiB of it usable
  parameters                               1.00 GiB     6%
  optimiser's state                        2.00 GiB    12%
  averaged parameters                      1.00 GiB     6%
  activations and other temporaries        8.00 GiB    50%
  program                                  0.25 GiB     2%
  total                                   12.00 GiB    75%
  it fits

a chip's work in a step
  compute                     20 TFLOP    100 ms    50%
  memory traffic                 80 GB     60 ms    30%
  network                      3.75 GB     40 ms    20%

collectives in a step    count        arrays   on the wire
  all-gather                90          4 GB       3.75 GB

a step takes at least 100 ms (bound by compute), 200 ms if nothing overlaps
at that: 960 images/s; the run of 1,000 steps: 2 min, 0 to 1 chip-hours"""


def test_a_plan_in_full():
    assert report.text(example.plan()) == WHOLE


def test_an_estimate_says_that_it_is_one():
    assert report.text(example.plan(estimate=True)).endswith(report.ESTIMATE)


def test_a_plan_that_does_not_fit_says_by_how_much():
    text = report.text(example.too_large())
    assert "it does NOT fit: 4.00 GiB too much" in text and "step takes" not in text


def test_what_kernels_do_besides_products_is_told():
    work = {"calls": 2, "matrix_flops": 1e12, "vector_ops": 41.3e9, "unknown_loops": 4}
    text = report.text(example.plan(kernels=work))
    assert "in kernels also 41.3 G vector operations, not in these times" in text
    assert "loops whose length depends on values are counted once" in text


def test_an_unknown_network_is_not_in_the_estimate():
    plan = example.plan()
    del plan["roofline"]["network"], plan["roofline"]["fractions"]["network"]
    (line,) = (line for line in report.text(plan).splitlines() if line.startswith("  network"))
    assert line.endswith("n/a")


def test_a_table_has_a_column_for_each_plan_and_no_empty_rows():
    lines = report.table([example.plan(), example.too_large()]).splitlines()
    assert lines[0] == "| per chip | v5e:4x4 | v5e:4x4 |"
    assert {line.count("|") for line in lines} == {4}
    assert "| fits | yes | **no** |" in lines
    assert "| all-gather: count, wire GB | 90, 3.75 | - |" in lines
    assert not [line for line in lines if "all-to-all" in line]


def test_growth_is_relative_to_the_first():
    larger = example.plan(chips=256, topology="v5e:16x16", wire_bytes=4.5e9)
    (row,) = report.growth([example.plan(), larger]).splitlines()[3:]
    assert row == "| 256 | v5e:16x16 | data 1 x fsdp 16 | 12.00 | 1.00 | 4.500 | 1.20 |"


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.35 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 µs")]
)
def test_short_times_have_their_unit(value, text):
    assert report.seconds(value) == text
