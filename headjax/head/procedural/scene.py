"""A person as a scene to render, and as a UV position map of the outermost surface."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool, Float

from headjax.geometry.rotations import axis_angle_to_matrix
from headjax.head import model as head
from headjax.head.procedural import (
    accessories,
    appearance,
    build,
    features,
    grid,
    hairstyles,
    sculpt,
)
from headjax.head.procedural import occlusion as ambient
from headjax.head.procedural.hairstyles import Hair
from headjax.head.procedural.person import Person
from headjax.render.mesh import Scene, Surface
from headjax.render.parts import PART_IDS

LOBED_KINDS = ("bun", "ponytail")
_EAR_NAMES = ("ear_size", "ear_flare")
Vertices = Float[np.ndarray, "v 3"]


def _code(person: Person) -> Float[np.ndarray, "i"]:
    code = np.array(person.identity, np.float32)
    if person.hair in hairstyles.LONG_KINDS:
        names = build.head_model().identity_names
        code[[names.index(name) for name in _EAR_NAMES]] = 0.0
    return code


def _shaped(person: Person, expression: np.ndarray | None) -> Vertices:
    """Rest-pose vertices as `head.shaped_vertices` gives them, ears under hair laid flat."""
    model = build.head_model()
    points = model.template + model.identity_basis @ _code(person)
    if expression is not None:
        points = points + model.expression_basis @ np.asarray(expression, np.float32)
    if person.hair in hairstyles.LONG_KINDS:
        points[: build.main_count()] += _earless()
    return points


@functools.lru_cache(maxsize=1)
def _earless() -> Vertices:
    """Template of the main surface minus the same without ears."""
    at = grid.vertex_canvas()
    return sculpt.sculpted(at, with_ears=False) - sculpt.sculpted(at)


def _hair(person: Person) -> Hair:
    return hairstyles.hairstyle(person.hair, fringe=person.fringe, side=person.hair_side)


def _bearded(person: Person, points: Vertices) -> Vertices:
    """The main surface with the beard's thickness and the brows' relief."""
    relief = _brow_relief(person.brows, person.brow_weight)
    if person.beard in ("full", "goatee", "moustache"):
        relief = relief + (0.0065 if person.beard == "full" else 0.0040) * _beard(person.beard)
    normals = grid.main_normals(points[: build.main_count()])
    out = points.copy()
    out[: build.main_count()] += normals * relief[:, None]
    return out


@functools.lru_cache(maxsize=8)
def _beard(kind: str) -> Float[np.ndarray, "v"]:
    mask = appearance.beard_mask(grid.vertex_canvas(), kind=kind)
    return grid.smooth(mask[:, None], 2)[:, 0]


@functools.lru_cache(maxsize=64)
def _brow_relief(kind: str, weight: float) -> Float[np.ndarray, "v"]:
    return 0.0016 * appearance.brow_mask(grid.vertex_canvas(), kind=kind, weight=weight)


def _hair_shell(
    person: Person, points: Vertices
) -> tuple[Float[np.ndarray, "main 3"], Float[np.ndarray, "main"]]:
    """The hair's outer surface over the whole grid and its distance from the skin.

    Where there is no hair it is tucked into the skin.
    """
    hair, skin = _hair(person), points[: build.main_count()]
    offset = hairstyles.stand_off(hair, skin, volume=person.hair_volume)
    return skin + offset + hair.tuck, np.linalg.norm(offset, axis=1)


def _skinning(shaped: Vertices, pose: np.ndarray):
    """A function that poses points which carry the main surface's or given weights."""
    model = build.head_model()
    joints = np.asarray(model.joint_regressor) @ shaped
    rotations = axis_angle_to_matrix(np.asarray(pose, np.float32))
    feature = (np.asarray(rotations)[1:] - np.eye(3, dtype=np.float32)).reshape(-1)
    correction = model.pose_basis @ feature
    turned, moved = (np.asarray(a) for a in head.chain(rotations, joints, model.parents))

    def apply(points: Vertices, weights: np.ndarray | None = None) -> Vertices:
        if weights is None:
            weights = np.asarray(model.skinning_weights)[: len(points)]
            points = points + correction[: len(points)]
        rotation = np.einsum("vj,jkl->vkl", weights, turned)
        return np.einsum("vkl,vl->vk", rotation, points) + weights @ moved

    return apply


