"""The page on pods holds the tables of the plans beside it."""

import pytest

from benchmarks import plan_tables
from headjax.tools import plan


def test_the_page_s_tables_are_those_of_the_plans():
    page = plan_tables.PAGE.read_text()
    assert plan_tables.filled(page) == page, "run python benchmarks/plan_tables.py"


@pytest.mark.parametrize("stage", plan_tables.STAGES)
def test_every_slice_gives_a_chip_the_papers_work(stage):
    for made in plan_tables.plans(stage, (*plan_tables.SLICES, *plan_tables.GROWTH)):
        each = made["examples"] / made["chips"]
        assert each == {"diffusion": 6, "autodecoder": 2430}[stage]


def test_the_papers_batches_fit_on_16_v5e():
    for stage in plan_tables.STAGES:
        (made,) = plan_tables.plans(stage, ["v5e:4x4"])
        assert made["fits"] and made["total_bytes"] < made["usable_bytes"]
        assert made["notes"]["accumulate"] == 1


@pytest.mark.parametrize("stage", ["autodecoder", "diffusion"])
def test_from_8_to_256_chips_memory_does_not_grow_and_traffic_little(stage):
    few, many = plan_tables.plans(stage, ["v5e:2x4", "v5e:16x16"])
    assert (few["chips"], many["chips"]) == (8, 256)
    assert many["examples"] == 32 * few["examples"]
    assert many["total_bytes"] <= 1.01 * few["total_bytes"]
    assert many["wire_bytes"] < 1.3 * few["wire_bytes"]


def test_the_commands_are_ones_that_the_tool_takes():
    for command in plan_tables.commands():
        arguments = command.split()[3:]
        parser, rest = plan._parse(arguments)
        assert not rest
        assert parser.stage in plan_tables.STAGES and parser.batch
