"""The data sheet."""

import numpy as np
import pytest

from headjax.data import data_sheet, load_split, sheet_rows
from headjax.geometry.cameras import camera_from_label


@pytest.fixture(scope="module")
def source(small_set):
    return load_split(small_set, "train")


def test_rows_show_each_identity_from_the_wanted_sides(source):
    rows = sheet_rows(source, identities=3, yaws=(0, 90, 180))
    assert [[int(record["identity"]) for record in row] for row in rows] == [
        [0] * 3,
        [2] * 3,
        [4] * 3,
    ]
    for row in rows:
        front, side, back = (camera_from_label(record["camera"]).position for record in row)
        np.testing.assert_allclose([front[2], side[0], back[2]], [2.7, 2.7, -2.7], rtol=1e-6)


def test_more_identities_than_there_are_give_all(source):
    assert len(sheet_rows(source, identities=99, yaws=(0,))) == 5


def test_the_sheet_is_a_picture_with_every_view_on_it(source):
    rows = sheet_rows(source, identities=2, yaws=(0, 90, 180))
    sheet = data_sheet(rows, title="Octahedra", cell=32)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3
    assert sheet.shape[1] > 9 * 32 and sheet.shape[0] > 2 * 32
    grown = np.kron(rows[1][1]["image"], np.ones((2, 2, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, grown.shape)[:, :, 0]
    inner = (slice(None), slice(None), slice(14, -2))  # The caption is written over the top.
    assert (windows[inner[0], inner[1], inner[2]] == grown[14:-2]).all(axis=(2, 3, 4)).any()


def test_records_without_masks_depth_or_parts_are_shown_too():
    images = [{"image": np.zeros((16, 16, 3), np.uint8)}] * 2
    assert data_sheet([images, images], cell=16).shape[0] > 32
