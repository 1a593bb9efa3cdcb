"""The procedural head as a `HeadModel`: form, mirror symmetry, joints, landmarks, regions."""

import numpy as np
import pytest

from headjax.geometry.cameras import orbit
from headjax.geometry.meshes import is_watertight
from headjax.head import model as head
from headjax.head.procedural import build, grid, head_model, neutral_person, person_scene
from headjax.render.mesh import render_scene
from headjax.render.parts import PART_IDS

LANDMARK_MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


@pytest.fixture(scope="module")
def model() -> head.HeadModel:
    return head_model()


@pytest.fixture(scope="module")
def points(model) -> np.ndarray:
    return np.asarray(head.landmarks(model, model.template))


def _main(array: np.ndarray) -> np.ndarray:
    return np.asarray(array)[: build.main_count()]


def _mirrored(field: np.ndarray) -> np.ndarray:
    return _main(field)[grid.mirror_index()] * [-1, 1, 1]


def _expression(model, **amounts: float) -> np.ndarray:
    code = np.zeros(model.num_expression, np.float32)
    for name, amount in amounts.items():
        code[model.expression_names.index(name)] = amount
    return code


def _pose(model, **joints: tuple[float, float, float]) -> np.ndarray:
    pose = np.zeros((model.num_joints, 3), np.float32)
    for name, turn in joints.items():
        pose[model.joint_names.index(name)] = turn
    return pose


def test_the_surface_is_watertight_and_faces_outward(model):
    assert is_watertight(model.faces)
    a, b, c = (model.template[model.faces[:, k]] for k in range(3))
    volume = np.einsum("fk,fk->", np.cross(a, b), c) / 6
    assert 0.008 < volume < 0.025


def test_no_codes_give_the_template(model):
    zero = np.zeros(model.num_identity, np.float32)
    shaped = head.skin(model, identity=zero, expression=_expression(model), pose=_pose(model))
    np.testing.assert_allclose(shaped, model.template, atol=1e-6)


def test_there_are_enough_named_directions_and_each_moves_something(model):
    assert len(set(model.identity_names)) == model.num_identity >= 20
    assert len(set(model.expression_names)) == model.num_expression >= 10
    for basis in (model.identity_basis, model.expression_basis):
        reach = np.linalg.norm(basis, axis=1).max(0)
        assert (reach > 0.001).all()
        assert (reach < 0.03).all()


def test_identity_and_expression_are_linear(model):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, model.num_identity)).astype(np.float32)
    e = rng.uniform(size=model.num_expression).astype(np.float32)
    whole = head.skin(model, identity=a + b, expression=e)
    parts = [{"identity": a}, {"identity": b}, {"expression": e}]
    total = sum(np.asarray(head.skin(model, **part)) - model.template for part in parts)
    np.testing.assert_allclose(np.asarray(whole) - model.template, total, atol=1e-6)


def test_the_template_mirrors_onto_itself(model):
    np.testing.assert_allclose(_mirrored(model.template), _main(model.template), atol=1e-6)
    left, right = build.eye_slices()
    flipped = np.sort(model.template[left] * [-1, 1, 1], axis=0)
    np.testing.assert_allclose(flipped, np.sort(model.template[right], axis=0), atol=1e-6)


def test_identity_directions_keep_the_mirror_symmetry(model):
    for k in range(model.num_identity):
        field = model.identity_basis[..., k]
        np.testing.assert_allclose(_mirrored(field), _main(field), atol=1e-6)


@pytest.mark.parametrize("pair", [("blink_left", "blink_right"), ("mouth_left", "mouth_right")])
def test_left_and_right_expressions_mirror_each_other(model, pair):
    left, right = (model.expression_basis[..., model.expression_names.index(n)] for n in pair)
    np.testing.assert_allclose(_mirrored(left), _main(right), atol=1e-6)


