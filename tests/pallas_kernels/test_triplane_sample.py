"""Tri-plane and tri-grid lookup: what it computes in every form, at its edges, and its cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pallas_kernels.triplane_sample import (
    EG3D_AXES,
    PANOHEAD_AXES,
    LookupOptions,
    reference,
    tpu,
    tpu_tile,
    triplane_sample,
)
from pallas_kernels.triplane_sample.naive import triplane_sample_naive
from pallas_kernels.triplane_sample.specs import SPECS, Spec, make_inputs, options_of
from tests.pallas_kernels.conftest import TOPOLOGIES

IMPLEMENTATIONS = ("reference", "tpu_interpret", "gpu_interpret")
# Each small shape with one way of reducing, so that all three meet tri-planes and tri-grids.
SMALL = {
    "tiny": "none",
    "odd": "mean",
    "grid": "sum",
    "wide": "mean",
    "flat": "none",
    "single": "sum",
}
REAL = ("eg3d_coarse", "panohead", "training")
EDGES = Spec(heads=1, points=13, sizes=(4, 4), channels=3)
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def _hats(points, sizes, axes, box):
    """Per axis of a plane (D, H, W): hat functions at its texels, and their right derivatives."""
    for a, size in zip(reversed(axes), sizes, strict=True):
        texel = ((2 * points[a] / box + 1) * size - 1) / 2
        away = np.arange(size) - np.floor(texel)
        slope = (1.0 * (away == 1) - 1.0 * (away == 0)) * size / box
        yield np.maximum(0, 1 - np.abs(texel - np.arange(size))), slope


def _float64(points, planes, probe, options):
    """Features and gradients in float64, point by point, over all texels of each plane."""
    points, planes, probe = (np.float64(a) for a in (points, planes, probe))
    (heads, count), apart = points.shape[:2], options.reduce == "none"
    features = np.zeros((heads, planes.shape[1], count, planes.shape[-1]))
    dpoints, dplanes = np.zeros_like(points), np.zeros_like(planes)
    scale = 1 / planes.shape[1] if options.reduce == "mean" else 1.0
    for b, n, r in np.ndindex(features.shape[:3]):
        axes, plane = options.axes[n], planes[b, n]
        hats = list(_hats(points[b, r], plane.shape[:-1], axes, options.box))
        weights = functools.reduce(np.multiply.outer, [hat for hat, _ in hats])
        gradient = probe[b, n, r] if apart else scale * probe[b, r]
        features[b, n, r] = scale * np.tensordot(weights, plane, axes=plane.ndim - 1)
        dplanes[b, n] += weights[..., None] * gradient
        for i, a in enumerate(reversed(axes)):
            factors = [slope if j == i else hat for j, (hat, slope) in enumerate(hats)]
            slopes = functools.reduce(np.multiply.outer, factors)
            dpoints[b, r, a] += np.tensordot(slopes, plane @ gradient, axes=slopes.ndim)
    return (features if apart else features.sum(axis=1)), (dpoints, dplanes)


def _edge_points():
    """On texel centres, on and beyond the ends of the box, and far away."""
    centres = (np.arange(4) + 0.5) / 4 - 0.5
    ends = [-0.625, -0.5, 0.5, 0.624, 0.626, 3.0, -1e6, 1e30, 0.0]
    x = np.concatenate([centres, ends])
    return jnp.asarray(np.stack([x, np.roll(x, 3), x[::-1]], axis=-1)[None], jnp.float32)


def _probe(points, planes, options, seed=1):
    shape = jax.eval_shape(
        functools.partial(triplane_sample_naive, options=options), points, planes
    ).shape
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnames=("sample", "options"))
def _run(points, planes, probe, *, sample=triplane_sample, options):
    """Features, and the gradients of Σ probe · features."""
    features, pull = jax.vjp(functools.partial(sample, options=options), points, planes)
    return features, pull(probe)


def _assert_gradients_match(got, want):
    for name, a, b in zip(("points", "planes"), got, want, strict=True):
        a, b = np.float64(a).ravel(), np.float64(b).ravel()
        scale = np.linalg.norm(b)
        assert np.linalg.norm(a - b) <= 1e-4 * scale + 1e-12, name
        assert a @ b >= 0.99999 * np.linalg.norm(a) * scale - 1e-12, name


def _assert_conforms(points, planes, options):
    """Features and gradients of one form are those of float64; returns them."""
    probe = _probe(points, planes, options)
    features, gradients = _run(points, planes, probe, options=options)
    assert features.dtype == jnp.float32
    want, dwant = _float64(points, planes, probe, options)
    deviation = np.std(want) or np.abs(want).max()
    np.testing.assert_allclose(features, want, rtol=0, atol=1e-5 * deviation)
    _assert_gradients_match(gradients, dwant)
    return features, gradients


class TestEveryForm:
    @every_form
    @pytest.mark.parametrize("name", SMALL)
    def test_features_and_gradients_are_those_of_float64(self, name, implementation):
        options = options_of(SPECS[name], reduce=SMALL[name], tile=8, implementation=implementation)
        _assert_conforms(*make_inputs(SPECS[name]), options)

    @every_form
    def test_texel_centres_borders_and_far_points(self, implementation):
        """On texel centres the derivative is the right one; beyond the padding there is nothing."""
        planes, options = make_inputs(EDGES)[1], options_of(EDGES, implementation=implementation)
        points = _edge_points()
        features, gradients = _assert_conforms(points, planes, options)
        far = (np.abs(points) > 0.626).sum(axis=-1) >= 2
        np.testing.assert_array_equal(np.asarray(features)[far], 0.0)
        np.testing.assert_array_equal(np.asarray(gradients[0])[far], 0.0)

    @every_form
    def test_points_that_are_no_numbers_disturb_no_other_point(self, implementation):
        planes, options = make_inputs(EDGES)[1], options_of(EDGES, implementation=implementation)
        points, probe = _edge_points(), _probe(*make_inputs(EDGES), options)
        strange = points.at[0, 1:6:2, 1].set(jnp.array([jnp.inf, jnp.nan, -jnp.inf]))
        got, want = (_run(p, planes, probe, options=options)[0] for p in (strange, points))
        np.testing.assert_array_equal(got[:, ::2], want[:, ::2])


class TestReference:
    @pytest.mark.parametrize("name", ("odd", "grid"))
    def test_agrees_with_the_naive_program(self, name):
        spec = dataclasses.replace(SPECS[name], heads=1, points=130)
        inputs, options = make_inputs(spec), options_of(spec, tile=50)
        probe = _probe(*inputs, options)
        got = _run(*inputs, probe, options=options)
        want = _run(*inputs, probe, sample=triplane_sample_naive, options=options)
        np.testing.assert_allclose(got[0], want[0], atol=1e-5)
        _assert_gradients_match(got[1], want[1])

    def test_a_full_sized_plane_loses_no_digit(self):
        spec = Spec(heads=1, points=40, sizes=(256, 256), channels=2)
        _assert_conforms(*make_inputs(spec, reach=0.5), options_of(spec))

    @pytest.mark.parametrize("count", (2, 49, 51))
    def test_the_tile_changes_nothing(self, count):
        spec = dataclasses.replace(SPECS["grid"], points=count)
        points, planes = make_inputs(spec)
        whole, parts = (
            triplane_sample(points, planes, options=options_of(spec, tile=tile))
            for tile in (1000, 25)
        )
        np.testing.assert_allclose(parts, whole, atol=1e-6)

    @pytest.mark.parametrize("count,tile", ((196_608, 1600), (65_536, 1040), (997, 100), (5, 9)))
    def test_tiles_are_alike_and_nearly_full(self, count, tile):
        size = reference.tile_size(count, tile)
        assert 0 < size <= tile
        assert -(-count // size) * size - count < count / 8

    @pytest.mark.parametrize("axes", (EG3D_AXES, PANOHEAD_AXES), ids=("planes", "grids"))
    def test_agrees_with_torch(self, axes):
        torch = pytest.importorskip("torch", reason="torch comes with the extra 'parity'")
        spec = Spec(heads=2, points=60, sizes=(3, 6, 7)[-len(axes[0]) :], channels=4, axes=axes)
        points, planes = make_inputs(spec)
        options = options_of(spec, reduce="none")
        probe = _probe(points, planes, options)
        features, gradients = _run(points, planes, probe, options=options)
        x = torch.tensor(np.asarray(points), requires_grad=True)
        images = torch.tensor(np.asarray(planes), requires_grad=True)
        rank, looked_up = len(axes[0]), []
        for n, axis in enumerate(axes):
            grid = (2 / spec.box * x[..., list(axis)]).reshape(2, *[1] * (rank - 1), -1, rank)
            image = images[:, n].movedim(-1, 1)
            found = torch.nn.functional.grid_sample(image, grid, align_corners=False)
            looked_up.append(found.reshape(2, spec.channels, -1).transpose(1, 2))
        stacked = torch.stack(looked_up, dim=1)
        stacked.backward(torch.tensor(np.asarray(probe)))
        np.testing.assert_allclose(features, stacked.detach().numpy(), atol=2e-6)
        _assert_gradients_match(gradients, (x.grad.numpy(), images.grad.numpy()))


class TestTransformations:
    def test_vmap_is_a_loop(self):
        spec, options = SPECS["tiny"], options_of(SPECS["tiny"], tile=8)
        sets = [make_inputs(spec, seed=s) for s in range(2)]
        probe = _probe(*sets[0], options)
        run = functools.partial(_run, probe=probe, options=options)
        together = jax.vmap(run)(*(jnp.stack(a) for a in zip(*sets, strict=True)))
        for i, inputs in enumerate(sets):
            jax.tree.map(
                lambda got, want, i=i: np.testing.assert_allclose(got[i], want, atol=1e-5),
                together,
                run(*inputs),
            )

    # Heads apart with their points; or points apart, planes on every device.
    @pytest.mark.parametrize("planes_on", (("x",), ()), ids=("heads", "points"))
    def test_shards_agree_with_the_whole(self, planes_on):
        """On as many devices as there are; the choice of the form falls inside the shards."""
        spec = dataclasses.replace(SPECS["tiny"], points=12)
        inputs, options = make_inputs(spec), options_of(spec, tile=8)
        probe = _probe(*inputs, options)
        rows, theirs = PartitionSpec(*(planes_on or (None, "x"))), PartitionSpec(*planes_on)

        def sharded(mesh):
            return jax.jit(
                jax.shard_map(
                    functools.partial(_run, options=options),
                    mesh=mesh,
                    in_specs=(rows, theirs, rows),
                    out_specs=(rows, (rows, theirs)),
                )
            )

        auto = (jax.sharding.AxisType.Auto,)
        pair = jax.sharding.AbstractMesh((2,), ("x",), axis_types=auto)
        lowered = sharded(pair).trace(*inputs, probe).lower(lowering_platforms=("tpu",))
        assert lowered.as_text().count("tpu_custom_call") >= 2
        devices = jax.make_mesh((min(2, jax.device_count()),), ("x",), axis_types=auto)
        got, want = sharded(devices)(*inputs, probe), _run(*inputs, probe, options=options)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)

    def test_bfloat16_comes_back_as_gradient_and_repeats_to_the_bit(self):
        points, planes = make_inputs(SPECS["odd"])
        inputs = points, planes.astype(jnp.bfloat16)
        options = options_of(SPECS["odd"], tile=8)
        first, again = (_run(*inputs, _probe(*inputs, options), options=options) for _ in range(2))
        assert first[0].dtype == jnp.float32
        assert first[1][1].dtype == jnp.bfloat16
        jax.tree.map(np.testing.assert_array_equal, first, again)


def _temporaries(spec, **changes):
    options = options_of(spec, tile=1024, **changes)
    points, planes = (
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((spec.heads, spec.points, 3), spec.planes)
    )
    probe = jax.ShapeDtypeStruct((spec.heads, spec.points, spec.channels), jnp.float32)
    compiled = _run.lower(points, planes, probe, options=options).compile()
    return compiled.memory_analysis().temp_size_in_bytes


class TestMemory:
    def test_temporaries_are_a_tile_and_a_few_numbers_a_point(self):
        spec = Spec(heads=1, points=16_384, sizes=(32, 32))
        small, large = (_temporaries(dataclasses.replace(spec, points=n)) for n in (16_384, 65_536))
        # Points and their gradients; not three planes' corners (1.5 KB).
        assert (large - small) / (65_536 - 16_384) < 60
        assert small < 16_384 * 60 + 4 * 1024 * 32 * 4 * 3 * 4

    def test_planes_are_not_copied(self):
        spec = Spec(heads=1, points=2048, sizes=(32, 32))
        small, large = (_temporaries(dataclasses.replace(spec, sizes=(n, n))) for n in (32, 256))
        assert large - small < 4 * 3 * 32 * 32**2


class TestOnTPU:
    def test_planes_are_served_one_by_one_where_they_do_not_all_fit(self, monkeypatch):
        points, planes = make_inputs(SPECS["tiny"])
        inputs, options = (points.swapaxes(1, 2), planes), options_of(SPECS["tiny"])
        want = tpu.forward(*inputs, options=options, interpret=True)
        one, two = (
            tpu._vmem(tpu._layout(*inputs, options, held), gradient=False, apart=False)
            for held in (1, 2)
        )
        monkeypatch.setattr(tpu, "VMEM", (one + two) // 2 + tpu._SPARE)
        assert tpu._held(*inputs, options, gradient=False) == 1
        got = tpu.forward(*inputs, options=options, interpret=True)
        np.testing.assert_allclose(got, want, atol=1e-6)

    def test_tiles_follow_one_another(self, monkeypatch):
        """Two short tiles, the last nearly empty: the planes' gradient is carried along."""
        monkeypatch.setattr(tpu, "SUBLANES", 1)
        for module in (tpu, tpu_tile):
            monkeypatch.setattr(module, "TILE", tpu.LANES)
        spec = Spec(heads=1, points=tpu.TILE + 3, sizes=(2, 3), channels=2, axes=((0, 1),))
        _assert_conforms(*make_inputs(spec), options_of(spec, implementation="tpu_interpret"))

    def test_what_it_cannot_serve_is_told(self):
        spec = dataclasses.replace(SPECS["tiny"], channels=129)
        points, planes = make_inputs(spec)
        with pytest.raises(ValueError, match="because there are 129 channels, it serves up to 128"):
            triplane_sample(points, planes, options=options_of(spec, implementation="tpu"))
        big = Spec(heads=1, points=8, sizes=(1024, 1024))
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, big.points, 3), big.planes)]
        call = functools.partial(triplane_sample, options=options_of(big, implementation="tpu"))
        with pytest.raises(ValueError, match="one plane takes .* MiB of VMEM"):
            jax.eval_shape(call, *shapes)

    @pytest.mark.tpu_backend
    @pytest.mark.parametrize("topology", TOPOLOGIES)
    @pytest.mark.parametrize("name", (*REAL, "odd", "grid"))
    def test_compiles_for_it(self, name, topology, tpu_sharding):
        compiled = _traced(SPECS[name], tpu_sharding(topology)).lower().compile()
        assert compiled.as_text().count("tpu_custom_call") >= 2


