import gc
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.train import checkpoint

# Orbax drops the reads that are still under way when one of them fails, and Python says so.
abandoned_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Counter:
    """The smallest resumable iterator."""

    def __init__(self):
        self.at = 0

    def get_state(self):
        return {"at": self.at, "nested": {"none": None, "text": "x", "empty": []}}

    def set_state(self, state):
        self.at = state["at"]


def state_at(step: int) -> dict:
    scale = jnp.float32(step + 1)
    return {
        "w": jnp.arange(3000, dtype=jnp.float32).reshape(30, 100) * scale,
        "half": jnp.ones((5, 3), jnp.bfloat16) * scale.astype(jnp.bfloat16),
        "key": jax.random.key(step),
        "flags": jnp.array([True, False, step % 2 == 0]),
        "step": jnp.int32(step),
    }


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save_steps(folder, steps, **options):
    with checkpoint.Checkpoints(folder, **options) as saves:
        for step in steps:
            counter = Counter()
            counter.at = step
            saves.save(step, state_at(step), iterator=counter, seed=7)


def restore(folder, iterator=None, seed=7):
    try:
        with checkpoint.Checkpoints(folder) as saves:
            return saves.restore_latest(abstract(state_at(0)), iterator=iterator, seed=seed)
    finally:
        gc.collect()  # what Orbax dropped is complained of here, not in a later test


def test_a_restored_state_and_iterator_are_those_that_were_saved(tmp_path):
    save_steps(tmp_path, [3])
    counter = Counter()
    restored = restore(tmp_path, counter)
    assert_same(restored, state_at(3))
    assert counter.at == 3


def test_only_the_latest_few_checkpoints_are_kept(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4])
    with checkpoint.Checkpoints(tmp_path) as saves:
        assert saves.steps() == [3, 4]


def test_every_mth_checkpoint_is_kept_beside_the_latest(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4, 6, 7, 8], keep=2, keep_every=3)
    with checkpoint.Checkpoints(tmp_path) as saves:
        assert saves.steps() == [3, 6, 7, 8]


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0 must be at least 1"):
        checkpoint.Checkpoints(tmp_path, keep=0)


def test_no_checkpoint_restores_nothing(tmp_path):
    assert restore(tmp_path) is None


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with checkpoint.Checkpoints(tmp_path, keep=9) as saves:
        for step in range(4):
            state = {"w": jnp.full((1000, 1000), step, jnp.float32), "b": jnp.ones(3) * step}
            saves.save(step, state)
            jax.block_until_ready(spoil(state))
    for step in range(4):
        with checkpoint.Checkpoints(tmp_path, keep=9) as saves:
            form = abstract({"w": jnp.zeros((1000, 1000)), "b": jnp.ones(3)})
            back = saves._read(step, form, seed=0)[0]
        np.testing.assert_array_equal(back["w"], np.full((1000, 1000), step, np.float32))


