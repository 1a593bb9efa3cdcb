"""Persons: bounded random identities with interpretable appearance, and their codes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.head.procedural.build import head_model
from headjax.head.procedural.identity import IDENTITY_FIELDS

SEXES = ("female", "male")
HAIR_KINDS = (
    "bald",
    "receding",
    "buzz",
    "short",
    "side_part",
    "curly",
    "afro",
    "bob",
    "long",
    "bun",
    "ponytail",
)
BEARD_KINDS = ("none", "stubble", "moustache", "goatee", "full")
BROW_KINDS = ("arched", "straight", "thick")
GLASSES_KINDS = ("none", "round", "rectangular", "cat_eye")
Color = tuple[float, float, float]
Draws = Any  # A NumPy generator, or what has those of its methods that are used here.

_KINDS = {
    "sex": SEXES,
    "hair": HAIR_KINDS,
    "brows": BROW_KINDS,
    "beard": BEARD_KINDS,
    "glasses": GLASSES_KINDS,
}

_HAIR_ODDS = {
    "female": (0.01, 0.00, 0.02, 0.04, 0.07, 0.12, 0.08, 0.20, 0.27, 0.10, 0.09),
    "male": (0.11, 0.12, 0.15, 0.20, 0.17, 0.11, 0.05, 0.02, 0.04, 0.02, 0.01),
}
# From very light to very dark, displayed colours.
_SKIN = np.array(
    [
        (0.960, 0.820, 0.745),
        (0.935, 0.765, 0.665),
        (0.880, 0.690, 0.565),
        (0.790, 0.580, 0.440),
        (0.655, 0.450, 0.325),
        (0.535, 0.360, 0.262),
        (0.430, 0.285, 0.212),
    ]
)
_HAIR_COLORS = np.array(
    [
        (0.095, 0.082, 0.078),
        (0.180, 0.120, 0.085),
        (0.320, 0.205, 0.130),
        (0.500, 0.340, 0.200),
        (0.800, 0.640, 0.390),
        (0.590, 0.270, 0.120),
        (0.640, 0.630, 0.620),
    ]
)
_EYE_COLORS = np.array(
    [
        (0.230, 0.125, 0.060),
        (0.370, 0.225, 0.110),
        (0.400, 0.400, 0.190),
        (0.300, 0.480, 0.620),
        (0.460, 0.540, 0.570),
    ]
)
_FRAME_COLORS = np.array(
    [(0.06, 0.06, 0.07), (0.30, 0.16, 0.08), (0.45, 0.06, 0.08), (0.10, 0.16, 0.34)]
)
# How the mean man differs from the mean woman, in standard deviations (half to each side).
_DIMORPHISM = {
    "brow_ridge": 1.5,
    "brow_height": -0.7,
    "eye_size": -0.7,
    "jaw_width": 1.4,
    "jaw_angle": 0.8,
    "chin_width": 1.2,
    "chin_height": 0.6,
    "lips_fullness": -0.9,
    "neck_width": 1.6,
    "cheekbones": -0.5,
    "nose_bridge": 0.5,
    "nose_width": 0.8,
    "nose_upturn": -0.5,
    "forehead_slope": 0.6,
    "face_length": 0.4,
    "cheek_fullness": -0.3,
}
LIMIT = 2.0  # identity coefficients stay within this many standard deviations


@dataclass(frozen=True, eq=False)
class Person:
    """One person: geometry by identity coefficients, looks by interpretable numbers.

    Attributes:
      identity: [i] coefficients of `head_model().identity_names`, within +-2.
      sex: one of `SEXES`.
      skin: displayed colour of the skin.
      rosiness: 0..1, blood in cheeks, nose and ears.
      lip_color, eye_color, hair_color, brow_color, glasses_color: displayed colours.
      hair, beard, brows, glasses: kinds, of the tuples above.
      hair_volume: 0.7..1.3, scale of the hair's thickness.
      hair_side: +1 parting on the subject's left, -1 on the right.
      fringe: 0..1, how far the hair covers the forehead.
      brow_weight: 0.7..1.3, thickness of the brows.
      makeup: 0..1, darkness of the lids' edge.

    Raises:
      UserError: an unknown kind, or identity coefficients of another number.
    """

    identity: Float[np.ndarray, "i"]
    sex: str = "female"
    skin: Color = (0.88, 0.69, 0.565)
    rosiness: float = 0.5
    lip_color: Color = (0.72, 0.38, 0.36)
    eye_color: Color = (0.37, 0.225, 0.11)
    hair: str = "short"
    hair_color: Color = (0.18, 0.12, 0.085)
    hair_volume: float = 1.0
    hair_side: float = 1.0
    fringe: float = 0.0
    brows: str = "straight"
    brow_color: Color = (0.15, 0.10, 0.07)
    brow_weight: float = 1.0
    beard: str = "none"
    glasses: str = "none"
    glasses_color: Color = (0.06, 0.06, 0.07)
    makeup: float = 0.3

    def __post_init__(self) -> None:
        if len(self.identity) != len(IDENTITY_FIELDS):
            raise UserError(
                f"the person's identity has {len(self.identity)} coefficients, but the procedural "
                f"head takes {len(IDENTITY_FIELDS)}."
            )
        for name, kinds in _KINDS.items():
            if getattr(self, name) not in kinds:
                raise UserError(
                    f"the person's {name} is {getattr(self, name)!r}; it must be one of {kinds}."
                )


def neutral_person(**changes) -> Person:
    """The mean head with plain looks; keyword arguments replace fields of `Person`."""
    identity = np.zeros(len(IDENTITY_FIELDS), np.float32)
    return Person(**({"identity": identity} | changes))


def sample_person(seed: int) -> Person:
    """A random person, the same for the same seed.

    About half of each sex; beards on a quarter of the men, glasses on a fifth of all; every hair
    kind occurs. Uses `np.random.default_rng(seed)`.
    """
    return draw_person(np.random.default_rng(seed))


def draw_person(rng: Draws) -> Person:
    """The person that a generator's draws make; their number and order are always the same."""
    sex = SEXES[int(rng.integers(2))]
    tone = float(rng.uniform(0, len(_SKIN) - 1))
    skin = _between(_SKIN, tone) + rng.normal(0, 0.010, 3)
    hair_color = _hair_color(rng, tone)
    hair = HAIR_KINDS[int(rng.choice(len(HAIR_KINDS), p=_HAIR_ODDS[sex]))]
    return Person(
        identity=_sample_identity(rng, sex),
        sex=sex,
        skin=_color(skin),
        rosiness=float(rng.uniform(0.25, 0.9)),
        lip_color=_lip_color(rng, skin, sex),
        eye_color=_eye_color(rng, tone),
        hair=hair,
        hair_color=_color(hair_color),
        hair_volume=float(rng.uniform(0.75, 1.15)),
        hair_side=float(rng.choice([-1.0, 1.0])),
        fringe=float(rng.choice([0.0, rng.uniform(0.5, 1.0)], p=[0.65, 0.35])),
        brows=_brows(rng, sex),
        brow_color=_color(0.55 * hair_color * (1.0 if hair_color.max() < 0.6 else 0.85)),
        brow_weight=float(np.clip(rng.normal(1.08 if sex == "male" else 0.92, 0.12), 0.7, 1.3)),
        beard=_beard(rng, sex),
        glasses=_glasses(rng),
        glasses_color=_color(_FRAME_COLORS[int(rng.integers(len(_FRAME_COLORS)))]),
        makeup=float(rng.uniform(0.3, 0.9) if sex == "female" else rng.uniform(0.0, 0.25)),
    )


