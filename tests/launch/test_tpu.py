"""launch/tpu_vm.sh, queued_resource.sh and xpk.sh: the very commands, and what users get wrong."""

import subprocess
import time

import pytest

from tests.launch.scripts import bash_words, call, commands, program

MACHINE = {"NAME": "heads", "ZONE": "zone-a"}
NEW = {**MACHINE, "TYPE": "v6e-8", "RUNTIME": "v2-alpha-tpuv6e"}
WORKLOAD = {"NAME": "heads", "CLUSTER": "c", "TYPE": "v5litepod-16", "IMAGE": "r/i:1"}
CREATED = "create heads --accelerator-type=v6e-8 --version=v2-alpha-tpuv6e"
HARD_FLAGS = ["--config=g3diff:paper", "--config.name=it's two words", "--config.rates=(1, $x)", ""]


def words(line):
    return line.split()


@pytest.mark.parametrize(
    ("action", "variables", "expected"),
    [
        ("create", {}, CREATED),
        ("create", {"SPOT": "1"}, f"{CREATED} --spot"),
        ("create", {"SPOT": "0"}, CREATED),
        ("fetch", {}, "scp --recurse heads:headjax/runs . --worker=0"),
        ("fetch", {"SLICES": "2", "FROM": "x"}, "scp --recurse heads-0:x . --worker=0"),
        ("delete", {}, "delete heads --quiet"),
    ],
)
@pytest.mark.parametrize("project", [{}, {"PROJECT": "p"}])
def test_a_tpu_vm_is_handled_by_these_commands(action, variables, expected, project):
    result = call("tpu_vm.sh", action, **NEW, **variables, **project)
    ends = ["--zone=zone-a", *(["--project=p"] if project else [])]
    assert commands(result) == [words("gcloud compute tpus tpu-vm") + words(expected) + ends]


def test_setup_copies_this_clone_and_installs_it_on_every_worker():
    first, second, copy, install = commands(call("tpu_vm.sh", "setup", **MACHINE))
    assert first == words("mkdir -p build")
    assert second == words("git archive --format=tar.gz --output=build/headjax.tar.gz HEAD")
    assert copy[4:] == words("scp build/headjax.tar.gz heads:headjax.tar.gz --worker=all "
                             "--zone=zone-a")  # fmt: skip
    assert install[4:7] == words("ssh heads --worker=all")
    assert '-e "./headjax[tpu]"' in install[7] and "pip" in install[7]


def remote(line):
    (command,) = [word.removeprefix("--command=") for word in line if word.startswith("--command=")]
    return command


def test_flags_and_environment_reach_the_remote_shell_as_they_were_given():
    (line,) = commands(call("tpu_vm.sh", "run", "A=two words", *HARD_FLAGS, **MACHINE))
    assert line[4:7] == words("ssh heads --worker=all")
    start = next(part for part in remote(line).split("\n") if part.startswith("nohup"))
    started = bash_words(start.split(" >>")[0].replace("~", "HOME"))
    program_of_venv = words("HOME/venv/bin/python -m headjax.main --distributed=on")
    assert started == ["nohup", "env", "PYTHONUNBUFFERED=1", "A=two words", *program_of_venv,
                       *HARD_FLAGS]  # fmt: skip


def test_what_runs_on_all_workers_runs_on_all_slices():
    for action in (["setup"], ["run", "--config=g3diff"], ["each", "ls -l"], ["logs"], ["stop"]):
        lines = commands(call("tpu_vm.sh", *action, **MACHINE, SLICES="2"))
        shells = [line[line.index("ssh") + 1] for line in lines if "ssh" in line]
        assert shells == ["heads-0", "heads-1"], action
    (line,) = commands(call("tpu_vm.sh", "each", "ls -l", **MACHINE))
    assert remote(line) == "ls -l"


def test_the_remote_command_starts_stops_and_refuses_a_second_run(tmp_path):
    """The remote text itself, run by bash in a folder of its own with a stand-in for Python."""
    (tmp_path / "headjax").mkdir()
    (tmp_path / "venv/bin").mkdir(parents=True)
    program(tmp_path / "venv/bin", "python",
            "#!/bin/sh\necho \"flags: $*\"\ntrap 'echo stopped; exit 0' TERM\n"
            "while true; do sleep 0.05; done\n")  # fmt: skip
    run, stop = (
        remote(commands(call("tpu_vm.sh", *action, **MACHINE))[0])
        for action in (["run", "--config=g3diff"], ["stop"])
    )
    log, pid = tmp_path / "headjax/run.log", tmp_path / "headjax/run.pid"
    first, second = (shell(run, tmp_path) for _ in range(2))
    assert first.returncode == 0 and pid.exists(), first.stderr
    assert second.returncode == 2 and "a run is under way" in second.stderr
    wait_for(lambda: "flags: -m headjax.main --distributed=on --config=g3diff" in log.read_text())
    assert shell(stop, tmp_path).returncode == 0
    wait_for(lambda: "stopped" in log.read_text())
    wait_for(lambda: shell('! kill -0 "$(cat headjax/run.pid)"', tmp_path).returncode == 0)


def shell(text, home):
    return subprocess.run(
        ["bash", "-c", text], cwd=home, env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


REQUESTED = "create heads-request --accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "--node-id=heads"),
        ({"SPOT": "1", "VALID_UNTIL": "6h"}, "--node-id=heads --spot --valid-until-duration=6h"),
        ({"RESERVED": "1"}, "--node-id=heads --reserved"),
        ({"SLICES": "4"}, "--node-count=4 --node-prefix=heads"),
    ],
)
def test_a_queued_resource_is_asked_for_by_this_command(variables, expected):
    result = call("queued_resource.sh", "create", **NEW, **variables)
    assert commands(result) == [
        words(f"gcloud compute tpus queued-resources {REQUESTED} {expected} --zone=zone-a")
    ]


