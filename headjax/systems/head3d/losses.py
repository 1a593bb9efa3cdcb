"""What the student learns from its teacher (Head3D, equations 5 and 7 to 9).

Alphabet: b heads, n planes, h w rows and columns (i j of raw images), f features of a plane,
l style layers, e width of a style. Images are in [-1, 1]. Every term is a mean and comes before its
weight. What the teacher has drawn is a constant of every term. The adversarial term (equation 6,
whose printed signs are not those of its text) is StyleGAN2's: `headjax.train.gan.losses`.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Planes = Float[Array, "b n h w f"]
Image = Float[Array, "b h w 3"]
Raw = Float[Array, "b i j 3"]
Compare = Callable[[Image, Image], Float[Array, "b"]]
Distilled = Literal["xy", "all"]

# Where F_xy stands among the planes, and in a label the camera's x and z.
XY = 0
_X, _Z = 3, 11
# A view at 90° is one of the front, whatever the last bit of its camera says.
_RIGHT_ANGLE = math.pi / 2 + 1e-5


def yaw(labels: Float[Array, "b 25"]) -> Float[Array, "b"]:
    """Each camera's angle from the front about the vertical axis, radians in [-π, π]."""
    return jnp.arctan2(labels[:, _X], labels[:, _Z])


def gate(labels: Float[Array, "b 25"], *, tau: float) -> Float[Array, "b"]:
    """1 where |Δp| ≤ τ, else 0 (equations 8 and 9): Δp is the yaw; pitch does not count."""
    return (jnp.abs(yaw(labels)) <= tau + 1e-5).astype(jnp.float32)


def is_front(labels: Float[Array, "b 25"]) -> Bool[Array, "b"]:
    """Whether the front discriminator judges the view: |yaw| ≤ 90°."""
    return jnp.abs(yaw(labels)) <= _RIGHT_ANGLE


def plane_distance(
    teacher: Planes, student: Planes, *, planes: Distilled = "xy"
) -> Float[Array, ""]:
    """Equation 5, as a mean square: over F_xy alone, or over all planes (figure 12b).

    The paper prints a norm of some two million numbers, which would drown all other terms.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if planes == "xy":
        teacher, student = teacher[:, XY], student[:, XY]
    return jnp.mean(jnp.square(teacher - student))


def style_distance(
    teacher: Float[Array, "b l e"], student: Float[Array, "b l e"]
) -> Float[Array, ""]:
    """Equation 7: mean |W_t - W_s|."""
    return jnp.mean(jnp.abs(jax.lax.stop_gradient(teacher) - student))


def color_distance(
    teacher: tuple[Image, Raw], student: tuple[Image, Raw], *, gate: Float[Array, "b"]
) -> Float[Array, ""]:
    """Equation 8: gated mean |I_t - I_s| plus that of the raw images; pairs of (image, raw)."""
    total = jnp.float32(0.0)
    for theirs, mine in zip(teacher, student, strict=True):
        error = jnp.abs(jax.lax.stop_gradient(theirs) - mine)
        total += jnp.mean(gate * error.mean(axis=(1, 2, 3)))
    return total


def perceptual_distance(
    teacher: Image, student: Image, *, compare: Compare, gate: Float[Array, "b"]
) -> Float[Array, ""]:
    """Equation 9: the gated mean of what `compare` says of each pair of images."""
    return jnp.mean(gate * compare(jax.lax.stop_gradient(teacher), student))


def multiscale_gradients(a: Image, b: Image) -> Float[Array, "b"]:
    """The stand-in for VGG's features where their weights are not there; it is no LPIPS.

    Mean over the pyramid (each level halves the side by box averages, down to 4 pixels) of the L1
    distance of horizontal and of vertical differences. The output names it `multiscale_gradients`.
    """
    error, levels = a - b, []
    while True:
        across = jnp.abs(error[:, :, 1:] - error[:, :, :-1]).mean(axis=(1, 2, 3))
        down = jnp.abs(error[:, 1:] - error[:, :-1]).mean(axis=(1, 2, 3))
        levels.append(across + down)
        count, height, width, channels = error.shape
        if min(height, width) < 8 or height % 2 or width % 2:
            return jnp.stack(levels).mean(axis=0)
        blocks = error.reshape(count, height // 2, 2, width // 2, 2, channels)
        error = blocks.mean(axis=(2, 4))
