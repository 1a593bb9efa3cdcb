"""The judge's training: its pictures, its loss, its file; whole under `-m sweep`."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax import data
from headjax.data import HeadViewsConfig
from headjax.errors import UserError
from headjax.metrics import parts
from headjax.nets import part_segmenter
from headjax.nets.part_segmenter import CLASSES, PartSegmenterConfig
from headjax.train import part_judge
from headjax.train.weights import save_weights

TINY = part_judge.JudgeSettings(
    steps=40, batch_size=4, rate=1e-2, network=PartSegmenterConfig(widths=(8, 8, 8), margin=0)
)
STILL = dataclasses.replace(TINY, scale=0.0, shift=0, blur=0.0, gain=0.0, offset=0.0, noise=0.0)


def blocks(count=8, size=16):
    """Pictures of coloured blocks that tell their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(CLASSES), (count, size // 4, size // 4), np.uint8)
    labels = labels.repeat(4, axis=1).repeat(4, axis=2)
    colors = rng.integers(0, 256, (len(CLASSES), 3), np.uint8)
    colors[0] = 255
    return part_judge.Pictures(colors[labels], labels)


def told(labels):
    """Pictures [-1, 1] from which `labels` can be read back; background is white."""
    grey = 1.0 - labels.astype(np.float32) / 8.0
    return jnp.asarray(np.repeat(grey[..., None], 3, axis=-1))


def test_without_amounts_pictures_are_only_mirrored():
    source = blocks()
    images, labels = part_judge.augment(
        jax.random.key(3), told(source.labels), jnp.asarray(source.labels), settings=STILL
    )
    mirrored = np.asarray(labels != source.labels).any(axis=(1, 2))
    assert mirrored.any() and not mirrored.all()
    straight = np.where(mirrored[:, None, None], source.labels[:, :, ::-1], source.labels)
    np.testing.assert_array_equal(labels, straight)
    np.testing.assert_allclose(images, told(straight), atol=1e-6)


def test_labels_move_with_their_pictures():
    source = blocks(32)
    moved = dataclasses.replace(STILL, shift=4)
    images, labels = part_judge.augment(
        jax.random.key(1), told(source.labels), jnp.asarray(source.labels), settings=moved
    )
    np.testing.assert_array_equal(jnp.round((1.0 - images[..., 0]) * 8.0), labels)
    assert np.mean(np.asarray(labels != source.labels).any(axis=(1, 2))) > 0.9


def test_scaled_labels_stay_on_their_pictures():
    disc = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 9
    labels = np.repeat(disc[None].astype(np.uint8), 16, axis=0)
    scaled = dataclasses.replace(STILL, scale=0.3)
    images, found = part_judge.augment(
        jax.random.key(5), told(labels), jnp.asarray(labels), settings=scaled
    )
    areas = np.asarray(found).sum(axis=(1, 2)) / disc.sum()
    assert areas.min() < 0.8 and areas.max() > 1.2
    np.testing.assert_allclose(
        (1.0 - images[..., 0]).sum((1, 2)) * 8 / disc.sum(), areas, rtol=0.05
    )
    assert np.mean(np.asarray(1.0 - images[..., 0] > 1 / 16) == np.asarray(found)) > 0.98


def test_pictures_become_soft_tinted_and_noisy_within_their_range():
    images = told(np.zeros((64, 16, 16), np.uint8)).at[:, 4:12, 4:12].set(-0.4)
    labels = jnp.zeros(images.shape[:3], jnp.uint8)
    key = jax.random.key(0)

    def seen(**amounts):
        settings = dataclasses.replace(STILL, **amounts)
        return np.asarray(part_judge.augment(key, images, labels, settings=settings)[0])

    assert np.abs(np.diff(seen(blur=1.0), axis=1)).max(axis=(1, 2, 3)).min() < 1.1
    flat = seen(gain=0.2, offset=0.1)[:, 6, 6]
    assert 0.03 < flat.std(axis=0).min() and flat.std(axis=0).max() < 0.5
    assert 0.01 < seen(noise=0.05)[:, 5:11, 5:11].std(axis=(1, 2)).max() < 0.2
    for every in (seen(blur=1.0, gain=0.5, offset=0.5, noise=0.5), seen()):
        assert every.min() >= -1.0 and every.max() <= 1.0


def test_soft_overlap_of_certain_labels_is_the_intersection_over_union():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, (2, 3, 8, 8), np.uint8)
    hard = parts.class_overlap(a, b)
    one_hot = [jax.nn.one_hot(labels, len(CLASSES)) for labels in (a, b)]
    soft = part_judge.soft_overlap(*one_hot)
    assert float(soft) == pytest.approx(hard.mean(), rel=1e-6)


