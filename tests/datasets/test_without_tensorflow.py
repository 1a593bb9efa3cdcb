"""TensorFlow is never imported, even where it is installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A TensorFlow that can be found, but not imported.
SCRIPT = """
import importlib.abc, importlib.machinery, sys

class Broken(importlib.abc.Loader):
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError("TensorFlow was imported")

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, Broken())

sys.meta_path.insert(0, Finder())
from headjax.data import batches, load_split, prepare, sources
from tests.datasets.conftest import SMALL
from tests.datasets.stand_in import StandInSource

sources._source = lambda kind, folder: StandInSource()
prepare(SMALL, sys.argv[1], workers=1)
batch = next(batches(load_split(sys.argv[1], "train"), batch_size=4, seed=0))
assert batch["image"].shape == (4, 16, 16, 3)
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""


def test_data_is_prepared_and_read_without_tensorflow(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "set")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
