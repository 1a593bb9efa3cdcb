"""UV atlases by projection, for heads that come without one that suits.

The head is unrolled about a vertical axis: u grows with the longitude (0 at the front, towards the
subject's left), with its seam at the back; v falls with a latitude. Surfaces one behind the other
share texels, so an atlas of this kind says which point is outermost, not every point: order the
faces from inside to outside, for `render.uv` lets the later face win.
"""

import numpy as np
from jaxtyping import Float, Int


def unroll(
    u: Float[np.ndarray, "v"],
    v: Float[np.ndarray, "v"],
    *,
    faces: Int[np.ndarray, "f 3"],
    poles: Int[np.ndarray, "p"] | tuple[int, ...] = (),
) -> tuple[Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """Splits texture vertices at the seam u = 0 ≡ 1 and at the poles.

    A face on the seam keeps to the side of its middle; a corner beyond is moved onto the seam.
    A pole has no longitude: each of its faces gives it the mean of its other corners.

    Args:
      u: [v] in [0, 1], periodic.
      v: [v] in [0, 1].
      faces: triangles.
      poles: vertices on the axis.

    Returns:
      Texture vertices in [0, 1]^2 and their triangles, face by face with `faces`.
    """
    corner_u = u[faces].astype(np.float64)
    is_pole = np.isin(faces, np.asarray(poles, dtype=np.int64))
    has_pole = is_pole.any(1)
    first = np.where(is_pole[:, 0], corner_u[:, 1], corner_u[:, 0])[:, None]
    corner_u = first + np.mod(corner_u - first + 0.5, 1.0) - 0.5
    others = np.where(is_pole, 0.0, corner_u).sum(1) / np.maximum((~is_pole).sum(1), 1)
    corner_u = np.where(is_pole & has_pole[:, None], others[:, None], corner_u)
    corner_u = np.clip(corner_u - np.floor(corner_u.mean(1, keepdims=True)), 0.0, 1.0)
    corners = np.stack([corner_u, v[faces]], -1).reshape(-1, 2).astype(np.float32)
    uvs, index = np.unique(corners, axis=0, return_inverse=True)
    return uvs, index.reshape(-1, 3).astype(np.int32)


def inside_out(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], *, axis: tuple[float, float]
) -> Int[np.ndarray, "f"]:
    """Order of the faces by their middle's distance from the vertical axis through (x, z)."""
    middle = vertices[faces].mean(1)
    return np.argsort(np.hypot(middle[:, 0] - axis[0], middle[:, 2] - axis[1]), kind="stable")
