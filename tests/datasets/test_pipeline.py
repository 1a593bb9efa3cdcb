"""Records by index and batches by step."""

import time

import numpy as np
import pytest

from headjax.data import SPLITS, batches, load_split
from headjax.errors import UserError

BATCH = 4


class Numbers:
    """A source of 10 records that are their own index."""

    identities = np.repeat([7, 3, 5], [3, 5, 2])

    def __len__(self):
        return len(self.identities)

    def __getitem__(self, index):
        return {"index": np.asarray(index), "twice": np.full(2, 2 * index)}


def taken(iterator, count):
    return [next(iterator)["index"].tolist() for _ in range(count)]


@pytest.fixture(scope="module")
def train(small_set):
    return load_split(small_set, "train")


@pytest.fixture(params=[False, True], ids=["by_record", "by_identity"])
def by_identity(request):
    return request.param


def test_a_record_has_the_promised_fields(train):
    described = {name: (value.shape, str(value.dtype)) for name, value in train[7].items()}
    assert described == {
        "image": ((16, 16, 3), "uint8"),
        "depth": ((16, 16, 1), "float32"),
        "mask": ((16, 16, 1), "uint8"),
        "parts": ((16, 16, 1), "uint8"),
        "camera": ((25,), "float32"),
        "identity": ((), "int32"),
        "view": ((), "int32"),
        "identity_code": ((4,), "float32"),
        "expression_code": ((3,), "float32"),
        "uv_positions": ((8, 8, 3), "float32"),
        "uv_valid": ((8, 8), "bool"),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_records_come_in_the_order_of_the_split_table(small_set, split):
    source = load_split(small_set, split)
    assert [int(record["identity"]) for record in source] == source.identities.tolist()
    assert [int(record["view"]) for record in source] == source.view_numbers.tolist()


def test_depth_and_parts_are_zero_where_the_mask_is_and_the_ground_is_white(train):
    for record in train:
        outside = record["mask"] == 0
        assert not record["depth"][outside].any() and not record["parts"][outside].any()
        assert (record["image"][outside[..., 0]] == 255).all()
        inside = record["mask"] == 255
        assert inside.any() and (np.abs(record["depth"][inside] - 2.6) < 0.25).all()


def test_the_cache_changes_nothing_and_its_records_are_read_only(small_set, train):
    plain = load_split(small_set, "train", cache=False)
    assert train[3] is train[3] and plain[3] is not plain[3]
    for name, value in train[3].items():
        np.testing.assert_array_equal(value, plain[3][name])
        assert not value.flags.writeable


def test_an_index_may_count_from_the_end_but_not_go_beyond(train):
    assert train[-1]["view"] == train[len(train) - 1]["view"]
    with pytest.raises(IndexError):
        train[len(train)]


def test_an_epoch_shows_every_record_once_and_the_next_in_another_order():
    iterator = batches(Numbers(), batch_size=5, seed=0)
    first, second = taken(iterator, 2), taken(iterator, 2)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(10))
    assert first != second


def test_without_shuffling_records_come_in_order():
    iterator = batches(Numbers(), batch_size=5, seed=0, shuffle=False)
    assert taken(iterator, 3) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]


