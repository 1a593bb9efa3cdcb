import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import label_from_camera, orbit
from headjax.train.gan import conditioning


def labels(*yaws):
    return label_from_camera(
        orbit(yaw=jnp.asarray(yaws, jnp.float32), pitch=jnp.float32(0.1), radius=2.7, focal=4.26)
    )


def test_swapped_labels_are_the_neighbours_with_the_probability():
    own = jnp.arange(4000.0)[:, None] * jnp.ones(25)
    told = conditioning.swap_labels(jax.random.key(0), own, probability=0.7)
    swapped = np.asarray(told[:, 0] != own[:, 0])
    assert abs(swapped.mean() - 0.7) < 0.03
    expected = np.where(swapped, np.roll(np.arange(4000), 1), np.arange(4000))
    np.testing.assert_array_equal(told, expected[:, None] * np.ones(25))


@pytest.mark.parametrize("probability, shift", [(0.0, 0), (1.0, 1)])
def test_never_and_always_swap(probability, shift):
    ws = jax.random.normal(jax.random.key(1), (5, 14, 8))
    told = conditioning.swap_backgrounds(jax.random.key(2), ws, probability=probability)
    np.testing.assert_array_equal(told, np.roll(ws, shift, axis=0))


def test_mixed_styles_change_once_at_a_layer_that_is_never_the_first():
    ws, others = jnp.zeros((3, 6, 2)), jnp.ones((3, 6, 2))
    mix = jax.jit(lambda k, p: conditioning.mix_styles(k, ws, others, probability=p))
    seen = set()
    for seed in range(40):
        mixed = np.asarray(mix(jax.random.key(seed), 1.0))
        assert (mixed == mixed[:1, :, :1]).all() and (np.diff(mixed[0, :, 0]) >= 0).all()
        seen.add(int(mixed[0, :, 0].sum()))
    assert seen == {1, 2, 3, 4, 5}
    assert not mix(jax.random.key(0), 0.0).any()


def test_mirroring_flips_images_with_their_labels():
    c = labels(0.3, -0.3, 0.6)
    images = {
        "image": jnp.arange(3 * 4 * 4 * 3.0).reshape(3, 4, 4, 3),
        "mask": jnp.ones((3, 2, 2, 1)),
    }
    flipped, told = conditioning.mirror(images, c, flips=jnp.asarray([True, False, True]))
    np.testing.assert_array_equal(flipped["image"][0], images["image"][0, :, ::-1])
    np.testing.assert_array_equal(flipped["image"][1], images["image"][1])
    np.testing.assert_allclose(told, labels(-0.3, -0.3, -0.6), atol=1e-6)


def test_back_views_are_repeated_and_none_is_lost():
    yaws = np.deg2rad([0, 89, 91, 180, -91, -89])
    c = np.asarray(labels(*yaws))
    indices = conditioning.repeat_back_views(c, times=4)
    np.testing.assert_array_equal(np.bincount(indices), [1, 1, 4, 4, 4, 1])
    np.testing.assert_array_equal(conditioning.repeat_back_views(c, times=1), np.arange(6))
    with pytest.raises(ValueError, match="at least 1"):
        conditioning.repeat_back_views(c, times=0)
