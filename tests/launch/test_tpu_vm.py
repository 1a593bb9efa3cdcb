import os
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_vm.sh"
VARIABLES = {"NAME": "heads", "ZONE": "zone-a", "TYPE": "v6e-8", "RUNTIME": "v2-alpha-tpuv6e"}


def call(*arguments, **variables):
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1", **variables}
    return subprocess.run(
        [str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "arguments",
    [["create"], ["setup"], ["run", "--config=g3diff"], ["logs"], ["stop"], ["fetch"], ["delete"]],
)
def test_a_dry_run_prints_whole_commands_for_the_named_machine(arguments):
    result = call(*arguments, **VARIABLES)
    assert result.returncode == 0, result.stderr
    gcloud = [shlex.split(line) for line in result.stdout.splitlines() if "gcloud" in line]
    assert gcloud
    for words in gcloud:
        assert words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert "--zone=zone-a" in words and any("heads" in word for word in words)


def test_flags_reach_the_remote_shell_as_they_were_given():
    flags = ["--config=g3diff:paper", "--config.name=it's two words", "--config.rates=(1, 2)"]
    result = call("run", *flags, **VARIABLES)
    (remote,) = [
        word.removeprefix("--command=")
        for word in bash_words(result.stdout)
        if word.startswith("--command=")
    ]
    inner = remote.split("headjax.main ")[1].split(" >>")[0]
    assert bash_words(inner) == flags


def bash_words(text):
    """The words that bash makes of a line; shlex does not know $'…'."""
    script = f"for word in {text.strip()}; do printf '%s\\0' \"$word\"; done"
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return output.stdout.split("\0")[:-1]


@pytest.mark.parametrize("missing", ["NAME", "ZONE", "TYPE", "RUNTIME"])
def test_a_missing_variable_is_named(missing):
    result = call("create", **{name: v for name, v in VARIABLES.items() if name != missing})
    assert result.returncode == 2
    assert f"the variable {missing} is not set" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"]])
def test_an_incomplete_command_is_told(arguments):
    result = call(*arguments, **VARIABLES)
    assert result.returncode == 2 and "launch/tpu_vm.sh: " in result.stderr
    assert result.stdout == ""