def test_a_number_of_epochs_ends(by_identity):
    steps = 3 * (3 // 2 if by_identity else 10 // 2)
    iterator = batches(Numbers(), batch_size=2, seed=0, num_epochs=3, by_identity=by_identity)
    assert len(list(iterator)) == steps


def test_batches_by_identity_show_distinct_identities():
    iterator = batches(Numbers(), batch_size=2, seed=1, by_identity=True)
    for indices in taken(iterator, 30):
        assert len(set(Numbers.identities[indices])) == 2


def test_batches_by_identity_show_all_views_equally_often():
    iterator = batches(Numbers(), batch_size=3, seed=1, by_identity=True)
    counts = np.bincount(np.concatenate(taken(iterator, 60)), minlength=10)
    for identity, views in ((3, 5), (5, 2), (7, 3)):
        seen = counts[Numbers.identities == identity]
        assert seen.sum() == 60 and np.ptp(seen) <= 60 // views // 3


def test_unshuffled_batches_by_identity_go_through_the_views_in_order():
    iterator = batches(Numbers(), batch_size=3, seed=0, by_identity=True, shuffle=False)
    assert taken(iterator, 3) == [[3, 8, 0], [4, 9, 1], [5, 8, 2]]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(by_identity):
    def first(seed):
        return taken(batches(Numbers(), batch_size=3, seed=seed, by_identity=by_identity), 12)

    assert first(5) == first(5) != first(6)


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_restored_iterator_goes_on_with_the_very_next_batch(by_identity, after):
    def fresh():
        return batches(Numbers(), batch_size=3, seed=2, by_identity=by_identity)

    iterator = fresh()
    taken(iterator, after)
    state, rest = iterator.get_state(), taken(iterator, 9)
    restored = fresh()
    restored.set_state(state)
    assert taken(restored, 9) == rest
    iterator.set_state(state)
    assert taken(iterator, 9) == rest


def share(index, count):
    """The rows of one of `count` processes, as a loop would ask for them."""
    return lambda size: slice(index * size // count, (index + 1) * size // count)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_the_global_batch_whatever_their_number(count):
    whole = taken(batches(Numbers(), batch_size=6, seed=3), 8)
    shards = [
        taken(batches(Numbers(), batch_size=6, seed=3, rows=share(index, count)), 8)
        for index in range(count)
    ]
    assert [sum(parts, []) for parts in zip(*shards, strict=True)] == whole


def test_the_state_of_one_process_stands_for_any_number_of_them(by_identity):
    def fresh(rows=None):
        return batches(Numbers(), batch_size=2, seed=3, by_identity=by_identity, rows=rows)

    processes = [fresh(share(index, 2)) for index in range(2)]
    for iterator in processes:
        taken(iterator, 5)
    first, second = (iterator.get_state() for iterator in processes)
    alone = fresh()
    before = taken(alone, 5)
    assert first == second == alone.get_state()
    rest = taken(alone, 4)
    restored = fresh()
    restored.set_state(first)
    assert taken(restored, 4) == rest and len(before) == 5


def test_threads_and_prefetch_change_neither_order_nor_position(by_identity):
    def fresh(**options):
        return batches(Numbers(), batch_size=3, seed=2, by_identity=by_identity, **options)

    plain, threaded = fresh(), fresh(threads=3, prefetch=5)
    for _ in range(12):
        assert taken(threaded, 1) == taken(plain, 1)
        assert threaded.get_state() == plain.get_state()
    restored = fresh(threads=2, prefetch=2)
    restored.set_state(threaded.get_state())
    assert taken(restored, 5) == taken(plain, 5)


def test_records_that_do_not_stack_are_named():
    class Ragged(Numbers):
        def __getitem__(self, index):
            return {"index": np.zeros(3 if index == 8 else 2)}

    iterator = batches(Ragged(), batch_size=10, seed=0, shuffle=False)
    with pytest.raises(UserError, match=r"record 8 has .*\(3,\)}, record 0 has .*\(2,\)}"):
        next(iterator)


def test_fields_and_a_transform_shape_the_batch():
    iterator = batches(
        Numbers(),
        batch_size=2,
        seed=0,
        fields=("twice",),
        transform=lambda batch: {"sum": batch["twice"].sum()},
    )
    assert list(next(iterator)) == ["sum"]


def test_a_cached_batch_of_eight_64_pixel_views_takes_less_than_3_ms(tmp_path):
    view = {"image": np.zeros((64, 64, 3), np.uint8), "depth": np.zeros((64, 64, 1), np.float32)}
    view |= {"mask": np.zeros((64, 64, 1), np.uint8), "uv": np.zeros((32, 32, 3), np.float32)}
    source = Numbers()
    source.__class__ = type("Views", (Numbers,), {"__getitem__": lambda self, index: view})
    iterator = batches(source, batch_size=8, seed=0)
    next(iterator)
    durations = []
    for _ in range(30):
        start = time.perf_counter()
        next(iterator)
        durations.append(time.perf_counter() - start)
    assert np.median(durations) < 3e-3


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"batch_size": 11}, "batch_size is 11, but there are only 10 records"),
        ({"batch_size": 4, "by_identity": True}, "there are only 3 identities"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1, "threads": 0}, "threads is 0 and prefetch 2"),
        ({"batch_size": 1, "threads": 3}, "a batch ready for each"),
        ({"batch_size": 1, "rows": share(0, 2)}, "of which this process loads no row"),
    ],
)
def test_impossible_batches_are_refused(kwargs, said):
    with pytest.raises(UserError, match=said):
        batches(Numbers(), seed=0, **kwargs)


def test_an_unknown_field_is_named():
    with pytest.raises(UserError, match="no field 'depth'; they have index, twice"):
        batches(Numbers(), batch_size=2, seed=0, fields=("depth",))


def test_batches_by_identity_need_identities():
    with pytest.raises(UserError, match="knows the records' identities"):
        batches([{"x": np.zeros(1)}], batch_size=1, seed=0, by_identity=True)


def test_a_missing_split_or_folder_is_named(small_set, tmp_path):
    with pytest.raises(UserError, match="no split 'validation'"):
        load_split(small_set, "validation")
    with pytest.raises(UserError, match="holds no prepared data set"):
        load_split(tmp_path, "train")