@pytest.fixture(scope="module")
def judge():
    return part_judge.train_judge(blocks(), settings=TINY, seed=4)


def test_the_loss_falls_when_trained(judge):
    source = blocks()
    images, labels = (
        jnp.asarray(source.images / np.float32(127.5) - 1.0),
        jnp.asarray(source.labels),
    )
    value = jax.jit(lambda p: part_judge.loss(p, images, labels, settings=TINY)[0])
    untrained = part_segmenter.init_params(TINY.network, jax.random.key(0))
    assert float(value(judge.params)) < 0.85 * float(value(untrained))


def test_training_is_deterministic_by_its_seed(judge):
    again, other = (part_judge.train_judge(blocks(), settings=TINY, seed=seed) for seed in (4, 5))
    jax.tree.map(np.testing.assert_array_equal, judge.params, again.params)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), judge.params, other.params)
    assert not all(jax.tree.leaves(same))


def test_a_judge_is_read_back_as_it_was_written(judge, tmp_path):
    part_judge.save_judge(tmp_path / "judge.safetensors", judge, metadata={"seed": 0})
    read = part_judge.load_judge(tmp_path / "judge.safetensors")
    assert read.config == judge.config
    jax.tree.map(np.testing.assert_array_equal, read.params, judge.params)


def test_what_is_no_judge_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"a": np.zeros(3, np.float32)}, metadata={})
    with pytest.raises(UserError, match="no judge of 10 classes"):
        part_judge.load_judge(path)
    notes = {"kind": part_judge.KIND, "classes": list(CLASSES), "widths": [8, 8, 8], "margin": 0}
    save_weights(path, {"a": np.zeros(3, np.float32)}, metadata=notes)
    with pytest.raises(UserError, match="not those of a judge"):
        part_judge.load_judge(path)
    with pytest.raises(UserError, match="no such weights file"):
        part_judge.load_judge(tmp_path / "nothing.safetensors")


def test_data_sets_that_share_heads_with_the_judge_are_refused():
    part_judge.refuse_shared_heads(HeadViewsConfig(train_identities=2000))
    with pytest.raises(UserError, match=r"data.seed is \d+, by which 2 heads are the judge's own"):
        part_judge.refuse_shared_heads(
            HeadViewsConfig(train_identities=2, val_identities=0, seed=part_judge.VIEWS.seed)
        )


def test_pictures_come_from_both_splits_of_the_heads_that_it_learns_from(tmp_path):
    few = dataclasses.replace(
        part_judge.VIEWS, train_identities=1, val_identities=1, train_views=3, val_views=2,
        resolution=16, supersample=1,
    )  # fmt: skip
    data.prepare(few, tmp_path / "set", workers=1)
    seen = part_judge.pictures(tmp_path / "set")
    unseen = part_judge.pictures(tmp_path / "set", (part_judge.UNSEEN,))
    assert seen.images.shape == (5, 16, 16, 3) and seen.labels.shape == (5, 16, 16)
    assert len(unseen) == 5 and seen.labels.dtype == np.uint8
    assert set(np.unique(seen.labels)) <= set(range(len(CLASSES)))
    background = (seen[0]["image"] == 255).all(axis=-1)
    assert (seen[0]["label"][background] == 0).all() and (~background).any()


@pytest.mark.sweep
def test_the_judge_tells_the_parts_of_unseen_heads_in_three_minutes(tmp_path):
    started = time.process_time()
    data.prepare(part_judge.VIEWS, tmp_path / "set", workers=1)
    judge = part_judge.train_judge(part_judge.pictures(tmp_path / "set"))
    jax.block_until_ready(judge.params)
    assert time.process_time() - started < 2 * 180
    unseen = part_judge.pictures(tmp_path / "set", (part_judge.UNSEEN,))
    labels = parts.labels_of(judge, unseen.images / np.float32(127.5) - 1.0)
    overlap = parts.class_overlap(labels, unseen.labels)
    print(overlap.iou())
    assert overlap.mean(parts.FACIAL) >= 0.8, overlap.iou()
    assert overlap.mean() >= 0.8, overlap.iou()
