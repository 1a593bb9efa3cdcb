import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.gan import wavelets


@pytest.mark.parametrize("taps", [wavelets.SYM2, wavelets.SYM6], ids=["sym2", "sym6"])
def test_the_filters_are_orthogonal_wavelets_with_their_vanishing_moments(taps):
    """These conditions, and the least asymmetry, define the filters."""
    length = len(taps)
    np.testing.assert_allclose(taps.sum(), np.sqrt(2), rtol=1e-12)
    for shift in range(length // 2):
        product = taps[2 * shift :] @ taps[: length - 2 * shift]
        np.testing.assert_allclose(product, float(shift == 0), atol=1e-11)
    alternating = taps * (-1.0) ** np.arange(length)
    for moment in range(length // 2):
        np.testing.assert_allclose(alternating @ np.arange(length) ** moment, 0.0, atol=1e-8)


def slow_double(signal):
    """The formula, on one axis."""
    fine = np.zeros(2 * len(signal))
    for n in range(len(fine)):
        for k in range(len(signal)):
            if 0 <= n - 2 * k + 5 < 12:
                fine[n] += 2**0.5 * wavelets.SYM6[n - 2 * k + 5] * signal[k]
    return fine


def test_doubling_is_the_formula_along_both_axes():
    image = np.random.default_rng(0).standard_normal((9, 7))
    expected = np.apply_along_axis(slow_double, 1, np.apply_along_axis(slow_double, 0, image))
    ours = wavelets.double(jnp.asarray(image, jnp.float32)[None, :, :, None])
    np.testing.assert_allclose(ours[0, :, :, 0], expected, atol=1e-5)


def test_halving_takes_doubling_back_and_is_a_quarter_of_its_transpose():
    x = jax.random.normal(jax.random.key(0), (2, 16, 12, 3))
    inner = wavelets.halve(wavelets.double(x)[:, 5:-5, 5:-5])
    np.testing.assert_allclose(inner, x[:, 5:-5, 5:-5], atol=1e-5)
    fine = jax.random.normal(jax.random.key(1), (2, 42, 34, 3))
    # The image under `halve` lies EATEN fine pixels inside: 2.5 pixels, so pad by 3 and cut one.
    padded = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    np.testing.assert_allclose(
        jnp.vdot(wavelets.double(padded)[:, 1:-1, 1:-1], fine),
        4 * jnp.vdot(x, wavelets.halve(fine)),
        rtol=1e-4,
    )


def test_doubling_keeps_constants():
    fine = wavelets.double(jnp.ones((1, 12, 12, 1)))
    reach = 2 * wavelets.REACH
    np.testing.assert_allclose(fine[:, reach:-reach, reach:-reach], 1.0, atol=1e-6)


def test_octave_bands_add_up_to_the_identity_and_hold_an_octave_each():
    bands = wavelets.octave_bands()
    assert bands.shape == (4, 43)
    np.testing.assert_allclose(bands, bands[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(bands.sum(0), np.eye(43)[21], atol=1e-12)
    frequency = np.linspace(1e-3, np.pi, 400)
    offsets = np.arange(43) - 21
    response = bands @ np.cos(np.outer(offsets, frequency))
    assert response.min() > -1e-6
    edges = np.pi / 2.0 ** np.arange(4, -1, -1)
    edges[0] = 0.0
    for band in range(4):
        inside = (frequency > edges[band]) & (frequency <= edges[band + 1])
        assert response[band, inside].mean() > 0.55
        assert response[band, ~inside].mean() < 0.15