def test_a_preempted_resource_is_deleted_with_its_machines_and_asked_for_again():
    look, delete, create = commands(call("queued_resource.sh", "recreate", **NEW, REQUEST="r"))
    start = words("gcloud compute tpus queued-resources")
    assert look == [*start, "describe", "r", "--format=value(state.state)", "--zone=zone-a"]
    assert delete == [*start, *words("delete r --force --quiet --zone=zone-a")]
    assert create[:6] == [*start, "create", "r"]
    (only,) = commands(call("queued_resource.sh", "delete", **MACHINE, REQUEST="r"))
    assert only == delete


@pytest.fixture
def gcloud(tmp_path):
    """A stand-in that notes its calls and answers with the states in a file, the last for ever."""

    def start(*states):
        (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
        program(tmp_path, "gcloud", f"""#!/usr/bin/env bash
cd {tmp_path}
echo "$*" >> calls
case "$*" in *describe*)
  head -n 1 states
  if [ "$(wc -l < states)" -gt 1 ]; then sed -i 1d states; fi ;;
esac
""")  # fmt: skip
        return tmp_path

    return start


@pytest.mark.parametrize(
    ("states", "code", "said"),
    [
        (["WAITING_FOR_RESOURCES"] * 2 + ["PROVISIONING", "ACTIVE"], 0, ""),
        (["WAITING_FOR_RESOURCES", "FAILED"], 1, "will not become ACTIVE: it is FAILED"),
        (["ACTIVE_SOON", "SUSPENDED"], 1, "was preempted; 'recreate' asks for it again"),
    ],
)
def test_waiting_tells_each_state_once_and_ends_at_the_last(gcloud, states, code, said):
    folder = gcloud(*states)
    result = call("queued_resource.sh", "wait", **MACHINE, path=folder, DRY_RUN="0", INTERVAL="0")
    assert result.returncode == code, result.stderr
    told = [line.split(": ")[1] for line in result.stdout.splitlines()]
    assert told == list(dict.fromkeys(states))
    assert said in result.stderr


@pytest.mark.parametrize(
    ("state", "recreated"),
    [("SUSPENDED", True), ("FAILED", True), ("ACTIVE", False), ("PROVISIONING", False)],
)
def test_only_what_is_lost_is_recreated(gcloud, state, recreated):
    folder = gcloud(state)
    result = call("queued_resource.sh", "recreate", **NEW, path=folder, DRY_RUN="0")
    done = [line.split()[3] for line in (folder / "calls").read_text().splitlines()]
    if recreated:
        assert result.returncode == 0 and done == ["describe", "delete", "create"]
    else:
        assert result.returncode == 2 and done == ["describe"]
        assert f"is {state}, neither SUSPENDED nor FAILED" in result.stderr


def test_a_status_is_the_state_in_a_word(gcloud):
    folder = gcloud("PROVISIONING")
    result = call("queued_resource.sh", "status", **MACHINE, path=folder, DRY_RUN="0")
    assert (result.returncode, result.stdout) == (0, "PROVISIONING\n")


def test_a_workload_is_created_by_this_command_and_its_program_replaces_the_shell():
    result = call("xpk.sh", "create", "A=1", *HARD_FLAGS, **WORKLOAD, ZONE="z", SLICES="2")
    (line,) = commands(result)
    command = line.pop(7)
    assert line == words(
        "xpk workload create --workload=heads --docker-image=r/i:1 --tpu-type=v5litepod-16 "
        "--num-slices=2 --max-restarts=50 --restart-on-exit-codes=1,75 "
        "--termination-grace-period-seconds=120 --priority=medium --cluster=c --zone=z"
    )
    assert bash_words(command.removeprefix("--command=")) == [
        *words("exec env HEADJAX_STOPPED_CODE=75 PYTHONUNBUFFERED=1 A=1"),
        *words("python -m headjax.main --distributed=on"), *HARD_FLAGS,
    ]  # fmt: skip
    assert "xpk config set send-telemetry false" in result.stderr


def test_workloads_are_listed_and_deleted():
    assert commands(call("xpk.sh", "list", CLUSTER="c", PROJECT="p")) == [
        words("xpk workload list --cluster=c --project=p")
    ]
    assert commands(call("xpk.sh", "delete", **WORKLOAD)) == [
        words("xpk workload delete --workload=heads --cluster=c")
    ]


@pytest.mark.parametrize("name", ["Heads", "heads_1", "-x", "x" * 29])
def test_a_workload_name_that_kubernetes_would_refuse_is_told(name):
    result = call("xpk.sh", "create", "--config=g3diff", **{**WORKLOAD, "NAME": name})
    assert result.returncode == 2 and f"not '{name}'" in result.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "sentence"),
    [
        ("tpu_vm.sh", ["run"], MACHINE, "the flags of headjax.main are missing"),
        ("tpu_vm.sh", ["run", "A=1"], MACHINE, "the flags of headjax.main are missing"),
        ("tpu_vm.sh", ["each", "ls", "-l"], MACHINE, "each takes one command, in quotes"),
        ("tpu_vm.sh", ["logs"], {**MACHINE, "SLICES": "two"}, "SLICES must be a whole number"),
        ("tpu_vm.sh", ["create"], {**NEW, "SLICES": "2"}, "come from launch/queued_resource.sh"),
        ("queued_resource.sh", ["create"], {**NEW, "SPOT": "1", "RESERVED": "1"}, "exclude each"),
        ("xpk.sh", ["create"], WORKLOAD, "the flags of headjax.main are missing"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(script, arguments, variables, sentence):
    result = call(script, *arguments, **variables)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"launch/{script}: ") and sentence in result.stderr
