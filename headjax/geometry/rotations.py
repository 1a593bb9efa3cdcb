"""Rotations on the last axes.

Alphabet: `r` axis-angle vectors [..., 3] (radians, the direction is the axis), `R` matrices
[..., 3, 3] acting on column vectors, `q` unit quaternions [..., 4] as (w, x, y, z).
Invariants: every matrix returned satisfies R Rᵀ = I and det R = 1; every function is smooth, with
finite gradients, at the identity; NumPy arguments give NumPy results, JAX arguments JAX results.
"""

from jaxtyping import Bool, Float

from headjax.geometry.backend import AnyArray, Numbers, as_float, namespace

_SMALL_ANGLE_SQUARED = 1e-6


def _skew(vector: AnyArray) -> AnyArray:
    """[v]ₓ, the matrix with [v]ₓ u = v × u."""
    xnp = namespace(vector)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = xnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return xnp.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


def axis_angle_to_matrix(axis_angle: Float[AnyArray, "*b 3"]) -> Float[AnyArray, "*b 3 3"]:
    """Rodrigues' formula, R = I + (sin θ/θ) [r]ₓ + ((1 − cos θ)/θ²) [r]ₓ² with θ = |r|.

    Below θ² = 1e-6 both factors come from their Taylor series, so that value and gradient are
    finite at zero.
    """
    xnp = namespace(axis_angle)
    squared = xnp.sum(axis_angle * axis_angle, axis=-1)[..., None, None]
    small = squared < _SMALL_ANGLE_SQUARED
    angle = xnp.sqrt(xnp.where(small, xnp.ones_like(squared), squared))
    first = xnp.where(small, 1 - squared / 6, xnp.sin(angle) / angle)
    second = xnp.where(small, 0.5 - squared / 24, (1 - xnp.cos(angle)) / (angle * angle))
    skew = _skew(axis_angle)
    return xnp.eye(3, dtype=axis_angle.dtype) + first * skew + second * (skew @ skew)


def rpy_to_matrix(rpy: Float[AnyArray, "*b 3"]) -> Float[AnyArray, "*b 3 3"]:
    """R = Rz(yaw) · Ry(pitch) · Rx(roll) from (roll, pitch, yaw) in radians."""
    xnp = namespace(rpy)
    cos, sin = xnp.cos(rpy), xnp.sin(rpy)
    cr, cp, cy = cos[..., 0], cos[..., 1], cos[..., 2]
    sr, sp, sy = sin[..., 0], sin[..., 1], sin[..., 2]
    rows = [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr,
            sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr,
            -sp, cp * sr, cp * cr]  # fmt: skip
    return xnp.stack(rows, axis=-1).reshape(*rpy.shape[:-1], 3, 3)


def quaternion_to_matrix(quaternion: Float[AnyArray, "*b 4"]) -> Float[AnyArray, "*b 3 3"]:
    """R of the quaternion (w, x, y, z), which is normalised first."""
    xnp = namespace(quaternion)
    unit = quaternion / xnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    w, x, y, z = (unit[..., i] for i in range(4))
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return xnp.stack(rows, axis=-1).reshape(*unit.shape[:-1], 3, 3)


def matrix_to_quaternion(matrix: Float[AnyArray, "*b 3 3"]) -> Float[AnyArray, "*b 4"]:
    """The unit quaternion (w, x, y, z), w ≥ 0, of a rotation matrix.

    4 q qᵀ is linear in R; its column with the largest diagonal entry, normalised, is q. That
    column's norm is at least 1, so no angle is special.
    """
    xnp = namespace(matrix)
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    rows = [
        [1 + m[0][0] + m[1][1] + m[2][2], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]],
        [m[2][1] - m[1][2], 1 + m[0][0] - m[1][1] - m[2][2], m[0][1] + m[1][0], m[0][2] + m[2][0]],
        [m[0][2] - m[2][0], m[0][1] + m[1][0], 1 - m[0][0] + m[1][1] - m[2][2], m[1][2] + m[2][1]],
        [m[1][0] - m[0][1], m[0][2] + m[2][0], m[1][2] + m[2][1], 1 - m[0][0] - m[1][1] + m[2][2]],
    ]
    outer = xnp.stack([xnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = xnp.argmax(xnp.stack([rows[i][i] for i in range(4)], axis=-1), axis=-1)
    column = xnp.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    unit = column / xnp.linalg.norm(column, axis=-1, keepdims=True)
    return xnp.where(unit[..., :1] < 0, -unit, unit)


def matrix_to_axis_angle(matrix: Float[AnyArray, "*b 3 3"]) -> Float[AnyArray, "*b 3"]:
    """The shortest axis-angle vector (0 ≤ θ ≤ π) of a rotation matrix."""
    xnp = namespace(matrix)
    quaternion = matrix_to_quaternion(matrix)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = xnp.sum(vector * vector, axis=-1, keepdims=True)
    small = squared < _SMALL_ANGLE_SQUARED
    sine = xnp.sqrt(xnp.where(small, xnp.ones_like(squared), squared))
    scale = xnp.where(small, 2 + squared / 3, 2 * xnp.arctan2(sine, w) / sine)
    return scale * vector


def look_at(
    position: Numbers, target: Numbers, *, up: Numbers = (0.0, 1.0, 0.0)
) -> Float[AnyArray, "*b 4 4"]:
    """Camera-to-world matrix of a camera at `position` that looks at `target`.

    OpenCV axes: the columns of R are the image's right, the image's down and the viewing
    direction. `up` [..., 3] must not be parallel to the viewing direction.

    Args:
        position: [..., 3], world units.
        target: [..., 3], broadcast against `position`.
        up: the world direction that points up in the image.
    """
    xnp = namespace(position, target, up)
    position, target, up = (as_float(value, xnp) for value in (position, target, up))
    position, target, up = xnp.broadcast_arrays(position, target, up)
    forward = _normalise(target - position)
    right = _normalise(xnp.cross(forward, up))
    down = xnp.cross(forward, right)
    return assemble(xnp.stack([right, down, forward], axis=-1), translation=position)


def assemble(
    rotation: Float[AnyArray, "*b 3 3"], *, translation: Float[AnyArray, "*b 3"]
) -> Float[AnyArray, "*b 4 4"]:
    """The rigid transform [[R, t], [0, 1]]."""
    xnp = namespace(rotation, translation)
    top = xnp.concatenate([rotation, translation[..., None]], axis=-1)
    last = xnp.broadcast_to(
        xnp.asarray([[0.0, 0.0, 0.0, 1.0]], dtype=top.dtype), (*top.shape[:-2], 1, 4)
    )
    return xnp.concatenate([top, last], axis=-2)


def is_rotation(
    matrix: Float[AnyArray, "*b 3 3"], *, tolerance: float = 1e-3
) -> Bool[AnyArray, "*b"]:
    """Whether R Rᵀ is the identity within `tolerance` per entry and det R is positive."""
    xnp = namespace(matrix)
    product = matrix @ xnp.swapaxes(matrix, -1, -2)
    error = xnp.abs(product - xnp.eye(3, dtype=matrix.dtype))
    near = xnp.all(error < tolerance, axis=(-1, -2))
    return xnp.asarray(xnp.logical_and(near, xnp.linalg.det(matrix) > 0))


def _normalise(vector: AnyArray) -> AnyArray:
    xnp = namespace(vector)
    return vector / xnp.linalg.norm(vector, axis=-1, keepdims=True)
