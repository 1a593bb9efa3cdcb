import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from headjax.nets.resize import resize
from headjax.train.gan import images


def picture(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("sigma", [0.34, 0.5, 1.0, 2.5, 10.0])
def test_blur_is_the_separable_filter_by_scipy(sigma):
    x = picture(2, 16, 24, 3)
    reach = int(np.floor(3 * sigma))
    taps = 2.0 ** -((np.arange(-reach, reach + 1) / sigma) ** 2)
    expected = np.asarray(x, np.float64)
    for axis in (1, 2):
        expected = ndimage.convolve1d(expected, taps / taps.sum(), axis=axis, mode="constant")
    np.testing.assert_allclose(images.blur(x, sigma=sigma), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.33])
def test_no_blur_returns_the_images_themselves(sigma):
    x = picture(1, 8, 8, 3)
    np.testing.assert_array_equal(images.blur(x, sigma=sigma), x)


def test_blur_follows_a_traced_sigma_and_differentiates_twice():
    x = picture(1, 8, 8, 3)
    blurred = jax.jit(lambda s: images.blur(x, sigma=s))
    np.testing.assert_allclose(blurred(1.5), images.blur(x, sigma=1.5), atol=1e-6)

    def penalty(x):
        energy = jax.grad(lambda y: jnp.sum(jnp.square(images.blur(y, sigma=1.0))))
        return jnp.sum(jnp.square(energy(x)))

    assert np.isfinite(jax.grad(penalty)(x)).all()


def test_real_pairs_are_reduced_and_their_small_image_blurred():
    x, mask = picture(2, 16, 16, 3), picture(2, 16, 16, 1)
    pair = images.real_pair(x, neural_resolution=8, raw_sigma=1.0, mask=mask)
    np.testing.assert_array_equal(pair["image"], x)
    np.testing.assert_allclose(pair["image_raw"], images.blur(resize(x, 8), sigma=1.0), atol=1e-6)
    np.testing.assert_allclose(pair["mask"], resize(mask, 8), atol=1e-6)
    assert set(images.real_pair(x, neural_resolution=8)) == {"image", "image_raw"}


def test_all_images_of_a_sample_are_augmented_alike():
    """Colours first, so that the mask never becomes a part of a triple."""
    pair = {
        "mask": picture(2, 8, 8, 1),
        "image_raw": picture(2, 8, 8, 3),
        "image": picture(2, 8, 8, 3),
    }
    seen = []

    def augment(stack):
        seen.append(stack)
        return stack[:, :, ::-1] * jnp.arange(1.0, 8.0)

    after = images.augment_together(pair, augment)
    np.testing.assert_array_equal(
        seen[0], jnp.concatenate([pair["image"], pair["image_raw"], pair["mask"]], axis=-1)
    )
    np.testing.assert_array_equal(after["image"], pair["image"][:, :, ::-1] * jnp.arange(1.0, 4.0))
    np.testing.assert_array_equal(
        after["image_raw"], pair["image_raw"][:, :, ::-1] * jnp.arange(4.0, 7.0)
    )
    np.testing.assert_array_equal(after["mask"], pair["mask"][:, :, ::-1] * 7.0)


def test_small_images_are_enlarged_for_the_augmentation_and_reduced_again():
    pair = {"image": picture(1, 16, 16, 3), "image_raw": picture(1, 8, 8, 3, seed=1)}
    after = images.augment_together(pair, lambda stack: stack)
    np.testing.assert_allclose(
        after["image_raw"], resize(resize(pair["image_raw"], 16), 8), atol=1e-6
    )
    assert after["image"].shape == (1, 16, 16, 3)


def test_the_discriminator_sees_the_image_blurred_and_then_augmented():
    pair = {"image": picture(1, 8, 8, 3), "image_raw": picture(1, 8, 8, 3, seed=1)}
    plain = images.as_seen(pair, sigma=2.0)
    np.testing.assert_allclose(plain["image"], images.blur(pair["image"], sigma=2.0), atol=1e-6)
    np.testing.assert_array_equal(plain["image_raw"], pair["image_raw"])
    augmented = images.as_seen(pair, sigma=2.0, augment=lambda stack: jnp.abs(stack))
    np.testing.assert_allclose(augmented["image"], jnp.abs(plain["image"]), atol=1e-6)
    np.testing.assert_allclose(augmented["image_raw"], jnp.abs(pair["image_raw"]), atol=1e-6)
