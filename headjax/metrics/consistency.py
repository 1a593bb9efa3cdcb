"""3D consistency: how well a field fitted to half of a head's views shows the other half.

Head3D (§4.2) renders 100 views of a head, fits a TensoRF to 50 of them and reports the PSNR of the
rest: what changes from view to view cannot be fitted. The field here has TensoRF's form (Chen et
al. 2022, the vector-matrix decomposition) and is our own small one: colours do not depend on the
viewing direction, and it is fitted with one resolution throughout. Its numbers compare heads with
each other; they are not those of the paper's table 3.

    density raw(x, y, z) = Σ_c P_xy,c(x, y) L_z,c(z) + P_xz,c(x, z) L_y,c(y) + P_yz,c(y, z) L_x,c(x)
    colour  = sigmoid(B · [the same products, of other channels])

Alphabet: v views, r rays, s samples, n points, c channels. Colours in [0, 1]; the field fills the
cube [−box/2, box/2]³ about the origin and everything beyond is `background`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from headjax.geometry import rays
from headjax.geometry.cameras import Camera
from headjax.metrics.images import PooledError, squared_error
from headjax.render import volume

Params = dict[str, Any]

# The pairs of axes of the three planes, and the axis of the line that goes with each.
PLANES = ((0, 1), (0, 2), (1, 2))
LINES = (2, 1, 0)
# softplus(raw + shift) · scale: nearly empty at the start, opaque within a few hundredths.
_DENSITY_SHIFT, _DENSITY_SCALE = -4.0, 100.0
_EVALUATED = 4096  # rays rendered at a time


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the field and its fit.

    Attributes:
        steps: of Adam.
        grid: texels along each side of planes and lines.
        density, color: components of each of the three products.
        rays, samples: a step's rays, and samples of each.
        box: side of the cube, world units.
        background: of the pictures, 0..1.
        planes_rate, basis_rate: learning rates at the start; they fall tenfold.
        sparsity: weight of the mean density's magnitude, which keeps unseen space empty.
    """

    steps: int = 2000
    grid: int = 128
    density: int = 8
    color: int = 16
    rays: int = 2048
    samples: int = 96
    box: float = 1.2
    background: float = 1.0
    planes_rate: float = 0.02
    basis_rate: float = 0.002
    sparsity: float = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
    """What the fit says.

    Attributes:
        psnr: of the held-out views, dB, the mean over views.
        train_psnr: of the views it was fitted to.
        held_out: which views were held out.
        pictures: those views, rendered from the field.
    """

    psnr: float
    train_psnr: float
    held_out: np.ndarray
    pictures: Float[np.ndarray, "v h w 3"]


def consistency(
    images: Float[np.ndarray, "v h w 3"],
    cameras: Camera,
    *,
    key: Key[Array, ""],
    settings: Settings | None = None,
) -> Consistency:
    """Fits a field to a random half of the views and compares it with the others.

    Args:
        images: square views of one head, colours in [0, 1].
        cameras: [v], theirs.
        key: of the halves, the field's start and the rays.
        settings: sizes and steps.

    Raises:
        ValueError: fewer than four views, or views that are not square.
    """
    settings = settings or Settings()
    count, height, width, _ = images.shape
    if count < 4 or height != width:
        raise ValueError(f"needs at least 4 square views, got {count} of {height}x{width}")
    half_key, fit_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(half_key, count))
    seen, held_out = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    cameras = jax.tree.map(jnp.asarray, cameras)
    params = fit(jnp.asarray(images[seen]), cameras[seen], key=fit_key, settings=settings)

    def shown(views: np.ndarray) -> np.ndarray:
        return render(params, cameras[views], resolution=height, settings=settings)

    pictures = shown(held_out)
    return Consistency(
        psnr=_mean_psnr(pictures, images[held_out]),
        train_psnr=_mean_psnr(shown(seen), images[seen]),
        held_out=held_out,
        pictures=pictures,
    )


def _mean_psnr(pictures: np.ndarray, images: np.ndarray) -> float:
    errors: list[PooledError] = [squared_error(a, b) for a, b in zip(pictures, images, strict=True)]
    return float(np.mean([error.psnr() for error in errors]))


def init(key: Key[Array, ""], settings: Settings) -> Params:
    """A field that is nearly empty and grey."""
    channels = settings.density + settings.color
    shapes = {
        "planes": (3, settings.grid, settings.grid, channels),
        "lines": (3, settings.grid, channels),
        "basis": (3 * settings.color, 3),
    }
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    return {name: 0.1 * jax.random.normal(keys[name], shape) for name, shape in shapes.items()}


def _between(place: Float[Array, "*n"], grid: int) -> tuple[Array, Array]:
    """The texel before a place in [−1, 1], and how far it is on the way to the next."""
    texel = jnp.clip((place + 1.0) / 2.0 * (grid - 1), 0.0, grid - 1.0)
    before = jnp.clip(jnp.floor(texel), 0, grid - 2).astype(jnp.int32)
    return before, texel - before


