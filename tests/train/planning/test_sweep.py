"""Sweeps: what is tried, what is left out, which is the best."""

import pytest

from headjax.errors import UserError
from headjax.train.planning import sweep
from headjax.train.planning.sweep import Choice
from tests.train.planning import example


def test_a_sweep_tries_batches_policies_and_meshes():
    every = sweep.choices(96, remat=True, chips=32)
    assert len(every) == len(set(every)) == 3 * 5 * 4
    assert {choice.mesh for choice in every} == {("dp", 0), ("fsdp", 16), ("fsdp", 32)}
    assert {choice.batch for choice in every} == {24, 48, 96, 192, 384}
    assert every[0].remat == "block"  # the least memory first


def test_one_chip_has_nothing_to_share_and_some_stages_no_policy():
    every = sweep.choices(4, remat=False, chips=1)
    assert {choice.mesh for choice in every} == {("dp", 0)}
    assert {choice.remat for choice in every} == {None}


def test_what_needs_more_than_what_does_not_fit_is_left_out():
    every = sweep.choices(96, remat=True, chips=16)
    tried = []

    def plan_of(choice):
        tried.append(choice)
        fits = choice.mesh[0] == "fsdp" and choice.batch < 192
        return example.plan() if fits else example.too_large()

    made = sweep.run(every, plan_of)
    assert [entry[0] for entry in made] == tried
    assert Choice(24, "block", ("dp", 0)) in tried
    assert Choice(96, "block", ("dp", 0)) not in tried
    assert Choice(384, "block", ("fsdp", 16)) not in tried
    assert Choice(96, "none", ("fsdp", 16)) in tried


def test_what_the_config_does_not_allow_is_said_and_left_out():
    said = []

    def plan_of(choice):
        if choice.batch > 4:
            raise UserError("diffusion.batch_size=8 is more than data.train_identities=4")
        return example.plan()

    made = sweep.run(sweep.choices(4, remat=False, chips=1), plan_of, say=said.append)
    assert {choice.batch for choice, _ in made} == {1, 2, 4}
    assert sum("left out, diffusion.batch_size=8" in line for line in said) == 2
    with pytest.raises(UserError, match="allows none of the sweep's settings"):
        sweep.run(sweep.choices(40, remat=False, chips=1), plan_of)


def test_the_best_is_the_fastest_that_fits():
    made = [
        (Choice(96, "block", ("fsdp", 16)), example.plan(examples_per_second=900.0)),
        (Choice(96, "none", ("fsdp", 16)), example.plan(examples_per_second=1200.0)),
        (Choice(192, "none", ("fsdp", 16)), example.too_large()),
    ]
    choice, plan = sweep.best(made)
    assert choice.remat == "none" and plan["examples_per_second"] == 1200.0
    lines = sweep.table(made).splitlines()
    assert lines[1].startswith("batch 96, remat none") and lines[-1].endswith("does not fit")
    assert sweep.best(made[2:]) is None
