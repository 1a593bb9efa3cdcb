"""The makers of heads that data sets are rendered from."""

import numpy as np
import pytest

from headjax.data.config import HeadViewsConfig
from headjax.data.sources import HeadSource, make_source, sample_expression


@pytest.fixture(params=["procedural", "ict"])
def source(request):
    if request.param == "procedural":
        return make_source(HeadViewsConfig())
    folder = request.getfixturevalue("shared_dir") / "data/ict_facekit"
    if not folder.is_dir():
        pytest.skip(f"ICT-FaceKit's files are not in {folder}")
    return make_source(HeadViewsConfig(source="ict", ict_folder=str(folder)))


def neutral(source, seed):
    expression = np.zeros(source.expression_size, np.float32)
    return source.head(seed, expression=expression, uv_size=16)


def vertices(state):
    return np.concatenate([surface.vertices for surface in state.scene.surfaces])


def test_a_state_has_the_promised_arrays(source):
    assert isinstance(source, HeadSource)
    state = neutral(source, 3)
    assert state.identity_code.shape == (source.identity_size,)
    assert state.identity_code.dtype == state.uv_positions.dtype == np.float32
    assert state.expression_code.shape == (source.expression_size,)
    assert state.uv_positions.shape == (16, 16, 3)
    assert state.uv_valid.dtype == bool and state.uv_valid.mean() > 0.5
    np.testing.assert_array_equal(state.uv_positions[~state.uv_valid], 0)
    assert np.abs(state.uv_positions).max() <= 0.36 and np.abs(vertices(state)).max() <= 0.36
    assert np.abs(state.uv_positions[state.uv_valid]).max(axis=0).min() > 0.1


def test_a_seed_is_a_person(source):
    first, again, other = neutral(source, 3), neutral(source, 3), neutral(source, 2**32 - 1)
    np.testing.assert_array_equal(first.identity_code, again.identity_code)
    np.testing.assert_array_equal(vertices(first), vertices(again))
    assert not np.array_equal(first.identity_code, other.identity_code)
    assert not np.array_equal(first.uv_positions, other.uv_positions)


def test_codes_are_of_about_unit_variance(source):
    codes = np.stack([neutral(source, seed).identity_code for seed in range(12)])
    assert np.isfinite(codes).all()
    assert 0.5 < np.sqrt(np.mean(codes**2)) < 1.5


def test_an_expression_moves_the_head(source):
    expression = sample_expression(1, size=source.expression_size)
    smiling = source.head(3, expression=expression, uv_size=16)
    plain = neutral(source, 3)
    moved = np.abs(vertices(smiling) - vertices(plain)).max()
    assert 1e-3 < moved < 0.1
    np.testing.assert_array_equal(smiling.expression_code, expression)
    np.testing.assert_array_equal(smiling.identity_code, plain.identity_code)