def _line(line: Float[Array, "g c"], place: Float[Array, "*n"]) -> Float[Array, "*n c"]:
    before, way = _between(place, len(line))
    way = way[..., None]
    return (1 - way) * line[before] + way * line[before + 1]


def _plane(plane: Float[Array, "g g c"], place: Float[Array, "*n 2"]) -> Float[Array, "*n c"]:
    grid, channels = plane.shape[0], plane.shape[-1]
    texels = plane.reshape(grid * grid, channels)
    (i, down), (j, along) = (_between(place[..., k], grid) for k in (0, 1))
    down, along = down[..., None], along[..., None]
    corner = i * grid + j
    upper = (1 - along) * texels[corner] + along * texels[corner + 1]
    lower = (1 - along) * texels[corner + grid] + along * texels[corner + grid + 1]
    return (1 - down) * upper + down * lower


def query(
    params: Params, points: Float[Array, "*n 3"], *, settings: Settings
) -> tuple[Float[Array, "*n"], Float[Array, "*n 3"]]:
    """Density per world unit and colour of points inside the box."""
    unit = points * (2.0 / settings.box)
    products = [
        _plane(plane, unit[..., list(axes)]) * _line(line, unit[..., axis])
        for plane, line, axes, axis in zip(
            params["planes"], params["lines"], PLANES, LINES, strict=True
        )
    ]
    raw = sum(product[..., : settings.density].sum(axis=-1) for product in products)
    colors = jnp.concatenate([product[..., settings.density :] for product in products], axis=-1)
    sigma = _DENSITY_SCALE * jax.nn.softplus(10.0 * raw + _DENSITY_SHIFT)
    return sigma, jax.nn.sigmoid(10.0 * colors @ params["basis"])


def render_rays(
    params: Params,
    origins: Float[Array, "r 3"],
    directions: Float[Array, "r 3"],
    *,
    settings: Settings,
    jitter: Float[Array, "r s"] | None = None,
) -> tuple[Float[Array, "r 3"], Float[Array, "r s"]]:
    """Colours of rays over the background, and the densities at their samples."""
    near, far, hit = rays.box_range(origins, directions, half_size=settings.box / 2)
    depths = volume.stratified(near, far, samples=settings.samples, jitter=jitter)
    points = origins[:, None] + directions[:, None] * depths[..., None]
    sigma, colors = query(params, points, settings=settings)
    sigma = jnp.where(hit[:, None], sigma, 0.0)
    seen = volume.march(colors, sigma, depths=depths, background=settings.background)
    return seen.features, sigma


def fit(
    images: Float[Array, "v h w 3"],
    cameras: Camera,
    *,
    key: Key[Array, ""],
    settings: Settings,
) -> Params:
    """The field that shows these views best: Adam on the squared error of random pixels."""
    init_key, key = jax.random.split(key)
    return _fit(init(init_key, settings), images, cameras, key, settings)


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.exponential_decay(rate, settings.steps, 0.1), b2=0.99)

    rates = {"grids": adam(settings.planes_rate), "basis": adam(settings.basis_rate)}
    return optax.partition(rates, {"planes": "grids", "lines": "grids", "basis": "basis"})


@functools.partial(jax.jit, static_argnames="settings")
def _fit(params, images, cameras, key, settings):
    optimizer = _optimizer(settings)
    count, size = images.shape[:2]
    colors = images.reshape(count, size * size, 3)
    grid = jnp.asarray(rays.pixel_grid(size))

    def loss(params, key):
        view_key, pixel_key, jitter_key = jax.random.split(key, 3)
        view = jax.random.randint(view_key, (settings.rays,), 0, count)
        pixel = jax.random.randint(pixel_key, (settings.rays,), 0, size * size)
        origins, directions = rays.rays_through(cameras[view], grid[pixel][:, None])
        shown, sigma = render_rays(
            params,
            origins[:, 0],
            directions[:, 0],
            settings=settings,
            jitter=jax.random.uniform(jitter_key, (settings.rays, settings.samples)),
        )
        error = ((shown - colors[view, pixel]) ** 2).mean()
        return error + settings.sparsity * jnp.log1p(sigma).mean()

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, settings.steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params


def render(
    params: Params, cameras: Camera, *, resolution: int, settings: Settings
) -> Float[np.ndarray, "v h w 3"]:
    """Pictures of the field from these cameras."""
    pictures = [
        _picture(params, cameras[view], resolution, settings)
        for view in range(cameras.cam2world.shape[0])
    ]
    return np.stack([np.asarray(picture) for picture in pictures])


@functools.partial(jax.jit, static_argnames=("resolution", "settings"))
def _picture(params, camera, resolution, settings):
    origins, directions = rays.pixel_rays(camera, resolution=resolution)

    def one(ray):
        return render_rays(params, *(x[None] for x in ray), settings=settings)[0][0]

    pixels = jax.lax.map(one, (origins, directions), batch_size=_EVALUATED)
    return pixels.reshape(resolution, resolution, 3)
