"""Cameras, labels and rays."""

import jax
import jax.numpy as jnp
import numpy as np

from headjax.geometry import cameras, rays
from headjax.geometry.cameras import Camera

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(np.float32)


def some_cameras(count: int = 7) -> Camera:
    rng = np.random.default_rng(0)
    yaw, pitch = rng.uniform(-np.pi, np.pi, count), rng.uniform(-1.5, 1.5, count)
    return cameras.orbit(yaw, pitch, target=rng.uniform(-0.1, 0.1, (count, 3)))


def test_the_frontal_orbit_is_the_known_matrix():
    camera = cameras.orbit(0.0)
    np.testing.assert_allclose(camera.cam2world[:3, :3], np.diag([1, -1, -1]), atol=1e-7)
    np.testing.assert_allclose(camera.position, [0, 0, 2.7], atol=1e-6)
    assert camera.cam2world.dtype == np.float32
    np.testing.assert_allclose(
        camera.intrinsics, [[4.2647, 0, 0.5], [0, 4.2647, 0.5], [0, 0, 1]], rtol=1e-6
    )


def test_positive_yaw_moves_the_camera_to_positive_x_and_positive_pitch_up():
    assert cameras.orbit(0.3).position[0] > 0.5
    assert cameras.orbit(0.0, 0.3).position[1] > 0.5
    np.testing.assert_allclose(cameras.orbit(np.pi / 2).position, [2.7, 0, 0], atol=1e-6)


def test_the_subjects_left_is_on_the_images_right_from_the_front():
    pixels, z = cameras.project(cameras.orbit(0.0), np.array([[0.1, 0.2, 0.0]], np.float32))
    assert pixels[0, 0] > 0.5 > pixels[0, 1]
    np.testing.assert_allclose(z, [2.7], rtol=1e-6)


def test_orbits_look_at_their_target_with_a_level_horizon_also_at_the_poles():
    yaw, pitch = np.meshgrid(np.linspace(-3, 3, 5), np.linspace(-np.pi / 2, np.pi / 2, 5))
    target = np.array([0.01, 0.02, 0.2], np.float32)
    camera = cameras.orbit(yaw, pitch, target=target)
    rotation = camera.cam2world[..., :3, :3]
    identity = np.broadcast_to(np.eye(3), rotation.shape)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), np.ones((5, 5)), rtol=1e-5)
    np.testing.assert_allclose(camera.position + 2.7 * camera.forward - target, 0, atol=1e-6)
    np.testing.assert_allclose(rotation[..., 1, 0], 0, atol=1e-7)


def test_labels_round_trip():
    camera = some_cameras()
    label = cameras.label_from_camera(camera)
    assert label.shape == (7, 25)
    back = cameras.camera_from_label(label)
    np.testing.assert_array_equal(back.cam2world, camera.cam2world)
    np.testing.assert_array_equal(back.intrinsics, camera.intrinsics)


def test_mirroring_is_a_conjugation_with_the_mirror_and_its_own_inverse():
    camera = some_cameras()
    label = cameras.label_from_camera(camera)
    mirrored = cameras.mirror_label(label)
    np.testing.assert_array_equal(cameras.mirror_label(mirrored), label)
    expected = MIRROR @ camera.cam2world @ MIRROR
    np.testing.assert_allclose(cameras.camera_from_label(mirrored).cam2world, expected, atol=1e-7)


def test_a_mirrored_camera_sees_mirrored_points_at_mirrored_places():
    camera = some_cameras()
    points = np.random.default_rng(1).uniform(-0.2, 0.2, (7, 5, 3)).astype(np.float32)
    pixels, _ = cameras.project(camera, points)
    flipped = cameras.camera_from_label(cameras.mirror_label(cameras.label_from_camera(camera)))
    other, _ = cameras.project(flipped, points * np.array([-1, 1, 1], np.float32))
    np.testing.assert_allclose(other[..., 0], 1 - pixels[..., 0], atol=1e-5)
    np.testing.assert_allclose(other[..., 1], pixels[..., 1], atol=1e-5)


