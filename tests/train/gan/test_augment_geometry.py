import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.gan import augment_geometry as geometry
from headjax.train.gan import wavelets
from tests.train.gan.test_wavelets import slow_double
from tests.train.gan.traced import settings_of

SIZE = (24, 20)
warp = jax.jit(geometry.warp)
DRAWN = 4000


def noise(*shape):
    return jax.random.normal(jax.random.key(5), shape)


def maps(**entries):
    """One inverse map: xx, xy, x, yx, yy, y."""
    e = {"xx": 1.0, "xy": 0.0, "x": 0.0, "yx": 0.0, "yy": 1.0, "y": 0.0, **entries}
    return jnp.asarray([[[e["xx"], e["xy"], e["x"]], [e["yx"], e["yy"], e["y"]], [0, 0, 1.0]]])


NAMES = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")


@jax.jit
def draw_traced(p, values):
    settings = settings_of(**values)
    return geometry.draw_inverse_maps(jax.random.key(0), DRAWN, p=p, settings=settings, size=SIZE)


def draw(p=1.0, **values):
    """Inverse maps: nothing happens but what is named; ranges are the defaults but those named."""
    ranges = {"xint_max": 0.125, "rotate_max": 1.0}
    chosen = {name: float(values.get(name, 0.0)) for name in NAMES}
    chosen |= {name: float(values.get(name, default)) for name, default in ranges.items()}
    return np.asarray(draw_traced(p, chosen), np.float64)


def test_the_identity_gives_the_image_back():
    x = noise(2, *SIZE, 3)
    np.testing.assert_allclose(warp(x, jnp.repeat(maps(), 2, 0)), x, atol=2e-6)


@pytest.mark.parametrize("right, down", [(1, -1), (-1, 1), (0, 1)])
def test_shifts_by_whole_pixels_move_pixels_and_mirror_the_border(right, down):
    x = noise(1, *SIZE, 3)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[:, 4 - down :, 4 - right :][:, : SIZE[0], : SIZE[1]]
    shifted = warp(x, maps(x=-float(right), y=-float(down)))
    # The outermost pixels' filter reaches beyond what is mirrored exactly.
    inner = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(
        shifted[inner], expected[inner], atol=0.35 if 4 in (abs(right), abs(down)) else 2e-5
    )


def slow_warp(image, inverse):
    """Mirror once, double, sample at every fine pixel, halve: by loops in float64."""
    rows, columns = image.shape
    pad = 12
    fine = np.pad(image, pad, mode="reflect")
    for axis in (0, 1):
        fine = np.apply_along_axis(slow_double, axis, fine)
    n = {axis: np.arange(-5, 2 * size + 5) for axis, size in enumerate(image.shape)}
    sampled = np.zeros((len(n[0]), len(n[1])))
    for i, row in enumerate(n[0]):
        for j, column in enumerate(n[1]):
            centre = np.array([(columns - 1) / 2, (rows - 1) / 2])
            place = np.append(np.array([column, row]) / 2 - centre, 1.0)
            x, y = 2 * ((inverse @ place)[:2] + centre + pad)
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            fx, fy = x - x0, y - y0
            patch = fine[y0 : y0 + 2, x0 : x0 + 2]
            sampled[i, j] = np.array([1 - fy, fy]) @ patch @ np.array([1 - fx, fx])
    out = np.zeros(image.shape)
    taps = wavelets.SYM6 / 2**0.5
    for i in range(rows):
        for j in range(columns):
            out[i, j] = taps @ sampled[2 * i : 2 * i + 12, 2 * j : 2 * j + 12] @ taps
    return out


def test_a_map_is_what_loops_over_all_pixels_give():
    x = noise(1, 14, 12, 1)
    inverse = maps(xx=0.9, xy=-0.15, x=0.7, yx=0.1, yy=0.85, y=-0.4)
    expected = slow_warp(np.asarray(x[0, :, :, 0], np.float64), np.asarray(inverse[0], np.float64))
    np.testing.assert_allclose(warp(x, inverse)[0, :, :, 0], expected, atol=5e-5)


def blobs(x, y):
    """A smooth picture that is nearly empty at the border."""
    spots = [(1.0, -5.0, 2.0, 4.0), (-0.7, 4.0, 5.0, 3.5), (0.5, 3.0, -6.0, 4.0)]
    return sum(a * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * s * s)) for a, u, v, s in spots)


PICTURE = 40


@pytest.mark.parametrize(
    "inverse",
    [
        maps(xx=-1.0), maps(xx=0.0, xy=1.0, yx=-1.0, yy=0.0), maps(xx=-1.0, yy=-1.0),
        maps(x=2.3, y=-1.6), maps(xx=0.8, yy=0.8), maps(xx=1.2, yy=1 / 1.2),
        maps(xx=0.6, xy=-0.8, yx=0.8, yy=0.6), maps(xx=0.9, xy=0.5, x=1.1, yx=-0.3, yy=1.1, y=0.4),
    ],
    ids=["flip", "quarter", "half", "shift", "scale", "stretch", "rotate", "all"],
)  # fmt: skip
def test_each_kind_of_map_moves_a_smooth_picture_as_a_function(inverse):
    y, x = np.mgrid[:PICTURE, :PICTURE] - (PICTURE - 1) / 2
    matrix = np.asarray(inverse[0], np.float64)
    u, v = (row[0] * x + row[1] * y + row[2] for row in matrix[:2])
    picture = jnp.asarray(blobs(x, y), jnp.float32)[None, :, :, None]
    error = np.abs(warp(picture, inverse)[0, :, :, 0] - blobs(u, v))
    inside = np.maximum(np.abs(u), np.abs(v)) < PICTURE / 2
    assert inside.mean() > 0.6
    # Half a turn meets sym6's asymmetry twice; being a fine pixel off would cost 0.09.
    assert error[inside].max() < 0.035


