import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from headjax.train.gan import augment_colour as colour
from headjax.train.gan import wavelets
from headjax.train.gan.augment_settings import Augmentation
from tests.train.gan.traced import settings_of

DRAWN = 4000
PIXELS = np.random.default_rng(0).uniform(-1, 1, (1, 5, 4, 3)).astype(np.float32)


def after(maps):
    return np.asarray(colour.recolour(jnp.asarray(PIXELS), maps))


def grey(pixels):
    return pixels.mean(-1, keepdims=True)


NAMES = ("brightness", "contrast", "lumaflip", "hue", "saturation")


@jax.jit
def draw_traced(p, probabilities):
    settings = settings_of(**probabilities)
    return colour.draw_colour_maps(jax.random.key(0), DRAWN, p=p, settings=settings)


def draw(p=1.0, **probabilities):
    chosen = {name: float(probabilities.get(name, 0.0)) for name in NAMES}
    return np.asarray(draw_traced(p, chosen), np.float64)


def one(value):
    return jnp.asarray([value], jnp.float32)


def test_brightness_adds_and_contrast_multiplies():
    np.testing.assert_allclose(after(colour.brightness(one(0.3))), PIXELS + 0.3, atol=1e-6)
    np.testing.assert_allclose(after(colour.contrast(one(1.7))), PIXELS * 1.7, atol=1e-6)


def test_luma_flip_negates_grey_and_keeps_the_rest():
    np.testing.assert_allclose(
        after(colour.luma_flip(one(1.0))), PIXELS - 2 * grey(PIXELS), atol=1e-6
    )
    np.testing.assert_allclose(after(colour.luma_flip(one(0.0))), PIXELS, atol=1e-6)


def test_a_third_of_a_hue_turn_exchanges_the_colours():
    np.testing.assert_allclose(
        after(colour.hue(one(2 * np.pi / 3))), PIXELS[..., [2, 0, 1]], atol=1e-6
    )


def test_hue_turns_chroma_by_the_angle_about_grey():
    turned = after(colour.hue(one(0.7)))
    np.testing.assert_allclose(grey(turned), grey(PIXELS), atol=1e-6)
    a, b = PIXELS - grey(PIXELS), turned - grey(turned)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(a, axis=-1) ** 2, lengths, rtol=1e-4)
    np.testing.assert_allclose((a * b).sum(-1) / lengths, np.cos(0.7), atol=1e-4)


def test_saturation_multiplies_what_is_not_grey():
    expected = grey(PIXELS) + 2.5 * (PIXELS - grey(PIXELS))
    np.testing.assert_allclose(after(colour.saturation(one(2.5))), expected, atol=1e-6)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_transformation_applies_with_its_probability(name, p):
    changed = (np.abs(draw(p=p, **{name: 1.0}) - np.eye(4)) > 1e-6).any((1, 2)).mean()
    share = 0.5 if name == "lumaflip" else 1.0
    assert abs(changed - p * share) < 0.03


def test_colours_have_their_spreads():
    np.testing.assert_allclose(draw(brightness=1.0)[:, 0, 3].std(), 0.2, rtol=0.05)
    np.testing.assert_allclose(np.log2(draw(contrast=1.0)[:, 1, 1]).std(), 0.5, rtol=0.05)
    saturation = (np.trace(draw(saturation=1.0), axis1=1, axis2=2) - 2) / 2
    np.testing.assert_allclose(np.log2(saturation).std(), 1.0, rtol=0.05)
    cosine = (np.trace(draw(hue=1.0), axis1=1, axis2=2) - 2) / 2
    counts, _ = np.histogram(np.arccos(np.clip(cosine, -1, 1)), bins=4, range=(0, np.pi))
    np.testing.assert_allclose(counts / DRAWN, 0.25, atol=0.03)


def test_the_chain_is_brightness_contrast_luma_hue_saturation():
    """Draws share keys whatever else is switched on, so the chain's parts can be had alone."""
    product = np.eye(4)
    for name in NAMES:
        product = draw(p=0.8, **{name: 1.0}) @ product
    np.testing.assert_allclose(draw(p=0.8, **dict.fromkeys(NAMES, 1.0)), product, atol=1e-4)


