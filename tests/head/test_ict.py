"""ICT-FaceKit's heads: read faithfully, framed for the world, painted with readable parts."""

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import orbit
from headjax.geometry.meshes import boundary_edges, face_normals
from headjax.head.ict import ict_outer_surface_map, ict_scene, read_ict
from headjax.head.ict.clip import cut_above
from headjax.head.ict.files import LANDMARKS, read_files
from headjax.head.ict.model import CENTRE, SCALE
from headjax.head.ict.scene import sample_looks
from headjax.head.model import landmarks, posed_joints, skin
from headjax.render.mesh import render_scene
from headjax.render.parts import PART_IDS


@pytest.fixture(scope="module")
def folder(shared_dir, tmp_path_factory):
    """Three identities and two expressions of the real data, so that the tests stay quick."""
    real = shared_dir / "data" / "ict_facekit"
    if not real.is_dir():
        pytest.skip(f"ICT-FaceKit's OBJ files not found in {real}")
    small = tmp_path_factory.mktemp("ict")
    names = ("generic_neutral_mesh", "identity000", "identity001", "identity007", "jawOpen")
    for name in (*names, "mouthSmile_L"):
        (small / f"{name}.obj").symlink_to(real / f"{name}.obj")
    return small


@pytest.fixture(scope="module")
def model(folder):
    return read_ict(folder)


def test_modes_are_file_minus_neutral_head(folder, model):
    files = read_files(folder)
    points = np.asarray(landmarks(model, skin(model, identity=np.eye(3, dtype=np.float32)[1])))
    expected = (files.vertices + files.identity[..., 1])[LANDMARKS]
    np.testing.assert_allclose(points, (expected - np.array(CENTRE)) * SCALE, atol=1e-5)
    assert model.identity_names == ("identity000", "identity001", "identity007")
    assert model.expression_names == ("jawOpen", "mouthSmile_L")


def test_the_head_fills_the_frame_and_stays_in_the_box(model):
    template = np.asarray(model.template)
    chin, crown = np.asarray(landmarks(model, template))[8, 1], template[:, 1].max()
    assert 0.38 < crown - chin < 0.42
    assert np.ptp(template[:, 1]) <= 0.465
    rng = np.random.default_rng(0)
    for code in 3 * rng.choice([-1, 1], (8, 3)):
        shaped = np.asarray(skin(model, identity=code.astype(np.float32)))
        assert np.abs(shaped).max() < 0.36


def test_the_skin_is_closed_but_for_eyes_and_mouth(model):
    used = ~np.any([model.regions[n] for n in ("eyes", "teeth", "eye_sockets", "mouth_socket")], 0)
    rim = np.unique(boundary_edges(model.faces[used[model.faces].all(1)]))
    middle = np.asarray(model.template)[rim]
    assert middle[:, 1].min() > -0.13 and middle[:, 2].min() > 0.1
    assert (face_normals(np.asarray(model.template), model.faces)[-20:, 2] > -1).all()


def test_skinning_weights_and_joints_are_in_order(model):
    np.testing.assert_allclose(model.skinning_weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(model.joint_regressor.sum(1), 1, atol=1e-6)
    joints = np.asarray(posed_joints(model))
    assert joints[3, 0] > 0.04 and joints[4, 0] < -0.04  # the subject's left eye is at +x
    assert joints[0, 1] < joints[1, 1] < joints[2, 1] < joints[3, 1]


def test_opening_the_jaw_moves_the_chin_and_leaves_the_upper_face(model):
    pose = np.zeros((5, 3), np.float32)
    pose[2, 0] = 0.2
    moved = np.asarray(landmarks(model, skin(model, pose=pose)) - landmarks(model, model.template))
    assert moved[8, 1] < -0.02
    assert np.abs(moved[17:48]).max() < 4e-3 and np.abs(moved[51]).max() < 3e-3


def test_turning_an_eye_moves_its_ball_alone(model):
    pose = np.zeros((5, 3), np.float32)
    pose[3, 1] = 0.3
    moved = np.abs(np.asarray(skin(model, pose=pose)) - np.asarray(model.template)).max(1)
    ball = model.regions["left_eyeball"]
    assert moved[ball].max() > 5e-3 and moved[~ball].max() < 1e-6


def test_regions_lie_where_they_should(model):
    points = np.asarray(model.template)
    middle = {name: points[mask].mean(0) for name, mask in model.regions.items()}
    assert middle["brows"][1] > middle["eyes"][1] > middle["nose"][1] > middle["mouth"][1]
    assert middle["mouth"][1] > middle["neck"][1] and middle["scalp"][1] > middle["brows"][1]
    assert all(mask.sum() > 50 for mask in model.regions.values())


def test_every_part_is_seen_on_its_side(model):
    scene = ict_scene(model, seed=1)
    view = render_scene(scene, orbit(0.0, 0.0), resolution=64)
    names = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "l_lip", "neck", "hair")
    column = {n: np.nonzero(view.parts == PART_IDS[n])[1] for n in (*names, "l_ear", "r_ear")}
    assert all(len(found) >= 4 for found in column.values())
    for name in ("brow", "eye", "ear"):
        assert column[f"l_{name}"].mean() > 32 > column[f"r_{name}"].mean()
    back = render_scene(scene, orbit(np.pi, 0.0), resolution=64)
    assert (back.parts == PART_IDS["hair"]).sum() > 0.5 * (back.parts > 0).sum()
    assert not np.isin(back.parts, [PART_IDS["l_eye"], PART_IDS["nose"]]).any()


