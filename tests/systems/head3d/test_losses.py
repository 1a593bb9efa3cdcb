"""Head3D's terms against plain loops; what they see, and who receives gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import orbit_labels
from headjax.systems.head3d import losses


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def labels(*yaws, pitch=0.0):
    return jnp.asarray(orbit_labels(list(yaws), pitch_degrees=pitch))


def test_the_gate_is_the_cameras_yaw_and_not_its_pitch():
    yaws = (0.0, 59.9, -59.9, 60.0, 60.1, -61.0, 120.0, 180.0)
    wanted = [1, 1, 1, 1, 0, 0, 0, 0]
    for pitch in (0.0, 40.0, -70.0):
        told = losses.gate(labels(*yaws, pitch=pitch), tau=np.pi / 3)
        np.testing.assert_array_equal(told, wanted)


def test_the_front_ends_at_ninety_degrees():
    told = losses.is_front(labels(0.0, 90.0, -90.0, 91.0, -91.0, 180.0, pitch=20.0))
    np.testing.assert_array_equal(told, [True, True, True, False, False, False])
    np.testing.assert_allclose(
        losses.yaw(labels(-170.0, 30.0, pitch=50.0)), np.deg2rad([-170.0, 30.0]), atol=1e-5
    )


def test_planes_are_compared_on_the_front_plane_alone_unless_all_are_asked_for():
    theirs, mine = normal(0, 2, 3, 4, 4, 5), normal(1, 2, 3, 4, 4, 5)
    slow = np.mean([(theirs[b, 0] - mine[b, 0]) ** 2 for b in range(2)])
    np.testing.assert_allclose(losses.plane_distance(theirs, mine), slow, rtol=1e-5)
    whole = losses.plane_distance(theirs, mine, planes="all")
    np.testing.assert_allclose(whole, np.mean((theirs - mine) ** 2), rtol=1e-5)
    to_mine = jax.grad(losses.plane_distance, argnums=1)(theirs, mine)
    assert np.all(to_mine[:, 1:] == 0) and np.all(to_mine[:, 0] != 0)


def test_styles_are_compared_by_their_mean_absolute_difference():
    theirs, mine = normal(0, 2, 6, 7), normal(1, 2, 6, 7)
    slow = sum(
        abs(float(theirs[i, j, k]) - float(mine[i, j, k]))
        for i in range(2) for j in range(6) for k in range(7)
    ) / (2 * 6 * 7)  # fmt: skip
    np.testing.assert_allclose(losses.style_distance(theirs, mine), slow, rtol=1e-5)


def pair(seed):
    return normal(seed, 3, 16, 16, 3), normal(seed + 1, 3, 8, 8, 3)


def test_colours_are_compared_on_both_images_of_the_samples_that_the_gate_lets_in():
    theirs, mine = pair(0), pair(5)
    gate = jnp.asarray([1.0, 0.0, 1.0])
    slow = sum(
        float(np.abs(a[i] - b[i]).mean()) / 3
        for a, b in zip(theirs, mine, strict=True) for i in (0, 2)
    )  # fmt: skip
    np.testing.assert_allclose(losses.color_distance(theirs, mine, gate=gate), slow, rtol=1e-5)
    to_image = jax.grad(lambda x: losses.color_distance(theirs, (x, mine[1]), gate=gate))(mine[0])
    assert np.all(to_image[1] == 0) and np.any(to_image[0] != 0)


def slow_multiscale(a, b):
    """One pair of square images of 16², by loops over levels and sides."""
    error, values = np.asarray(a - b, np.float64), []
    while error.shape[0] >= 4:
        side = error.shape[0]
        across = [abs(error[y, x + 1] - error[y, x]) for y in range(side) for x in range(side - 1)]
        down = [abs(error[y + 1, x] - error[y, x]) for y in range(side - 1) for x in range(side)]
        values.append(np.mean(across) + np.mean(down))
        half = range(side // 2)
        error = np.array(
            [[error[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((0, 1)) for x in half] for y in half]
        )
    return np.mean(values)


def test_the_stand_in_is_the_mean_of_differences_over_a_pyramid():
    (a, _), (b, _) = pair(0), pair(5)
    slow = [slow_multiscale(a[i], b[i]) for i in range(3)]
    np.testing.assert_allclose(losses.multiscale_gradients(a, b), slow, rtol=1e-5)
    assert np.all(losses.multiscale_gradients(a, a) == 0)


def test_a_perceptual_distance_is_what_compare_says_where_the_gate_is_open():
    (a, _), (b, _) = pair(0), pair(5)
    gate = jnp.asarray([0.0, 1.0, 0.0])
    told = losses.perceptual_distance(a, b, compare=losses.multiscale_gradients, gate=gate)
    np.testing.assert_allclose(told, slow_multiscale(a[1], b[1]) / 3, rtol=1e-5)


TERMS = {
    "kd": lambda t, s: losses.plane_distance(*(x.reshape(3, 1, 16, 4, 12) for x in (t, s))),
    "map": lambda t, s: losses.style_distance(*(x.reshape(3, 16, 48) for x in (t, s))),
    "rgb": lambda t, s: losses.color_distance((t, t), (s, s), gate=jnp.ones(3)),
    "perceptual": lambda t, s: losses.perceptual_distance(
        t, s, compare=losses.multiscale_gradients, gate=jnp.ones(3)
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_the_teacher_receives_no_gradient(name):
    theirs, mine = pair(0)[0], pair(5)[0]
    to_teacher, to_student = jax.grad(TERMS[name], argnums=(0, 1))(theirs, mine)
    assert np.all(to_teacher == 0)
    assert np.any(to_student != 0) and np.all(np.isfinite(to_student))
