"""Where the cameras of a data set stand: training and held-out views of one head, in NumPy.

A view is a row (yaw, pitch) in radians: yaw 0 is the front, positive yaw goes to +x (the subject's
left), positive pitch up. Alphabet: `v` views.

Invariants of `place_views`:
- on the full circle training views 0, 1, 2 are exactly the front, the side (yaw 90°) and the back,
  pitch 0; of a frontal set (`max_yaw` below 180°) view 0 is exactly the front;
- every |yaw| is at most `max_yaw`, every |pitch| at most `max_pitch`;
- the angle between a held-out view and every training view is at least `MIN_ANGLE`;
- two held-out views at least lie within `FRONT_ANGLE` of the front, the others all around, as far
  as `max_yaw` lets them;
- the result is a pure function of the arguments.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError

MIN_ANGLE = np.deg2rad(8.0)
FRONT_ANGLE = np.deg2rad(40.0)
MIN_YAW = np.deg2rad(20.0)
EXACT_VIEWS = {"front": (0.0, 0.0), "side": (np.pi / 2, 0.0), "back": (np.pi, 0.0)}

_MARGIN = np.deg2rad(0.5)
_FRONTAL_YAW = np.deg2rad(60.0)
_FRONTAL_SHARE = 0.5
# Inverse powers of the plastic number: the additive steps of the R2 low-discrepancy sequence.
_R2_STEP = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True)
class ViewPlacement:
    """The views of one head: `train` [v, 2] and `held_out` [v, 2], (yaw, pitch) in radians."""

    train: np.ndarray
    held_out: np.ndarray


def exact_views(max_yaw: float = np.pi) -> Float[np.ndarray, "k 2"]:
    """The exact front, side and back, in this order; of a frontal set the front alone."""
    return np.array(list(EXACT_VIEWS.values())[: 3 if max_yaw >= np.pi else 1])


def directions(views: Float[np.ndarray, "v 2"]) -> Float[np.ndarray, "v 3"]:
    """Unit vectors from the head to the cameras: (sin y cos p, sin p, cos y cos p)."""
    yaw, pitch = views[:, 0], views[:, 1]
    return np.stack(
        [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=-1
    )


def angles_between(
    first: Float[np.ndarray, "v 2"], second: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "v n"]:
    """The angle in radians between every view of `first` and every view of `second`."""
    a, b = directions(first)[:, None], directions(second)[None]
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, axis=-1))


def place_views(
    seed: int,
    *,
    train_views: int,
    held_out_views: int,
    max_pitch: float = np.deg2rad(30.0),
    max_yaw: float = np.pi,
) -> ViewPlacement:
    """The views of the head with this seed.

    The held-out views are drawn first, stratified in yaw; the training views then follow a
    rotated low-discrepancy sequence over the band |pitch| ≤ `max_pitch`, and skip the
    neighbourhoods of the held-out ones. On the full circle half of them lie within ±60° of yaw,
    both halves uniform in area; those of a frontal set are uniform in area throughout.

    Args:
        seed: any non-negative integer; each gives its own rotation of the sequence.
        train_views: their number, the exact views included; at least 3.
        held_out_views: 0, or 2 to 48.
        max_pitch: radians, 0 to 80°.
        max_yaw: radians, 20° to 180°; below 180° it is a frontal set.

    Raises:
        UserError: the numbers are outside those ranges.
    """
    if train_views < 3:
        raise UserError(
            f"train_views is {train_views}; at least 3 are needed: the front, side and back views"
        )
    if held_out_views != 0 and not 2 <= held_out_views <= 48:
        raise UserError(f"held_out_views is {held_out_views}; it must be 0 or between 2 and 48")
    if not 0 <= max_pitch <= np.deg2rad(80.0):
        raise UserError(
            f"max_pitch is {np.rad2deg(max_pitch):g} degrees; it must be between 0 and 80"
        )
    if not MIN_YAW <= max_yaw <= np.pi:
        raise UserError(
            f"max_yaw is {np.rad2deg(max_yaw):g} degrees; it must be between 20 and 180"
        )
    rng, exact = np.random.default_rng(seed), exact_views(max_yaw)
    limits = _Limits(yaw=max_yaw, pitch=max_pitch)
    held_out = _held_out(rng, count=held_out_views, limits=limits)
    train = _train(rng, count=train_views - len(exact), limits=limits, avoid=held_out)
    return ViewPlacement(train=np.concatenate([exact, train]), held_out=held_out)


@dataclass(frozen=True)
class _Limits:
    """How far views go to either side and up and down, radians."""

    yaw: float
    pitch: float

    def wrapped(self, yaw: float) -> float:
        """`yaw` in [−limit, limit): beyond one side the other begins, as on the full circle."""
        return float((yaw + self.yaw) % (2 * self.yaw) - self.yaw)


def _held_out(rng: np.random.Generator, *, count: int, limits: _Limits) -> Float[np.ndarray, "v 2"]:
    """Frontal views first, then one in each equal slice of what remains on both sides."""
    if count == 0:
        return np.zeros((0, 2))
    front = min(FRONT_ANGLE, limits.yaw)
    frontal = min(count, max(2, count // 4, int(count * front / limits.yaw)))
    front_edges = np.linspace(-0.9, 0.9, frontal + 1) * front
    other_edges = np.linspace(front, 2 * limits.yaw - front, count - frontal + 1)
    slices = [(front_edges[i], front_edges[i + 1], True) for i in range(frontal)]
    slices += [(other_edges[i], other_edges[i + 1], False) for i in range(count - frontal)]
    heights = (rng.permutation(count) + 0.5) / count
    return np.array(
        [
            _draw_in_slice(rng, low=low, high=high, height=height, frontal=near, limits=limits)
            for (low, high, near), height in zip(slices, heights, strict=True)
        ]
    )


def _draw_in_slice(
    rng: np.random.Generator,
    *,
    low: float,
    high: float,
    height: float,
    frontal: bool,
    limits: _Limits,
) -> tuple[float, float]:
    """A (yaw, pitch) with low ≤ yaw ≤ high, clear of the exact views; retried until it fits."""
    for _ in range(2_000):
        yaw = limits.wrapped(rng.uniform(low, high))
        jittered = np.clip(2 * height - 1 + rng.uniform(-0.3, 0.3), -1.0, 1.0)
        view = np.array([[yaw, np.arcsin(jittered * np.sin(limits.pitch))]])
        to_exact = angles_between(view, exact_views(limits.yaw))[0]
        in_front = to_exact[0] <= FRONT_ANGLE - _MARGIN
        if to_exact.min() >= MIN_ANGLE + _MARGIN and (in_front or not frontal):
            return yaw, view[0, 1]
        height = rng.uniform()
    raise UserError(
        f"held-out views do not fit beside the exact ones within ±{np.rad2deg(limits.pitch):g}° of "
        f"pitch and ±{np.rad2deg(limits.yaw):g}° of yaw; "
        "ask for fewer"
    )


def _train(
    rng: np.random.Generator, *, count: int, limits: _Limits, avoid: Float[np.ndarray, "v 2"]
) -> Float[np.ndarray, "n 2"]:
    """The first `count` points of the rotated R2 sequence that keep clear of `avoid`."""
    offset = rng.uniform(size=2)
    candidates = 4 * count + 64
    while candidates < 1_000 * (count + 64):
        points = (offset + np.arange(1, candidates + 1)[:, None] * _R2_STEP) % 1.0
        pitch = np.arcsin((2 * points[:, 1] - 1) * np.sin(limits.pitch))
        views = np.stack([_spread_yaw(points[:, 0], limits.yaw), pitch], axis=-1)
        if len(avoid):
            views = views[angles_between(views, avoid).min(axis=1) >= MIN_ANGLE + _MARGIN]
        if len(views) >= count:
            return views[:count]
        candidates *= 2
    raise UserError(
        f"{count} training views do not fit beside the exact and {len(avoid)} held-out ones within "
        f"±{np.rad2deg(limits.pitch):g}° of pitch and ±{np.rad2deg(limits.yaw):g}° of yaw; ask for "
        "fewer held-out views"
    )


def _spread_yaw(uniform: Float[np.ndarray, "n"], max_yaw: float) -> Float[np.ndarray, "n"]:
    """[0, 1) to [−max_yaw, max_yaw), flat.

    On the full circle `_FRONTAL_SHARE` of the mass lies within ±`_FRONTAL_YAW`, both parts flat.
    """
    if max_yaw < np.pi:
        return (2 * uniform - 1) * max_yaw
    half = _FRONTAL_SHARE / 2
    knots = [0.0, 0.5 - half, 0.5 + half, 1.0]
    return np.interp(uniform, knots, [-np.pi, -_FRONTAL_YAW, _FRONTAL_YAW, np.pi])
