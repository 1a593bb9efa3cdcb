"""The configuration of a data set and the table of its records."""

import dataclasses

import numpy as np
import pytest

from headjax.data import SPLITS, HeadViewsConfig, latents
from headjax.data.config import head_seed, head_views, record_counts, split_heads, split_table
from headjax.errors import UserError
from headjax.head import procedural

CONFIG = HeadViewsConfig(train_identities=5, val_identities=3, train_views=7, val_views=4)


def test_splits_hold_the_records_that_they_are_named_for():
    assert record_counts(CONFIG) == {"train": 35, "val_views": 20, "val_identities": 21}
    identities, numbers = split_table(CONFIG, "val_identities")
    np.testing.assert_array_equal(identities, np.repeat([5, 6, 7], 7))
    np.testing.assert_array_equal(numbers[:7], [0, 1, 2, 7, 8, 9, 10])
    np.testing.assert_array_equal(split_table(CONFIG, "val_views")[1][:4], [7, 8, 9, 10])


def test_no_identity_and_no_view_is_shared_between_training_and_held_out_splits():
    assert not set(split_heads(CONFIG, "train")) & set(split_heads(CONFIG, "val_identities"))
    train = head_views(CONFIG, 2, split="train").numbers
    assert not set(train) & set(head_views(CONFIG, 2, split="val_views").numbers)


def test_a_heads_seed_does_not_depend_on_how_many_heads_there_are():
    larger = dataclasses.replace(CONFIG, train_identities=50, val_identities=20)
    assert head_seed(CONFIG, 3) == head_seed(larger, 3)
    assert head_seed(CONFIG, 5) == head_seed(larger, 50)
    seeds = {head_seed(larger, identity) for identity in range(70)}
    assert len(seeds) == 70


def test_empty_splits_have_empty_tables():
    empty = HeadViewsConfig(train_identities=2, val_identities=0, val_views=0)
    assert record_counts(empty) == {"train": 64, "val_views": 0, "val_identities": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"source": "photos"},
        {"expression": "angry"},
        {"train_identities": 0},
        {"train_views": 2},
        {"val_views": 1},
        {"resolution": 0},
        {"supersample": 99},
        {"max_pitch": -1.0},
        {"max_yaw": 19.0},
        {"max_yaw": 181},
        {"seed": -1},
        {"source": "ict"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_out_of_range_are_refused_by_name(change):
    name = "ict_folder" if change == {"source": "ict"} else next(iter(change))
    with pytest.raises(UserError, match=name):
        HeadViewsConfig(**change)


def test_a_frontal_set_has_as_many_records_but_no_exact_side_and_back():
    frontal = dataclasses.replace(CONFIG, max_yaw=60.0)
    assert record_counts(frontal) == {"train": 35, "val_views": 20, "val_identities": 15}
    np.testing.assert_array_equal(split_table(frontal, "val_identities")[1][:5], [0, 7, 8, 9, 10])
    for split in SPLITS:
        for identity in split_heads(frontal, split):
            shown = head_views(frontal, identity, split=split)
            np.testing.assert_array_equal(
                shown.numbers, split_table(frontal, split)[1][: len(shown)]
            )
            assert shown.views.shape == (len(shown), 2)
            assert np.abs(shown.views[:, 0]).max() <= np.deg2rad(60)
    np.testing.assert_array_equal(head_views(frontal, 6, split="val_identities").views[0], 0)


def test_a_heads_latent_follows_from_its_seed_alone():
    found = latents(CONFIG)
    assert found.shape == (8, procedural.latent_size()) and found.dtype == np.float32
    frontal = dataclasses.replace(CONFIG, train_identities=2, max_yaw=60.0, resolution=16)
    np.testing.assert_array_equal(latents(frontal), found[[0, 1, 5, 6, 7]])
    person = procedural.person_from_latent(found[6])
    assert person.hair == procedural.sample_person(head_seed(CONFIG, 6)).hair


def test_heads_that_are_not_procedural_have_no_latents():
    with pytest.raises(UserError, match="source 'ict' have no latents"):
        latents(HeadViewsConfig(source="ict", ict_folder="scans"))


def test_there_are_three_splits_and_no_other():
    assert SPLITS == ("train", "val_views", "val_identities")
    with pytest.raises(UserError, match="no split 'test'"):
        split_table(CONFIG, "test")
