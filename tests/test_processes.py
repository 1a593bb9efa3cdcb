"""The harness itself: a group that works together, and one that does not come to an end."""

import pytest

from tests import processes

SUM = """
from tests.processes import join_group
join_group()
import jax
from jax.experimental.multihost_utils import process_allgather
print(jax.process_index(), jax.device_count(), process_allgather(jax.process_index()))
"""


def test_processes_of_a_group_see_each_other():
    ends = processes.run_processes(SUM, count=2, devices_each=3, timeout=120)
    processes.assert_all_succeed(ends)
    # Gloo says on standard output, before or after, that it has connected.
    for end, line in zip(ends, ("0 6 [0 1]", "1 6 [0 1]"), strict=True):
        assert line in end.stdout.splitlines(), end


def test_late_processes_are_killed_and_their_words_shown():
    script = "import time; print('here I wait', flush=True); time.sleep(600)"
    with processes.starting(script, count=2) as group:
        with pytest.raises(AssertionError, match=r"processes \[0, 1\] still ran(.|\n)*here I wait"):
            group.finish(timeout=3)
    assert all(process.returncode for process in group.processes)


def test_a_process_that_fails_is_reported():
    ends = processes.run_processes("import sys; sys.exit('no')", count=1, timeout=60)
    with pytest.raises(AssertionError, match=r"process 0 ended with 1(.|\n)*no"):
        processes.assert_all_succeed(ends)