def test_the_angle_between_orbit_views_is_the_angle_of_their_yaws():
    first, second = (cameras.label_from_camera(cameras.orbit(yaw)) for yaw in (0.3, -0.4))
    np.testing.assert_allclose(cameras.view_angle_between(first, second), 0.7, rtol=1e-5)
    np.testing.assert_allclose(cameras.view_angle_between(first, first), 0.0, atol=1e-6)
    pairs = cameras.view_angle_between(first[None, None], np.stack([first, second])[None])
    assert pairs.shape == (1, 2)


def test_a_ray_through_a_pixel_projects_back_to_its_centre_at_any_depth():
    camera = some_cameras()
    origins, directions = rays.pixel_rays(camera, resolution=6)
    assert origins.shape == directions.shape == (7, 36, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, rtol=1e-6)
    for depth in (0.5, 2.7, 10.0):
        pixels, _ = cameras.project(camera, origins + depth * directions)
        expected = np.broadcast_to(rays.pixel_grid(6), pixels.shape)
        np.testing.assert_allclose(pixels, expected, atol=2e-5)


def test_a_ray_through_a_points_projection_meets_the_point_even_with_skew():
    camera = some_cameras()
    skewed = camera.intrinsics.copy()
    skewed[:, 0, 1], skewed[:, 1, 1], skewed[:, 0, 2] = 0.2, 3.9, 0.45
    camera = camera.replace(intrinsics=skewed)
    points = np.random.default_rng(1).uniform(-0.2, 0.2, (7, 5, 3)).astype(np.float32)
    pixels, _ = cameras.project(camera, points)
    origins, directions = rays.rays_through(camera, pixels)
    distance = np.linalg.norm(points - origins, axis=-1, keepdims=True)
    np.testing.assert_allclose(origins + distance * directions, points, atol=2e-6)


def test_pixel_rays_run_row_major_with_x_fastest():
    _, directions = rays.pixel_rays(cameras.orbit(0.0), resolution=4)
    assert directions[1, 0] > directions[0, 0]
    assert directions[4, 1] < directions[0, 1]


def test_jax_and_numpy_agree_under_jit_and_vmap():
    label = cameras.label_from_camera(some_cameras())

    def both(label):
        camera = cameras.camera_from_label(label)
        return rays.pixel_rays(camera, resolution=3)

    expected = both(label)
    for got in (jax.jit(both)(jnp.asarray(label)), jax.vmap(both)(jnp.asarray(label))):
        for a, b in zip(got, expected, strict=True):
            assert isinstance(a, jax.Array)
            np.testing.assert_allclose(a, b, atol=1e-6)
    orbit = jax.jit(lambda yaw: cameras.orbit(yaw, 0.1).cam2world)(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(orbit, cameras.orbit([0.1, 0.2], 0.1).cam2world, atol=1e-6)


def test_box_range_agrees_with_a_dense_march():
    rng = np.random.default_rng(3)
    origins = rng.normal(size=(200, 3)).astype(np.float32)
    directions = rng.normal(size=(200, 3)).astype(np.float32)
    directions[:20, 0] = 0
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    near, far, hit = rays.box_range(origins, directions, half_size=0.4)
    t = np.linspace(0, 6, 6001, dtype=np.float32)
    inside = np.all(np.abs(origins[:, None] + t[:, None] * directions[:, None]) <= 0.4, axis=-1)
    grazing = hit & (far - near < 2e-3)
    np.testing.assert_array_equal(hit[~grazing], inside.any(axis=1)[~grazing])
    firm = hit & ~grazing
    np.testing.assert_allclose(near[firm], t[inside[firm].argmax(axis=1)], atol=2e-3)
    last = 6000 - inside[firm][:, ::-1].argmax(axis=1)
    np.testing.assert_allclose(far[firm], t[last], atol=2e-3)
    np.testing.assert_array_equal(near[~hit], far[~hit])
    assert np.all(np.isfinite(near)) and np.all(near >= 0) and np.all(near <= far)


def test_box_range_has_finite_gradients_for_axis_parallel_rays():
    directions = jnp.asarray([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    origins = jnp.asarray([[0.0, 0.0, 2.7], [0.0, 0.0, 2.7]])
    gradient = jax.grad(
        lambda o, d: sum(x.sum() for x in rays.box_range(o, d, half_size=0.5)[:2]), (0, 1)
    )(origins, directions)
    assert all(bool(jnp.all(jnp.isfinite(item))) for item in gradient)
