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


def test_the_commands_are_ones_that_the_tool_takes():
    for command in plan_tables.commands():
        arguments = command.split()[3:]
        parser, rest = plan._parse(arguments)
        assert not rest and parser.stage in plan_tables.STAGES and parser.batch
