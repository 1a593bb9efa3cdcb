"""Meshes from density fields: closed, outward, of the right size, coloured."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from headjax.errors import UserError
from headjax.geometry import isosurface
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


def test_a_balls_mesh_is_within_a_voxel_of_the_sphere_both_ways():
    mesh = extract_mesh(ball, None, bounds=CUBE, resolution=40, level=10.0)
    voxel = 0.72 / 39
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    on_mesh, _ = trimesh.sample.sample_surface(surface, 60_000, seed=0)
    to_sphere = np.abs(np.linalg.norm(on_mesh, axis=1) - RADIUS).max()
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    on_sphere = RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    # From above: the nearest of many points of the mesh is farther than the mesh.
    to_mesh = cKDTree(np.concatenate([on_mesh, mesh.vertices])).query(on_sphere)[0].max()
    assert max(to_sphere, to_mesh) <= voxel


def test_lattice_points_on_the_surface_leave_no_holes():
    # Quantised, so that many densities are the level to the bit.
    def steps(points):
        return np.round(4 * np.sin(9 * points).sum(-1)) / 4

    mesh = extract_mesh(steps, None, bounds=CUBE, resolution=25, level=0.5)
    assert is_watertight(mesh.faces) and _volume(mesh) > 0
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    assert merged.is_watertight and len(merged.vertices) == len(mesh.vertices)


@pytest.mark.parametrize("offset", [0.0, 1e-9, -1e-7, 1e-5])
def test_lattice_points_near_the_surface_leave_no_triangle_that_merging_would_break(offset):
    # Planes through lattice points, and cut at the bounds.
    def slopes(points):
        return 300 * (np.abs(points).sum(-1) - 0.36 + offset) * -1

    mesh = extract_mesh(slopes, None, bounds=CUBE, resolution=25, level=0.0)
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    assert merged.is_watertight and len(merged.vertices) == len(mesh.vertices)
    exact = 4 / 3 * 0.36**3
    np.testing.assert_allclose(merged.volume, exact, rtol=0.01)


def test_the_border_counts_as_empty_is_not_asked_and_is_cut_flat():
    asked = []

    def full(points):
        asked.append(np.abs(points).max())
        return 50.0 - points[:, 0]

    mesh = extract_mesh(full, None, bounds=CUBE, resolution=37, level=10.0, border=4)
    inner, voxel = 0.36 * (1 - 8 / 36), 0.72 / 36
    assert max(asked) <= inner + 1e-6
    assert is_watertight(mesh.faces)
    cut = inner + isosurface.CUT * voxel
    for axis in range(3):
        np.testing.assert_allclose(mesh.vertices[:, axis].max(), cut, rtol=1e-5)
        np.testing.assert_allclose(mesh.vertices[:, axis].min(), -cut, rtol=1e-5)
    np.testing.assert_allclose(_volume(mesh), (2 * cut) ** 3, rtol=5e-3)


def test_the_lattice_is_asked_in_pieces_of_one_size():
    sizes = set()

    def counted(points):
        sizes.add(len(points))
        return ball(points)

    pieces = extract_mesh(counted, None, bounds=CUBE, resolution=20, level=10.0, chunk=777)
    assert sizes == {777}
    whole = extract_mesh(ball, None, bounds=CUBE, resolution=20, level=10.0)
    np.testing.assert_allclose(pieces.vertices, whole.vertices, atol=1e-6)
    np.testing.assert_array_equal(pieces.faces, whole.faces)


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
    assert sizes == {834}  # three pieces, as even as can be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 1e6}, "never passes the level"),
        ({"level": None, "density": 0.0}, "never passes the level"),
        ({"resolution": 1}, "resolution 1 lies outside"),
        ({"resolution": 5000}, "resolution 5000 lies outside"),
        ({"bounds": ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0))}, "are no box"),
        ({"level": float("nan")}, "is no number"),
        ({"border": 8}, "a border of 8 leaves nothing"),
        ({"border": -1}, "a border of -1"),
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