def _color(rgb: np.ndarray) -> Color:
    red, green, blue = np.clip(rgb, 0.02, 0.98)
    return float(red), float(green), float(blue)


def _between(table: np.ndarray, place: float) -> np.ndarray:
    """Linear interpolation between the rows of a table."""
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


def _sample_identity(rng: Draws, sex: str) -> Float[np.ndarray, "i"]:
    sign = 0.5 if sex == "male" else -0.5
    mean = np.array([sign * _DIMORPHISM.get(name, 0.0) for name in IDENTITY_FIELDS])
    drawn = mean + 0.85 * rng.standard_normal(len(mean))
    return np.clip(drawn, -LIMIT, LIMIT).astype(np.float32)


def _hair_color(rng: Draws, tone: float) -> np.ndarray:
    light = np.array([0.12, 0.20, 0.20, 0.16, 0.15, 0.09, 0.08])
    dark = np.array([0.78, 0.11, 0.02, 0.01, 0.00, 0.00, 0.08])
    share = np.clip((tone - 1.0) / 2.5, 0, 1)
    odds = (1 - share) * light + share * dark
    base = _HAIR_COLORS[int(rng.choice(len(_HAIR_COLORS), p=odds / odds.sum()))]
    return base * rng.uniform(0.85, 1.15)


