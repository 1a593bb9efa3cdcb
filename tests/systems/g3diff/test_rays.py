import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import camera_from_label, project
from headjax.geometry.rays import box_range
from headjax.render.parts import PART_NAMES
from headjax.systems.g3diff import rays
from tests.systems.g3diff import tiny

BOX = 0.36


@functools.lru_cache
def drawer(patches, side):
    return jax.jit(functools.partial(rays.draw_pixels, patches=patches, side=side))


@functools.lru_cache
def batch(resolution=16):
    """The rays of every pixel of two views."""
    views = tiny.views([0, 3], resolution=resolution)
    pixels = jnp.broadcast_to(jnp.arange(resolution**2), (2, resolution**2))
    return views, jax.jit(rays.ray_batch)(views, pixels)


def test_pixels_are_drawn_as_often_as_their_weights_say():
    weights = jnp.asarray(np.random.default_rng(0).random((2, 4, 5)), jnp.float32)
    weights = weights.at[0, 1, 1].set(0.0)
    keys = jax.random.split(jax.random.key(0), 50)
    drawn = jax.jit(jax.vmap(lambda k: rays.draw_pixels(k, weights, patches=400, side=1)))(keys)
    for b in range(2):
        counts = np.bincount(np.asarray(drawn)[:, b].ravel(), minlength=20)
        share = np.asarray(weights[b]).ravel() / np.asarray(weights[b]).sum()
        # Strata can only lower a count's variance below the binomial one.
        error = np.sqrt(np.maximum(share * (1 - share) / counts.sum(), 1e-9))
        assert np.all(np.abs(counts / counts.sum() - share) <= 5 * error)
        assert counts[share == 0].sum() == 0


def test_strata_spread_the_patches_of_one_view_over_the_image():
    drawn = drawer(16, 1)(jax.random.key(3), jnp.ones((1, 8, 8)))
    np.testing.assert_array_equal(np.sort(np.asarray(drawn[0]) // 4), np.arange(16))


@pytest.mark.parametrize(("patches", "side"), [(5, 1), (7, 2), (3, 3), (2, 8)])
def test_patches_are_whole_squares_inside_the_image(patches, side):
    weights = jnp.ones((3, 8, 8)).at[:, :, 0].set(50.0).at[:, 7].set(50.0)
    drawn = np.asarray(drawer(patches, side)(jax.random.key(1), weights))
    assert drawn.shape == (3, patches * side**2)
    squares = drawn.reshape(-1, side, side)
    row, column = squares // 8, squares % 8
    offset = np.arange(side)
    np.testing.assert_array_equal(row, row[:, :1, :1] + offset[:, None] + 0 * offset)
    np.testing.assert_array_equal(column, column[:, :1, :1] + offset + 0 * offset[:, None])
    assert row.min() >= 0 and row.max() < 8 and column.min() >= 0 and column.max() < 8


def test_the_same_key_draws_the_same_pixels_and_another_key_others():
    weights = jnp.ones((2, 8, 8))
    first, again, other = (drawer(6, 2)(jax.random.key(k), weights) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_part_weights_tell_features_face_head_and_background_apart():
    weights = rays.part_weights(face=3.0, features=6.0, head=1.0, background=0.33)
    named = dict(zip(PART_NAMES, np.asarray(weights).tolist(), strict=True))
    assert named["background"] == pytest.approx(0.33)
    assert {n for n, w in named.items() if w == 6} == {
        "l_brow", "r_brow", "l_eye", "r_eye", "mouth", "u_lip", "l_lip",
    }  # fmt: skip
    assert {n for n, w in named.items() if w == 3} == {"skin", "nose"}
    assert named["hair"] == named["neck"] == named["eye_g"] == named["l_ear"] == 1


def test_rays_carry_what_their_pixels_show():
    views, rays_of = batch()
    np.testing.assert_allclose(
        rays_of.color, np.asarray(views["image"]).reshape(2, -1, 3) / 255.0, rtol=1e-6
    )
    np.testing.assert_array_equal(rays_of.depth, np.asarray(views["depth"]).reshape(2, -1))
    np.testing.assert_array_equal(
        rays_of.mask, (np.asarray(views["mask"]).reshape(2, -1) > 127).astype(np.float32)
    )
    # Any choice of pixels carries the same as those pixels among all.
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 9)))
    chosen = jax.jit(rays.ray_batch)(views, pixels)
    for some, every in zip(jax.tree.leaves(chosen), jax.tree.leaves(rays_of), strict=True):
        for b in range(2):
            expected = np.asarray(every)[b, np.asarray(pixels)[b]]
            np.testing.assert_allclose(some[b], expected, atol=2e-7)