def test_triples_share_a_map_and_what_is_left_over_stays():
    stack = jnp.concatenate([PIXELS, -PIXELS, PIXELS[..., :1]], axis=-1)
    maps = jnp.asarray(draw(brightness=1.0, hue=1.0)[:1], jnp.float32)
    mapped = colour.recolour(stack, maps)
    np.testing.assert_allclose(mapped[..., :3], after(maps), atol=1e-6)
    np.testing.assert_allclose(
        mapped[..., 3:6], colour.recolour(-jnp.asarray(PIXELS), maps), atol=1e-6
    )
    np.testing.assert_array_equal(mapped[..., 6], PIXELS[..., 0])


def test_filtering_is_the_amplified_bands_by_scipy():
    x = jax.random.normal(jax.random.key(3), (2, 48, 52, 3))
    gains = jnp.asarray([[1.0, 2.0, 0.5, 3.0], [0.3, 1.0, 4.0, 1.5]])
    ours = jax.jit(colour.filter_bands)(x, gains)
    for b in range(2):
        taps = np.asarray(gains[b], np.float64) @ wavelets.octave_bands()
        expected = np.asarray(x[b], np.float64)
        for axis in (0, 1):
            expected = ndimage.convolve1d(expected, taps, axis=axis, mode="mirror")
        np.testing.assert_allclose(ours[b], expected, atol=1e-4)


def test_unit_gains_filter_nothing_even_on_images_smaller_than_the_filter():
    x = jax.random.normal(jax.random.key(3), (2, 16, 12, 3))
    np.testing.assert_allclose(colour.filter_bands(x, jnp.ones((2, 4))), x, atol=1e-5)


def gains(*bands, p=1.0):
    settings = Augmentation(imgfilter=1.0, imgfilter_bands=tuple(map(float, bands)))
    return np.asarray(colour.draw_gains(jax.random.key(0), DRAWN, p=p, settings=settings))


def test_a_bands_gain_keeps_the_power_of_natural_images():
    drawn = gains(0, 0, 0, 1)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 2], rtol=1e-6)
    np.testing.assert_allclose(np.log2(drawn[:, 3] / drawn[:, 0]).std(), 1.0, rtol=0.05)
    power = np.square(drawn) @ (np.array([10, 1, 1, 1]) / 13)
    np.testing.assert_allclose(power, 1.0, rtol=1e-4)


def test_gains_are_the_product_of_one_draw_a_band_each_with_its_probability():
    single = [gains(*row, p=0.5) for row in np.eye(4)]
    np.testing.assert_allclose(gains(1, 1, 1, 1, p=0.5), np.prod(single, axis=0), rtol=1e-4)
    for band in single:
        assert abs((np.abs(band - 1) > 1e-6).any(1).mean() - 0.5) < 0.03


def test_noise_has_a_half_normal_spread_of_its_own_for_each_sample():
    settings = Augmentation(noise=1.0)
    drawn = colour.draw_noise(jax.random.key(0), (2000, 8, 8, 3), p=0.5, settings=settings)
    spread = np.asarray(drawn).std((1, 2, 3))
    used = spread > 0
    assert abs(used.mean() - 0.5) < 0.04
    np.testing.assert_allclose(spread[used].mean(), 0.1 * np.sqrt(2 / np.pi), rtol=0.06)


def test_holes_are_rectangles_of_half_the_size_about_a_uniform_centre():
    settings = Augmentation(cutout=1.0)
    kept = np.asarray(
        colour.draw_holes(jax.random.key(0), (2000, 16, 16, 1), p=0.6, settings=settings)
    )[..., 0]
    hole = kept == 0
    used = hole.any((1, 2))
    assert abs(used.mean() - 0.6) < 0.04
    rows, columns = hole.any(2), hole.any(1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == 8 and rows[used].sum(1).min() >= 4
    # Pixels at a border are covered half as often as those in the middle.
    cover = rows[used].mean(0)
    np.testing.assert_allclose([cover[0], cover[8]], [0.25 + 1 / 32, 0.5], atol=0.05)
