"""K-nearest Gaussian blending: every form of it computes the same, and is what gets compiled."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from pallas_kernels import dispatch
from pallas_kernels.knn_blend import knn_blend, tpu
from pallas_kernels.knn_blend.specs import SPECS, Spec, make_inputs, options_of
from tests.pallas_kernels import knn_checks as checks
from tests.pallas_kernels.conftest import TOPOLOGIES

FORMS = ("reference", "tpu_interpret", "gpu_interpret")
# The interpreter checks each access against all before it: its time grows with their square.
_POINTS = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """A shape, options, and a change of the random inputs."""

    spec: Spec
    options: dict = dataclasses.field(default_factory=dict)
    change: object = staticmethod(lambda points, table, atlas: (points, table, atlas))
    exact: bool = False


def _on_a_lattice(points, table, atlas):
    """Exact distances, most of them shared; the last Gaussians sit where the first ones do."""
    places = np.stack(np.meshgrid(*[np.arange(3) / 8] * 3), -1).reshape(-1, 3)
    centers = np.random.default_rng(0).permutation(places)[:18]
    centers = np.concatenate([centers, centers[:7]])[None]
    points = np.random.default_rng(1).integers(0, 6, points.shape) / 16
    eye = jnp.broadcast_to(jnp.eye(3), table.rotations.shape)
    table = dataclasses.replace(
        table,
        centers=jnp.float32(centers),
        rotations=eye,
        radii=jnp.full_like(table.radii, 0.125),
        valid=jnp.ones_like(table.valid),
    )
    return jnp.float32(points), table, atlas


def _hardly_valid(points, table, atlas):
    valid = jnp.zeros_like(table.valid).at[:, jnp.array([3, 11])].set(True)
    return points, dataclasses.replace(table, valid=valid), atlas


def _thin(points, table, atlas):
    """Radii of nothing, points as near, at and far from the centres; the last one alone far out."""
    near = table.centers[:, : points.shape[1]]
    near = near + 1e-4 * points[:, : near.shape[1]] * jnp.arange(near.shape[1])[:, None]
    points = points.at[:, : near.shape[1]].set(near).at[:, -1].set(1e4)
    return points, dataclasses.replace(table, radii=1e-3 * table.radii), atlas


def _small(name, **changes):
    spec = SPECS[name]
    return dataclasses.replace(spec, points=min(spec.points, _POINTS), **changes)


_PLAIN = Spec(heads=1, points=_POINTS, grid=4, patch=2, channels=3)
CASES = {
    "tiny": Case(_small("tiny")),
    "odd": Case(_small("odd")),
    "few": Case(_small("few")),
    "texel": Case(_small("texel")),
    "single": Case(_small("single")),
    "rbf, two valid of five": Case(
        dataclasses.replace(_PLAIN, neighbors=5), {"metric": "rbf"}, _hardly_valid
    ),
    "raw, six, thin": Case(
        dataclasses.replace(_PLAIN, neighbors=6, patch=4, channels=1), {"blend": "raw"}, _thin
    ),
    "rbf, seven on a lattice": Case(
        dataclasses.replace(_PLAIN, grid=5, patch=1, neighbors=7),
        {"metric": "rbf"},
        _on_a_lattice,
        exact=True,
    ),
    "eight on a lattice": Case(
        dataclasses.replace(_PLAIN, grid=5, patch=1, neighbors=8), {}, _on_a_lattice, exact=True
    ),
}


def _assert_conforms(case, form):
    """Neighbours, values and gradients, as the kernels' bar has them."""
    inputs = case.change(*make_inputs(case.spec))
    options = options_of(case.spec, implementation=form, tile=100, **case.options)
    cotangents = checks.probes(case.spec)
    (features, total, ids), gradients = checks.run(inputs, cotangents, options=options)
    checks.assert_nearest(inputs, ids, options, exact=case.exact)
    values, want = checks.float64(inputs, cotangents, ids, options)
    checks.assert_values_match(features, values[0])
    checks.assert_values_match(total, values[1])
    checks.assert_gradients_match(gradients, want)


class TestEveryForm:
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("form", FORMS)
    def test_conforms(self, form, name, capsys):
        _assert_conforms(CASES[name], form)
        assert "RACE" not in capsys.readouterr().out

    @pytest.mark.parametrize("form", FORMS)
    def test_points_that_are_no_numbers_disturb_no_other_point(self, form):
        spec = dataclasses.replace(_PLAIN, points=6, neighbors=2)
        points, table, atlas = make_inputs(spec)
        options = options_of(spec, implementation=form)
        bad = points.at[0, jnp.arange(1, 5), 0].set(jnp.array([jnp.nan, jnp.inf, 3e38, -1e18]))
        got = jax.jit(functools.partial(knn_blend, options=options))(bad, table, atlas=atlas)
        want = jax.jit(functools.partial(knn_blend, options=options))(points, table, atlas=atlas)
        assert ((got[2] >= 0) & (got[2] < spec.gaussians)).all()
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a[:, [0, 5]], b[:, [0, 5]])