def test_weights_and_regressors_are_shares(model):
    np.testing.assert_allclose(model.skinning_weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(model.joint_regressor.sum(1), 1, atol=1e-6)
    assert model.skinning_weights.min() >= -1e-6


def test_joints_stand_where_the_anatomy_has_them(model):
    joints = dict(
        zip(model.joint_names, np.asarray(head.joint_positions(model, model.template)), strict=True)
    )
    for name, side in (("left_eye", 1), ("right_eye", -1)):
        ball = model.template[build.eye_slices()[0 if side > 0 else 1]]
        np.testing.assert_allclose(joints[name], (ball.max(0) + ball.min(0)) / 2, atol=1e-3)
        assert side * joints[name][0] > 0.03
    np.testing.assert_allclose([joints[n][0] for n in ("global", "neck", "jaw")], 0, atol=1e-6)
    assert joints["global"][1] < joints["neck"][1] < joints["jaw"][1]


def test_turning_an_eye_moves_that_eyeball_alone(model):
    moved = np.asarray(head.skin(model, pose=_pose(model, left_eye=(0.0, 0.4, 0.0))))
    shift = np.abs(moved - model.template).max(1)
    left, right = build.eye_slices()
    assert shift[left].max() > 0.005
    np.testing.assert_allclose(shift[: left.start], 0, atol=1e-6)
    np.testing.assert_allclose(shift[right], 0, atol=1e-6)


def test_opening_the_jaw_lowers_the_chin_and_not_the_nose(model, points):
    opened = head.skin(model, pose=_pose(model, jaw=(0.3, 0.0, 0.0)))
    moved = np.asarray(head.landmarks(model, opened)) - points
    assert moved[8, 1] < -0.03
    assert moved[57, 1] < -0.015
    np.testing.assert_allclose(moved[[27, 30, 33, 51]], 0, atol=2e-3)


def test_pose_correctives_are_small_but_there(model):
    size = np.abs(model.pose_basis).max()
    assert 0.002 < size < 0.05


def test_landmarks_stand_in_ibug_order(points):
    right_jaw, left_jaw = points[0], points[16]
    assert right_jaw[0] < -0.08
    assert left_jaw[0] > 0.08
    assert (np.diff(points[:17, 0]) > 0).all()
    assert (np.diff(points[17:27, 0]) > 0).all()
    assert (np.diff(points[27:31, 1]) < 0).all()
    assert (np.diff(points[31:36, 0]) > 0).all()
    assert (points[36:42, 0] < 0).all()
    assert (points[42:48, 0] > 0).all()
    assert points[37:39, 1].min() > points[40:42, 1].max()
    assert points[43:45, 1].min() > points[46:48, 1].max()
    assert (np.diff(points[48:55, 0]) > 0).all()
    assert points[51, 1] > points[62, 1] >= points[66, 1] > points[57, 1] > points[8, 1]
    assert points[17:27, 1].min() > points[36:48, 1].max()


def test_landmarks_mirror_each_other(points):
    np.testing.assert_allclose(points[LANDMARK_MIRROR] * [-1, 1, 1], points, atol=2.5e-3)


def test_regions_are_there_and_disjoint_where_they_should_be(model):
    assert set(model.regions) == set(head.REGION_NAMES)
    assert all(mask.sum() > 50 for mask in model.regions.values())
    apart = [model.regions[n] for n in ("eyes", "brows", "nose", "mouth", "ears", "neck", "scalp")]
    assert np.sum(apart, axis=0).max() == 1
    for name in ("brows", "nose", "mouth"):
        assert (model.regions["face"] | ~model.regions[name]).all()


def test_the_atlas_is_covered_once(model):
    faces = grid.topology()[2]
    corner = model.uvs[faces]
    (ax, ay), (bx, by) = ((corner[:, k] - corner[:, 0]).T for k in (1, 2))
    doubled = ax * by - ay * bx
    assert (doubled > 0).all()
    caps = 1 / (grid.ROWS + 1)  # triangles at the poles fill half of the first and the last row
    np.testing.assert_allclose(doubled.sum() / 2, 1 - caps, rtol=1e-5)
    assert model.uvs.min() >= 0
    assert model.uvs.max() <= 1


@pytest.mark.parametrize("sign", [-2.0, 2.0])
def test_every_direction_alone_stays_in_the_box(model, sign):
    codes = sign * np.eye(model.num_identity, dtype=np.float32)
    for code in codes:
        assert np.abs(np.asarray(model.template + model.identity_basis @ code)).max() < 0.30


def _eye_pixels(expression: np.ndarray | None) -> dict[str, int]:
    scene = person_scene(neutral_person(), expression=expression)
    parts = render_scene(scene, orbit(0.0, 0.0), resolution=128, supersample=2).parts
    return {name: int((parts == PART_IDS[name]).sum()) for name in ("l_eye", "r_eye")}


def test_a_blink_covers_its_own_eye(model):
    opened = _eye_pixels(None)
    assert min(opened.values()) > 20
    for side, other in (("l_eye", "r_eye"), ("r_eye", "l_eye")):
        name = "blink_left" if side == "l_eye" else "blink_right"
        seen = _eye_pixels(_expression(model, **{name: 1.0}))
        assert seen[side] <= 1
        assert seen[other] == opened[other]
