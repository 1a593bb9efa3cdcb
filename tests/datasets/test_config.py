"""The configuration of a data set and the table of its records."""

import dataclasses

import numpy as np
import pytest

from headjax.data import SPLITS, HeadViewsConfig
from headjax.data.config import head_seed, head_views, record_counts, split_heads, split_table
from headjax.errors import UserError

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
        {"seed": -1},
        {"source": "ict"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_out_of_range_are_refused_by_name(change):
    name = "ict_folder" if change == {"source": "ict"} else next(iter(change))
    with pytest.raises(UserError, match=name):
        HeadViewsConfig(**change)


def test_there_are_three_splits_and_no_other():
    assert SPLITS == ("train", "val_views", "val_identities")
    with pytest.raises(UserError, match="no split 'test'"):
        split_table(CONFIG, "test")