class TestLowering:
    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize(
        "platform,call", (("tpu", "tpu_custom_call"), ("cuda", "__gpu$xla.gpu.triton"))
    )
    def test_an_accelerator_gets_its_kernels(self, platform, call, name):
        text = _traced(SPECS[name], None).lower(lowering_platforms=(platform,)).as_text()
        assert text.count(call) >= 2

    def test_a_cpu_gets_none(self):
        assert "custom_call" not in _traced(SPECS["tiny"], None).lower().as_text()


def _traced(spec, sharding):
    """Forward and gradients, traced for arrays of the spec's shapes."""
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=sharding)
    points, planes = shape((spec.heads, spec.points, 3)), shape(spec.planes)
    probe = shape((spec.heads, spec.points, spec.channels))
    return _run.trace(points, planes, probe, options=options_of(spec))


class TestErrors:
    def test_what_does_not_belong_together_is_named(self):
        points, planes = jnp.zeros((1, 5, 3)), jnp.zeros((1, 3, 4, 4, 2))
        options = LookupOptions(EG3D_AXES)
        for wrong, match in (
            ((points[..., :2], planes), r"expected \[batch, points, 3\]"),
            ((points, planes[:, :2]), "there are 2 planes, but axes for 3"),
            ((points, planes[:, :, None]), "axes with 2 coordinates"),
            ((jnp.zeros((2, 5, 3)), planes), "batch 2 and planes 1"),
            ((points, planes[:, :, :0]), "every size must be at least 1"),
        ):
            with pytest.raises(ValueError, match=match):
                triplane_sample.__wrapped__(*wrong, options=options)

    @pytest.mark.parametrize(
        "wrong",
        (
            {"axes": ()},
            {"axes": ((0, 1), (0, 1, 2))},
            {"axes": ((0, 3),)},
            {"axes": ((0,),)},
            {"box": 0.0},
            {"tile": 0},
            {"reduce": "max"},
            {"implementation": "torch"},
        ),
        ids=str,
    )
    def test_impossible_options_are_refused(self, wrong):
        with pytest.raises(Exception, match="must|unknown|Type-check error"):
            LookupOptions(**({"axes": EG3D_AXES} | wrong))
