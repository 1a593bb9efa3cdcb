"""Camera paths: EG3D's meanings of yaw, pitch and pivot."""

import numpy as np
import pytest

from headjax.geometry import cameras, orbits


def test_the_front_is_the_official_label():
    camera = orbits.look_at(0.0)
    expected = np.diag([1.0, -1.0, -1.0, 1.0])
    expected[2, 3] = 2.7
    np.testing.assert_allclose(camera.cam2world, expected, atol=1e-6)
    label = cameras.label_from_camera(camera)
    assert label.shape == (25,) and label.dtype == np.float32
    np.testing.assert_allclose(label[16:], [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("pivot", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.2), (0.1, -0.1, 0.05)])
def test_cameras_stand_on_the_sphere_and_see_the_pivot_in_the_middle(pivot):
    yaw = np.linspace(-np.pi, np.pi, 9)[:, None]
    camera = orbits.look_at(yaw, np.linspace(-1.2, 1.2, 7), pivot=pivot, radius=2.5)
    assert camera.cam2world.shape == (9, 7, 4, 4)
    np.testing.assert_allclose(np.linalg.norm(camera.position, axis=-1), 2.5, rtol=1e-6)
    rotation = camera.cam2world[..., :3, :3]
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, -1, -2),
        np.broadcast_to(np.eye(3), (9, 7, 3, 3)),
        atol=1e-6,
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, rtol=1e-5)
    pixels, depth = cameras.project(camera, np.asarray([pivot], np.float32))
    np.testing.assert_allclose(pixels, 0.5, atol=1e-5)
    assert (depth > 0).all() and (rotation[..., 1, 1] < 0).all()


def test_the_height_and_not_the_angle_is_proportional_to_the_pitch():
    pitch = np.array([-1.5, -0.4, -0.2, 0.0, 0.2])
    height = orbits.look_at(0.0, pitch).position[:, 1]
    np.testing.assert_allclose(height, -2.7 * pitch * 2 / np.pi, rtol=1e-5, atol=1e-6)


def test_beyond_the_poles_the_camera_stays_at_the_pole():
    camera = orbits.look_at(0.3, [-9.0, 9.0])
    np.testing.assert_allclose(camera.position[:, 1], [2.7, -2.7], rtol=1e-5)
    assert np.isfinite(camera.cam2world).all()


def test_without_pitch_and_pivot_it_is_the_plain_orbit():
    yaw = np.linspace(-3, 3, 7).astype(np.float32)
    plain = cameras.orbit(yaw)
    np.testing.assert_allclose(orbits.look_at(yaw).cam2world, plain.cam2world, atol=2e-6)
    rise = 0.3
    same = cameras.orbit(yaw, np.float32(np.arcsin(rise * 2 / np.pi)))
    np.testing.assert_allclose(orbits.look_at(yaw, -rise).cam2world, same.cam2world, atol=2e-6)


def test_the_field_of_view_gives_the_scripts_focal():
    assert orbits.focal_from_fov(orbits.FOV_DEGREES) == pytest.approx(4.26339, abs=5e-6)


def test_pictures_show_three_views_of_a_face_and_five_of_a_head():
    face, head = orbits.picture_views("face"), orbits.picture_views("head")
    assert face.cam2world.shape == (3, 4, 4) and head.cam2world.shape == (5, 4, 4)
    assert face.position[0, 0] > 0 > face.position[2, 0]
    # The last of the five is behind the head; all are above it.
    assert head.position[-1, 2] < -2.5 and (head.position[:, 1] > 0).all()
    middle, _ = cameras.project(face, np.array([[0.0, 0.0, 0.2]], np.float32))
    np.testing.assert_allclose(middle, 0.5, atol=1e-5)
    middle, _ = cameras.project(head, np.zeros((1, 3), np.float32))
    np.testing.assert_allclose(middle, 0.5, atol=1e-5)


@pytest.mark.parametrize("path", orbits.PATHS)
def test_a_videos_path_is_closed_and_smooth(path):
    position = orbits.video_path(path, frames=120).position
    steps = np.linalg.norm(np.roll(position, -1, axis=0) - position, axis=-1)
    assert len(position) == 120 and 0 < steps.min() and steps.max() < 0.2
    yaw = np.arctan2(position[:, 0], position[:, 2])
    expected = 0.35 if path == "face" else np.pi
    assert np.abs(yaw).max() == pytest.approx(expected, rel=1e-3)
