"""Skinning: the public body-model code's numbers, and what must hold for any linear head."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.rotations import axis_angle_to_matrix
from headjax.head import model as head

GOLDEN = Path(__file__).parents[1] / "data" / "flame_lbs.npz"


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return _generator(name).standard_normal(shape, dtype=np.float32)


def _share(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def flame_shaped() -> head.HeadModel:
    """The golden's model: every array computed from its name."""
    directions = 0.01 * _normal("flame.shapedirs", (5023, 3, 400))
    regressor = _generator("flame.J_regressor").random((5, 5023), dtype=np.float32)
    return head.HeadModel(
        template=0.1 * _normal("flame.v_template", (5023, 3)),
        identity_basis=directions[..., :300],
        expression_basis=directions[..., 300:],
        pose_basis=0.001 * _normal("flame.posedirs", (5023, 3, 36)),
        joint_regressor=_share(regressor),
        skinning_weights=_share(np.exp(2 * _normal("flame.weights", (5023, 5)))),
        faces=np.array([[0, 1, 2], [2, 3, 0]], np.int32),
        uvs=np.zeros((4, 2), np.float32),
        uv_faces=np.array([[0, 1, 2], [2, 3, 0]], np.int32),
        landmark_faces=np.zeros(68, np.int32),
        landmark_barycentric=np.full((68, 3), 1 / 3, np.float32),
        regions={"face": np.arange(5023) < 3},
    )


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


def _codes(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pose = golden["pose"].reshape(-1, 5, 3)
    return {"identity": golden["shape"], "expression": golden["expr"], "pose": pose}


def test_skinning_reproduces_the_public_code(flame_shaped, golden):
    vertices = head.skin(flame_shaped, **_codes(golden))
    np.testing.assert_allclose(vertices[:, ::7], golden["vertices_sub"], rtol=0, atol=2e-5)


def test_posed_joints_reproduce_the_public_code(flame_shaped, golden):
    joints = head.posed_joints(flame_shaped, **_codes(golden))
    np.testing.assert_allclose(joints, golden["joints"], rtol=0, atol=2e-5)


def test_a_batch_is_its_members_one_by_one(flame_shaped, golden):
    codes = _codes(golden)
    whole = head.skin(flame_shaped, **codes)
    single = head.skin(flame_shaped, **{name: code[1] for name, code in codes.items()})
    np.testing.assert_allclose(whole[1], single, rtol=0, atol=1e-5)


def test_no_codes_give_the_template(flame_shaped):
    np.testing.assert_array_equal(head.skin(flame_shaped), flame_shaped.template)


def test_zero_pose_moves_nothing(flame_shaped):
    vertices = head.skin(flame_shaped, pose=np.zeros((5, 3), np.float32))
    np.testing.assert_allclose(vertices, flame_shaped.template, rtol=0, atol=1e-6)


def test_global_rotation_is_rigid_about_the_root(flame_shaped):
    pose = np.zeros((5, 3), np.float32)
    pose[0] = (0.3, -1.2, 0.4)
    root = np.asarray(head.posed_joints(flame_shaped))[0]
    rotation = axis_angle_to_matrix(pose[0])
    expected = (flame_shaped.template - root) @ rotation.T + root
    np.testing.assert_allclose(head.skin(flame_shaped, pose=pose), expected, rtol=0, atol=1e-5)


def test_gradients_at_the_zero_pose_are_finite(flame_shaped):
    def height(pose):
        return head.skin(flame_shaped, pose=pose)[:, 1].mean()

    assert np.isfinite(jax.grad(height)(jnp.zeros((5, 3)))).all()


def test_translation_is_added_to_every_vertex(flame_shaped):
    moved = head.skin(flame_shaped, translation=np.array([0.1, 0.2, 0.3], np.float32))
    np.testing.assert_allclose(moved - flame_shaped.template, np.broadcast_to([0.1, 0.2, 0.3],
                               moved.shape), atol=1e-6)


def test_landmarks_are_barycentric_points(flame_shaped):
    points = head.landmarks(flame_shaped, flame_shaped.template)
    np.testing.assert_allclose(points[7], flame_shaped.template[:3].mean(0), atol=1e-6)


def test_a_code_of_the_wrong_length_is_refused(flame_shaped):
    with pytest.raises(UserError, match="identity has 3 coefficients.*takes 300"):
        head.skin(flame_shaped, identity=np.zeros(3, np.float32))
    with pytest.raises(UserError, match="pose has shape"):
        head.skin(flame_shaped, pose=np.zeros((4, 3), np.float32))


def test_region_faces_need_all_three_corners(flame_shaped):
    np.testing.assert_array_equal(head.region_faces(flame_shaped, "face"), [True, False])
    with pytest.raises(UserError, match="no region 'beak'"):
        head.region_faces(flame_shaped, "beak")