def test_points_along_a_ray_project_to_its_pixels_centre():
    views, rays_of = batch()
    np.testing.assert_allclose(np.linalg.norm(rays_of.directions, axis=-1), 1.0, rtol=1e-6)
    for along in (1.0, 3.0):
        points = rays_of.origins + along * rays_of.directions
        where, _ = project(camera_from_label(views["camera"]), points)
        row, column = np.divmod(np.arange(256), 16)
        centre = np.stack([column + 0.5, row + 0.5], axis=-1) / 16
        np.testing.assert_allclose(where, np.broadcast_to(centre, where.shape), atol=1e-5)


def test_the_known_depth_along_a_ray_ends_on_the_surface():
    _, rays_of = batch()
    end = np.asarray(rays_of.origins + rays_of.depth[..., None] * rays_of.directions)
    for b, identity in enumerate((0, 3)):
        there = np.asarray(rays_of.mask)[b] > 0
        distance = np.linalg.norm(end[b][there], axis=-1)
        np.testing.assert_allclose(distance, tiny.radius_of(identity), rtol=1e-4)


draw_depths = jax.jit(functools.partial(
    rays.surface_depths, near_samples=5, free_samples=2, half_width=0.03, box=BOX,
))  # fmt: skip


def sampled(key_number=0):
    _, rays_of = batch()
    near, far, _ = box_range(
        np.asarray(rays_of.origins), np.asarray(rays_of.directions), half_size=BOX
    )
    return rays_of, near, far, np.asarray(draw_depths(jax.random.key(key_number), rays_of))


def test_samples_are_sorted_inside_the_box_and_mostly_near_the_surface():
    rays_of, near, far, depths = sampled()
    assert depths.shape == (2, 256, 7)
    assert np.all(np.diff(depths, axis=-1) >= 0)
    assert np.all(depths >= near[..., None] - 1e-5)
    assert np.all(depths <= np.maximum(far, near + 1e-3)[..., None] + 1e-5)
    hit = np.asarray(rays_of.depth) > 0
    close = np.abs(depths - np.asarray(rays_of.depth)[..., None]) <= 0.03 + 1e-6
    assert hit.sum() > 50 and np.all(close.sum(-1)[hit] >= 5)


def test_samples_of_the_background_spread_over_the_whole_box():
    rays_of, near, far, depths = sampled()
    empty = (np.asarray(rays_of.depth) == 0) & (far > near + 0.5)
    share = ((depths - near[..., None]) / (far - near)[..., None])[empty]
    assert share.min() < 0.1 and share.max() > 0.9 and abs(share.mean() - 0.5) < 0.05


def test_samples_depend_on_the_key_alone():
    first, again, other = (sampled(k)[-1] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_pixel_belongs_to_the_silhouette_where_half_of_it_is_covered():
    mask = jnp.array([0, 1, 127, 128, 255], jnp.uint8)
    np.testing.assert_array_equal(rays.unit_mask(mask), [0, 0, 0, 1, 1])


def test_equal_weights_draw_every_square_equally_often():
    keys = jax.random.split(jax.random.key(0), 40)
    drawn = jax.jit(jax.vmap(lambda key: rays.draw_pixels(
        key, jnp.ones((1, 6, 6)), patches=100, side=3
    )))(keys)  # fmt: skip
    corners = np.bincount(np.asarray(drawn).reshape(-1, 9)[:, 0], minlength=36).reshape(6, 6)
    assert corners[4:].sum() == corners[:, 4:].sum() == 0
    share = corners[:4, :4] / corners.sum()
    np.testing.assert_allclose(share, 1 / 16, atol=5 * np.sqrt(1 / 16 / corners.sum()))
