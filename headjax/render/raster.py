"""The visibility buffer of a triangle mesh, in NumPy, without a loop over triangles.

Every triangle is cut into the runs of samples ("spans") that it covers on each row; all spans of
all triangles are built at once, expanded into one flat list of samples, and the nearest wins. A
span runs from the first sample centre at or right of its left edge to the last one strictly left
of its right edge, and an edge's crossing with a row is computed from its upper end whichever
triangle asks, so that neighbours neither overlap nor leave a hole.

Alphabet: rows are numbered from the top, samples from the left, their centres lie at +½; `w` is
1/z, which is affine over the image, hence linear along a span.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headjax.geometry.cameras import Camera, project

NEAR = 1e-3


@dataclass(frozen=True, eq=False)
class Fragments:
    """What every sample of an image sees.

    Attributes:
        face_index: [h, w] int32, the nearest face, −1 where there is none.
        barycentric: [h, w, 3] float32, perspective-correct, 0 where there is no face.
        depth: [h, w] float32, distance along the ray, 0 where there is no face.
    """

    face_index: Int[np.ndarray, "h w"]
    barycentric: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Visible:
    """The covered samples only, as flat lists of n.

    Attributes:
        sample: [n] int64, row · width + column, ascending.
        face: [n] int64.
        barycentric: [n, 3] float32, perspective-correct, non-negative, summing to 1.
        depth: [n] float32 along the ray.
        back: [n] bool, whether the face shows its inner side.
    """

    sample: Int[np.ndarray, "n"]
    face: Int[np.ndarray, "n"]
    barycentric: Float[np.ndarray, "n 3"]
    depth: Float[np.ndarray, "n"]
    back: Bool[np.ndarray, "n"]


def rasterize(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    camera: Camera,
    *,
    resolution: int,
) -> Fragments:
    """The nearest face at the centre of every pixel; both sides of a face are seen.

    Triangles that reach nearer than z = 1e-3 are left out.

    Args:
        vertices: [v, 3] in the world.
        faces: [f, 3], counter-clockwise seen from outside.
        camera: one camera.
        resolution: the image is resolution × resolution.
    """
    visible = visible_samples(vertices, faces, camera, resolution=resolution)
    shape = (resolution, resolution)
    face_index = np.full(shape, -1, dtype=np.int32)
    barycentric = np.zeros((*shape, 3), dtype=np.float32)
    depth = np.zeros(shape, dtype=np.float32)
    face_index.reshape(-1)[visible.sample] = visible.face
    barycentric.reshape(-1, 3)[visible.sample] = visible.barycentric
    depth.reshape(-1)[visible.sample] = visible.depth
    return Fragments(face_index=face_index, barycentric=barycentric, depth=depth)


def visible_samples(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    camera: Camera,
    *,
    resolution: int,
    one_sided: Bool[np.ndarray, "f"] | None = None,
) -> Visible:
    """As `rasterize`, but only the covered samples.

    Args:
        one_sided: [f], faces that are not drawn when they show their inner side.
    """
    pixels, z = project_to_pixels(vertices, camera, resolution=resolution)
    x, y, z = pixels[faces, 0], pixels[faces, 1], z[faces]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = (_extreme(np.minimum, z) > NEAR) & (area != 0) & np.isfinite(area)
    back = area > 0  # The image's y runs down: outside faces turn clockwise.
    if one_sided is not None:
        drawn &= ~(one_sided & back)
    kept = np.flatnonzero(drawn)
    corners = np.stack([x[kept], y[kept], 1 / z[kept]])
    sample, winner = nearest_triangles(corners, resolution=resolution)
    barycentric, inverse_z = perspective(corners[:, winner], sample, resolution=resolution)
    return Visible(
        sample=sample,
        face=kept[winner],
        barycentric=barycentric,
        depth=(_ray_length(camera, resolution).reshape(-1)[sample] / inverse_z).astype(np.float32),
        back=back[kept][winner],
    )


def project_to_pixels(
    vertices: Float[np.ndarray, "v 3"], camera: Camera, *, resolution: int
) -> tuple[Float[np.ndarray, "v 2"], Float[np.ndarray, "v"]]:
    """Image coordinates in samples and camera z, both float64."""
    exact = Camera(
        cam2world=np.asarray(camera.cam2world, dtype=np.float64),
        intrinsics=np.asarray(camera.intrinsics, dtype=np.float64),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        points, z = project(exact, np.asarray(vertices, dtype=np.float64))
    return points * resolution, z


def nearest_triangles(
    corners: Float[np.ndarray, "3 f 3"], *, resolution: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Covered samples, ascending, and the triangle with the largest w at each.

    Args:
        corners: x, y (in samples) and w (positive) of every triangle's corners; the later
            triangle wins where two have the same w.
        resolution: the image is resolution × resolution.
    """
    triangle, start, count, w, slope = _spans(corners, resolution)
    span = np.repeat(np.arange(len(count), dtype=np.int32), count)
    step = np.arange(len(span), dtype=np.int32) - (np.cumsum(count) - count).astype(np.int32)[span]
    sample = start[span] + step
    depth_key = (w[span] + slope[span] * step.astype(np.float32)).view(np.int32)
    # Positive floats sort as their bits do: the high half decides, the low half says who it was.
    key = (depth_key.astype(np.int64) << 32) | triangle[span]
    best = np.full(resolution * resolution, -1, dtype=np.int64)
    np.maximum.at(best, sample, key)
    covered = np.flatnonzero(best >= 0)
    return covered, best[covered] & 0xFFFFFFFF


