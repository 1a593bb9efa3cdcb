"""How the tests call the launch scripts: an environment of their own, dry unless told."""

import os
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"


def call(script, *arguments, path=None, cwd=None, **variables):
    """Runs launch/SCRIPT with these variables and no others; DRY_RUN=1 unless given."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DRY_RUN": "1"}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [str(LAUNCH / script), *arguments],
        env=environment | variables, cwd=cwd, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def bash_words(text):
    """The words that bash makes of a line; shlex does not know $'…'."""
    script = f"for word in {text.strip()}; do printf '%s\\0' \"$word\"; done"
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return output.stdout.split("\0")[:-1]


def commands(result):
    """The commands that a dry run printed, each as a list of words."""
    assert result.returncode == 0, result.stderr
    return [bash_words(line) for line in result.stdout.splitlines()]


def program(folder, name, text):
    """Writes a stand-in for a program, to be found on the search path."""
    file = folder / name
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file
