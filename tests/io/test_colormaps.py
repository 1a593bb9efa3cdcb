"""Numbers as colours."""

import numpy as np

from headjax.io.colormaps import colorize, colorize_depth


def lightness(colors):
    return colors.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_lightness_rises_with_the_value_and_outside_is_clipped():
    shown = lightness(colorize(np.linspace(-1, 2, 200), low=0.0, high=1.0))
    assert (np.diff(shown) >= -1).all()
    np.testing.assert_array_equal(shown[:60], shown[0])
    assert shown[-1] - shown[0] > 150


def test_near_is_bright_and_nothing_is_white():
    depth = np.array([[0.0, 2.5], [2.6, 2.7]], np.float32)
    colors = colorize_depth(depth)
    np.testing.assert_array_equal(colors[0, 0], 255)
    near, middle, far = lightness(colors)[[0, 1, 1], [1, 0, 1]]
    assert near > middle > far


def test_an_empty_depth_map_is_white():
    np.testing.assert_array_equal(colorize_depth(np.zeros((2, 3), np.float32)), 255)


def test_a_flat_map_has_one_colour():
    assert (
        len(np.unique(colorize(np.full((3, 3), 2.0), low=2.0, high=2.0).reshape(-1, 3), axis=0))
        == 1
    )
