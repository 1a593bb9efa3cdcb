"""Where the cameras of a data set stand: training and held-out views of one head, in NumPy.

A view is a row (yaw, pitch) in radians: yaw 0 is the front, positive yaw goes to +x (the subject's
left), positive pitch up. Alphabet: `v` views.

Invariants of `place_views`:
- training views 0, 1, 2 are exactly the front, the side (yaw 90°) and the back, pitch 0;
- the angle between a held-out view and every training view is at least `MIN_ANGLE`;
- two held-out views at least lie within `FRONT_ANGLE` of the front, the others all around;
- the result is a pure function of the arguments.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError

MIN_ANGLE = np.deg2rad(8.0)
FRONT_ANGLE = np.deg2rad(40.0)
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


def exact_views() -> Float[np.ndarray, "3 2"]:
    """The exact front, side and back, in this order."""
    return np.array(list(EXACT_VIEWS.values()))


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
    seed: int, *, train_views: int, held_out_views: int, max_pitch: float = np.deg2rad(30.0)
) -> ViewPlacement:
    """The views of the head with this seed.

    The held-out views are drawn first, stratified in yaw; the training views then follow a
    rotated low-discrepancy sequence over the band |pitch| ≤ `max_pitch`, uniform in area but for
    half of them lying within ±60° of yaw, and skip the neighbourhoods of the held-out ones.

    Args:
        seed: any non-negative integer; each gives its own rotation of the sequence.
        train_views: their number, the three exact views included; at least 3.
        held_out_views: 0, or 2 to 48.
        max_pitch: radians, 0 to 80°.

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
    rng = np.random.default_rng(seed)
    held_out = _held_out(rng, count=held_out_views, max_pitch=max_pitch)
    train = _train(rng, count=train_views - 3, max_pitch=max_pitch, avoid=held_out)
    return ViewPlacement(train=np.concatenate([exact_views(), train]), held_out=held_out)


def _held_out(
    rng: np.random.Generator, *, count: int, max_pitch: float
) -> Float[np.ndarray, "v 2"]:
    """Frontal views first, then one in each equal slice of the remaining circle."""
    if count == 0:
        return np.zeros((0, 2))
    frontal = max(2, count // 4)
    front_edges = np.linspace(-0.9, 0.9, frontal + 1) * FRONT_ANGLE
    other_edges = np.linspace(FRONT_ANGLE, 2 * np.pi - FRONT_ANGLE, count - frontal + 1)
    slices = [(front_edges[i], front_edges[i + 1], True) for i in range(frontal)]
    slices += [(other_edges[i], other_edges[i + 1], False) for i in range(count - frontal)]
    heights = (rng.permutation(count) + 0.5) / count
    return np.array(
        [
            _draw_in_slice(rng, low=low, high=high, height=height, frontal=front, limit=max_pitch)
            for (low, high, front), height in zip(slices, heights, strict=True)
        ]
    )


def _draw_in_slice(
    rng: np.random.Generator, *, low: float, high: float, height: float, frontal: bool, limit: float
) -> tuple[float, float]:
    """A (yaw, pitch) with low ≤ yaw ≤ high, clear of the exact views; retried until it fits."""
    for _ in range(2_000):
        yaw = rng.uniform(low, high)
        jittered = np.clip(2 * height - 1 + rng.uniform(-0.3, 0.3), -1.0, 1.0)
        view = np.array([[yaw, np.arcsin(jittered * np.sin(limit))]])
        to_exact = angles_between(view, exact_views())[0]
        in_front = to_exact[0] <= FRONT_ANGLE - _MARGIN
        if to_exact.min() >= MIN_ANGLE + _MARGIN and (in_front or not frontal):
            return _wrapped(yaw), view[0, 1]
        height = rng.uniform()
    raise UserError(
        f"held-out views do not fit beside the exact ones within ±{np.rad2deg(limit):g}° of pitch; "
        "ask for fewer"
    )


def _train(
    rng: np.random.Generator, *, count: int, max_pitch: float, avoid: Float[np.ndarray, "v 2"]
) -> Float[np.ndarray, "n 2"]:
    """The first `count` points of the rotated R2 sequence that keep clear of `avoid`."""
    offset = rng.uniform(size=2)
    candidates = 4 * count + 64
    while candidates < 1_000 * (count + 64):
        points = (offset + np.arange(1, candidates + 1)[:, None] * _R2_STEP) % 1.0
        pitch = np.arcsin((2 * points[:, 1] - 1) * np.sin(max_pitch))
        views = np.stack([_warped_yaw(points[:, 0]), pitch], axis=-1)
        if len(avoid):
            views = views[angles_between(views, avoid).min(axis=1) >= MIN_ANGLE + _MARGIN]
        if len(views) >= count:
            return views[:count]
        candidates *= 2
    raise UserError(
        f"{count + 3} training views do not fit beside {len(avoid)} held-out ones within "
        f"±{np.rad2deg(max_pitch):g}° of pitch; ask for fewer held-out views"
    )


def _warped_yaw(uniform: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """[0, 1) to [−π, π): `_FRONTAL_SHARE` of the mass within ±`_FRONTAL_YAW`, both flat."""
    half = _FRONTAL_SHARE / 2
    knots = [0.0, 0.5 - half, 0.5 + half, 1.0]
    return np.interp(uniform, knots, [-np.pi, -_FRONTAL_YAW, _FRONTAL_YAW, np.pi])


def _wrapped(yaw: float) -> float:
    """`yaw` in [−π, π)."""
    return float((yaw + np.pi) % (2 * np.pi) - np.pi)
