"""Losses and regularisers of the StyleGAN family (Karras et al. 2020; EG3D, Chan et al. 2022).

Alphabet: b batch, l style layers, d width of a style, n points. Discriminators come as functions
from images to logits, generators as functions from styles to an image, fields as functions from
points to raw densities. Every loss is a mean over the batch that it is given; its weight belongs
to the caller.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Images = Mapping[str, Float[Array, "b h w _"]]
Discriminate = Callable[[Images], Float[Array, "b"]]
Query = Callable[[Float[Array, "b n 3"]], Float[Array, "b n 1"]]

# Below this a path's squared length is no length, and has no gradient.
_SMALLEST = 1e-24


def generator_loss(fake_logits: Float[Array, "b *_"]) -> Float[Array, ""]:
    """mean softplus(-D(fake)): the non-saturating loss, -log sigmoid of the logits."""
    return jax.nn.softplus(-fake_logits).mean()


def discriminator_losses(
    *, real_logits: Float[Array, "b *_"], fake_logits: Float[Array, "b *_"]
) -> dict[str, Float[Array, ""]]:
    """The terms "real", mean softplus(-D(real)), and "fake", mean softplus(D(fake))."""
    return {
        "real": jax.nn.softplus(-real_logits).mean(),
        "fake": jax.nn.softplus(fake_logits).mean(),
    }


def r1(
    discriminate: Discriminate, images: Images, *, gamma: float | Mapping[str, float]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """R1 of Mescheder et al. 2018, jointly over all inputs of the discriminator.

        L = sum over names  gamma[name] / 2  mean_b |d (sum_b D(images)) / d images[name][b]|^2

    EG3D takes image and image_raw with one gamma; PanoHead adds the mask with its own. What
    `discriminate` does before the network (blur, augmentation) belongs to the derivative. Where
    logits depend on other samples (mini-batch standard deviation), so do the derivatives, as in
    the original.

    Args:
        discriminate: images -> logits.
        images: real images by name.
        gamma: one weight for all, or one by name.

    Returns:
        The loss, and mean_b |...|^2 by name.

    Raises:
        ValueError: a mapping `gamma` whose names are not those of the images.
    """
    weights = gamma if isinstance(gamma, Mapping) else dict.fromkeys(images, gamma)
    if set(weights) != set(images):
        raise ValueError(f"gamma has {sorted(weights)}, the images {sorted(images)}: give one each")
    gradients = jax.grad(lambda inputs: discriminate(inputs).sum())(dict(images))
    norms = {name: jnp.square(g).sum() / g.shape[0] for name, g in gradients.items()}
    return sum(weights[name] / 2 * norm for name, norm in norms.items()), norms


def path_lengths(
    synthesise: Callable[[Float[Array, "b l d"]], Float[Array, "b h w c"]],
    ws: Float[Array, "b l d"],
    *,
    probe: Float[Array, "b h w c"],
) -> Float[Array, "b"]:
    """How far a random change of the image is from the styles: sqrt(mean_l sum_d J^T y^2).

    J = d image / d ws and y = probe / sqrt(h w), the probe standard normal (StyleGAN2, section
    3.2). A sample whose image does not depend on its styles has length and gradient 0.
    """
    rows, columns = probe.shape[1:3]
    gradient = jax.grad(lambda styles: (synthesise(styles) * probe).sum())(ws)
    squares = jnp.square(gradient).sum(2).mean(1) / (rows * columns)
    return jnp.sqrt(jnp.maximum(squares, _SMALLEST))


def path_regulariser(
    lengths: Float[Array, "b"], mean: Float[Array, ""], *, decay: float = 0.01
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """mean_b (length_b - m)^2, with m = mean + decay (mean_b length_b - mean).

    Returns:
        The loss (the original's weight is 2), and m without gradient, the next call's `mean`.
        Inside the loss m has a gradient, as in the original. A run starts with mean = 0.
    """
    mean = mean + decay * (lengths.mean() - mean)
    return jnp.square(lengths - mean).mean(), jax.lax.stop_gradient(mean)


def density_points(
    key: PRNGKeyArray, batch: int, *, half_side: float, spread: float = 0.004, count: int = 1000
) -> tuple[Float[Array, "b n 3"], Float[Array, "b n 3"]]:
    """Points uniform in the cube [-half_side, half_side]^3, and the same moved by normal steps.

    Args:
        key: random key.
        batch: samples b.
        half_side: half of the field's side, box_warp / 2, world units.
        spread: standard deviation of a step along each axis, world units.
        count: points n a sample.
    """
    where, step = jax.random.split(key)
    shape = (batch, count, 3)
    points = jax.random.uniform(where, shape, minval=-half_side, maxval=half_side)
    return points, points + spread * jax.random.normal(step, shape)


def density_l1(
    query: Query, points: Float[Array, "b n 3"], moved: Float[Array, "b n 3"]
) -> Float[Array, ""]:
    """mean |sigma(points) - sigma(moved)|: densities change little over small steps (EG3D).

    `query` gives the raw density, before its activation; it is called once, for both halves.
    EG3D's weight is 0.25.
    """
    before, after = jnp.split(query(jnp.concatenate([points, moved], axis=1)), 2, axis=1)
    return jnp.abs(before - after).mean()


def density_monotone(
    query: Query, points: Float[Array, "b n 3"], *, step: float, hold_front: bool = False
) -> Float[Array, ""]:
    """mean relu(sigma(x) - sigma(x - step z)): density does not fall on the way into the head.

    One of EG3D's options, for fields that are seen from +z only (its weight there is 10).

    Args:
        query: points -> raw densities.
        points: x, uniform in the cube.
        step: world units; EG3D's is box_warp / 256.
        hold_front: the nearer density is a constant for the gradient ("monotonic-detach").
    """
    behind = points - jnp.asarray([0.0, 0.0, step], points.dtype)
    front, back = jnp.split(query(jnp.concatenate([points, behind], axis=1)), 2, axis=1)
    front = jax.lax.stop_gradient(front) if hold_front else front
    return jax.nn.relu(front - back).mean()


def translation(delta: Float[Array, "b 3"]) -> Float[Array, ""]:
    """|mean_b delta|^2: PanoHead's camera corrections are zero on average (its weight is 10).

    Single samples may move; the mean is over the whole batch of a step, on all devices.
    """
    return jnp.square(delta.mean(axis=0)).sum()
