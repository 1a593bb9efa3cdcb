"""ICT-FaceKit's heads with procedural colours: skin, lips, brows, eyes and close-cropped hair."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from headjax.head.ict import canonical, masks
from headjax.head.ict.model import CENTRE, SCALE
from headjax.head.model import HeadModel, skin
from headjax.render.mesh import Scene, Surface
from headjax.render.parts import PART_IDS
from headjax.render.uv import UvLookup, dilate, gather_uv, uv_lookup

Color = Float[np.ndarray, "3"]

# Displayed colours from light to dark; equal steps of the parameter are equally likely.
_SKIN_TONES = np.array(
    [
        (0.93, 0.77, 0.68),
        (0.88, 0.70, 0.58),
        (0.81, 0.61, 0.47),
        (0.70, 0.50, 0.37),
        (0.57, 0.39, 0.28),
        (0.43, 0.29, 0.21),
    ]
)
_HAIR_COLORS = np.array(
    [
        (0.10, 0.08, 0.07),
        (0.22, 0.14, 0.09),
        (0.38, 0.25, 0.15),
        (0.62, 0.48, 0.30),
        (0.50, 0.24, 0.12),
        (0.55, 0.54, 0.53),
    ]
)
_IRIS_COLORS = np.array(
    [(0.20, 0.12, 0.07), (0.33, 0.22, 0.11), (0.32, 0.40, 0.22), (0.25, 0.42, 0.60)]
)
_GOLDEN = 0.6180339887498949


class Looks(NamedTuple):
    """Procedural appearance of one head.

    Attributes:
      skin, lips, hair, brow, iris: displayed colours in [0, 1].
      blush: redness of cheeks, nose and ears.
      stubble: darkness of the beard's shadow.
      lift: how far the front hairline is drawn back.
      waves: [w, 5] frequency (3), phase and strength of the skin's unevenness.
    """

    skin: Color
    lips: Color
    hair: Color
    brow: Color
    iris: Color
    blush: float
    stubble: float
    lift: float
    waves: Float[np.ndarray, "w 5"]


def sample_looks(seed: int) -> Looks:
    """Looks from a seed; skin tones are spread evenly over any run of consecutive seeds."""
    rng = np.random.default_rng([seed, 0x1C7])
    tone = np.mod(0.5 + seed * _GOLDEN, 1.0)
    place = tone * (len(_SKIN_TONES) - 1)
    skin = np.stack([np.interp(place, np.arange(len(_SKIN_TONES)), c) for c in _SKIN_TONES.T])
    skin = np.clip(skin * rng.uniform(0.97, 1.03, 3), 0, 1)
    dark = [1 - 0.8 * tone] * 2
    odds = np.array([1.0, 1.0, 0.9 * dark[0], 0.8 * dark[1] ** 2, 0.4 * dark[1] ** 2, 0.35])
    hair = _HAIR_COLORS[rng.choice(len(_HAIR_COLORS), p=odds / odds.sum())]
    hair = np.clip(hair * rng.uniform(0.85, 1.15), 0, 1)
    fair = max(0.0, 0.7 - tone)
    odds = np.array([1.0, 0.7, fair, 1.6 * fair])
    iris = _IRIS_COLORS[rng.choice(len(_IRIS_COLORS), p=odds / odds.sum())]
    red = np.array([0.76, 0.34, 0.34]) - tone * np.array([0.34, 0.20, 0.18])
    waves = np.concatenate(
        [rng.normal(0, 0.35, (8, 3)), rng.uniform(0, 6.28, (8, 1)), rng.normal(0, 0.012, (8, 1))], 1
    )
    return Looks(
        skin,
        lips=skin * 0.2 + red * 0.8,
        hair=hair,
        brow=np.minimum(hair * 0.8, skin * 0.5),
        iris=iris,
        blush=float(rng.uniform(0.02, 0.10)),
        stubble=float(rng.choice([0.0, 0.0, rng.uniform(0.1, 0.3)])),
        lift=float(rng.uniform(-0.02, 0.03)),
        waves=waves,
    )


def _neutral(model: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """The neutral head and its landmarks in centimetres."""
    points = np.asarray(model.template, np.float64) / SCALE + np.array(CENTRE)
    corners = points[np.asarray(model.faces)[model.landmark_faces]]
    return points, np.einsum("nc,nck->nk", model.landmark_barycentric, corners)


def _mix(base: np.ndarray, color: np.ndarray, share: np.ndarray) -> np.ndarray:
    return base + (color - base) * share[:, None]


def _bell(points: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    return np.exp(-((points - centre) ** 2).sum(1) / radius**2)


class _Painting(NamedTuple):
    """Masks that depend on the model alone."""

    points: Float[np.ndarray, "v 3"]
    landmarks: Float[np.ndarray, "68 3"]
    lips: tuple
    brows: tuple
    ears: tuple
    lashes: Float[np.ndarray, "v"]
    nose: Float[np.ndarray, "v"]
    neck: Float[np.ndarray, "v"]


class _ByIdentity(NamedTuple):
    """A model as the key of a cache: the object itself, not what is in it."""

    model: HeadModel

    def __hash__(self):
        return id(self.model)

    def __eq__(self, other):
        return self.model is other.model


@functools.lru_cache(maxsize=2)
def _painting(key: _ByIdentity) -> _Painting:
    points, marks = _neutral(key.model)
    return _Painting(
        points,
        marks,
        masks.lips(points, marks),
        masks.brows(points, marks),
        masks.ears(points),
        masks.lash_lines(points, marks),
        masks.nose(points, marks),
        masks.neck(points, marks),
    )


def _skin_colors(looks: Looks, painting: _Painting) -> Float[np.ndarray, "v 3"]:
    points, marks = painting.points, painting.landmarks
    uneven = np.sin(points @ looks.waves[:, :3].T + looks.waves[:, 3]) @ looks.waves[:, 4]
    color = looks.skin * (1 + uneven[:, None])
    cheeks = [marks[side] + (0, -2.6, 0.5) for side in (41, 46)]
    red = sum(_bell(points, cheek, 2.6) for cheek in cheeks) + _bell(points, marks[30], 1.6)
    red = red + 0.6 * sum(painting.ears)
    color = color * (1 + looks.blush * red[:, None] * np.array([0.4, -1.0, -1.0]))
    sockets = sum(_bell(points, marks[i : i + 6].mean(0), 1.7) for i in (36, 42))
    color = color * (1 - 0.13 * sockets[:, None] * np.array([0.7, 1.0, 1.0]))
    s = canonical.profile_position(points)
    beard = (
        masks.ramp(0.52, 0.60, s) * masks.ramp(0.90, 0.82, s) * masks.ramp(0.5, 5.0, points[:, 2])
    )
    return _mix(color, looks.hair * 0.6 + looks.skin * 0.25, looks.stubble * beard)


def _head_surface(
    model: HeadModel, painting: _Painting, looks: Looks
) -> tuple[Float[np.ndarray, "v 3"], UInt8[np.ndarray, "f"], Float[np.ndarray, "v"]]:
    """Colours and highlights per vertex, labels per face of the outer skin."""
    hair = masks.scalp(painting.points, lift=looks.lift)
    color = _skin_colors(looks, painting)
    color = _mix(color, looks.hair, 0.94 * hair)
    color = _mix(color, looks.lips * 0.92, painting.lips[0])
    color = _mix(color, looks.lips * 1.06, painting.lips[1])
    color = _mix(color, looks.brow, 0.9 * np.maximum(*painting.brows))
    color = _mix(color, looks.brow * 0.4, 0.85 * painting.lashes)
    layers = (
        ("neck", painting.neck),
        ("nose", painting.nose),
        ("l_ear", painting.ears[0]),
        ("r_ear", painting.ears[1]),
        ("hair", hair),
        ("l_brow", painting.brows[0]),
        ("r_brow", painting.brows[1]),
        ("u_lip", painting.lips[0]),
        ("l_lip", painting.lips[1]),
    )
    part = np.full(len(model.faces), PART_IDS["skin"], np.uint8)
    for name, mask in layers:
        part[mask[model.faces].mean(1) > 0.5] = PART_IDS[name]
    shine = 0.045 * (1 - 0.8 * hair)
    return np.clip(color, 0, 1), part, shine


def _eye_colors(ball: Float[np.ndarray, "v 3"], iris: Color) -> Float[np.ndarray, "v 3"]:
    """Sclera, limbus, iris and pupil by the angle from the direction of gaze."""
    centre = (ball.min(0) + ball.max(0)) / 2
    offset = ball - centre
    angle = np.degrees(np.arctan2(np.hypot(offset[:, 0], offset[:, 1]), offset[:, 2]))
    color = np.tile(np.array([0.92, 0.90, 0.88]), (len(ball), 1))
    color = _mix(color, np.array([0.80, 0.62, 0.58]), 0.5 * masks.ramp(40, 75, angle))
    color = _mix(color, iris * 0.45, masks.ramp(27.5, 24.5, angle))
    color = _mix(color, iris, masks.ramp(24.0, 20.0, angle))
    return _mix(color, np.array([0.02, 0.02, 0.02]), masks.ramp(12.0, 9.0, angle))


def _faces_of(model: HeadModel, names: tuple[str, ...]) -> Bool[np.ndarray, "f"]:
    member = np.any([model.regions[name] for name in names], 0)
    return member[np.asarray(model.faces)].all(1)


def ict_scene(
    model: HeadModel,
    *,
    identity: Float[np.ndarray, "i"] | None = None,
    expression: Float[np.ndarray, "e"] | None = None,
    pose: Float[np.ndarray, "5 3"] | None = None,
    seed: int = 0,
) -> Scene:
    """A coloured head, ready to be rendered.

    Args:
      model: from `read_ict`.
      identity: coefficients ~ N(0, 1).
      expression: coefficients, 0 to 1.
      pose: axis-angle per joint, radians.
      seed: of the colours.

    Returns:
      Head, lining of the mouth with teeth, and eyes, with CelebAMask-HQ labels.
    """
    vertices = np.asarray(skin(model, identity=identity, expression=expression, pose=pose))
    looks, painting = sample_looks(seed), _painting(_ByIdentity(model))
    color, part, shine = _head_surface(model, painting, looks)
    linings = ("mouth_socket", "eye_sockets", "teeth")
    lining = _faces_of(model, linings)
    lid = model.regions["lid"][np.asarray(model.faces)].any(1)
    outer = ~np.any([lining, _faces_of(model, ("eyes",)), lid], 0)
    dark = _mix(color, np.array([0.25, 0.08, 0.08]), model.regions["mouth_socket"] * 1.0)
    dark = _mix(dark, np.array([0.86, 0.83, 0.77]), model.regions["teeth"] * 1.0)
    dark = _mix(dark, looks.skin * 0.35, model.regions["eye_sockets"] * 1.0)
    surfaces = [
        _surface(vertices, model.faces[outer], color, part=part[outer], specular=shine),
        _surface(vertices, model.faces[lid], color, part=PART_IDS["neck"]),
        _surface(vertices, model.faces[lining], dark, part=PART_IDS["mouth"]),
    ]
    for name, label in (("left_eyeball", "l_eye"), ("right_eyeball", "r_eye")):
        eye = color.copy()
        ball = model.regions[name]
        eye[ball] = _eye_colors(painting.points[ball], looks.iris)
        faces = model.faces[_faces_of(model, (name,))]
        surfaces.append(
            _surface(vertices, faces, eye, part=PART_IDS[label], specular=0.5, shininess=150.0)
        )
    return Scene(tuple(surfaces))


def _surface(vertices: np.ndarray, faces: np.ndarray, albedo: np.ndarray, **looks) -> Surface:
    """A surface with only the vertices that it needs."""
    used, index = np.unique(faces, return_inverse=True)
    for name in ("specular",):
        if isinstance(looks.get(name), np.ndarray):
            looks[name] = looks[name][used]
    return Surface(
        vertices=vertices[used],
        faces=index.reshape(-1, 3).astype(np.int32),
        albedo=albedo[used].astype(np.float32),
        **looks,
    )


@functools.lru_cache(maxsize=4)
def _cached_lookup(uvs: bytes, uv_faces: bytes, size: int) -> UvLookup:
    return uv_lookup(
        np.frombuffer(uvs, np.float32).reshape(-1, 2),
        np.frombuffer(uv_faces, np.int32).reshape(-1, 3),
        size=size,
    )


def ict_outer_surface_map(
    model: HeadModel,
    *,
    identity: Float[np.ndarray, "i"] | None = None,
    expression: Float[np.ndarray, "e"] | None = None,
    size: int,
) -> tuple[Float[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """World positions of the outermost surface over the atlas, and where there is one.

    Every texel stands for the same anatomical point on every head. Texels that no triangle covers
    (a few at the crown, where the atlas has its pole) take their neighbours' mean.
    """
    vertices = np.asarray(skin(model, identity=identity, expression=expression))
    lookup = _cached_lookup(
        np.asarray(model.uvs, np.float32).tobytes(),
        np.asarray(model.uv_faces, np.int32).tobytes(),
        size,
    )
    positions = gather_uv(lookup, vertices, faces=model.faces)
    return dilate(positions, lookup.valid, steps=1 + size // 16)
