"""Sets of pictures as Inception features with their yaws: FID and KID, whole and per half.

A head has two halves: views with |yaw| ≤ 90° show the face ("front"), the others the back. Each is
compared with the same half of the reals, as Head3D's table 3 does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float

from headjax.errors import UserError
from headjax.geometry.cameras import Camera
from headjax.io import atomic
from headjax.metrics.fid import frechet_distance, moments
from headjax.metrics.kid import kernel_distance
from headjax.nets.perceptual.weights import Missing

Half = Literal["front", "back"]
HALVES: tuple[Half, ...] = ("front", "back")
# A view at 90° belongs to the front, whatever the last bit of its camera says.
_RIGHT_ANGLE = np.pi / 2 + 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSet:
    """What is kept of a set of pictures; adding two joins them.

    Attributes:
        features: Inception's pool3.
        yaws: radians, of each picture's camera.
    """

    features: Float[np.ndarray, "n d"]
    yaws: Float[np.ndarray, "n"]

    def __add__(self, other: FeatureSet) -> FeatureSet:
        return FeatureSet(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.yaws, other.yaws]),
        )

    def half(self, name: Half) -> FeatureSet:
        """The pictures of one half of the head."""
        chosen = is_front(self.yaws) == (name == "front")
        return FeatureSet(self.features[chosen], self.yaws[chosen])


def yaws_of(cameras: Camera, *, pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Yaw of each camera about `pivot` in radians, −π..π; 0 sees the face, positive from +x."""
    offset = np.asarray(cameras.position, np.float64) - np.asarray(pivot)
    return np.arctan2(offset[..., 0], offset[..., 2])


def is_front(yaws: Float[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
    """Whether |yaw| ≤ 90°, for angles in radians of any turn."""
    wrapped = (yaws.astype(np.float64) + np.pi) % (2 * np.pi) - np.pi
    return np.abs(wrapped) <= _RIGHT_ANGLE


def quality(
    reals: FeatureSet | Missing,
    fakes: FeatureSet | Missing,
    *,
    halves: bool = True,
    seed: int = 0,
) -> dict[str, float | str]:
    """`fid` and `kid_x100` of all pictures, and with `_front` and `_back` of each half.

    What cannot be had is "n/a" and says why: no network, or no two pictures to compare.
    """
    rows: dict[str, float | str] = {}
    for half in (None, *(HALVES if halves else ())):
        ending = f"_{half}" if half else ""
        rows |= {f"{name}{ending}": v for name, v in _compared(reals, fakes, half, seed).items()}
    return rows


def _compared(reals, fakes, half: Half | None, seed: int) -> dict[str, float | str]:
    for side in (reals, fakes):
        if isinstance(side, Missing):
            return dict.fromkeys(("fid", "kid_x100"), str(side))
    if half:
        reals, fakes = reals.half(half), fakes.half(half)
    counts = len(reals.yaws), len(fakes.yaws)
    if min(counts) < 2:
        why = f"n/a (needs two pictures a side, there are {counts[0]} real and {counts[1]} made)"
        return dict.fromkeys(("fid", "kid_x100"), why)
    return {
        "fid": frechet_distance(moments(reals.features), moments(fakes.features)),
        "kid_x100": 100 * kernel_distance(reals.features, fakes.features, seed=seed).mean,
    }


def cached(
    path: Path, *, source: Mapping[str, Any], compute: Callable[[], FeatureSet]
) -> FeatureSet:
    """The features in the file at `path`, or those of `compute`, which are then kept there.

    Args:
        path: a `.safetensors` file.
        source: what the features are of (data, resolution, digest of the network's weights), as
            JSON can hold it. A file of another source is computed anew.
        compute: extracts them.

    Raises:
        UserError: the file cannot be read, or not be written.
    """
    wanted = json.dumps(dict(source), sort_keys=True)
    kept = _read(path, wanted)
    if kept is None:
        kept = compute()
        arrays = {"features": kept.features, "yaws": kept.yaws}
        data = safetensors.numpy.save(
            {name: np.ascontiguousarray(a) for name, a in arrays.items()},
            metadata={"source": wanted},
        )
        atomic.write_bytes(path, data)
    return kept


def _read(path: Path, source: str) -> FeatureSet | None:
    """The set in the file if there is one, and it is of this source."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("source") != source:
                return None
            return FeatureSet(file.get_tensor("features"), file.get_tensor("yaws"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: not a readable file of features; remove it, and it is made again"
        ) from error
