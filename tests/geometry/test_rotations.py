"""Rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry import cameras, rotations


def random_vectors(count: int = 64, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(count, 3)) * scale).astype(np.float32)


def series(vector: np.ndarray) -> np.ndarray:
    """exp([v]ₓ) by its power series: slow and obvious."""
    x, y, z = vector.astype(np.float64)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total, term = np.eye(3), np.eye(3)
    for n in range(1, 60):
        term = term @ skew / n
        total = total + term
    return total


@pytest.mark.parametrize("scale", [0.0, 1e-5, 1e-3, 0.3, 2.0])
def test_axis_angle_is_the_matrix_exponential(scale):
    vectors = random_vectors(8, scale)
    expected = np.stack([series(vector) for vector in vectors])
    np.testing.assert_allclose(rotations.axis_angle_to_matrix(vectors), expected, atol=2e-6)


def test_axis_angle_has_the_right_gradient_at_zero():
    jacobian = jax.jacobian(rotations.axis_angle_to_matrix)(jnp.zeros(3))
    expected = np.zeros((3, 3, 3))
    for axis, (i, j) in enumerate([(2, 1), (0, 2), (1, 0)]):
        expected[i, j, axis], expected[j, i, axis] = 1, -1
    np.testing.assert_allclose(jacobian, expected, atol=1e-7)


def test_rpy_is_the_product_of_the_three_axis_rotations():
    rpy = random_vectors(16)
    axes = np.eye(3, dtype=np.float32)
    rx, ry, rz = (rotations.axis_angle_to_matrix(rpy[:, i : i + 1] * axes[i]) for i in range(3))
    np.testing.assert_allclose(rotations.rpy_to_matrix(rpy), rz @ ry @ rx, atol=1e-6)


def test_quaternions_round_trip_at_every_angle():
    vectors = np.concatenate([random_vectors(), np.eye(3, dtype=np.float32) * np.float32(np.pi)])
    matrix = rotations.axis_angle_to_matrix(vectors)
    quaternion = rotations.matrix_to_quaternion(matrix)
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=-1), 1, rtol=1e-6)
    assert np.all(quaternion[:, 0] >= 0)
    np.testing.assert_allclose(rotations.quaternion_to_matrix(quaternion), matrix, atol=3e-6)
    np.testing.assert_allclose(rotations.quaternion_to_matrix(-3 * quaternion), matrix, atol=3e-6)


def test_axis_angles_round_trip():
    vectors = random_vectors(32, 0.8)
    vectors[:2] *= 1e-4
    back = rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(vectors))
    assert np.all(np.linalg.norm(vectors, axis=-1) < np.pi)
    np.testing.assert_allclose(back, vectors, atol=1e-5)


def test_look_at_agrees_with_the_orbit():
    yaw, pitch = random_vectors(9, 0.5)[:, 0], random_vectors(9, 0.5)[:, 1]
    camera = cameras.orbit(yaw, pitch)
    seen = rotations.look_at(camera.position, np.zeros(3, np.float32))
    np.testing.assert_allclose(seen, camera.cam2world, atol=1e-6)


def test_only_rotations_are_rotations():
    matrix = rotations.axis_angle_to_matrix(random_vectors(4))
    assert np.all(rotations.is_rotation(matrix))
    assert not np.any(rotations.is_rotation(-matrix))
    assert not np.any(rotations.is_rotation(1.01 * matrix))


def test_numpy_stays_numpy_and_jax_stays_jax():
    vectors = random_vectors(3)
    for function in (rotations.axis_angle_to_matrix, rotations.rpy_to_matrix):
        ours, theirs = function(vectors), jax.jit(function)(jnp.asarray(vectors))
        assert isinstance(ours, np.ndarray) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
