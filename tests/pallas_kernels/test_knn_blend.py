"""K-nearest Gaussian blending: what it computes, at its edges, and what it may cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.knn_blend import BlendOptions, knn_blend
from pallas_kernels.knn_blend.naive import knn_blend_naive, patches_of
from pallas_kernels.knn_blend.specs import SPECS, Spec, make_inputs, options_of
from pallas_kernels.knn_blend.types import EPSILON, PLANE_AXES
from tests.pallas_kernels import knn_checks as checks

SMALL = ("tiny", "odd", "few", "texel", "single")
VARIANTS = ({"metric": "rbf"}, {"radii": "variance"}, {"blend": "raw"}, {"extent": 3.5})
SPEC = Spec(heads=1, points=210, grid=6, patch=4, channels=3)


def _float64_point(table, payload, point, ids, options):
    """One point's features and Σ g in float64 loops, texel by texel."""
    features, total = np.zeros(payload.shape[-1]), 0.0
    for i in ids:
        radii = np.abs(table["radii"][i])
        std = np.maximum(np.sqrt(radii) if options.radii == "variance" else radii, options.min_std)
        local = table["rotations"][i].T @ (point - table["centers"][i]) / std
        g = float(np.exp(-0.5 * local @ local) * table["valid"][i])
        total += g
        place = (local / options.extent + 1.0) * options.patch / 2.0 - 0.5
        place = np.clip(place, 0.0, options.patch - 1.0)
        for plane, (column, row) in enumerate(PLANE_AXES):
            for y in range(options.patch):
                for x in range(options.patch):
                    hat = max(0.0, 1 - abs(place[column] - x)) * max(0.0, 1 - abs(place[row] - y))
                    features += g * hat * payload[i, y, x, plane] / len(PLANE_AXES)
    return features / (total + EPSILON if options.blend == "normalized" else 1.0), total


def _outputs(inputs, spec, **changes):
    """What `knn_blend` gives; compiled with its gradients, which most tests want anyway."""
    options = options_of(spec, tile=100, **changes)
    return jax.tree.map(np.asarray, checks.run(inputs, checks.probes(spec), options=options)[0])


class TestAgreesWithTheFormulas:
    @pytest.mark.parametrize("variant", ({}, *VARIANTS), ids=str)
    def test_features_and_gradients_are_those_of_float64(self, variant):
        inputs, probes, options = make_inputs(SPEC), checks.probes(SPEC), options_of(SPEC, tile=100)
        options = dataclasses.replace(options, **variant)
        (features, total, ids), gradients = checks.run(inputs, probes, options=options)
        table = {name: np.float64(value[0]) for name, value in vars(inputs[1]).items()}
        payload = np.float64(patches_of(inputs[2][0], patch=SPEC.patch))
        for r in range(0, SPEC.points, 7):
            point = np.float64(inputs[0][0, r])
            want = _float64_point(table, payload, point, np.asarray(ids[0, r]), options)
            np.testing.assert_allclose(total[0, r], want[1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(features[0, r], want[0], atol=1e-5)
        checks.assert_gradients_match(
            gradients, checks.float64(inputs, probes, ids, options)[1]
        )

    @pytest.mark.parametrize("name", SMALL)
    def test_every_small_shape_agrees_with_the_naive_program(self, name):
        spec, inputs = SPECS[name], make_inputs(SPECS[name])
        options, probes = options_of(spec, tile=100), checks.probes(spec)
        got, gradients = checks.run(inputs, probes, options=options)
        want, expected = checks.run(inputs, probes, blend=knn_blend_naive, options=options)
        np.testing.assert_array_equal(got[2], want[2])
        np.testing.assert_allclose(got[0], want[0], atol=1e-5)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)
        checks.assert_gradients_match(gradients, expected)

    def test_the_tile_changes_nothing_but_rounding(self):
        inputs = make_inputs(SPEC)
        whole = _outputs(inputs, SPEC)
        parts = knn_blend(*inputs[:2], atlas=inputs[2], options=options_of(SPEC, tile=37))
        np.testing.assert_array_equal(parts[2], whole[2])
        np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)


