"""launch/slurm.sbatch: how it submits itself, what a job runs, and when it queues itself again."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.scripts import LAUNCH, ROOT, call, commands, program

SUBMITTED = ["sbatch", "--nodes=1", "--ntasks-per-node=8", "--gpus-per-node=8"]
FLAGS = ["--config=g3diff:paper", "--config.name=it's two words"]


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, SUBMITTED[1:]),
        ({"NODES": "4", "GPUS": "2", "CPUS": "12", "TIME": "1-00:00:00", "PARTITION": "p",
          "ACCOUNT": "a"},
         ["--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=12",
          "--time=1-00:00:00", "--partition=p", "--account=a"]),
    ],
)  # fmt: skip
def test_outside_a_job_it_submits_itself(variables, options):
    result = call("slurm.sbatch", *FLAGS, **variables)
    assert commands(result) == [["sbatch", *options, "launch/slurm.sbatch", *FLAGS]]


def test_the_options_in_the_file_are_what_preemption_needs():
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {"--signal=TERM@180", "--requeue", "--open-mode=append"} <= set(options)
    # JAX takes the GPU of a task's local number: all of the node's must be visible to it.
    assert {"--ntasks-per-node=8", "--gpus-per-node=8"} <= set(options)
    assert not re.search(r"^[^#\n]*--gpus-per-task|^[^#\n]*--gpu-bind", text, re.MULTILINE)
    # sbatch reads options up to the first command only.
    assert text.index("set -euo pipefail") > text.rindex("#SBATCH ")


@pytest.fixture
def job(tmp_path):
    """A clone's folder, a spooled copy of the script, and stand-ins for srun, scontrol, python."""
    clone, tools = tmp_path / "clone", tmp_path / "tools"
    shutil.copytree(ROOT / "launch", clone / "launch")
    tools.mkdir()
    spooled = tmp_path / "spool" / "slurm_script"
    spooled.parent.mkdir()
    shutil.copy(LAUNCH / "slurm.sbatch", spooled)
    calls = clone / "calls"
    program(tools, "srun", f"""#!/usr/bin/env bash
echo "srun $1 $SRUN_CPUS_PER_TASK" >> {calls}
shift
exec "$@"
""")  # fmt: skip
    program(tools, "scontrol", f'#!/bin/sh\necho "scontrol $*" >> {calls}\n')
    # Ends with CODE; when it is stopped, with what it was asked to end with then.
    program(tools, "python", f"""#!/usr/bin/env bash
trap 'echo saved; exit "${{HEADJAX_STOPPED_CODE:-0}}"' TERM
printf '%s\\n' "python" "$@" >> {calls}
while [ -n "$WAIT" ]; do sleep 0.05; done
exit "${{CODE:-0}}"
""")  # fmt: skip
    environment = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "HOME": "/", "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(clone), "SLURM_CPUS_PER_TASK": "12", "WAIT": "",
    }  # fmt: skip

    def start(**variables):
        return subprocess.Popen(
            ["bash", str(spooled), *FLAGS], env=environment | variables, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    start.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    start.clone = clone
    return start


def test_a_job_runs_the_program_by_srun_and_ends_with_it(job):
    process = job()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert job.calls() == ["srun --kill-on-bad-exit=1 12", "python", "-m", "headjax.main",
                           "--distributed=on", *FLAGS]  # fmt: skip


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_failure_is_the_jobs_failure_and_is_not_repeated(job, code):
    process = job(CODE=str(code))
    process.communicate(timeout=120)
    assert process.returncode == code
    assert not [line for line in job.calls() if line.startswith("scontrol")]


def signalled(job, whom):
    """Starts a job that waits, sends SIGTERM to what `whom` names, and returns how it ended."""
    process = job(WAIT="1")
    end = time.monotonic() + 60
    while "--distributed=on" not in job.calls():
        assert time.monotonic() < end
        time.sleep(0.05)
    for pid in whom(process.pid):
        os.kill(pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def descendants(pid):
    """Every process below this one, from /proc."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(child) for child in file.read().split()]
    return [one for child in children for one in (child, *descendants(child))]


def tasks(pid):
    """What SLURM signals when the time is over: the tasks' shell and the program, not the job's."""
    return [one for one in descendants(pid) if name_of(one) in ("bash", "python")]


def name_of(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def test_a_run_that_was_stopped_saves_and_the_job_queues_itself_again(job):
    code, output = signalled(job, tasks)
    assert code == 0, output
    assert "saved" in output and "job 17 queues itself again" in output
    assert job.calls()[-1] == "scontrol requeue 17"
    assert not list(job.clone.glob(".headjax-*"))


def test_a_job_that_is_cancelled_does_not_come_back(job):
    """scancel signals the job's own shell as well as its tasks."""
    code, _ = signalled(job, lambda pid: [pid, *tasks(pid)])
    assert code == -signal.SIGTERM
    assert not [line for line in job.calls() if line.startswith("scontrol")]


def test_a_job_from_elsewhere_says_where_to_submit_from(job, tmp_path):
    process = job(SLURM_SUBMIT_DIR=str(tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("launch/slurm.sbatch: submit it from the clone's root, not from '")


def test_a_dry_run_inside_a_job_prints_what_it_would_run(job):
    process = job(DRY_RUN="1")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and job.calls() == []
    assert output.startswith("srun --kill-on-bad-exit=1 bash launch/slurm_task.sh ")


@pytest.mark.parametrize(("code", "ends", "left"), [(0, 0, False), (3, 3, False), (75, 0, True)])
def test_a_task_leaves_a_file_only_if_its_command_was_stopped(tmp_path, code, ends, left):
    file = tmp_path / "stopped"
    result = call("slurm_task.sh", str(file), "bash", "-c", f"exit {code}")
    assert (result.returncode, file.exists()) == (ends, left), result.stderr


def test_mistakes_are_told():
    for arguments, variables, sentence in (
        (["x"], {"NODES": "two"}, "NODES must be a whole number"),
        (["x"], {"GPUS": "0"}, "GPUS must be a whole number"),
    ):
        result = call("slurm.sbatch", *arguments, **variables)
        assert result.returncode == 2 and sentence in result.stderr and result.stdout == ""
    result = call("slurm_task.sh", "file")
    assert result.returncode == 2 and "give a file and a command" in result.stderr
