"""Where the paper preset's state lives on 8, 32 and 256 devices, against a committed table.

    python -m tests.systems.g3diff.test_layout      writes the table anew
"""

import json
import re
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec

from headjax.systems.g3diff.workloads import workloads
from headjax.train import sharding
from headjax.train.mesh import PRESETS, MeshOptions, abstract_mesh
from tests.systems.g3diff import tiny

GOLDEN = Path(__file__).parents[2] / "data" / "g3diff_layout.json"
DEVICES = (8, 32, 256)


def forms():
    """Each stage's state and its rules."""
    return {
        w.name: (jax.eval_shape(w.init, jax.random.key(0)), w.rules)
        for w in workloads(tiny.load("paper"))
    }


def named_specs(state, rules, mesh):
    """(path, shape, spec) of every leaf; a spec reads as `None, fsdp`, or `whole`."""
    specs = sharding.specs(state, mesh, rules=rules)
    paths = jax.tree_util.tree_leaves_with_path(state)
    leaves = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    for (path, leaf), spec in zip(paths, leaves, strict=True):
        axes = ["+".join(a) if isinstance(a, tuple) else str(a) for a in spec]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        yield name, list(leaf.shape), ", ".join(axes) or "whole"


def table(state, rules, mesh):
    """Specs of the parameters, blocks of a kind as one: `params/up#_block#/conv#/kernel [3, …]`."""
    rows = {}
    for name, sizes, spec in named_specs(state, rules, mesh):
        if name.startswith("params/"):
            kind = f"{re.sub(r'[0-9]+', '#', name)} {sizes}"
            assert rows.setdefault(kind, spec) == spec
    return rows


def tables():
    return {
        stage: {
            f"{preset}:{count}": table(state, rules, abstract_mesh(MeshOptions(preset, 8), count))
            for preset in PRESETS
            for count in DEVICES
        }
        for stage, (state, rules) in forms().items()
    }


@pytest.fixture(scope="module")
def states():
    return forms()


def test_the_papers_state_lies_where_the_table_says():
    golden = json.loads(GOLDEN.read_text())
    for stage, found in tables().items():
        for mesh, rows in found.items():
            assert rows == golden[stage][mesh], f"{stage} on {mesh}"


@pytest.mark.parametrize("preset", PRESETS)
def test_moments_and_averages_lie_beside_their_parameters(states, preset):
    mesh = abstract_mesh(MeshOptions(preset, 8), 32)
    for state, rules in states.values():
        rows = {(name, str(sizes)): spec for name, sizes, spec in named_specs(state, rules, mesh)}
        found = 0
        for (name, sizes), spec in rows.items():
            for group in ("/mu/", "/nu/", "ema/", "/rows/mean/", "/rows/square/"):
                _, _, rest = name.partition(group)
                mates = [s for (n, z), s in rows.items()
                         if rest and z == sizes and n.startswith("params/") and n.endswith(rest)]
                found += len(mates)
                assert all(mate == spec for mate in mates), name
        assert found > 20


@pytest.mark.parametrize("count", DEVICES)
def test_fsdp_shares_out_nearly_everything(states, count):
    """A device keeps the least that fsdp=8 can leave, and at most 1 % of that more."""
    mesh = abstract_mesh(MeshOptions("fsdp", 8), count)
    for state, rules in states.values():
        sizes = dict(mesh.shape)
        whole = part = 0
        for _, shape, spec in named_specs(state, rules, mesh):
            number = divided = 1
            for size in shape:
                number *= size
            for axis in re.findall(r"[a-z]+", spec.replace("None", "").replace("whole", "")):
                divided *= sizes[axis]
            whole, part = whole + number, part + number / divided
        assert part / whole < 1.01 / 8


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(tables(), indent=1, sort_keys=True) + "\n")