def _spans(
    corners: Float[np.ndarray, "3 f 3"], resolution: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every non-empty run of samples: triangle, first sample, length, w there, w per step."""
    order = np.argsort(corners[1], axis=1, kind="stable")
    x, y, w = np.take_along_axis(corners, order[None], axis=2)
    first_row = np.clip(np.ceil(y[:, 0] - 0.5), 0, resolution).astype(np.int64)
    last_row = np.clip(np.ceil(y[:, 2] - 0.5), 0, resolution).astype(np.int64)
    rows = np.maximum(last_row - first_row, 0)
    triangle = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(triangle)) - np.repeat(np.cumsum(rows) - rows - first_row, rows)
    centre = row + 0.5

    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.stack([_slope(x, y, 0, 2), _slope(x, y, 0, 1), _slope(x, y, 1, 2)])
    upper = centre < y[triangle, 1]
    edge_top = np.where(upper, 0, 1)
    long = x[triangle, 0] + (centre - y[triangle, 0]) * slopes[0, triangle]
    short = (
        x[triangle, edge_top] + (centre - y[triangle, edge_top]) * slopes[edge_top + 1, triangle]
    )
    left = np.clip(np.ceil(np.minimum(long, short) - 0.5), 0, resolution).astype(np.int64)
    right = np.clip(np.ceil(np.maximum(long, short) - 0.5), 0, resolution).astype(np.int64)

    kept = np.flatnonzero(right > left)
    triangle, row, left, count = triangle[kept], row[kept], left[kept], (right - left)[kept]
    gradient = _gradient(x, y, w)
    start_w = (
        w[triangle, 0]
        + gradient[0, triangle] * (left + 0.5 - x[triangle, 0])
        + gradient[1, triangle] * (row + 0.5 - y[triangle, 0])
    )
    # Centres on the very edge of a nearly edge-on triangle may extrapolate: stay in its range.
    lowest, highest = _extreme(np.minimum, w), _extreme(np.maximum, w)
    start_w = np.clip(start_w, lowest[triangle], highest[triangle])
    start = (row * resolution + left).astype(np.int32)
    slope = gradient[0, triangle].astype(np.float32)
    return triangle, start, count, start_w.astype(np.float32), slope


def _extreme(function: np.ufunc, values: Float[np.ndarray, "f 3"]) -> Float[np.ndarray, "f"]:
    """Minimum or maximum of three columns; NumPy reduces so short an axis far slower."""
    return function(function(values[:, 0], values[:, 1]), values[:, 2])


def _slope(x: np.ndarray, y: np.ndarray, top: int, bottom: int) -> Float[np.ndarray, "f"]:
    """dx/dy of an edge, from its upper to its lower end."""
    return (x[:, bottom] - x[:, top]) / (y[:, bottom] - y[:, top])


def _gradient(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> Float[np.ndarray, "2 f"]:
    """(dw/dx, dw/dy) of the plane through the three corners."""
    dx1, dx2 = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
    dy1, dy2 = y[:, 1] - y[:, 0], y[:, 2] - y[:, 0]
    dw1, dw2 = w[:, 1] - w[:, 0], w[:, 2] - w[:, 0]
    area = dx1 * dy2 - dx2 * dy1
    return np.stack([(dw1 * dy2 - dw2 * dy1) / area, (dx1 * dw2 - dx2 * dw1) / area])


def perspective(
    corners: Float[np.ndarray, "3 n 3"], sample: Int[np.ndarray, "n"], *, resolution: int
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Perspective-correct barycentrics and w at sample centres inside their triangles."""
    x, y, w = corners
    px = (sample % resolution + 0.5)[:, None] - x
    py = (sample // resolution + 0.5)[:, None] - y
    screen = np.empty_like(px)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        screen[:, i] = px[:, j] * py[:, k] - px[:, k] * py[:, j]
    ones = np.ones(3)
    screen = np.maximum(screen / (screen @ ones)[:, None], 0)
    weighted = screen * w
    inverse_z = weighted @ ones
    return (weighted / inverse_z[:, None]).astype(np.float32), inverse_z / (screen @ ones)


def _ray_length(camera: Camera, resolution: int) -> Float[np.ndarray, "h w"]:
    """Depth along the ray per unit of camera z, at every sample."""
    k = np.asarray(camera.intrinsics, dtype=np.float64)
    line = (np.arange(resolution) + 0.5) / resolution
    y = (line[:, None] - k[1, 2]) / k[1, 1]
    x = (line[None, :] - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return np.sqrt(x * x + y * y + 1)
