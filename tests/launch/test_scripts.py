"""What holds for every launch script: clean, strict, telling its usage, its variables, its plan."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headjax.train.planning import topology as plans
from tests.launch.scripts import LAUNCH, ROOT, call, commands

SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
RUNNABLE = [name for name in SCRIPTS if name != "common.sh"]
EVERYTHING = {
    "NAME": "heads", "ZONE": "z", "TYPE": "v5litepod-16", "RUNTIME": "r", "CLUSTER": "c",
    "IMAGE": "i", "CLAIM": "disk", "ACCELERATOR": "tpu-v6e-slice", "TOPOLOGY": "4x4",
}  # fmt: skip
NEEDS = {
    ("tpu_vm.sh", "create"): ["NAME", "ZONE", "TYPE", "RUNTIME"],
    ("tpu_vm.sh", "run"): ["NAME", "ZONE"],
    ("queued_resource.sh", "create"): ["NAME", "ZONE", "TYPE", "RUNTIME"],
    ("queued_resource.sh", "recreate"): ["NAME", "ZONE", "TYPE", "RUNTIME"],
    ("queued_resource.sh", "wait"): ["NAME", "ZONE"],
    ("xpk.sh", "create"): ["NAME", "CLUSTER", "TYPE", "IMAGE"],
    ("xpk.sh", "list"): ["CLUSTER"],
    ("gke.sh", "submit"): ["NAME", "IMAGE", "CLAIM", "ACCELERATOR", "TOPOLOGY"],
    ("gke.sh", "logs"): ["NAME"],
}


def test_the_shell_scripts_are_shellcheck_clean():
    tool = Path(sys.executable).with_name("shellcheck")
    tool = tool if tool.exists() else shutil.which("shellcheck")
    if not tool:
        pytest.skip("shellcheck is not there; the extra 'test' brings it")
    files = [f"launch/{name}" for name in SCRIPTS]
    result = subprocess.run(
        [tool, "--external-sources", *files, ".ci/run"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_list_of_scripts_is_whole():
    assert set(RUNNABLE) == {
        "gke.sh", "local.sh", "queued_resource.sh", "slurm.sbatch", "slurm_task.sh", "tpu_vm.sh",
        "xpk.sh",
    }  # fmt: skip


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_script_is_strict_and_shows_its_usage(name):
    assert "\nset -euo pipefail\n" in (LAUNCH / name).read_text()
    asked, bare = call(name, "--help"), call(name)
    assert asked.returncode == 0 and asked.stderr == ""
    assert f"launch/{name} " in asked.stdout and "SBATCH --" not in asked.stdout
    assert bare.returncode == 2 and bare.stdout == ""
    assert bare.stderr == asked.stdout


@pytest.mark.parametrize("name", ["tpu_vm.sh", "queued_resource.sh", "xpk.sh", "gke.sh"])
def test_an_unknown_action_is_told(name):
    result = call(name, "fly", **EVERYTHING)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"launch/{name}: there is no 'fly'; there are ")


@pytest.mark.parametrize(
    ("script", "action", "missing"),
    [(*where, name) for where, names in NEEDS.items() for name in names],
)
def test_a_missing_variable_is_named(script, action, missing):
    variables = {name: value for name, value in EVERYTHING.items() if name != missing}
    result = call(script, action, "--config=g3diff", **variables)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == (
        f"launch/{script}: the variable {missing} is not set (launch/README.md lists them)\n"
    )


@pytest.mark.parametrize(
    ("script", "action", "variables", "topology"),
    [
        ("tpu_vm.sh", "create", {}, "v5e:4x4"),
        ("tpu_vm.sh", "create", {"TYPE": "v6e-256"}, "v6e:16x16"),
        ("queued_resource.sh", "create", {"TYPE": "v5p-128"}, "v5p:4x4x4"),
        ("queued_resource.sh", "create", {"TYPE": "v4-8"}, "v4:2x2x1"),
        ("xpk.sh", "create", {"PLAN": "v6e:2x2"}, "v6e:2x2"),
        ("gke.sh", "submit", {}, "v6e:4x4"),
        ("gke.sh", "submit", {"ACCELERATOR": "tpu-v5-lite-podslice"}, "v5e:4x4"),
        ("gke.sh", "submit", {"ACCELERATOR": "nvidia-h100-80gb", "NODES": "2"}, "h100:16"),
        ("gke.sh", "submit", {"ACCELERATOR": "nvidia-a100-80gb", "GPUS": "4"}, "a100-80gb:4"),
        ("gke.sh", "submit", {"ACCELERATOR": "nvidia-tesla-t4", "GPUS": "1"}, "t4:1"),
        ("slurm.sbatch", "--config=g3diff", {"PLAN": "h200:8"}, "h200:8"),
    ],
)
def test_the_plan_comes_before_anything_is_created(script, action, variables, topology):
    flags = [action, "--config=g3diff:paper", "--workdir=runs/x", "--config.seed=two words"]
    result = call(script, *flags, **EVERYTHING | {"PLAN": "1"} | variables)
    first, second, *_ = commands_until_manifest(result)
    given = [flag for flag in flags if flag.startswith("--config")]
    assert first == ["python", "-m", "headjax.tools.plan", *given, f"--topology={topology}"]
    assert second[0] in ("gcloud", "xpk", "kubectl", "sbatch")
    assert plans.parse(topology).name == topology


def commands_until_manifest(result):
    result.stdout = result.stdout.split(" <<'MANIFEST'")[0]
    return commands(result)


@pytest.mark.parametrize(
    ("script", "action", "variables", "sentence"),
    [
        ("tpu_vm.sh", "create", {"TYPE": "v9-8"}, "PLAN=1 does not know these devices"),
        ("slurm.sbatch", "--config=g3diff", {}, "PLAN=1 does not know these devices"),
        ("tpu_vm.sh", "create", {"flag": "--workdir=x"}, "PLAN needs to know the config"),
    ],
)
def test_a_plan_that_cannot_be_made_creates_nothing(script, action, variables, sentence):
    flag = variables.pop("flag", "--config=g3diff")
    result = call(script, action, flag, **EVERYTHING | {"PLAN": "1"} | variables)
    assert result.returncode == 2 and sentence in result.stderr and result.stdout == ""


def test_a_plan_that_fails_creates_nothing(tmp_path):
    python, gcloud = tmp_path / "python", tmp_path / "gcloud"
    python.write_text("#!/bin/sh\necho 'it cannot be'; exit 2\n")
    gcloud.write_text("#!/bin/sh\necho created\n")
    for file in (python, gcloud):
        file.chmod(0o755)
    for script in ("tpu_vm.sh", "queued_resource.sh"):
        result = call(script, "create", "--config=g3diff", path=tmp_path,
                      **EVERYTHING | {"PLAN": "1", "DRY_RUN": "0"})  # fmt: skip
        assert (result.returncode, result.stdout) == (2, "it cannot be\n")
        result = call(script, "create", path=tmp_path, **EVERYTHING | {"DRY_RUN": "0"})
        assert (result.returncode, result.stdout) == (0, "created\n")


def readme_examples():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", readme_examples(), ids=lambda text: text.split("\n")[0][:40])
def test_the_examples_of_the_readme_are_commands_that_the_scripts_take(example):
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1", "PORT": "1234"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= example.count("launch/")


def test_the_readme_has_a_part_on_every_script_that_users_call():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\S+\.\S+)$", text, re.MULTILINE)) == set(RUNNABLE) - {
        "slurm_task.sh"
    }