def person_scene(
    person: Person,
    *,
    expression: Float[np.ndarray, "e"] | None = None,
    pose: Float[np.ndarray, "j 3"] | None = None,
) -> Scene:
    """The person ready to render: skin, eyes, hair and accessories, labelled by part.

    Args:
      person: whom to show.
      expression: coefficients of `head_model().expression_names`; neutral if None.
      pose: axis-angle per joint of `head_model().joint_names` in radians; rest if None.

    Returns:
      A `Scene` in the default light; render it from as many cameras as needed.
    """
    shaped = _shaped(person, expression)
    skin = _bearded(person, shaped)
    place = _skinning(shaped, np.asarray(pose)) if pose is not None else None
    move = place or (lambda points, weights=None: points)
    posed = move(skin)
    surfaces = [_skin_surface(person, posed), *_eye_surfaces(person, posed)]
    surfaces += _hair_surfaces(person, shaped, move)
    surfaces += _glasses_surfaces(person, shaped, move)
    return Scene(tuple(surfaces))


def _skin_surface(person: Person, posed: Vertices) -> Surface:
    faces, uvs, uv_faces = grid.topology()
    return Surface(
        vertices=posed[: build.main_count()].astype(np.float32),
        faces=faces,
        texture=appearance.skin_texture(person),
        uvs=uvs,
        uv_faces=uv_faces,
        part=PART_IDS["skin"],
        part_texture=appearance.skin_parts(person),
        specular=0.045,
        shininess=12.0,
        occlusion=ambient.skin_occlusion(),
        closed=True,
    )


def _eye_colors(person: Person) -> Float[np.ndarray, "v 3"]:
    """Pupil, iris with a dark rim, sclera that darkens to the back."""
    _, _, polar = sculpt.eyeball()
    iris = np.asarray(person.eye_color)
    radius = np.sin(np.minimum(polar, np.pi / 2)) * features.EYE_RADIUS
    stops = [0.0, 0.0040, 0.0048, 0.0090, 0.0104, 0.0113, 0.0200, 0.0260]
    white = np.array([0.90, 0.89, 0.88])
    colors = [0.03 * iris, 0.05 * iris, 0.9 * iris, 1.15 * iris, 0.35 * iris]
    colors += [white, white, 0.8 * white]
    table = np.clip(np.array(colors), 0, 1)
    return np.stack([np.interp(radius, stops, table[:, k]) for k in range(3)], -1)


def _eye_surfaces(person: Person, posed: Vertices) -> list[Surface]:
    _, faces, _ = sculpt.eyeball()
    colors = _eye_colors(person).astype(np.float32)
    return [
        Surface(
            vertices=posed[part].astype(np.float32),
            faces=faces,
            albedo=colors,
            part=PART_IDS[name],
            specular=0.25,
            shininess=150.0,
            occlusion=ambient.eye_occlusion(),
            closed=True,
        )
        for part, name in zip(build.eye_slices(), ("l_eye", "r_eye"), strict=True)
    ]


def _hair_surfaces(person: Person, shaped: Vertices, move) -> list[Surface]:
    hair = _hair(person)
    faces, _, _ = grid.topology()
    grown = (hair.reach > -0.020)[faces].all(-1) & (hair.reach > 0)[faces].any(-1)
    shell = move(_hair_shell(person, shaped)[0]).astype(np.float32)
    color = np.asarray(person.hair_color)
    tone = np.clip(hair.tone, 0.6, 1.4)[:, None]
    if person.hair == "bald":
        return []
    surfaces = [
        Surface(
            vertices=shell,
            faces=faces[grown],
            albedo=np.clip(color * tone, 0, 1).astype(np.float32),
            part=PART_IDS["hair"],
            specular=0.09,
            shininess=14.0,
            occlusion=ambient.hair_occlusion(person.hair),
            closed=True,
        )
    ]
    if person.hair in LOBED_KINDS:
        surfaces.append(_lobe(person, shaped, move))
    return surfaces


@functools.lru_cache(maxsize=1)
def _occiput() -> np.ndarray:
    """Vertices at the back of the skull, which carry buns and tails."""
    at = grid.vertex_canvas()
    return np.flatnonzero((np.cos(at.theta) < -0.9) & (np.abs(at.y - 0.08) < 0.03))