def _divided(options, mesh, by):
    """`knn_blend` over the devices of `mesh`: heads apart, or points apart and heads everywhere."""
    own = PartitionSpec("x") if by == "heads" else PartitionSpec(None, "x")
    theirs = PartitionSpec("x") if by == "heads" else PartitionSpec()

    def call(floats, valid):
        points, table, atlas = checks.joined(floats, valid)
        return knn_blend(points, table, atlas=atlas, options=options)

    def divided(points, table, *, atlas, options):
        floats, valid = checks.split((points, table, atlas))
        of_floats = {name: own if name == "points" else theirs for name in floats}
        specs = {"mesh": mesh, "in_specs": (of_floats, theirs), "out_specs": own}
        return jax.shard_map(call, **specs)(floats, valid)

    return divided


def assert_shards_agree(*, devices, form):
    """Values and gradients of a divided call are those of the whole."""
    spec = dataclasses.replace(SPECS["tiny"], points=6)
    inputs, cotangents = make_inputs(spec), checks.probes(spec)
    mesh = jax.make_mesh((devices,), ("x",), axis_types=(AxisType.Auto,))
    want = checks.run(inputs, cotangents, options=options_of(spec))
    for by in ("heads", "points"):
        blend = _divided(options_of(spec, implementation=form), mesh, by)
        got = checks.run(inputs, cotangents, blend=blend, options=options_of(spec))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


class TestOnSeveralDevices:
    def test_shards_agree_with_the_whole(self):
        module = "tests.pallas_kernels.test_knn_blend_kernels"
        call = f"import {module} as m; m.assert_shards_agree(devices=2, form='reference')"
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
        subprocess.run(
            [sys.executable, "-c", call],
            check=True,
            env=os.environ | flags,
            cwd=Path(__file__).parents[2],
            timeout=120,
        )

    # On two devices its simulated barrier waits for ever where the machine has two cores.
    def test_the_interpreted_kernel_runs_inside_shard_map(self):
        assert_shards_agree(devices=1, form="tpu_interpret")

    @pytest.mark.parametrize("by", ("heads", "points"))
    def test_lowering_inside_shard_map_picks_the_kernels(self, by):
        mesh = jax.sharding.AbstractMesh((2,), ("x",), axis_types=(AxisType.Auto,))
        blend = _divided(options_of(SPECS["tiny"]), mesh, by)
        assert _lowered(SPECS["tiny"], blend=blend).count("tpu_custom_call") == 2


def _lowered(spec, *, blend=knn_blend, **changes):
    traced = checks.traced(spec, blend=blend, options=options_of(spec, **changes))
    return traced.lower(lowering_platforms=("tpu",)).as_text()


class TestOnTPU:
    def test_tiles_follow_one_another(self, monkeypatch):
        # Without the search for races (other tests have two steps of the grid): it compares each
        # access with all before it.
        monkeypatch.setattr(
            dispatch, "tpu_interpreter", lambda: pltpu.InterpretParams(uninitialized_memory="nan")
        )
        spec = Spec(heads=1, points=tpu.TILE + 2, grid=2, patch=1, channels=1, neighbors=1)
        _assert_conforms(Case(spec), "tpu_interpret")

    @pytest.mark.parametrize("name", SPECS)
    def test_lowering_picks_the_kernels(self, name):
        assert _lowered(SPECS[name]).count("tpu_custom_call") == 2

    @pytest.mark.parametrize(
        "spec,reason",
        (
            (dataclasses.replace(SPECS["paper"], neighbors=9), "neighbors=9, it serves up to 8"),
            (dataclasses.replace(SPECS["paper"], channels=129), "129 channels"),
            (dataclasses.replace(SPECS["paper"], grid=128), "MiB of VMEM"),
        ),
        ids=("neighbours", "channels", "memory"),
    )
    def test_what_it_cannot_serve_is_told(self, spec, reason):
        with pytest.raises(ValueError, match=reason):
            checks.traced(spec, options=options_of(spec, implementation="tpu"))
        assert "tpu_custom_call" not in _lowered(spec)

    @pytest.mark.tpu_backend
    @pytest.mark.parametrize("topology", TOPOLOGIES)
    @pytest.mark.parametrize("name", ("paper", "query", "demo"))
    def test_compiles_and_keeps_nothing_of_a_point_but_its_numbers(
        self, name, topology, tpu_sharding
    ):
        spec = SPECS[name]
        traced = checks.traced(spec, tpu_sharding(topology), options=options_of(spec))
        compiled = traced.lower().compile()
        assert compiled.as_text().count("tpu_custom_call") == 2
        held = compiled.memory_analysis().temp_size_in_bytes
        tables = 4 * spec.heads * spec.gaussians * 3 * spec.patch**2 * spec.channels
        # Far from N numbers a point (4 KB), and from K patches (18 KB).
        assert held < 8 * tables + 400 * spec.heads * spec.points
