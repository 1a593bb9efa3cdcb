import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import orbit_labels
from headjax.io.images import enlarge
from headjax.systems.g3diff import report
from tests.systems.g3diff import tiny

SIDE = 8


def fake_render(mlp, heads, labels):
    """Pictures whose first value tells the head, whose second tells the camera."""
    count = labels.shape[0]
    assert heads.centers.shape[0] == count
    color = np.zeros((count, SIDE, SIDE, 3), np.float32)
    color[..., 0] = np.asarray(heads.centers)[:, 0, 0, :1, None]
    color[..., 1] = (np.asarray(labels)[:, 3, None, None] + 3) / 6
    depth = np.full((count, SIDE, SIDE), 2.5, np.float32)
    depth[:, 0] = 2.0
    alpha = np.ones((count, SIDE, SIDE), np.float32)
    alpha[:, -1] = 0.0
    return color, depth, alpha


def numbered_heads(count):
    heads = tiny.heads(batch=count)
    numbers = jnp.arange(count, dtype=jnp.float32) / 10
    return heads.replace(centers=heads.centers.at[:, 0, 0, 0].set(numbers))


def test_the_orbits_first_views_are_front_side_and_back():
    labels = orbit_labels(list(report.CANONICAL_YAWS.values()))
    positions = labels[:, [3, 7, 11]]
    np.testing.assert_allclose(positions, [[0, 0, 2.7], [2.7, 0, 0], [0, 0, -2.7]], atol=1e-5)


def test_pitch_may_be_one_number_or_one_a_view():
    labels = orbit_labels([0.0, 90.0], pitch_degrees=[30.0, -30.0])
    np.testing.assert_allclose(labels[:, 7], [1.35, -1.35], rtol=1e-5)
    np.testing.assert_allclose(orbit_labels([0.0], pitch_degrees=30.0), labels[:1])


def test_every_head_is_seen_from_every_label():
    labels = orbit_labels([0.0, 90.0, 180.0])
    color, depth, alpha = report.views_of(fake_render, None, numbered_heads(2), labels=labels)
    assert color.shape == (2, 3, SIDE, SIDE, 3) and depth.shape == alpha.shape == (2, 3, SIDE, SIDE)
    np.testing.assert_allclose(color[:, :, 0, 0, 0], [[0.0] * 3, [0.1] * 3], rtol=1e-6)
    np.testing.assert_allclose(color[0, :, 0, 0, 1], (labels[:, 3] + 3) / 6, rtol=1e-6)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (4, 2), (5, 3)])
def test_a_sample_sheet_has_three_views_and_a_depth_for_each_head(count, rows):
    labels = orbit_labels([0.0, 90.0, 180.0])
    views = report.views_of(fake_render, None, numbered_heads(count), labels=labels)
    sheet = report.sample_sheet(*views)
    columns = 4 * min(count, 2)
    assert sheet.shape == (rows * (SIDE + 4) - 4, columns * (SIDE + 4) - 4, 3)
    assert sheet.dtype == np.uint8
    # The first cell is the first head's front, the fourth its depth, whose last row is empty.
    np.testing.assert_array_equal(sheet[0, 0], np.round(255 * views[0][0, 0, 0, 0]).astype(int))
    assert np.all(sheet[SIDE - 1, 3 * (SIDE + 4) : 4 * (SIDE + 4) - 4] == 255)


def test_reconstructions_show_truth_prediction_and_depth_three_views_a_row():
    records = [
        {"identity": np.array(i, np.int32), "camera": orbit_labels([30.0 * i])[0],
         "image": np.full((SIDE, SIDE, 3), 40 * i, np.uint8)}
        for i in range(6)
    ]  # fmt: skip
    heads = numbered_heads(6)

    def build(params, ids):
        return report.take_heads(heads, ids)

    params = {"shared": {"mlp": None}}
    sheet = report.reconstruction_rows(fake_render, params, build=build, records=records)
    cell = 2 * SIDE + 4
    assert sheet.shape == (2 * cell - 4, 9 * cell - 4, 3)
    for i in range(6):
        row, column = divmod(i, 3)
        top, left = row * cell, 3 * column * cell
        np.testing.assert_array_equal(sheet[top, left], 40 * i)
        assert abs(int(sheet[top, left + cell, 0]) - 25.5 * i) <= 1


def test_a_turntable_has_a_frame_a_step_with_all_heads_side_by_side():
    frames = report.turntable(fake_render, None, numbered_heads(3), frames=5)
    assert len(frames) == 5
    assert all(frame.shape == (SIDE, 3 * SIDE, 3) for frame in frames)
    sides = [int(frame[0, 0, 1]) for frame in frames]
    assert len(set(sides)) == 5  # five different cameras, none of them shown twice


def test_enlarging_repeats_pixels():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(picture, 3)
    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], picture)
    np.testing.assert_array_equal(large[2::3, 2::3], picture)


def test_depth_is_white_outside_the_silhouette():
    depth = np.full((4, 4), 2.5, np.float32)
    depth[0] = 2.2
    alpha = np.ones((4, 4), np.float32)
    alpha[3] = 0.2
    picture = report.depth_picture(depth, alpha)
    assert picture.shape == (4, 4, 3)
    np.testing.assert_array_equal(picture[3], 255)
    assert np.any(picture[0] != picture[1])


def test_some_heads_of_a_batch_are_those_heads():
    heads = numbered_heads(4)
    taken = report.take_heads(heads, slice(1, 3))
    np.testing.assert_array_equal(taken.centers, heads.centers[1:3])
    np.testing.assert_array_equal(taken.valid, heads.valid[1:3])
