"""Converts hostile files under an audit hook and prints what happened, as JSON.

python -m tests.io.audited SET STEP FOLDER, in a process of its own, because a hook stays for ever.
"""

import contextlib
import io
import itertools
import json
import resource
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headjax.tools import convert
from tests.io import hostile_networks as hostile
from tests.io.official_pickles import ARCHITECTURES, arrays_for, network, network_file

FORBIDDEN = (
    "import", "exec", "compile", "open", "os.", "subprocess.", "pickle.", "ctypes.", "socket.",
    "shutil.", "code.", "marshal.", "tempfile.", "glob.", "pty.", "urllib.", "webbrowser.",
)  # fmt: skip


class Watch:
    """Writes down forbidden events while it is open."""

    def __init__(self):
        self.events: list[str] = []
        self._allowed: tuple[str, ...] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self._allowed is None or not event.startswith(FORBIDDEN):
            return
        if any(place in str(arguments[:1]) for place in self._allowed):
            return
        self.events.append(f"{event} {arguments!r:.200}")

    @contextlib.contextmanager
    def over(self, *allowed: str) -> Iterator[None]:
        """Watches; what concerns the `allowed` paths is no matter."""
        self.events, self._allowed = [], allowed
        try:
            yield
        finally:
            self._allowed = None


def generator_file() -> bytes:
    """A good file with a generator that is smaller than any that runs."""
    architecture = ARCHITECTURES["panohead", "G_ema"] | {"w_dim": 6}
    rendering = architecture["rendering_kwargs"] | {"triplane_size": 16}
    architecture = architecture | {"rendering_kwargs": rendering}
    arrays = arrays_for("panohead", "G_ema", architecture)
    return network_file({"G_ema": network(arrays, architecture)})


def _is_sampled(name: str, step: int) -> bool:
    return step == 1 or "os.system" in name or zlib.crc32(name.encode()) % step == 0


def _corpus(step: int) -> Iterator[tuple[str, bytes, list[str]]]:
    """(name, file, flags)"""
    for name, data in hostile.corpus().items():
        if _is_sampled(name, step) or name.startswith(("view", "blob: 2", "text")):
            yield name, data, [hostile.KIND, "--which=D"]


def _inert(step: int) -> Iterator[tuple[str, bytes, list[str]]]:
    for name, (data, _) in hostile.inert().items():
        yield name, data, [hostile.KIND, "--which=D"]


def _truncated(step: int) -> Iterator[tuple[str, bytes, list[str]]]:
    """At every kilobyte; of the long file every `step`-th."""
    data = hostile.good_file()
    for length in range(0, len(data), 1024):
        yield f"discriminator to {length}", data[:length], [hostile.KIND, "--which=D"]
    data = generator_file()
    for length in [*range(0, len(data), 1024 * step), len(data) - 1]:
        yield f"generator to {length}", data[:length], ["panohead"]


def _flipped(step: int) -> Iterator[tuple[str, bytes, list[str]]]:
    rng = np.random.default_rng(0)
    files = [hostile.good_file(protocol=protocol) for protocol in (2, 3, 4)]
    for trial in range(2000 // step):
        broken = bytearray(files[trial % 3])
        for at in rng.integers(0, len(broken), 1 + trial % 4):
            broken[at] = rng.integers(256)
        yield f"flip {trial}", bytes(broken), [hostile.KIND, "--which=D"]


SETS = {"corpus": _corpus, "inert": _inert, "truncated": _truncated, "flipped": _flipped}


def run(which: str, step: int, folder: Path) -> dict:
    """name → [exit code, what it said, processor's seconds, events, files beside the source]."""
    source, output = folder / "source.pkl", folder / "output.safetensors"
    results, watch = {}, Watch()
    with watch.over():
        compile("1", "proof", "eval")
        source.write_bytes(b"")
    assert len(watch.events) >= 2, "the watch is deaf"
    good = ("good", hostile.good_file(), [hostile.KIND, "--which=D"])
    for number, (name, data, flags) in enumerate(itertools.chain([good], SETS[which](step))):
        source.write_bytes(data)
        said = io.StringIO()
        # What is imported late is imported by the first, good file.
        allowed = (str(source),) if which in ("corpus", "truncated") else (str(folder),)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            start = time.process_time()
            with watch.over(*allowed):
                code = convert.main([flags[0], str(source), str(output), *flags[1:]])
            seconds = time.process_time() - start
        beside = sorted(path.name for path in folder.iterdir() if path != source)
        if number:
            results[name] = [code, said.getvalue(), seconds, watch.events, beside]
        output.unlink(missing_ok=True)
    return results


def main() -> None:
    """Prints the results, the modules that came by and the growth of the memory in bytes."""
    which, step, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if which == "corpus":
        hostile.corpus()
    convert.main(["--help"])
    sys.stdout.flush()
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    results = run(which, step, folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    print("\n" + json.dumps({"results": results, "grown": grown}))


if __name__ == "__main__":
    main()
