"""Batches are the same whoever loads them: this process, or others."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from headjax.data import Eg3dDataset, batches, load_split
from headjax.errors import UserError
from headjax.geometry.cameras import label_from_camera, orbit

COUNT, BATCH = 7, 3


def png(seed, *shape):
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def archive(path, contents):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def zipped(tmp_path):
    names = [f"{i}.png" for i in range(COUNT)]
    cameras = [np.asarray(label_from_camera(orbit(0.1 * i, 0.0))).tolist() for i in range(COUNT)]
    labels = json.dumps({"labels": list(zip(names, cameras, strict=True))})
    images = {name: png(i, 8, 8, 3) for i, name in enumerate(names)}
    masks = {name: png(i + 50, 8, 8) for i, name in enumerate(names)}
    return Eg3dDataset(
        archive(tmp_path / "images.zip", images | {"dataset.json": labels}),
        masks=archive(tmp_path / "masks.zip", masks),
        mirror=True,
    )


def last_two(size):
    """The rows of one of several processes."""
    return slice(size - 2, size)


def test_workers_change_neither_batches_nor_positions(small_set, zipped):
    fields = ("image", "camera", "mask")
    for source, kwargs in (
        (load_split(small_set, "train", cache=False), {"by_identity": True}),
        (zipped, {"fields": fields}),
    ):
        kwargs |= {"batch_size": BATCH, "seed": 4, "rows": last_two, "num_epochs": 4}
        plain, other = batches(source, **kwargs), batches(source, workers=2, **kwargs)
        for step in range(4):
            assert plain.get_state() == other.get_state()
            expected, found = next(plain), next(other)
            assert list(found) == list(expected) and len(found["camera"]) == 2
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, strict=True)
            assert all(value.flags.writeable for value in found.values()), step
        # Each goes on from the other's state, to the end.
        state = {"next_index": 2}
        plain.set_state(other.get_state())
        other.set_state(state)
        expected = batches(source, **kwargs)
        expected.set_state(state)
        left, rest = list(expected), list(other)
        assert len(left) == len(rest) > 0 and len(list(plain)) == len(left) - 2
        for one, two in zip(left, rest, strict=True):
            np.testing.assert_array_equal(one["image"], two["image"])


@pytest.mark.parametrize("workers", [-1, 3])
def test_there_must_be_a_batch_for_each_worker(zipped, workers):
    with pytest.raises(UserError, match=f"workers is {workers}.*a batch ready for each"):
        batches(zipped, batch_size=2, seed=0, prefetch=2, workers=workers)