class TestInvariances:
    def test_the_order_of_the_gaussians_does_not_matter(self):
        points, table, atlas = make_inputs(SPEC)
        order = np.random.default_rng(0).permutation(SPEC.gaussians)
        side, patch = SPEC.grid, SPEC.patch
        patches = np.asarray(atlas).reshape(1, side, patch, side, patch, -1).swapaxes(2, 3)
        shuffled = patches.reshape(side * side, patch, patch, -1)[order]
        shuffled = shuffled.reshape(1, side, side, patch, patch, -1).swapaxes(2, 3)
        moved = jax.tree.map(lambda a: a[:, order], table)
        before = _outputs((points, table, atlas), SPEC)
        after = _outputs((points, moved, jnp.asarray(shuffled.reshape(atlas.shape))), SPEC)
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)
        np.testing.assert_array_equal(order[after[2]], before[2])

    def test_moving_points_and_gaussians_together_changes_nothing(self):
        points, table, atlas = make_inputs(SPEC)
        turn = make_inputs(SPEC, seed=5)[1].rotations[0, 0]
        shift = jnp.array([0.1, -0.2, 0.05])
        moved = dataclasses.replace(
            table,
            centers=table.centers @ turn.T + shift,
            rotations=jnp.einsum("ij,bgjk->bgik", turn, table.rotations),
        )
        before = _outputs((points, table, atlas), SPEC)
        after = _outputs((points @ turn.T + shift, moved, atlas), SPEC)
        np.testing.assert_array_equal(after[2], before[2])
        np.testing.assert_allclose(after[0], before[0], atol=5e-5)
        np.testing.assert_allclose(after[1], before[1], atol=1e-5)

    def test_a_patch_does_not_bleed_into_its_neighbours(self):
        spec = dataclasses.replace(SPECS["few"], grid=3, neighbors=1)
        points, table, atlas = make_inputs(spec, valid=1.0)
        features, _, ids = _outputs((points, table, atlas), spec)
        for owner in range(spec.gaussians):
            row, column = divmod(owner, spec.grid)
            y, x = np.indices(atlas.shape[1:3]) // spec.patch
            foreign = ((y != row) | (x != column))[None, ..., None]
            others, _, _ = _outputs((points, table, jnp.where(foreign, 1e6, atlas)), spec)
            own = ids[0, :, 0] == owner
            np.testing.assert_array_equal(others[0, own], features[0, own])

    def test_signs_of_the_radii_do_not_matter(self):
        points, table, atlas = make_inputs(SPEC)
        mirrored = dataclasses.replace(table, radii=-table.radii)
        got, want = (_outputs((points, t, atlas), SPEC) for t in (mirrored, table))
        np.testing.assert_array_equal(got[0], want[0])


def _finite(inputs, spec, **changes):
    """Outputs and gradients, none of them infinite or NaN."""
    options = options_of(spec, tile=100, **changes)
    outputs, gradients = checks.run(inputs, checks.probes(spec), options=options)
    for name, value in gradients.items():
        assert np.isfinite(value).all(), name
    assert np.isfinite(outputs[0]).all() and np.isfinite(outputs[1]).all()
    return outputs, gradients


class TestExtremes:
    @pytest.mark.parametrize("radii", ("std", "variance"))
    @pytest.mark.parametrize("radius", (0.0, 1e-30, 1e-5, 1e3))
    def test_any_radius_is_finite(self, radius, radii):
        points, table, atlas = make_inputs(SPECS["tiny"])
        points = points.at[:, :5].set(table.centers[:, :5])
        table = dataclasses.replace(table, radii=jnp.full_like(table.radii, radius))
        _finite((points, table, atlas), SPECS["tiny"], radii=radii)

    def test_far_points_see_nothing_and_stay_finite(self):
        points, table, atlas = make_inputs(SPECS["tiny"])
        outputs, gradients = _finite((points + 1e6, table, atlas), SPECS["tiny"])
        np.testing.assert_array_equal(outputs[0], 0.0)
        np.testing.assert_array_equal(outputs[1], 0.0)
        np.testing.assert_array_equal(gradients["atlas"], 0.0)

    def test_points_outside_every_patch_take_its_border(self):
        spec = Spec(heads=1, points=2, grid=1, patch=4, channels=1, neighbors=1)
        table = checks.table([[0.0, 0.0, 0.0]], radii=0.1)
        atlas = jnp.arange(48.0).reshape(1, 4, 4, 3)
        points = jnp.array([[[0.35, 0.35, 0.35], [0.45, 0.38, 0.41]]])
        outputs, gradients = _finite((points, table, atlas), spec, blend="raw")
        # The corner texel of all three planes times the RBF value, and no slope but the RBF's.
        corner = np.mean(atlas[0, 3, 3])
        np.testing.assert_allclose(outputs[0][..., 0], corner * outputs[1], rtol=1e-5)
        probes = checks.probes(spec)
        slope = (corner * probes[0][..., 0] + probes[1]) * outputs[1]
        want = -slope[..., None] * points / 0.01
        np.testing.assert_allclose(gradients["points"], want, rtol=1e-4)

    def test_coincident_gaussians_go_by_index(self):
        spec = SPECS["odd"]
        points, table, atlas = make_inputs(spec, valid=1.0)
        table = dataclasses.replace(table, centers=jnp.zeros_like(table.centers))
        outputs, _ = _finite((points, table, atlas), spec)
        want = np.broadcast_to(np.arange(spec.neighbors), outputs[2].shape)
        np.testing.assert_array_equal(outputs[2], want)

    def test_with_too_few_valid_the_rest_weigh_nothing(self):
        spec = SPECS["tiny"]
        points, table, atlas = make_inputs(spec)
        valid = jnp.zeros_like(table.valid).at[:, jnp.array([3, 11])].set(True)
        table = dataclasses.replace(table, valid=valid)
        outputs, gradients = _finite((points, table, atlas), spec)
        assert set(np.unique(outputs[2][..., :2])) == {3, 11}
        options = options_of(spec, neighbors=2)
        two = knn_blend(points, table, atlas=atlas, options=options)
        np.testing.assert_array_equal(outputs[2][..., :2], two[2])
        np.testing.assert_allclose(outputs[0], two[0], atol=1e-6)
        for name in ("centers", "rotations", "radii"):
            np.testing.assert_array_equal(gradients[name][~valid], 0.0)

    def test_an_invalid_gaussian_is_never_chosen_while_enough_are_valid(self):
        spec = SPECS["odd"]
        points, table, atlas = make_inputs(spec, valid=0.3)
        ids = _outputs((points, table, atlas), spec)[2]
        assert np.asarray(table.valid)[0, ids[0]].all()

    def test_no_valid_gaussian_at_all_gives_nothing(self):
        outputs, gradients = _finite(make_inputs(SPECS["tiny"], valid=0.0), SPECS["tiny"])
        for value in (outputs[0], outputs[1], *gradients.values()):
            np.testing.assert_array_equal(value, 0.0)


