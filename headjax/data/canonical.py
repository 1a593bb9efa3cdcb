"""The views of a data set that are nearest to given cameras, the same for every head."""

from typing import Any

import numpy as np
from jaxtyping import Float

from headjax.geometry.cameras import view_angle_between


def nearest_views(source: Any, labels: Float[np.ndarray, "v 25"]) -> Float[np.ndarray, "n v h w 3"]:
    """Of every identity, the images nearest to each camera by angle, in [0, 1].

    Args:
        source: a split with `identities`, as `load_split` gives it.
        labels: cameras.
    """
    identities = np.asarray(source.identities)
    result = []
    for identity in sorted(set(identities.tolist())):
        places = np.flatnonzero(identities == identity).tolist()
        cameras = [source.read(i, fields=("camera",))["camera"] for i in places]
        views = []
        for label in labels:
            angles = [float(view_angle_between(camera, label)) for camera in cameras]
            nearest = source.read(places[int(np.argmin(angles))], fields=("image",))
            views.append(nearest["image"].astype(np.float32) / 255.0)
        result.append(np.stack(views))
    return np.stack(result)
