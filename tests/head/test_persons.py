"""Persons: determinism, balance, framing, hair, labels, the outer surface and the scene's pose."""

from collections import Counter

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.geometry.cameras import orbit, project
from headjax.geometry.rotations import axis_angle_to_matrix
from headjax.head import model as head
from headjax.head.procedural import (
    head_model,
    neutral_person,
    outer_surface_map,
    person_code,
    person_code_names,
    person_scene,
    sample_person,
)
from headjax.head.procedural import person as persons
from headjax.head.procedural.grid import COLUMNS
from headjax.render.mesh import render_scene
from headjax.render.parts import PART_IDS

HAIRY = ("buzz", "short", "side_part", "curly", "afro", "bob", "long", "bun", "ponytail")
SEEDS = range(64)


@pytest.fixture(scope="module")
def scenes() -> list:
    return [person_scene(sample_person(seed)) for seed in SEEDS]


def _parts(scene, yaw: float, resolution: int = 64) -> np.ndarray:
    return render_scene(scene, orbit(yaw, 0.0), resolution=resolution, supersample=2).parts


def _cloud(scene) -> np.ndarray:
    """Every vertex that a face uses."""
    used = [surface.vertices[np.unique(surface.faces)] for surface in scene.surfaces]
    return np.concatenate(used)


def test_a_seed_always_gives_the_same_person():
    first, second = sample_person(11), sample_person(11)
    np.testing.assert_array_equal(first.identity, second.identity)
    assert persons.describe(first) == persons.describe(second)
    np.testing.assert_array_equal(person_code(first), person_code(second))


def test_different_seeds_differ():
    codes = np.stack([person_code(sample_person(seed)) for seed in SEEDS])
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    assert apart[~np.eye(len(codes), dtype=bool)].min() > 3


def test_the_population_is_balanced():
    drawn = [sample_person(seed) for seed in range(600)]
    sexes = Counter(p.sex for p in drawn)
    assert 0.42 < sexes["female"] / 600 < 0.58
    assert {p.hair for p in drawn} == set(persons.HAIR_KINDS)
    assert max(Counter(p.hair for p in drawn).values()) < 0.25 * 600
    men = [p for p in drawn if p.sex == "male"]
    bearded = np.mean([p.beard not in ("none", "stubble") for p in men])
    assert 0.18 < bearded < 0.33
    assert 0.15 < np.mean([p.glasses != "none" for p in drawn]) < 0.26
    assert all(p.beard == "none" for p in drawn if p.sex == "female")
    assert max(np.abs(p.identity).max() for p in drawn) <= persons.LIMIT


def test_codes_are_finite_and_of_about_unit_variance():
    codes = np.stack([person_code(sample_person(seed)) for seed in range(300)])
    assert codes.shape[1] == len(person_code_names())
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()
    assert (codes.std(0) > 0.3).all()
    assert (codes.std(0) < 1.5).all()


def test_everybody_lies_in_the_box(scenes):
    for scene in scenes:
        assert np.abs(_cloud(scene)).max() < 0.36


@pytest.mark.parametrize("pitch", [-30.0, 0.0, 30.0])
def test_everybody_fills_three_fifths_to_three_quarters_of_the_frame(scenes, pitch):
    for yaw in (0, 60, 120, 180, 240, 300):
        camera = orbit(np.deg2rad(yaw), np.deg2rad(pitch))
        for scene in scenes:
            height = np.asarray(project(camera, _cloud(scene))[0])[:, 1]
            assert 0.60 <= height.max() - height.min() <= 0.75
            assert abs((height.max() + height.min()) / 2 - 0.5) < 0.06


def test_the_rendered_mask_is_as_high_as_the_projected_points(scenes):
    camera = orbit(0.5, 0.3)
    mask = render_scene(scenes[3], camera, resolution=128, supersample=2).mask
    rows = np.flatnonzero(mask.max(1) > 0)
    height = np.asarray(project(camera, _cloud(scenes[3]))[0])[:, 1]
    np.testing.assert_allclose((rows[-1] + 1 - rows[0]) / 128, np.ptp(height), atol=2 / 128)