def test_far_beyond_the_border_the_picture_is_mirrored_again_and_again():
    y, x = np.mgrid[:16, :16] / 15.0
    x, y = np.pi * x, np.pi * y  # cosines are their own mirror images about the outermost pixels
    picture = jnp.asarray(np.cos(x) * np.cos(y), jnp.float32)[None, :, :, None]
    zoomed = warp(picture, maps(xx=5.0, yy=3.0))
    centre = np.pi / 2
    expected = np.cos(centre + 5 * (x - centre)) * np.cos(centre + 3 * (y - centre))
    np.testing.assert_allclose(zoomed[0, :, :, 0], expected, atol=0.08)


def test_gradients_are_the_transpose_and_finite():
    x = noise(1, 12, 12, 2)
    inverse = maps(xx=0.5, xy=3.0, x=20.0, yx=-0.3, yy=1.1, y=-50.0)
    seed = noise(*x.shape) + 1.0
    gradient = jax.jit(jax.grad(lambda image: jnp.vdot(warp(image, inverse), seed)))(x)
    assert np.isfinite(gradient).all()
    other = jnp.cos(x)
    np.testing.assert_allclose(
        jnp.vdot(gradient, other), jnp.vdot(seed, warp(other, inverse)), rtol=1e-4
    )


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "name, kept", [("xint", 1 / 30), ("scale", 0), ("aniso", 0), ("xfrac", 0), ("rotate", 0)]
)  # fmt: skip
def test_a_transformation_applies_with_its_probability(name, kept, p):
    drawn = draw(p=p, **{name: 1.0})
    moved = (np.abs(drawn - np.eye(3)) > 1e-6).any((1, 2)).mean()
    assert abs(moved - p * (1 - kept)) < 0.03


def test_flips_and_quarter_turns_are_fair_and_exact():
    flips = draw(xflip=1.0)
    np.testing.assert_array_equal(np.abs(flips), np.tile(np.eye(3), (DRAWN, 1, 1)))
    assert abs((flips[:, 0, 0] < 0).mean() - 0.5) < 0.03
    turns = draw(rotate90=1.0)
    assert set(np.unique(turns)) == {-1.0, 0.0, 1.0}
    cosine, sine = turns[:, 0, 0], turns[:, 1, 0]
    for c, s in [(1, 0), (0, 1), (-1, 0), (0, -1)]:
        assert abs(((cosine == c) & (sine == s)).mean() - 0.25) < 0.03


def test_shifts_have_their_ranges():
    whole = draw(xint=1.0)[:, :2, 2]
    np.testing.assert_array_equal(whole, np.round(whole))
    assert np.abs(whole[:, 0]).max() == 2 and np.abs(whole[:, 1]).max() == 3  # 20 / 8, 24 / 8
    part = draw(xfrac=1.0)[:, :2, 2]
    np.testing.assert_allclose(part.std(0), [0.125 * SIZE[1], 0.125 * SIZE[0]], rtol=0.05)
    np.testing.assert_allclose(part.mean(0), 0.0, atol=0.2)


def test_scales_are_log_normal_and_stretches_keep_the_area():
    scale = draw(scale=1.0)
    np.testing.assert_allclose(scale[:, 0, 0], scale[:, 1, 1])
    np.testing.assert_allclose(np.log2(scale[:, 0, 0]).std(), 0.2, rtol=0.05)
    stretch = draw(aniso=1.0)
    np.testing.assert_allclose(np.linalg.det(stretch), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.log2(stretch[:, 0, 0]).std(), 0.2, rtol=0.05)


def test_rotations_are_uniform():
    turns = draw(rotate=1.0)
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (DRAWN, 1, 1)), atol=1e-5
    )
    angle = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
    counts, _ = np.histogram(angle, bins=8, range=(-np.pi, np.pi))
    np.testing.assert_allclose(counts / DRAWN, 1 / 8, atol=0.03)


def test_the_chain_is_blits_then_scale_turn_stretch_turn_shift():
    """Draws share keys whatever else is switched on, so the chain's parts can be had alone."""
    whole = draw(p=0.8, **dict.fromkeys(NAMES, 1.0))
    alone = {name: draw(p=0.8, **{name: 1.0}) for name in NAMES}
    middle = draw(p=0.8, rotate=1.0, aniso=1.0)
    product = alone["xflip"] @ alone["rotate90"] @ alone["xint"] @ alone["scale"]
    np.testing.assert_allclose(whole, product @ middle @ alone["xfrac"], atol=1e-4)
    stretched = np.linalg.svd(middle[:, :2, :2], compute_uv=False)
    expected = np.linalg.svd(alone["aniso"][:, :2, :2], compute_uv=False)
    np.testing.assert_allclose(stretched, expected, atol=1e-5)
    both = (np.abs(middle - alone["aniso"] @ alone["rotate"]) > 1e-3).any((1, 2))
    assert both.any(), "the stretch stands between the rotations"


def test_ranges_are_those_of_the_settings():
    angle = draw(rotate=1.0, rotate_max=0.25)
    angle = np.abs(np.arctan2(angle[:, 1, 0], angle[:, 0, 0]))
    assert np.pi / 4 < angle.max() <= np.pi / 2 + 1e-5  # two turns of a quarter of pi each
    assert np.abs(draw(xint=1.0, xint_max=0.5)[:, :2, 2]).max(0).tolist() == [10, 12]
