"""Collectives of compiled programs: kinds, counts, bytes by the ring formula."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from headjax.train.planning import collectives, hlo

ROOT = Path(__file__).parents[3]
ROWS, COLUMNS = 16, 64
ALL = ROWS * COLUMNS * 4.0  # bytes of the whole array


def programs():
    """Programs for eight devices, each with one collective over all of its array, by name."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    shards = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=PartitionSpec("x"), check_vma=False
    )
    everywhere, along = PartitionSpec(), PartitionSpec("x")
    ring = [(i, (i + 1) % 8) for i in range(8)]

    def repeated(x):
        def step(y, _):
            return jax.lax.psum(y, "x") / 8, None

        return jax.lax.scan(step, x, None, length=6)[0]

    def summed(x):
        return jax.lax.psum(x, "x")

    def swapped(x):
        return jax.lax.all_to_all(x, "x", split_axis=1, concat_axis=1, tiled=True)

    return {
        "all-gather": (jax.jit(lambda x: x, out_shardings=whole), split),
        "all-reduce": (jax.jit(shards(summed, out_specs=everywhere)), split),
        "reduce-scatter": (
            jax.jit(jax.shard_map(lambda x: jax.lax.psum_scatter(x, "x", tiled=True), mesh=mesh,
                                  in_specs=everywhere, out_specs=along, check_vma=False)), whole),
        "all-to-all": (jax.jit(shards(swapped, out_specs=along)), split),
        "collective-permute": (
            jax.jit(shards(lambda x: jax.lax.ppermute(x, "x", ring), out_specs=along)), split),
        "loop": (jax.jit(shards(repeated, out_specs=along)), split),
        "none": (jax.jit(jnp.sin), split),
    }  # fmt: skip


def print_tables():
    """What the subprocess prints: the table of every program."""
    tables = {}
    for name, (function, sharding) in programs().items():
        x = jax.ShapeDtypeStruct((ROWS, COLUMNS), np.float32, sharding=sharding)
        module = hlo.parse(function.lower(x).compile().as_text())
        tables[name] = collectives.by_kind(collectives.collectives(module, devices=8))
    print(json.dumps(tables))


@pytest.fixture(scope="module")
def tables():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    call = "import tests.train.planning.test_collectives as t; t.print_tables()"
    run = subprocess.run(
        [sys.executable, "-c", call], env=os.environ | flags, cwd=ROOT, capture_output=True,
        text=True, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "full", "wire"),
    [
        ("all-gather", ALL, 7 / 8 * ALL),
        ("all-reduce", ALL / 8, 2 * 7 / 8 * ALL / 8),
        ("reduce-scatter", ALL, 7 / 8 * ALL),
        ("all-to-all", ALL / 8, 7 / 8 * ALL / 8),
        ("collective-permute", ALL / 8, ALL / 8),
    ],
)
def test_each_kind_is_counted_by_the_ring_formula(tables, kind, full, wire):
    assert tables[kind] == {kind: {"count": 1, "full_bytes": full, "wire_bytes": wire}}


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs(tables):
    row = tables["loop"]["all-reduce"]
    assert row["count"] == 6
    np.testing.assert_allclose(row["wire_bytes"], 6 * 2 * 7 / 8 * ALL / 8)


def test_a_program_without_collectives_has_none(tables):
    assert tables["none"] == {}


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        ("replica_groups=[2,8]<=[16], dimensions={0}", 8),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x={1}", 2),
        ("replica_groups=mesh['data'=4,'fsdp'=16] {'fsdp'}, dimensions={2}", 16),
        ("replica_groups=mesh['a'=4,'b'=16] {'a','b'}", 64),
        ("replica_groups=mesh['a'=4,'b'=16] {'b':(4)2}", 2),
        ("dimensions={0}", 32),
    ],
)
def test_groups_are_read_in_every_spelling(attributes, size):
    assert collectives.group_size(attributes, devices=32) == size


def module_of(lines, *, computation="main"):
    text = "\n".join(f"  {line}" for line in lines)
    if computation == "main":
        return hlo.parse(f"ENTRY %main (x: f32[8]) -> f32[8] {{\n{text}\n}}\n")
    entry = (
        "ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n"
        f"  ROOT %f = f32[2]{{0}} fusion(%x), kind=kCustom, calls=%{computation}\n}}\n"
    )
    return hlo.parse(f"%{computation} (i: f32[8]) -> f32[2] {{\n{text}\n}}\n{entry}")


def test_the_links_of_an_asynchronous_chain_are_one_collective():
    link = (
        "%g.{n} = f32[32]{{0}} all-gather(%x), channel_id={c}, replica_groups={{{{0,1,2,3}}}}, "
        'frontend_attributes={{chain_id="{c}"}}'
    )
    lines = ["%x = f32[8]{0} parameter(0)"]
    lines += [link.format(n=n, c=c) for n, c in enumerate([1, 1, 1, 2, 2])]
    lines.append("ROOT %r = f32[8]{0} copy(%x)")
    found = collectives.collectives(module_of(lines), devices=4)
    assert [(c.kind, c.full_bytes) for c in found] == [("all-gather", 128.0)] * 2


def test_the_fused_reduce_scatter_of_a_tpu_is_one():
    module = module_of(
        ["%i = f32[8]{0} parameter(0)",
         "%a = f32[8]{0} all-reduce(%i), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add",
         "ROOT %d = f32[2]{0} dynamic-slice(%a), dynamic_slice_sizes={2}"],
        computation="all-reduce-scatter.3",
    )  # fmt: skip
    (found,) = collectives.collectives(module, devices=4)
    assert (found.kind, found.wire_bytes) == ("reduce-scatter", 3 / 4 * 32)


def test_an_exchange_with_itself_is_none():
    lines = [
        "%x = f32[8]{0} parameter(0)",
        "ROOT %a = f32[8]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add",
    ]
    assert collectives.collectives(module_of(lines), devices=2) == []