def test_leaves_that_are_no_arrays_are_refused_by_name(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as saves:
        with pytest.raises(TypeError, match="bad"):
            saves.save(0, {"bad": np.int32(0)})
        with pytest.raises(TypeError, match="empty"):
            saves.save(0, {"empty": jnp.zeros((0, 3))})


def test_values_that_are_not_finite_are_never_saved(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as saves:
        with pytest.raises(UserError, match="'w'.* is not finite.*last good"):
            saves.save(5, {"w": jnp.array([1.0, jnp.nan])})
        assert saves.steps() == []


def test_another_seed_is_refused(tmp_path):
    save_steps(tmp_path, [1])
    with pytest.raises(UserError, match="seed 7, this run has seed 8"):
        restore(tmp_path, seed=8)


@pytest.mark.parametrize("version, words", [(1, "an older headjax"), (3, "a newer headjax")])
def test_a_checkpoint_of_another_schema_is_a_clear_stop(tmp_path, monkeypatch, version, words):
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", version)
    save_steps(tmp_path, [1])
    monkeypatch.undo()
    with pytest.raises(UserError, match=rf"1 was written by {words} \(schema {version}, .* 2\)"):
        restore(tmp_path)
    assert (tmp_path / "1").is_dir()


def test_real_numbers_are_restored_in_the_precision_that_is_wanted(tmp_path):
    save_steps(tmp_path, [4])
    saved = state_at(4)
    wanted = saved | {
        "w": saved["w"].astype(jnp.bfloat16),
        "half": saved["half"].astype(jnp.float32),
    }
    with checkpoint.Checkpoints(tmp_path) as saves:
        restored = saves.restore_latest(abstract(wanted), seed=7)
    assert_same(restored, wanted)
    assert restored["w"].dtype == jnp.bfloat16 and restored["half"].dtype == jnp.float32


def test_numbers_of_another_kind_are_not_converted(tmp_path):
    save_steps(tmp_path, [4])
    wanted = state_at(4) | {"step": jnp.float32(0)}
    with checkpoint.Checkpoints(tmp_path) as saves:
        with pytest.raises(UserError, match=r"step is int32\[\], this run needs float32\[\]"):
            saves.restore_latest(abstract(wanted), seed=7)


@abandoned_reads
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, caplog):
    save_steps(tmp_path, [1, 2])
    metadata = tmp_path / "2" / "_CHECKPOINT_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert_same(restore(tmp_path, Counter()), state_at(1))
    assert str(tmp_path / "2") in caplog.text and "step 1" in caplog.text
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2.unreadable"}


@abandoned_reads
def test_no_readable_checkpoint_is_a_clear_stop(tmp_path):
    save_steps(tmp_path, [1, 2])
    for step in (1, 2):
        for file in (tmp_path / str(step)).rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    with pytest.raises(UserError, match="none of the checkpoints .*step 2: .*step 1: "):
        restore(tmp_path)


def damage_file(file, kind, rng):
    data = file.read_bytes()
    if kind == "delete":
        file.unlink()
    elif kind == "empty" or not data:
        file.write_bytes(b"")
    elif kind == "truncate":
        file.write_bytes(data[: int(rng.integers(len(data)))])
    else:
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)


def damage_and_restore(folder, tmp_path, *, file, kind, rng):
    """The restored state is the newest one, unharmed, or the one before it."""
    copy = tmp_path / f"copy{rng.integers(2**60)}"
    shutil.copytree(folder, copy)
    damage_file(copy / file, kind, rng)
    counter = Counter()
    restored = restore(copy, counter)
    assert counter.at in (1, 2), (file, kind)
    assert_same(restored, state_at(counter.at))
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save_steps(folder, [1, 2])
    files = [p.relative_to(folder) for p in sorted((folder / "2").rglob("*")) if p.is_file()]
    return folder, files


KINDS = ("delete", "empty", "truncate", "flip")


@abandoned_reads
def test_damage_to_a_file_of_the_newest_checkpoint_never_goes_unnoticed(two_checkpoints, tmp_path):
    folder, files = two_checkpoints
    rng = np.random.default_rng(0)
    cases = [(file, kind) for file in files for kind in KINDS]
    for index in rng.choice(len(cases), 8, replace=False):
        file, kind = cases[index]
        damage_and_restore(folder, tmp_path, file=file, kind=kind, rng=rng)


@abandoned_reads
def test_an_older_damaged_checkpoint_does_not_stand_in_the_way(two_checkpoints, tmp_path):
    folder, _ = two_checkpoints
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "1" / "state")
    (copy / "1" / "_CHECKPOINT_METADATA").write_bytes(b"{")
    assert_same(restore(copy, Counter()), state_at(2))
    save_steps(copy, [3])
    with checkpoint.Checkpoints(copy) as saves:
        assert saves.steps() == [2, 3]


def test_a_state_of_another_form_is_a_clear_stop_that_names_it(tmp_path):
    save_steps(tmp_path, [1])
    wider = state_at(0) | {"w": jnp.zeros((30, 101))}
    with checkpoint.Checkpoints(tmp_path) as saves:
        with pytest.raises(UserError, match="none of the checkpoints .*101"):
            saves.restore_latest(abstract(wider), seed=7)