def lobe_shift(shaped: Vertices) -> Float[np.ndarray, "3"]:
    """How far the back of this head lies from the template's."""
    back = _occiput()
    return (shaped[back] - build.head_model().template[back]).mean(0)


def _lobe(person: Person, shaped: Vertices, move) -> Surface:
    vertices, faces, local = accessories.hair_lobe(person.hair)
    vertices = vertices + lobe_shift(shaped)
    neck = np.zeros((len(vertices), 5), np.float32)
    neck[:, 1] = 1.0
    tone = 1 + 0.12 * np.sin(6 * local[:, 0] + 25 * local[:, 1])
    color = np.asarray(person.hair_color) * tone[:, None]
    return Surface(
        vertices=move(vertices, neck).astype(np.float32),
        faces=faces,
        albedo=np.clip(color, 0, 1).astype(np.float32),
        part=PART_IDS["hair"],
        specular=0.09,
        shininess=14.0,
        occlusion=np.full(len(vertices), 0.85, np.float32),
        closed=True,
    )


def _glasses_surfaces(person: Person, shaped: Vertices, move) -> list[Surface]:
    if person.glasses == "none":
        return []
    vertices, faces = accessories.glasses_mesh(person.glasses, shaped)
    neck = np.zeros((len(vertices), 5), np.float32)
    neck[:, 1] = 1.0
    color = np.asarray(person.glasses_color, np.float32)
    return [
        Surface(
            vertices=move(vertices, neck).astype(np.float32),
            faces=faces,
            albedo=np.broadcast_to(color, vertices.shape).astype(np.float32),
            part=PART_IDS["eye_g"],
            specular=0.15,
            shininess=40.0,
            closed=True,
        )
    ]


def outer_surface(person: Person) -> Float[np.ndarray, "main 3"]:
    """The outermost surface on the main grid's vertices, neutral: hair where it stands off."""
    shaped = _shaped(person, None)
    skin = _bearded(person, shaped)[: build.main_count()]
    shell, depth = _hair_shell(person, shaped)
    share = grid.smoothstep(0.0, 0.0040, depth)[:, None]
    outer = skin + share * (shell - skin)
    if person.hair in LOBED_KINDS:
        behind = np.flatnonzero(np.cos(grid.vertex_canvas().theta) < -0.5)
        vertices, faces, _ = accessories.hair_lobe(person.hair)
        moved = vertices + lobe_shift(shaped)
        outer[behind] = accessories.onto_mesh(outer[behind], moved, faces, centre=(0.0, 0.02, 0.0))
    return outer.astype(np.float32)


def outer_surface_map(
    person: Person, size: int
) -> tuple[Float[np.ndarray, "n n 3"], Bool[np.ndarray, "n n"]]:
    """UV position map of the outer visible surface of the neutral head.

    The atlas is the main surface's grid, so that long hair and buns are in it; eyeballs and glasses
    are not. Texel (i, j) lies at u = (j + 1/2) / size, v = 1 - (i + 1/2) / size.

    Args:
      person: whose head.
      size: texels per side.

    Returns:
      Positions [size, size, 3] in world units, and their validity (the whole atlas is in use).
    """
    outer = outer_surface(person)
    rings = outer[1:-1].reshape(grid.ROWS, grid.COLUMNS, 3)
    poles = [np.broadcast_to(outer[k], (1, grid.COLUMNS, 3)) for k in (0, -1)]
    rows = np.concatenate([poles[0], rings, poles[1]])
    centre = (np.arange(size) + 0.5) / size
    row, col = centre * (grid.ROWS + 1), centre * grid.COLUMNS
    r0, c0 = np.minimum(row.astype(int), grid.ROWS), col.astype(int) % grid.COLUMNS
    c1 = (c0 + 1) % grid.COLUMNS
    fr, fc = (row - r0)[:, None, None], (col - np.floor(col))[None, :, None]
    top = rows[r0][:, c0] * (1 - fc) + rows[r0][:, c1] * fc
    low = rows[r0 + 1][:, c0] * (1 - fc) + rows[r0 + 1][:, c1] * fc
    positions = top * (1 - fr) + low * fr
    return positions.astype(np.float32), np.ones((size, size), bool)