def test_features_stand_out_from_the_skin_at_64_pixels(model):
    for seed in range(4):
        view = render_scene(ict_scene(model, seed=seed), orbit(0.0, 0.0), resolution=64)
        mean = {
            n: view.color[view.parts == PART_IDS[n]].mean(0) for n in ("skin", "l_brow", "u_lip")
        }
        assert np.abs(mean["skin"] - mean["l_brow"]).max() > 0.15
        assert np.abs(mean["skin"] - mean["u_lip"]).max() > 0.08


def test_skin_tones_are_balanced_over_seeds():
    light = np.array([sample_looks(seed).skin.mean() for seed in range(24)])
    assert (light > 0.62).sum() >= 6 and (light < 0.45).sum() >= 6
    assert np.ptp(light) > 0.35


def test_a_scene_is_the_same_again(model):
    first, second = (ict_scene(model, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.surfaces[0].albedo, second.surfaces[0].albedo)


def test_the_surface_map_is_the_outermost_surface_and_follows_the_identity(model):
    positions, valid = ict_outer_surface_map(model, size=32)
    assert valid.all()
    assert positions[0, :, 1].min() > 0.19 and positions[-1, :, 1].max() < -0.15
    assert positions[12, 16, 2] > 0.1 and positions[12, 0, 2] < -0.1  # face in the middle
    assert positions[12, 20, 0] > 0.02  # u grows towards the subject's left
    wide = np.array([2.0, 0, 0], np.float32)
    other, _ = ict_outer_surface_map(model, identity=wide, size=32)
    mode = np.asarray(model.identity_basis)[..., 0]
    moved = np.linalg.norm(other - positions, axis=-1)
    assert 0 < moved.max() <= 2 * np.linalg.norm(mode, axis=1).max() + 1e-6


def test_a_cut_cube_is_closed_and_its_lid_lies_in_the_plane():
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))], np.int32)
    cut = cut_above(faces, corners[:, 1] - 0.25)
    points = cut(corners)
    assert len(boundary_edges(cut.faces)) == 0
    np.testing.assert_allclose(points[cut.rim, 1], 0.25)
    a, b, c = (points[cut.faces[:, k]] for k in range(3))
    volume = (a * np.cross(b, c)).sum() / 6
    np.testing.assert_allclose(volume, 0.75, rtol=1e-6)


def test_missing_and_odd_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_ict(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"lacks generic_neutral_mesh\.obj"):
        read_ict(tmp_path)
    neutral = tmp_path / "generic_neutral_mesh.obj"
    neutral.symlink_to(folder / "generic_neutral_mesh.obj")
    with pytest.raises(UserError, match=r"lacks identity000\.obj"):
        read_ict(tmp_path)
    odd = tmp_path / "identity000.obj"
    odd.write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(UserError, match=r"lacks jawOpen\.obj"):
        read_ict(tmp_path)
    (tmp_path / "jawOpen.obj").symlink_to(folder / "jawOpen.obj")
    with pytest.raises(UserError, match=r"identity000\.obj has 2 vertices"):
        read_ict(tmp_path)
    neutral.unlink()
    neutral.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(UserError, match="has 3 vertices"):
        read_ict(tmp_path)