@pytest.mark.parametrize("kind", HAIRY)
def test_hair_covers_the_back_of_the_head(kind):
    parts = _parts(person_scene(neutral_person(hair=kind)), np.pi)
    rows = np.flatnonzero((parts > 0).any(1))
    middle = parts[rows[0] + 1 : rows[0] + len(rows) // 2, 26:38]
    assert (middle == PART_IDS["hair"]).mean() > 0.97


@pytest.mark.parametrize("kind", HAIRY)
def test_hair_stands_off_the_scalp(kind):
    bare, _ = outer_surface_map(neutral_person(hair="bald"), 32)
    outer, _ = outer_surface_map(neutral_person(hair=kind), 32)
    stand = np.linalg.norm(outer - bare, axis=-1)
    assert stand[2:8, [0, 1, 30, 31]].min() > 0.003
    face = stand[12:24, 12:20]
    np.testing.assert_allclose(face, 0, atol=1e-6)


def test_long_hair_covers_the_neck_and_short_hair_does_not():
    for kind, covered in (("long", True), ("short", False)):
        parts = _parts(person_scene(neutral_person(hair=kind)), np.pi)
        rows = np.flatnonzero((parts > 0).any(1))
        nape = parts[rows[-8] : rows[-3], 28:36]
        assert ((nape == PART_IDS["hair"]).mean() > 0.9) == covered


def test_every_expected_label_is_seen_from_the_front(scenes):
    seen = set()
    for scene in scenes[:24]:
        seen |= set(np.unique(_parts(scene, 0.0, 128)))
    expected = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "nose")
    expected += ("u_lip", "l_lip", "neck", "hair", "background")
    assert {PART_IDS[name] for name in expected} <= seen


def test_left_labels_lie_on_the_images_right(scenes):
    parts = _parts(scenes[0], 0.0, 128)
    for name in ("brow", "eye", "ear"):
        place = {s: np.argwhere(parts == PART_IDS[f"{s}_{name}"])[:, 1].mean() for s in "lr"}
        assert place["l"] > 64 > place["r"]


def test_an_open_mouth_shows_its_inside():
    model = head_model()
    pose = np.zeros((model.num_joints, 3), np.float32)
    pose[model.joint_names.index("jaw")] = (0.25, 0, 0)
    person = neutral_person()
    closed = (_parts(person_scene(person), 0.0, 128) == PART_IDS["mouth"]).sum()
    opened = (_parts(person_scene(person, pose=pose), 0.0, 128) == PART_IDS["mouth"]).sum()
    assert opened > 40 > closed


def test_the_scene_poses_everything_as_one():
    person = neutral_person(hair="ponytail", glasses="round")
    model = head_model()
    pose = np.zeros((model.num_joints, 3), np.float32)
    pose[0] = (0.2, 0.7, -0.1)
    root = np.asarray(head.posed_joints(model, identity=person.identity))[0]
    rotation = axis_angle_to_matrix(pose[0])
    rest, turned = person_scene(person), person_scene(person, pose=pose)
    for before, after in zip(rest.surfaces, turned.surfaces, strict=True):
        expected = (before.vertices - root) @ rotation.T + root
        np.testing.assert_allclose(after.vertices, expected, atol=1e-5)


def test_the_scenes_eyes_are_the_models():
    person = sample_person(5)
    vertices = np.asarray(head.skin(head_model(), identity=person.identity))
    left, right = person_scene(person).surfaces[1:3]
    both = np.concatenate([left.vertices, right.vertices])
    np.testing.assert_allclose(both, vertices[-len(both) :], atol=1e-6)


@pytest.mark.parametrize("seed", [1, 14, 63])
def test_the_outer_surface_is_what_a_camera_sees(seed):
    person = sample_person(seed)
    positions, valid = outer_surface_map(person, 32)
    assert valid.all()
    assert np.abs(positions).max() < 0.30
    camera = orbit(np.pi, 0.0)
    depth = render_scene(person_scene(person), camera, resolution=128, supersample=1).depth
    behind = positions[8:14, [0, 1, 30, 31]].reshape(-1, 3)
    image = np.asarray(project(camera, behind)[0])
    column, row = (image * 128).astype(int).T
    away = np.linalg.norm(behind - np.asarray(camera.position), axis=1)
    np.testing.assert_allclose(away, depth[row, column], atol=0.012)


def test_the_atlas_columns_run_from_the_back_by_the_right_to_the_left():
    positions, _ = outer_surface_map(neutral_person(hair="bald"), COLUMNS)
    middle = positions[COLUMNS // 3]
    assert middle[COLUMNS // 2, 2] > 0.1 > -0.1 > middle[0, 2]
    assert middle[COLUMNS // 3, 0] < 0 < middle[2 * COLUMNS // 3, 0]


def test_unknown_kinds_and_wrong_codes_are_refused():
    with pytest.raises(UserError, match="hair is 'mohawk'"):
        neutral_person(hair="mohawk")
    with pytest.raises(UserError, match="identity has 3 coefficients"):
        neutral_person(identity=np.zeros(3, np.float32))
