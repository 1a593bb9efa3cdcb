"""The house's rules, read from the code: floors, sizes, what is installed, what is needed."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("headjax", "pallas_kernels")
FLOORS = {
    "main": 7, "tools": 7,
    "systems": 6,
    "train": 5, "metrics": 5,
    "nets": 4, "data": 4, "diffusion": 4,
    "head": 3, "render": 3,
    "io": 2, "geometry": 2,
    "pallas_kernels": 1,
}  # fmt: skip
# Heads are rendered by `render`; mesh files hold `geometry`'s meshes.
SAME_FLOOR = {("head", "render"), ("io", "geometry")}
MAX_FILE, MAX_FUNCTION = 500, 80
# By name, with a reason each: what may be longer.
LONG_FUNCTIONS = dict.fromkeys(
    ("configs/g3diff.py::demo", "configs/eg3d.py::demo", "configs/panohead.py::demo"),
    "a table of values, with a comment each",
)


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(module):
    """The room that a dotted module stands in; None for what is not of the house."""
    parts = module.split(".")
    if parts[0] == "pallas_kernels":
        return "pallas_kernels"
    return parts[1] if parts[0] == "headjax" and len(parts) > 1 else None


def dotted(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path):
    """Every module that the file may import, `from a import b` as both `a` and `a.b`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = dotted(path).split(".")
            if path.name != "__init__.py":
                package = package[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source != "headjax":
                yield source
            yield from (f"{source}.{alias.name}" for alias in node.names if source == "headjax")


def may_import(room, other):
    if other in ("errors", room):
        return other == room or room != "pallas_kernels"
    if other not in FLOORS:
        return False
    return FLOORS[other] < FLOORS[room] or (room, other) in SAME_FLOOR


def test_imports_go_down_the_floors_only():
    wrong = []
    for path in sources(*PACKAGES):
        room = room_of(dotted(path))
        if room in (None, "errors"):  # the package's front door opens on every floor
            continue
        assert room in FLOORS, f"{path}: give {room} a floor in this test and in DESIGN"
        for module in imported_modules(path):
            other = room_of(module)
            if other and not other.startswith("__") and not may_import(room, other):
                wrong.append(f"{dotted(path)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_floor_of_systems_no_system_imports_another():
    wrong = []
    for path in sources("headjax/systems"):
        parts = dotted(path).split(".")
        if len(parts) < 3:
            continue
        for module in imported_modules(path):
            other = module.split(".")
            if other[:2] == ["headjax", "systems"] and len(other) > 2 and other[2] != parts[2]:
                wrong.append(f"{dotted(path)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_keep_to_their_budgets():
    wrong = []
    for path in sources(*PACKAGES, "configs", "benchmarks", "colab"):
        name = path.relative_to(ROOT)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE:
            wrong.append(f"{name} has {lines} lines")
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION and f"{name}::{node.name}" not in LONG_FUNCTIONS:
                wrong.append(f"{name}::{node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_the_packages_is_a_package():
    folders = {path.parent for path in sources(*PACKAGES)}
    assert not [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()]


def run_python(code, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_no_module_needs_tensorflow_or_torch():
    code = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import headjax, pallas_kernels
for package in (headjax, pallas_kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from headjax.main import main
sys.exit(main(["--help"]))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "--workdir" in result.stdout


def test_importing_the_package_starts_no_backend():
    code = """
import headjax.main, headjax.train.loop, headjax.train.checkpoint
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that the clone stays as it is."""
    pytest.importorskip("setuptools", minversion="70.1", reason="building a wheel needs setuptools")
    clone = tmp_path_factory.mktemp("clone")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=skip)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, clone)
    for folder in ("tests", "launch"):
        (clone / folder).mkdir()
        (clone / folder / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('out')"],
        cwd=clone, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (file,) = (clone / "out").glob("*.whl")
    return file


def test_the_wheel_installs_the_two_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert "headjax/_configs/g3diff.py" in names
    assert [name for name in names if name.endswith("/licenses/LICENSE")]
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT / "headjax/assets").rglob("*.*")}
    assert assets <= set(names)


def test_an_installed_package_finds_its_configs(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = """
import sys
import headjax
from headjax.train import config
assert headjax.__file__.startswith(sys.argv[1]), headjax.__file__
print(config.load("g3diff:smoke").values.system)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "g3diff"


def paper_map_rows():
    """The rows of every table of docs/paper_map.md, as dicts from column title to cell."""
    rows, titles = [], None
    for line in (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            titles = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if titles is None:
            titles = [cell.lower() for cell in cells]
        elif not all(set(cell) <= set("-: ") for cell in cells):
            rows.append(dict(zip(titles, cells, strict=True)))
    return rows


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def has_test(name):
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    functions = (n for n in ast.walk(tree_of(ROOT / path)) if isinstance(n, ast.FunctionDef))
    return not function or function in {f.name for f in functions}


def test_the_paper_map_names_functions_and_tests_that_exist():
    rows = paper_map_rows()
    assert rows, "docs/paper_map.md has no table"
    wrong = []
    for row in rows:
        assert {"function", "test"} <= set(row), f"columns `function` and `test` are missing: {row}"
        functions, tests = (re.findall(r"`([^`]+)`", row[title]) for title in ("function", "test"))
        if not functions or not tests:
            wrong.append(f"no name in {row}")
        wrong += [f"no function {name}" for name in functions if not resolves(name)]
        wrong += [f"no test {name}" for name in tests if not has_test(name)]
    assert not wrong, "\n".join(wrong)
