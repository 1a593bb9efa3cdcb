"""One head's records."""

import dataclasses

import numpy as np
import pytest

from headjax.data.config import head_views
from headjax.data.rendering import camera_labels, quantise, render_head
from headjax.data.sources import sample_expression
from headjax.geometry.cameras import camera_from_label
from headjax.render.mesh import View, render_scene
from tests.datasets.conftest import SMALL
from tests.datasets.stand_in import StandInSource


def rendered(identity, **changes):
    config = dataclasses.replace(SMALL, **changes)
    return dict(render_head(config, identity, source=StandInSource()))


def test_a_training_head_is_rendered_for_two_splits_and_a_held_out_one_for_one():
    assert list(rendered(0)) == ["train", "val_views"]
    assert list(rendered(5)) == ["val_identities"]


def test_records_are_what_the_renderer_shows_from_their_cameras():
    source = StandInSource()
    arrays = rendered(1)["train"]
    assert (arrays["identity"] == 1).all() and arrays["view"].tolist() == list(range(6))
    expected = camera_labels(head_views(SMALL, 1, split="train").views)
    np.testing.assert_array_equal(arrays["camera"], expected)
    assert len(np.unique(arrays["camera"], axis=0)) == 6
    from headjax.data.config import head_seed

    state = source.head(head_seed(SMALL, 1), expression=np.zeros(3, np.float32), uv_size=8)
    for index in range(6):
        camera = camera_from_label(arrays["camera"][index])
        view = quantise(render_scene(state.scene, camera, resolution=16, supersample=1))
        for name, value in view.items():
            np.testing.assert_array_equal(arrays[name][index], value)


def test_depth_is_the_distance_along_the_ray():
    depth = rendered(0, resolution=33)["train"]["depth"][:3, 16, 16, 0]
    code = rendered(0)["train"]["identity_code"][0]
    np.testing.assert_allclose(depth, 2.7 - 0.2 * code[0], atol=2e-3)


def test_depth_and_parts_are_cleared_where_nothing_is_covered():
    ones = np.ones((2, 2), np.float32)
    mask = np.array([[0.0, 0.001], [0.5, 1.0]], np.float32)
    zeros = np.zeros((2, 2, 3), np.float32)
    view = View(
        color=zeros + 0.5,
        depth=ones,
        mask=mask,
        normals=zeros,
        uv=zeros[..., :2],
        parts=np.full((2, 2), 17, np.uint8),
        surface=np.zeros((2, 2), np.int8),
    )
    arrays = quantise(view)
    np.testing.assert_array_equal(arrays["depth"][..., 0], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(arrays["parts"][..., 0], [[0, 0], [17, 17]])
    np.testing.assert_array_equal(arrays["mask"][..., 0], [[0, 0], [128, 255]])
    assert (arrays["image"] == 128).all()


@pytest.mark.parametrize(
    ("expression", "different"), [("neutral", 1), ("per_identity", 1), ("per_view", 6)]
)
def test_expressions_are_shared_as_asked_for(expression, different):
    codes = rendered(0, expression=expression)["train"]["expression_code"]
    assert len(np.unique(codes, axis=0)) == different
    assert codes.any() == (expression != "neutral")
    held_out = rendered(0, expression=expression)["val_views"]["expression_code"]
    assert (held_out[0] == codes[0]).all() == (different == 1)


def test_random_expressions_have_one_to_three_coefficients_up_to_one():
    codes = np.stack([sample_expression(seed, size=15) for seed in range(200)])
    assert set(np.unique((codes > 0).sum(axis=1))) == {1, 2, 3}
    assert codes.min() == 0 and 0.3 <= codes[codes > 0].min() and codes.max() <= 1
    assert (codes > 0).any(axis=0).all()


def test_progress_is_reported_while_rendering():
    told = []
    list(render_head(SMALL, 0, source=StandInSource(), on_views=told.append))
    assert sum(told) == 10
