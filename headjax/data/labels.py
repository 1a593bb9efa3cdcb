"""dataset.json of EG3D and PanoHead: camera labels by image name, checked."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.geometry.cameras import LABEL_SIZE

MAX_JSON_BYTES = 2**28
TOLERANCE = 1e-3

_LARGEST = 1e6
_SHOWN = 5


def parse_labels(text: bytes, *, name: str) -> dict[str, Any] | None:
    """The labels of a dataset.json by image name, not yet checked; None if it has none.

    Args:
        text: the file's bytes.
        name: what messages call the file.

    Raises:
        UserError: not JSON, or not {"labels": null or [[name, label], …]}; or a name twice.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise UserError(f'{name}: has no "labels"; {{"labels": [[name, numbers], …]}} is needed')
    entries = content["labels"]
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise UserError(f'{name}: "labels" must be null or a list of [name, numbers]')
    labels: dict[str, Any] = {}
    for index, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{name}: entry {index} of the labels is not [name, numbers]")
        image = entry[0].replace("\\", "/")
        if image in labels:
            raise UserError(f"{name}: {image!r} has two labels; every image may have one")
        labels[image] = entry[1]
    return labels


def camera_labels(
    labels: Mapping[str, Any], images: Iterable[str], *, name: str
) -> Float[np.ndarray, "n 25"]:
    """The checked camera labels of the images, float32, in their order.

    Raises:
        UserError: naming the first five images whose label is missing, has not 25 finite numbers,
            or is no camera: rotation orthonormal to 1e-3 with determinant 1, bottom rows
            (0, 0, 0, 1) and (0, 0, 1), positive focal lengths, principal point in [0, 1].
    """
    images = list(images)
    values = np.zeros((len(images), LABEL_SIZE))
    faults: dict[int, str] = {}
    for index, image in enumerate(images):
        numbers = _numbers(labels[image]) if image in labels else "has no label"
        if isinstance(numbers, str):
            faults[index] = numbers
        else:
            values[index] = numbers
    sound = np.array([index for index in range(len(images)) if index not in faults], dtype=int)
    faults.update((int(sound[i]), fault) for i, fault in camera_faults(values[sound]).items())
    if faults:
        shown = [f"{images[index]}: {faults[index]}" for index in sorted(faults)[:_SHOWN]]
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(
            f"{name}: {len(faults)} of {len(images)} camera labels cannot be used "
            f"({'; '.join(shown)}{more}); a label is 25 numbers, a 4×4 camera-to-world matrix and "
            "3×3 intrinsics in image sizes"
        )
    return values.astype(np.float32)


def camera_faults(labels: Float[np.ndarray, "n 25"]) -> dict[int, str]:
    """What is wrong with each label that is no camera, by index."""
    pose, lens = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    finite = (np.isfinite(labels) & (np.abs(labels) < _LARGEST)).all(axis=1)
    pose = np.where(finite[:, None, None], pose, np.eye(4))
    lens = np.where(finite[:, None, None], lens, np.eye(3))
    rotation = pose[:, :3, :3]
    orthonormal = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
    centre = lens[:, :2, 2]
    checks = {
        "has NaN, infinite or huge numbers": ~finite,
        "its rotation is none": (orthonormal > TOLERANCE) | (np.linalg.det(rotation) < 0),
        "the pose's bottom row is not 0 0 0 1": np.abs(pose[:, 3] - np.eye(4)[3]).max(axis=1)
        > TOLERANCE,
        "a focal length is not positive": np.minimum(lens[:, 0, 0], lens[:, 1, 1]) <= 0,
        "the intrinsics' bottom row is not 0 0 1": np.abs(lens[:, 2] - np.eye(3)[2]).max(axis=1)
        > TOLERANCE,
        "the principal point is outside the image, so perhaps in pixels": (
            (centre < 0) | (centre > 1)
        ).any(axis=1),
    }
    faults: dict[int, str] = {}
    for fault, found in checks.items():
        for index in np.flatnonzero(found):
            faults.setdefault(int(index), fault)
    return faults


def _numbers(label: Any) -> list[float] | str:
    """The label's 25 numbers, or what is wrong with it; numeric strings are numbers."""
    if isinstance(label, int):
        return "its label is a class number, not a camera"
    if not isinstance(label, list):
        return "its label is not a list of numbers"
    if len(label) != LABEL_SIZE:
        return f"has {len(label)} numbers instead of {LABEL_SIZE}"
    try:
        numbers = [_number(value) for value in label]
    except (TypeError, ValueError, OverflowError):
        return "its label has something that is no number"
    return numbers


def _number(value: Any) -> float:
    """A JSON number, or a string that is one."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError(value)
    if not isinstance(value, int | float | str):
        raise TypeError(value)
    return float(value)
