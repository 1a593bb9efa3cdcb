"""Scores of new heads, on pictures whose answers are known."""

import types

import numpy as np
import pytest

from headjax.metrics import parts
from headjax.nets.part_segmenter import CLASSES, SIZE
from headjax.systems.gan3d import evaluate

NUMBER = {name: number for number, name in enumerate(CLASSES)}


def face(*, mouth=True, shift=0):
    """Labels of a face: brows over eyes over nose over mouth."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[12:52, 16:48] = NUMBER["skin"]
    for left in (20, 36):
        labels[20:22, left : left + 8] = NUMBER["brows"]
        labels[24:27, left : left + 8] = NUMBER["eyes"]
    labels[28:38, 29 + shift : 35 + shift] = NUMBER["nose"]
    if mouth:
        labels[41:44, 25:39] = NUMBER["mouth"]
    return labels


def view(labels):
    """A picture that tells its labels to `told`."""
    return types.SimpleNamespace(image=np.repeat(labels[..., None] / 16.0, 3, axis=-1))


@pytest.fixture
def told(monkeypatch):
    def labels_of(judge, images):
        return np.round(images[..., 0] * 16).astype(np.uint8)

    monkeypatch.setattr(parts, "labels_of", labels_of)


def test_shares_are_counted_view_by_view(told):
    whole, dumb = view(face()), view(face(mouth=False))
    heads = [[whole, whole, dumb], [whole, whole, whole], [dumb, whole, dumb], [whole, dumb, dumb]]
    depth = np.full((4, SIZE, SIZE), 2.5)
    depth[:2, 36:38, 30:34] = 2.4  # the nose's tip; the head is about half a unit wide
    found = evaluate.faces(heads, depth=depth, judge="a judge")
    assert found["front_faces"] == 0.75
    assert found["turned_faces_left"] == 0.75 and found["turned_faces_right"] == 0.25
    assert found["noses_stand_out"] == 0.5
    assert found["front_mouth"] == 0.75 and found["front_eyes"] == 1.0


def test_without_a_judge_faces_are_not_available():
    found = evaluate.faces([], depth=np.zeros((0, SIZE, SIZE)), judge=None)
    assert len(found) == 4 and all(value.startswith("n/a") for value in found.values())
