"""FID and KID of sets, whole and per half, kept between runs, and honestly absent."""

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import orbit
from headjax.metrics import feature_sets, identity, networks
from headjax.metrics.feature_sets import FeatureSet
from headjax.metrics.fid import frechet_distance, moments
from headjax.metrics.kid import kernel_distance


def a_set(seed, count, *, shift=0.0, size=6):
    rng = np.random.default_rng(seed)
    features = (rng.standard_normal((count, size)) + shift).astype(np.float32)
    return FeatureSet(features, rng.uniform(-np.pi, np.pi, count).astype(np.float32))


def test_a_cameras_yaw_is_the_one_that_it_was_made_with():
    yaws = np.linspace(-3.1, 3.1, 9).astype(np.float32)
    cameras = orbit(yaws, np.float32(0.3), target=np.float32([0, 0, 0.2]))
    np.testing.assert_allclose(feature_sets.yaws_of(cameras, pivot=(0, 0, 0.2)), yaws, atol=1e-5)


def test_the_front_reaches_to_ninety_degrees_on_both_sides():
    degrees = np.array([0.0, 89, 90, -90, 91, -91, 180, -180, 270, 360, 450])
    front = feature_sets.is_front(np.deg2rad(degrees).astype(np.float32))
    np.testing.assert_array_equal(front, [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1])


def test_each_half_is_compared_with_the_same_half():
    reals, fakes = a_set(0, 120), a_set(1, 100, shift=0.5)
    rows = feature_sets.quality(reals, fakes)
    chosen = [feature_sets.is_front(s.yaws) for s in (reals, fakes)]
    for name, flip in (("front", False), ("back", True)):
        x, y = (s.features[c ^ flip] for s, c in zip((reals, fakes), chosen, strict=True))
        assert rows[f"fid_{name}"] == frechet_distance(moments(x), moments(y))
        assert rows[f"kid_x100_{name}"] == 100 * kernel_distance(x, y).mean
    assert rows["fid"] == frechet_distance(moments(reals.features), moments(fakes.features))
    assert 0.25 * 6 < rows["fid"] < 0.5 * 6


def test_without_a_network_every_row_names_the_file():
    missing = networks.load("inception", {})
    rows = feature_sets.quality(missing, a_set(0, 5))
    assert set(rows) == {f"{n}{h}" for n in ("fid", "kid_x100") for h in ("", "_front", "_back")}
    assert all(str(row).startswith("n/a (needs pt_inception-2015-12-05") for row in rows.values())


def test_an_empty_half_is_not_a_number_but_says_so():
    reals, fakes = a_set(0, 20), a_set(1, 20)
    front_only = FeatureSet(fakes.features, np.zeros(20, np.float32))
    rows = feature_sets.quality(reals, front_only)
    assert isinstance(rows["fid_front"], float)
    assert "there are" in rows["fid_back"] and rows["fid_back"].endswith("real and 0 made)")


def test_joined_sets_are_the_set_of_all():
    both = a_set(0, 5) + a_set(1, 7)
    assert both.features.shape == (12, 6) and both.yaws.shape == (12,)


def test_kept_features_are_used_for_the_same_source_only(tmp_path):
    path, made = tmp_path / "reals.safetensors", []

    def compute():
        made.append(1)
        return a_set(len(made), 9)

    first = feature_sets.cached(path, source={"data": "a", "size": 64}, compute=compute)
    again = feature_sets.cached(path, source={"size": 64, "data": "a"}, compute=compute)
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.yaws, again.yaws)
    assert len(made) == 1
    other = feature_sets.cached(path, source={"data": "b", "size": 64}, compute=compute)
    assert len(made) == 2 and not np.array_equal(other.features, first.features)


def test_a_broken_file_of_features_is_one_sentence(tmp_path):
    path = tmp_path / "reals.safetensors"
    path.write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="not a readable file of features"):
        feature_sets.cached(path, source={}, compute=lambda: a_set(0, 3))


def test_identity_is_the_mean_cosine_of_counterparts():
    a = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    b = np.array([[2.0, 0.0], [1.0, 0.0], [-3.0, -4.0]])
    np.testing.assert_allclose(identity.cosines(a, b), [1.0, 0.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(identity.similarity(a, b), 0.0, atol=1e-12)
    np.testing.assert_allclose(identity.similarity(a, 5 * a), 1.0)