class TestTransformations:
    def test_vmap_is_a_loop(self):
        spec, options = SPECS["tiny"], options_of(SPECS["tiny"], tile=100)
        sets = [make_inputs(spec, seed=s) for s in range(2)]
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *sets)
        run = functools.partial(checks.run, cotangents=checks.probes(spec), options=options)
        together = jax.vmap(run)(stacked)
        for i, inputs in enumerate(sets):
            outputs, gradients = run(inputs)
            np.testing.assert_array_equal(together[0][2][i], outputs[2])
            for name, want in gradients.items():
                got = together[1][name][i]
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)

    def test_outputs_and_gradients_are_float32_and_repeat_to_the_bit(self):
        inputs, options = make_inputs(SPEC), options_of(SPEC, tile=100)
        first = checks.run(inputs, checks.probes(SPEC), options=options)
        again = checks.run(inputs, checks.probes(SPEC), options=options)
        assert [o.dtype for o in first[0]] == [jnp.float32, jnp.float32, jnp.int32]
        assert {g.dtype for g in first[1].values()} == {jnp.dtype(jnp.float32)}
        jax.tree.map(np.testing.assert_array_equal, first, again)

    def test_the_choice_of_neighbours_carries_no_gradient(self):
        points, table, atlas = make_inputs(SPECS["tiny"])

        def through_ids(points):
            options = options_of(SPECS["tiny"], tile=100)
            ids = knn_blend(points, table, atlas=atlas, options=options)[2]
            return jnp.sum(ids.astype(jnp.float32))

        np.testing.assert_array_equal(jax.grad(through_ids)(points), 0.0)


class TestMemory:
    def _temporaries(self, blend, **changes):
        spec = dataclasses.replace(Spec(heads=1, points=8192, grid=8, patch=8), **changes)
        options = options_of(spec, tile=2048)
        compiled = checks.traced(spec, blend=blend, options=options).lower().compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def test_forward_and_backward_stay_far_below_the_naive_program(self):
        ours, naive = (self._temporaries(b) for b in (knn_blend, knn_blend_naive))
        assert ours < naive / 20

    def test_temporaries_do_not_grow_with_points_times_patch(self):
        small = self._temporaries(knn_blend)
        points, patch = self._temporaries(knn_blend, points=16384), 16
        # Per point: its inputs, gradients and the ids; not K patches (18 KB).
        assert (points - small) / 8192 < 200
        texels = 4 * 64 * 24 * (patch**2 - 8**2)
        assert self._temporaries(knn_blend, patch=patch) - small < 4 * texels


class TestErrors:
    def test_an_atlas_that_does_not_fit_is_named(self):
        points, table, atlas = make_inputs(SPECS["tiny"])
        with pytest.raises(ValueError, match="does not hold 16 patches of side 3"):
            knn_blend(points, table, atlas=atlas, options=BlendOptions(patch=3))
        with pytest.raises(ValueError, match="3 planes"):
            knn_blend(points, table, atlas=atlas[..., :-1], options=BlendOptions(patch=2))

    def test_more_neighbours_than_gaussians_are_refused(self):
        points, table, atlas = make_inputs(SPECS["few"])
        with pytest.raises(ValueError, match="neighbors=5 but there are only 4"):
            knn_blend(points, table, atlas=atlas, options=BlendOptions(patch=4, neighbors=5))

    @pytest.mark.parametrize(
        "wrong", ({"patch": 0}, {"neighbors": 0}, {"extent": 0.0}, {"min_std": 0.0}), ids=str
    )
    def test_impossible_options_are_refused(self, wrong):
        with pytest.raises(ValueError):
            BlendOptions(**wrong)
