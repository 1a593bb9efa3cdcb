"""Nothing in the shipped packages can run code that came as data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The restricted reader subclasses pickle.Unpickler; nobody else may touch the module.
PICKLE_READERS = {"headjax/io/safe_pickle.py"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    "pickle": {"load", "loads", "Unpickler", "_Unpickler"},
    "torch": {"load"},
    "yaml": {"load", "unsafe_load", "full_load"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "os": {"system", "popen"},
}
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "torch",
}


def _sources() -> list[Path]:
    folders = ("headjax", "pallas_kernels", "launch")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def offences(source: str, *, may_subclass: bool) -> list[str]:
    """Forbidden calls and imports in a source text, as "line: what"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = _offence(node, may_subclass)
        if what:
            found.append(f"{node.lineno}: {what}")
    return found


def _offence(node: ast.AST, may_subclass: bool) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        roots = {module.split(".")[0] for module in modules} & FORBIDDEN_MODULES
        if roots - ({"pickle"} if may_subclass and isinstance(node, ast.Import) else set()):
            return f"import of {sorted(roots)}"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        allowed = may_subclass and node.attr == "Unpickler"
        if node.attr in FORBIDDEN_ATTRIBUTES.get(node.value.id, ()) and not allowed:
            return f"{node.value.id}.{node.attr}"
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            return f"{node.func.id}()"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg == "allow_pickle" and value is not False:
                return "allow_pickle"
    return ""


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_reads_code_as_data(path):
    may_subclass = str(path.relative_to(ROOT)) in PICKLE_READERS
    assert offences(path.read_text(), may_subclass=may_subclass) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "pickle.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "eval(text)",
        "exec(text)",
        "yaml.load(f)",
        "torch.load(f)",
        "import torch.nn as nn",
        "os.system(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert offences(line, may_subclass=False)


def test_the_restricted_reader_may_subclass_and_no_more():
    assert not offences("import pickle\nclass A(pickle.Unpickler): ...", may_subclass=True)
    assert offences("import pickle\npickle.loads(data)", may_subclass=True)
