"""Groups of processes over loopback, as tests start them: one CPU backend each, one runtime.

A script that joins the group by `join_group` sees the devices of all its processes.
"""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Finished:
    """How one process of a group ended."""

    index: int
    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return (
            f"process {self.index} ended with {self.returncode}\n"
            f"{self.stdout[-4000:]}\n{self.stderr[-8000:]}"
        )


class Group:
    """Processes that are running; `processes[i]` is process i's `Popen`."""

    def __init__(self, processes: list[subprocess.Popen], folder: Path):
        self.processes = processes
        self._folder = folder

    def output(self, index: int) -> tuple[str, str]:
        """What process `index` has written so far: standard output, standard error."""
        read = [self._folder / f"{index}.{name}" for name in ("out", "err")]
        return tuple(path.read_text(encoding="utf-8", errors="replace") for path in read)

    def finish(self, timeout: float) -> list[Finished]:
        """Waits for all of them, `timeout` seconds in all; those that are late are killed.

        Raises:
            AssertionError: some were late; it shows what each has written.
        """
        deadline = time.monotonic() + timeout
        late = []
        for index, process in enumerate(self.processes):
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                late.append(index)
        self.kill()
        ends = [
            Finished(index, process.returncode, *self.output(index))
            for index, process in enumerate(self.processes)
        ]
        if late:
            listing = "\n".join(map(str, ends))
            raise AssertionError(f"after {timeout} s processes {late} still ran:\n{listing}")
        return ends

    def kill(self) -> None:
        """Ends those that still run, at once."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()


@contextlib.contextmanager
def starting(
    script_or_args: str | Sequence[str],
    *,
    count: int,
    devices_each: int = 1,
    env: Mapping[str, str] | None = None,
) -> Iterator[Group]:
    """Starts `count` Python processes, and kills whatever still runs when the block ends.

    Args:
        script_or_args: a program's text, or the interpreter's arguments.
        count: how many processes.
        devices_each: simulated devices of each.
        env: what else their environment holds; it wins over what is set here.
    """
    arguments = ["-c", script_or_args] if isinstance(script_or_args, str) else [*script_or_args]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    shared = {
        "HEADJAX_COORDINATOR": f"127.0.0.1:{free_port()}",
        "HEADJAX_PROCESSES": str(count),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}",
        "PYTHONPATH": path,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        group = Group([], Path(folder))
        try:
            for index in range(count):
                out, err = (
                    files.enter_context(open(Path(folder) / f"{index}.{name}", "wb"))
                    for name in ("out", "err")
                )
                own = os.environ | shared | {"HEADJAX_PROCESS": str(index)} | dict(env or {})
                group.processes.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        env=own, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    )
                )  # fmt: skip
            yield group
        finally:
            group.kill()


def run_processes(
    script_or_args: str | Sequence[str],
    *,
    count: int,
    devices_each: int = 1,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> list[Finished]:
    """Runs `count` processes to their ends; `starting` describes the arguments.

    Raises:
        AssertionError: some were still running after `timeout` seconds.
    """
    with starting(script_or_args, count=count, devices_each=devices_each, env=env) as group:
        return group.finish(timeout)


def assert_all_succeed(ends: Sequence[Finished]) -> None:
    """Every process ended with 0; otherwise all that they have written is shown."""
    assert not any(end.returncode for end in ends), "\n".join(map(str, ends))


def join_group() -> None:
    """Called inside a process of the group, before JAX looks for devices."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        os.environ["HEADJAX_COORDINATOR"],
        int(os.environ["HEADJAX_PROCESSES"]),
        int(os.environ["HEADJAX_PROCESS"]),
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
