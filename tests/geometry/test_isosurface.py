"""Meshes from density fields: closed, outward, of the right size, coloured."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.isosurface import PEAK_SHARE, evaluate, extract_mesh
from headjax.geometry.meshes import is_watertight

trimesh = pytest.importorskip("trimesh", reason="the mesh extra is not installed")
pytest.importorskip("skimage", reason="the mesh extra is not installed")

CUBE = ((-0.36, -0.36, -0.36), (0.36, 0.36, 0.36))
RADIUS = 0.2


@jax.jit
def ball(points):
    """A density that passes 10 at the radius."""
    return 10 + 200 * (RADIUS - jnp.linalg.norm(points, axis=-1))


def position_color(points):
    return points / 0.72 + 0.5


def _volume(mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_a_ball_comes_out_closed_outward_and_of_its_size():
    mesh = extract_mesh(ball, position_color, bounds=CUBE, resolution=48, level=10.0)
    assert is_watertight(mesh.faces)
    independent = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert independent.is_watertight and independent.is_winding_consistent
    volume = 4 / 3 * np.pi * RADIUS**3
    np.testing.assert_allclose(_volume(mesh), volume, rtol=0.01)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=1e-3)
    np.testing.assert_allclose(mesh.vertex_colors, position_color(mesh.vertices), atol=1e-6)


def test_a_box_that_is_no_cube_keeps_the_proportions():
    bounds = ((-0.3, -0.25, -0.4), (0.3, 0.35, 0.4))
    mesh = extract_mesh(ball, None, bounds=bounds, resolution=40, level=10.0)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=2e-3)
    assert mesh.vertex_colors is None and _volume(mesh) > 0


def test_what_reaches_the_bounds_is_closed_there():
    half = ((0.0, -0.3, -0.3), (0.3, 0.3, 0.3))
    mesh = extract_mesh(ball, None, bounds=half, resolution=40, level=10.0)
    assert is_watertight(mesh.faces)
    np.testing.assert_allclose(_volume(mesh), 2 / 3 * np.pi * RADIUS**3, rtol=0.06)
    everywhere = extract_mesh(
        lambda p: np.full(len(p), 50.0), None, bounds=CUBE, resolution=8, level=10.0
    )
    assert is_watertight(everywhere.faces) and _volume(everywhere) > 0.72**3


def test_without_a_level_the_surface_lies_at_a_share_of_the_peak():
    def bump(points):
        return 600 * np.exp(-np.sum(points**2, axis=-1) / 0.1**2)

    mesh = extract_mesh(bump, None, bounds=CUBE, resolution=49, level=None)
    radius = 0.1 * np.sqrt(np.log(1 / PEAK_SHARE))
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), radius, atol=2e-3)


def test_evaluation_in_pieces_asks_for_one_size_and_changes_nothing():
    points = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    sizes = set()

    def function(piece):
        sizes.add(len(piece))
        return piece.sum(1)

    got = evaluate(function, points, chunk=1000)
    np.testing.assert_allclose(got, points.sum(1), rtol=1e-6)
    assert sizes == {1000}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 1e6}, "never passes the level"),
        ({"level": None, "density": 0.0}, "never passes the level"),
        ({"resolution": 1}, "resolution 1 lies outside"),
        ({"resolution": 5000}, "resolution 5000 lies outside"),
        ({"bounds": ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0))}, "are no box"),
        ({"level": float("nan")}, "is no number"),
    ],
)
def test_impossible_requests_are_refused(changes, message):
    request = {"bounds": CUBE, "resolution": 16, "level": 10.0} | changes
    scale = request.pop("density", 1.0)
    with pytest.raises(UserError, match=message):
        extract_mesh(lambda points: scale * ball(points), None, **request)


def test_a_broken_field_is_refused():
    with pytest.raises(UserError, match="NaN or infinite"):
        extract_mesh(lambda p: p[:, 0] * np.nan, None, bounds=CUBE, resolution=8, level=1.0)


def test_without_scikit_image_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(UserError, match=r"pip install 'headjax\[mesh\]'"):
        extract_mesh(ball, None, bounds=CUBE, resolution=8, level=10.0)
