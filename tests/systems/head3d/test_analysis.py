"""Exchanges of planes, regions and channels; table 1 on pictures that are known; directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.systems.head3d import analysis, latents
from headjax.systems.head3d.evaluate import face_crop


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def planes(seed, count=2):
    return normal(seed, count, 3, 8, 8, 4)


@pytest.mark.parametrize("name", analysis.TABLE_1)
def test_a_row_of_table_1_takes_its_planes_from_the_second_and_the_rest_from_the_first(name):
    first, second = planes(0), planes(1)
    swapped = analysis.swap_planes(first, second, which=analysis.TABLE_1[name])
    for plane in range(3):
        source = second if plane in analysis.TABLE_1[name] else first
        np.testing.assert_array_equal(swapped[:, plane], source[:, plane])


def test_a_region_is_where_its_texels_centres_lie_on_the_front_plane():
    first, second = planes(0), planes(1)
    region = ((-0.25, 0.0), (0.125, 0.5))
    swapped = np.asarray(analysis.swap_region(first, second, region=region, box=1.0))
    centres = (np.arange(8) + 0.5) / 8 - 0.5
    for row, y in enumerate(centres):
        for column, x in enumerate(centres):
            inside = -0.25 < x < 0.0 and 0.125 < y < 0.5
            wanted = (second if inside else first)[:, 0, row, column]
            np.testing.assert_array_equal(swapped[:, 0, row, column], wanted)
    np.testing.assert_array_equal(swapped[:, 1:], first[:, 1:])


def test_dissimilarity_of_shifted_channels_is_the_shift_whatever_the_order_of_their_values():
    channel = np.random.default_rng(0).permutation(64).reshape(8, 8).astype(np.float32)
    mixed = np.random.default_rng(1).permutation(channel.ravel()).reshape(8, 8)
    told = analysis.channel_dissimilarity(
        jnp.stack([channel, channel, channel], axis=-1),
        jnp.stack([mixed, mixed + 3.0, mixed - 0.5], axis=-1),
    )
    np.testing.assert_allclose(told, [0.0, 3.0, 0.5], atol=1e-5)


def test_the_most_dissimilar_channels_are_exchanged_and_the_others_stay():
    first = planes(0, 1)
    second = first.at[:, 0].add(jnp.asarray([0.1, 4.0, 0.2, 2.0]))
    most = analysis.swap_channels(first, second, count=2)
    least = analysis.swap_channels(first, second, count=2, most=False)
    np.testing.assert_array_equal(most[0, 0, ..., 1::2], second[0, 0, ..., 1::2])
    np.testing.assert_array_equal(most[0, 0, ..., ::2], first[0, 0, ..., ::2])
    np.testing.assert_array_equal(least[0, 0, ..., ::2], second[0, 0, ..., ::2])
    np.testing.assert_array_equal(most[:, 1:], first[:, 1:])
    np.testing.assert_array_equal(analysis.swap_channels(first, second, count=0), first)
    with pytest.raises(ValueError, match="between 0 and 4"):
        analysis.swap_channels(first, second, count=5)


def front_plane_pictures(planes, numbers):
    """A renderer of heads whose colours are all on the front plane."""
    small = np.tanh(np.asarray(planes)[:, 0, :, :, :3])
    return small.repeat(8, axis=1).repeat(8, axis=2)


def embedding(pictures):
    flat = pictures.reshape(len(pictures), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_table_1_follows_the_plane_that_holds_the_identity():
    table = analysis.swap_table(planes(0, 4), render=front_plane_pictures, embed=embedding)
    assert set(table) == set(analysis.TABLE_1)
    for name in ("xy", "all"):
        assert table[name]["id2"] == pytest.approx(1.0) and table[name]["id1"] < 0.9
        assert table[name]["color_distance2"] == pytest.approx(0.0, abs=1e-6)
    for name in ("xz", "yz", "none"):
        assert table[name]["id1"] == pytest.approx(1.0) and table[name]["id2"] < 0.9
        assert table[name]["color_distance1"] == pytest.approx(0.0, abs=1e-6)
    pictures = face_crop(front_plane_pictures(planes(0, 4), None))
    slow = [
        np.sqrt(np.mean((pictures[i] - pictures[j]) ** 2))
        for i in range(4) for j in range(4) if i != j
    ]  # fmt: skip
    assert table["xy"]["color_distance1"] == pytest.approx(np.mean(slow), rel=1e-5)


def test_without_an_embedding_the_table_tells_no_identity():
    table = analysis.swap_table(planes(0, 2), render=front_plane_pictures)
    assert set(table["xy"]) == {"color_distance1", "color_distance2"}


def test_interpolation_begins_and_ends_at_its_codes_and_its_middle_is_their_average():
    first, second = normal(0, 4, 5), normal(1, 4, 5)
    line = latents.interpolate(first, second, steps=5)
    np.testing.assert_allclose(line[0], first, atol=1e-6)
    np.testing.assert_allclose(line[-1], second, atol=1e-6)
    np.testing.assert_allclose(line[2], latents.average(first, second), atol=1e-6)


def attribute(count=400, size=12, seed=0):
    codes = normal(seed, count, size) * jnp.linspace(0.5, 2.0, size) + 1.0
    normal_of = np.zeros(size, np.float32)
    normal_of[:3] = (0.6, -0.64, 0.48)
    distance = np.asarray(codes) @ normal_of - 0.3
    return codes, distance, normal_of


def test_a_fitted_direction_is_the_normal_of_the_boundary_that_made_the_labels():
    codes, distance, normal_of = attribute()
    found = latents.fit_direction(codes, distance > 0, penalty=1e-3)
    np.testing.assert_allclose(jnp.linalg.norm(found.normal), 1.0, rtol=1e-5)
    assert float(found.normal @ normal_of) > 0.98
    agree = (np.asarray(found.distance(codes)) > 0) == (distance > 0)
    assert agree.mean() > 0.97


def test_logistic_regression_is_at_the_minimum_of_its_objective():
    codes, distance, _ = attribute(count=80, size=4)
    x = (codes - codes.mean(0)) / (codes.std(0) + 1e-6)
    y = jnp.asarray(distance > 0, jnp.float32)
    share = jnp.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())

    def objective(weights):
        told = x @ weights[:-1] + weights[-1]
        errors = jax.nn.softplus(jnp.where(y > 0, -told, told))
        return (share * errors).sum() + 0.005 * jnp.square(weights[:-1]).sum()

    weights = latents._newton(x, y, share, 0.01)
    assert float(jnp.abs(jax.grad(objective)(weights)).max()) < 1e-4


def test_editing_moves_codes_away_from_the_boundary_by_its_strength():
    codes, distance, _ = attribute()
    found = latents.fit_direction(codes, distance > 0)
    moved = latents.edit(codes, found, strength=2.5)
    np.testing.assert_allclose(found.distance(moved) - found.distance(codes), 2.5, atol=1e-4)


def test_an_orthogonal_direction_keeps_the_distances_from_the_others():
    codes, distance, _ = attribute()
    found = latents.fit_direction(codes, distance > 0)
    others = [
        latents.fit_direction(codes, np.asarray(codes[:, i] + 0.5 * codes[:, 0]) > 1.5)
        for i in (1, 4)
    ]
    alone = latents.orthogonalise(found, others)
    for other in others:
        moved = other.distance(latents.edit(codes, alone, strength=3.0))
        np.testing.assert_allclose(moved, other.distance(codes), atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(alone.normal), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="nothing of it is left"):
        latents.orthogonalise(found, [found])


def test_a_direction_needs_labels_of_both_kinds():
    with pytest.raises(ValueError, match="both kinds"):
        latents.fit_direction(normal(0, 5, 3), np.ones(5, bool))
