"""Where the cameras stand."""

import numpy as np
import pytest

from headjax.data import views
from headjax.errors import UserError

SEEDS = (0, 1, 2, 3, 977, 2**31)


@pytest.fixture(params=[(32, 8), (24, 6), (200, 24), (4, 2)], ids=str)
def counts(request):
    return request.param


def placed(seed, counts, **kwargs):
    return views.place_views(seed, train_views=counts[0], held_out_views=counts[1], **kwargs)


def test_as_many_views_as_asked_for_within_the_pitch(counts):
    for seed in SEEDS:
        placement = placed(seed, counts)
        assert placement.train.shape == (counts[0], 2)
        assert placement.held_out.shape == (counts[1], 2)
        every = np.concatenate([placement.train, placement.held_out])
        assert np.abs(every[:, 1]).max() <= np.deg2rad(30) + 1e-9


def test_held_out_views_are_8_degrees_from_every_training_view(counts):
    for seed in SEEDS:
        placement = placed(seed, counts)
        nearest = views.angles_between(placement.held_out, placement.train).min()
        assert nearest >= np.deg2rad(8.0)


def test_two_held_out_views_lie_near_the_front_and_others_behind(counts):
    for seed in SEEDS:
        held_out = placed(seed, counts).held_out
        to_front = views.angles_between(held_out, views.exact_views()[:1])[:, 0]
        assert np.sum(to_front <= np.deg2rad(40)) >= 2
        assert counts[1] < 6 or to_front.max() > np.deg2rad(120)


def test_held_out_views_go_all_around():
    for seed in SEEDS:
        yaw = np.sort(placed(seed, (32, 8)).held_out[:, 0])
        gaps = np.diff(np.append(yaw, yaw[0] + 2 * np.pi))
        assert gaps.max() < np.deg2rad(110)


def test_the_first_training_views_are_the_exact_front_side_and_back():
    train = placed(5, (24, 6)).train
    expected = [[0, 0, 1], [1, 0, 0], [0, 0, -1]]
    np.testing.assert_allclose(views.directions(train[:3]), expected, atol=1e-12)


def test_training_views_leave_no_large_hole():
    rng = np.random.default_rng(0)
    yaw, height = rng.uniform(-np.pi, np.pi, 2000), rng.uniform(-0.5, 0.5, 2000)
    anywhere = np.stack([yaw, np.arcsin(height)], axis=1)
    for seed in SEEDS:
        train = placed(seed, (32, 8)).train
        assert views.angles_between(anywhere, train).min(axis=1).max() < np.deg2rad(50)


def test_about_half_of_the_training_views_see_the_face():
    share = np.mean([np.abs(placed(s, (40, 8)).train[:, 0]) <= np.deg2rad(60) for s in SEEDS])
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("counts", [(32, 8), (4, 2)], ids=str)
@pytest.mark.parametrize("degrees", [20, 40, 45, 60, 90, 120, 179])
def test_a_frontal_set_keeps_to_its_yaw_and_begins_with_the_front(counts, degrees):
    limit = np.deg2rad(degrees)
    for seed in SEEDS:
        placement = placed(seed, counts, max_yaw=limit)
        assert placement.train.shape == (counts[0], 2)
        assert placement.held_out.shape == (counts[1], 2)
        every = np.concatenate([placement.train, placement.held_out])
        assert np.abs(every[:, 0]).max() <= limit
        assert np.abs(every[:, 1]).max() <= np.deg2rad(30) + 1e-9
        np.testing.assert_array_equal(placement.train[0], 0)
        assert np.linalg.norm(placement.train[1:], axis=1).min() > 0
        nearest = views.angles_between(placement.held_out, placement.train).min()
        assert nearest >= np.deg2rad(8.0)
        to_front = views.angles_between(placement.held_out, views.exact_views()[:1])[:, 0]
        assert np.sum(to_front <= np.deg2rad(40)) >= 2


def test_views_of_a_frontal_set_are_uniform_in_area():
    train = [placed(seed, (64, 0), max_yaw=np.deg2rad(60)).train[1:] for seed in SEEDS]
    yaw, pitch = np.concatenate(train).T
    for share in (yaw / np.deg2rad(120) + 0.5, np.sin(pitch) + 0.5):
        counted = np.histogram(share, bins=8, range=(0, 1))[0] / len(share)
        np.testing.assert_allclose(counted, 1 / 8, atol=0.02)


def test_held_out_views_of_a_frontal_set_reach_both_sides():
    for seed in SEEDS:
        yaw = placed(seed, (32, 8), max_yaw=np.deg2rad(80)).held_out[:, 0]
        assert yaw.min() < np.deg2rad(-40) and yaw.max() > np.deg2rad(40)


# The last training and the last held-out view, as they were before there were frontal sets.
@pytest.mark.parametrize(
    ("seed", "counts", "train", "held_out"),
    [
        (0, (32, 8), (-0.86490350017, 0.21218238469), (-1.41139157399, 0.51058454789)),
        (977, (24, 6), (-0.99294844430, -0.50760702460), (-1.71932691100, -0.13667151942)),
        (2**31, (60, 24), (-3.01706883213, 0.41275757393), (-0.95064606492, -0.41479006704)),
    ],
)
def test_views_on_the_full_circle_are_those_of_earlier_data_sets(seed, counts, train, held_out):
    placement = placed(seed, counts, max_yaw=float(np.deg2rad(180.0)))
    np.testing.assert_allclose(placement.train[-1], train, atol=1e-9)
    np.testing.assert_allclose(placement.held_out[-1], held_out, atol=1e-9)


def test_views_are_a_pure_function_of_the_seed_and_differ_between_seeds():
    first, again, other = placed(3, (32, 8)), placed(3, (32, 8)), placed(4, (32, 8))
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.held_out, again.held_out)
    assert not np.allclose(first.train, other.train)


def test_cameras_may_stay_level():
    placement = placed(0, (24, 6), max_pitch=0.0)
    np.testing.assert_array_equal(placement.train[:, 1], 0)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"train_views": 2, "held_out_views": 6}, "train_views is 2"),
        ({"train_views": 24, "held_out_views": 1}, "held_out_views is 1"),
        ({"train_views": 24, "held_out_views": 49}, "held_out_views is 49"),
        ({"train_views": 24, "held_out_views": 6, "max_pitch": 2.0}, "max_pitch is 114"),
        ({"train_views": 24, "held_out_views": 6, "max_yaw": 0.1}, "max_yaw is 5.7"),
        ({"train_views": 24, "held_out_views": 6, "max_yaw": 4.0}, "max_yaw is 229"),
        ({"train_views": 24, "held_out_views": 48, "max_pitch": 0.0}, "do not fit"),
    ],
)
def test_impossible_numbers_of_views_are_refused(kwargs, said):
    with pytest.raises(UserError, match=said):
        views.place_views(0, **kwargs)
