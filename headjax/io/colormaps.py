"""Numbers as colours, for pictures of depth and error maps."""

import numpy as np
from jaxtyping import Float, UInt8

# Dark violet over blue and green to a warm yellow; lightness rises evenly.
_KNOTS = np.array(
    [
        (42, 14, 74),
        (52, 48, 128),
        (44, 86, 152),
        (32, 122, 156),
        (38, 156, 140),
        (92, 188, 104),
        (174, 212, 72),
        (250, 232, 92),
    ],
    dtype=np.float64,
)


def colorize(
    values: Float[np.ndarray, "*b"], *, low: float, high: float
) -> UInt8[np.ndarray, "*b 3"]:
    """Colours from dark violet at `low` to yellow at `high`; values outside are clipped."""
    span = max(high - low, 1e-12)
    place = np.clip((values - low) / span, 0, 1) * (len(_KNOTS) - 1)
    channels = [np.interp(place, np.arange(len(_KNOTS)), _KNOTS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def colorize_depth(
    depth: Float[np.ndarray, "h w"], *, inside: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """A depth map as colours, near bright and far dark, white where there is nothing.

    Args:
        depth: along the ray, any unit; spread over the map's own range.
        inside: [h, w] bool, where depth means something; where it is positive by default.
    """
    inside = depth > 0 if inside is None else inside
    if not inside.any():
        return np.full((*depth.shape, 3), 255, dtype=np.uint8)
    low, high = float(depth[inside].min()), float(depth[inside].max())
    return np.where(inside[..., None], colorize(-depth, low=-high, high=-low), np.uint8(255))