def _lip_color(rng: Draws, skin: np.ndarray, sex: str) -> Color:
    red = np.array([0.70, 0.22, 0.25]) * (0.45 + 0.60 * skin.mean())
    share = rng.uniform(0.50, 0.90) if sex == "female" else rng.uniform(0.25, 0.45)
    natural = skin * np.array([0.86, 0.60, 0.60])
    return _color((1 - share) * natural + share * red)


def _eye_color(rng: Draws, tone: float) -> Color:
    share = np.clip((tone - 1.0) / 2.0, 0, 1)
    light = np.array([0.22, 0.22, 0.16, 0.26, 0.14])
    odds = (1 - share) * light + share * np.array([0.75, 0.25, 0.0, 0.0, 0.0])
    return _color(_EYE_COLORS[int(rng.choice(len(_EYE_COLORS), p=odds / odds.sum()))])


def _brows(rng: Draws, sex: str) -> str:
    odds = (0.55, 0.30, 0.15) if sex == "female" else (0.10, 0.45, 0.45)
    return BROW_KINDS[int(rng.choice(len(BROW_KINDS), p=odds))]


def _beard(rng: Draws, sex: str) -> str:
    draw = rng.choice(len(BEARD_KINDS), p=(0.62, 0.13, 0.06, 0.07, 0.12))
    return BEARD_KINDS[int(draw)] if sex == "male" else "none"


def _glasses(rng: Draws) -> str:
    return GLASSES_KINDS[int(rng.choice(len(GLASSES_KINDS), p=(0.80, 0.07, 0.08, 0.05)))]


def _one_hot(value: str, kinds: tuple[str, ...]) -> list[float]:
    """Scaled so that an even split has unit variance."""
    spread = np.sqrt((1 / len(kinds)) * (1 - 1 / len(kinds)))
    return [(float(kind == value) - 1 / len(kinds)) / spread for kind in kinds]


_NUMBERS = {
    "rosiness": (0.575, 0.19),
    "hair_volume": (0.975, 0.13),
    "hair_side": (0.0, 1.0),
    "fringe": (0.26, 0.37),
    "brow_weight": (1.0, 0.14),
    "makeup": (0.36, 0.28),
}
_COLORS = {
    "skin": ((0.73, 0.54, 0.44), 0.19),
    "lip_color": ((0.56, 0.28, 0.26), 0.12),
    "eye_color": ((0.31, 0.25, 0.18), 0.13),
    "hair_color": ((0.29, 0.21, 0.16), 0.20),
    "brow_color": ((0.17, 0.12, 0.09), 0.10),
    "glasses_color": ((0.23, 0.11, 0.14), 0.12),
}


def person_code(person: Person) -> Float[np.ndarray, "p"]:
    """Identity and appearance as numbers of about unit variance, kinds one-hot.

    The order is `person_code_names()`.
    """
    code = list(np.asarray(person.identity, float))
    for name, (mean, spread) in _NUMBERS.items():
        code.append((getattr(person, name) - mean) / spread)
    for name, (centre, spread) in _COLORS.items():
        code.extend((np.array(getattr(person, name)) - centre) / spread)
    for name, kinds in _KINDS.items():
        code.extend(_one_hot(getattr(person, name), kinds))
    return np.array(code, np.float32)


def person_code_names() -> tuple[str, ...]:
    """What each number of `person_code` says."""
    names = list(head_model().identity_names) + list(_NUMBERS)
    names += [f"{name}.{channel}" for name in _COLORS for channel in "rgb"]
    names += [f"{name}={kind}" for name, kinds in _KINDS.items() for kind in kinds]
    return tuple(names)


def describe(person: Person) -> dict[str, str | float]:
    """The person's looks without the identity coefficients and colours, for data sheets."""
    plain = (str, float)
    return {
        f.name: getattr(person, f.name)
        for f in fields(person)
        if isinstance(getattr(person, f.name), plain)
    }
