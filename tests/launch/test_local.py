"""launch/local.sh: what its processes are told, how it ends, and that it leaves nobody behind."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.scripts import LAUNCH, call, commands

# A stand-in for headjax.main. It tells who it is, waits, and may have a child of its own.
STAND_IN = """
import json, os, signal, subprocess, sys, time
def stop(number, frame):
    print("saving after", signal.Signals(number).name, flush=True)
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(int(os.environ.get("CODE", "0")))
if os.environ.get("DEAF") == os.environ["HEADJAX_PROCESS"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
child = subprocess.Popen(["sleep", "600"]).pid if os.environ.get("CHILD") else 0
names = ("COORDINATOR", "PROCESSES", "PROCESS")
print(json.dumps({
    "pid": os.getpid(), "child": child, "flags": sys.argv[1:],
    "platforms": os.environ.get("JAX_PLATFORMS"), "xla": os.environ.get("XLA_FLAGS"),
    **{name: os.environ["HEADJAX_" + name] for name in names},
}), flush=True)
if "wait" in sys.argv:
    time.sleep(600)
print("without a newline", end="")
sys.exit(int(os.environ.get("CODE_" + os.environ["HEADJAX_PROCESS"], "0")))
"""

# Gives a command a session of its own, whose terminal is standard input, and in which Ctrl-C is
# heard even where these tests run in the background, deaf to it.
TAKE_TERMINAL = [sys.executable, "-c", """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""]  # fmt: skip


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """Under nohup the suite ignores SIGHUP, its children inherit that, and bash cannot undo it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def stand_in(tmp_path):
    file = tmp_path / "stand_in.py"
    file.write_text(STAND_IN)
    return {"PROGRAM": f"{sys.executable} {file}", "PYTHON": sys.executable, "DRY_RUN": "0"}


class Group:
    """local.sh at work, by `before` if there is one; `told[i]` is what process i told of itself."""

    def __init__(self, variables, count, before=(), **options):
        environment = {"PATH": os.environ["PATH"], "HOME": "/"} | variables
        self.script = subprocess.Popen(
            [*before, str(LAUNCH / "local.sh"), str(count), "wait"],
            env=environment, text=True, **options,
        )  # fmt: skip
        self.told, self.lines = {}, []

    def read(self, stream, count):
        while len(self.told) < count:
            line = stream.readline()
            assert line, "".join(self.lines)
            self.lines.append(line)
            if match := re.match(r"\[(\d)\] (\{.*\})", line):
                self.told[int(match[1])] = json.loads(match[2])

    def everybody(self):
        children = [told["child"] for told in self.told.values() if told["child"]]
        return [told["pid"] for told in self.told.values()] + children


@contextlib.contextmanager
def group(variables, count=3, **options):
    """Starts a group, waits until all its processes run, and ends what is left at the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    it = Group(variables, count, **(pipes | options))
    try:
        if it.script.stdout:
            it.read(it.script.stdout, count)
        yield it
    finally:
        for pid in (it.script.pid, *it.everybody()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        it.script.communicate()


def ends(it, timeout=120):
    out, err = it.script.communicate(timeout=timeout)
    return it.script.returncode, out, err


def alive(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


def assert_nobody_is_left(pids, seconds=10):
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < end, f"{left} are still there"
        time.sleep(0.05)


def test_processes_are_told_of_each_other_and_their_lines_are_marked(stand_in):
    result = call("local.sh", "3", "--config=a b", "", **stand_in, DEVICES="2", XLA_FLAGS="--x")
    assert result.returncode == 0, result.stderr
    told = dict(re.findall(r"^\[(\d)\] (\{.*\})$", result.stdout, re.MULTILINE))
    told = {int(index): json.loads(text) for index, text in told.items()}
    assert sorted(told) == [0, 1, 2]
    for index, one in told.items():
        assert (one["PROCESSES"], one["PROCESS"]) == ("3", str(index))
        assert one["flags"] == ["--distributed=on", "--config=a b", ""]
        assert one["platforms"] == "cpu"
        assert one["xla"] == "--x --xla_force_host_platform_device_count=2"
    (coordinator,) = {one["COORDINATOR"] for one in told.values()}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", coordinator)
    assert len(re.findall(r"^\[\d\] without a newline$", result.stdout, re.MULTILINE)) == 3


def test_a_dry_run_prints_a_command_for_each_process():
    lines = commands(call("local.sh", "2", "--config=it's", PORT="1234", DEVICES="4"))
    assert lines == [
        ["env", "HEADJAX_COORDINATOR=127.0.0.1:1234", "HEADJAX_PROCESSES=2",
         f"HEADJAX_PROCESS={index}", "JAX_PLATFORMS=cpu", "PYTHONUNBUFFERED=1",
         "XLA_FLAGS=--xla_force_host_platform_device_count=4",
         "python", "-m", "headjax.main", "--distributed=on", "--config=it's"]
        for index in range(2)
    ]  # fmt: skip


def test_the_first_failure_gives_the_exit_code_and_is_told(stand_in):
    result = call("local.sh", "2", "x", **stand_in, CODE_1="3")
    assert result.returncode == 3
    assert result.stderr == "launch/local.sh: process 1 ended with exit code 3\n"


def test_a_program_that_is_not_there_is_told(stand_in):
    result = call("local.sh", "1", "x", **stand_in | {"PROGRAM": "no-such-program"})
    assert result.returncode == 127
    assert "process 0 ended with exit code 127" in result.stderr
    assert "no-such-program" in result.stdout


def test_a_killed_process_is_named_and_the_others_do_not_outlive_the_grace(stand_in):
    with group({**stand_in, "GRACE": "1", "CHILD": "1"}) as it:
        os.kill(it.told[1]["pid"], signal.SIGKILL)
        code, out, err = ends(it)
        assert code == 128 + signal.SIGKILL
        assert err.splitlines() == [
            "launch/local.sh: process 1 was killed by signal 9 (KILL)",
            "launch/local.sh: process 0 had not ended 1 s after that and was killed",
            "launch/local.sh: process 2 had not ended 1 s after that and was killed",
        ]
        assert "saving" not in out
        assert_nobody_is_left(it.everybody())


def test_others_may_end_by_themselves_within_the_grace(stand_in):
    with group({**stand_in, "CODE": "5"}) as it:
        os.kill(it.told[1]["pid"], signal.SIGABRT)
        time.sleep(0.5)
        for index in (0, 2):
            os.kill(it.told[index]["pid"], signal.SIGTERM)
        code, out, err = ends(it)
        assert code == 128 + signal.SIGABRT and out.count("saved") == 2
        assert "process 1 was killed by signal 6 (ABRT)" in err
        assert "process 0 ended with exit code 5" in err and "process 2 ended" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_script_reaches_every_process_once(stand_in, number):
    with group({**stand_in, "CHILD": "1"}) as it:
        it.script.send_signal(number)
        code, out, err = ends(it)
        assert (code, err) == (0, "")
        assert sorted(out.splitlines()) == sorted(
            f"[{index}] {words}"
            for index in range(3)
            for words in ("saving after SIGTERM", "saved")
        )
        assert_nobody_is_left(it.everybody())


def test_a_group_that_is_terminated_does_not_lose_its_last_words(stand_in):
    """As `timeout` and service managers do: the signal goes to the script's whole group."""
    with group(stand_in, start_new_session=True) as it:
        os.killpg(it.script.pid, signal.SIGTERM)
        code, out, err = ends(it)
        assert (code, out.count("saving after SIGTERM"), out.count("saved")) == (0, 3, 3), err


def test_ctrl_c_in_a_terminal_reaches_every_process_once(stand_in):
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0) as terminal:
        options = {"stdin": follower, "stdout": follower, "stderr": follower}
        with group({**stand_in, "CHILD": "1"}, before=TAKE_TERMINAL, **options) as it:
            os.close(follower)
            lines = (line.decode().rstrip("\r\n") + "\n" for line in iter(terminal.readline, b""))
            it.read(Lines(lines), 3)
            os.write(leader, b"\x03")
            assert it.script.wait(120) == 0
            rest = read_to_the_end(terminal)
            assert rest.count("saving after SIGINT") == 3 and rest.count("saved") == 3, rest
            assert_nobody_is_left(it.everybody())


class Lines:
    """An iterator of lines as something with `readline`."""

    def __init__(self, lines):
        self.readline = lambda: next(lines, "")


def read_to_the_end(terminal):
    parts = []
    with contextlib.suppress(OSError):  # Linux ends a closed terminal with EIO.
        while part := terminal.read(65536):
            parts.append(part)
    return b"".join(parts).decode()


def test_a_process_that_hears_no_signal_is_killed_after_anothers_failure(stand_in):
    with group({**stand_in, "DEAF": "0", "GRACE": "1", "CODE": "4"}, count=2) as it:
        it.script.send_signal(signal.SIGTERM)
        code, _, err = ends(it)
        assert code == 4
        assert "process 1 ended with exit code 4" in err
        assert "process 0 had not ended 1 s after that and was killed" in err
        assert_nobody_is_left(it.everybody())


def test_nobody_outlives_a_script_that_was_killed(stand_in, tmp_path):
    folders = {"TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    with group({**stand_in, "CHILD": "1", **folders}) as it:
        it.script.kill()
        assert_nobody_is_left(it.everybody())
        end = time.monotonic() + 60
        while list((tmp_path / "temporary").iterdir()):
            assert time.monotonic() < end, "its folder is still there"
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (["--config=g3diff"], {}, "the first argument is how many processes"),
        (["0", "x"], {}, "the first argument is how many processes, not '0'"),
        (["2"], {}, "the flags of headjax.main are missing"),
        (["2", "x"], {"DEVICES": "many"}, "DEVICES must be a whole number"),
        (["2", "x"], {"GRACE": "0"}, "GRACE must be a whole number"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(arguments, variables, sentence):
    result = call("local.sh", *arguments, **variables)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("launch/local.sh: ") and sentence in result.stderr
