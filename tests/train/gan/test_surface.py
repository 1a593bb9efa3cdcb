"""Points of a labelled view, on a sphere whose surface is known; the loss of their opacity."""

import jax
import jax.numpy as jnp
import numpy as np

from headjax.geometry.cameras import camera_from_label, orbit_labels
from headjax.geometry.rays import pixel_rays
from headjax.render.triplane import TriplaneOptions
from headjax.train.gan import surface

RADIUS, SIZE, COUNT = 0.3, 32, 400
OPTIONS = TriplaneOptions(near=2.25, far=3.15, samples=12, importance=12)


def sphere(yaws=(0.0, 60.0)):
    """Views of a red sphere: image, mask, depth, camera."""
    labels = orbit_labels(list(yaws))
    origins, directions = (np.asarray(x) for x in pixel_rays(camera_from_label(labels),
                                                             resolution=SIZE))  # fmt: skip
    along = -(origins * directions).sum(-1)
    inside = RADIUS**2 - (origins**2).sum(-1) + along**2
    depth = np.where(inside > 0, along - np.sqrt(np.maximum(inside, 0)), 0.0)
    shape = (len(yaws), SIZE, SIZE, 1)
    mask = (inside > 0).reshape(shape)
    image = np.where(mask, [200, 30, 30], 255).astype(np.uint8)
    return {
        "image": jnp.asarray(image), "mask": jnp.asarray(255 * mask.astype(np.uint8)),
        "depth": jnp.asarray(depth.reshape(shape), jnp.float32), "camera": jnp.asarray(labels),
    }  # fmt: skip


def drawn(weight=None, seed=0):
    views = sphere()
    weight = jnp.ones(views["mask"].shape) if weight is None else weight(views)
    key = jax.random.key(seed)
    return surface.draw_points(key, views, weight=weight, count=COUNT, options=OPTIONS)


def test_points_lie_on_before_and_behind_the_surface():
    points = drawn()
    radius = {name: np.linalg.norm(getattr(points, name), axis=-1)
              for name in ("surface", "empty", "solid")}  # fmt: skip
    on, off = np.asarray(points.on), np.asarray(points.off)
    assert 0.3 < on.mean() < 0.9 and np.all(on ^ off)
    assert np.abs(radius["surface"][on] - RADIUS).max() <= surface.SKIN + 1e-5
    assert radius["empty"][on | off].min() > RADIUS
    assert radius["solid"][on].max() < RADIUS
    red = np.array([200, 30, 30]) / 127.5 - 1
    assert np.abs(np.asarray(points.color)[on] - red).max() < 1e-5


def test_the_weight_says_how_often_a_pixel_is_looked_at():
    points = drawn(lambda views: jnp.where(views["mask"] > 0, 3.0, 0.0))
    assert np.all(points.on)
    share = np.mean(np.asarray(sphere()["mask"]) > 0)
    often = drawn(lambda views: jnp.where(views["mask"] > 0, 3.0, 1.0))
    expected = 3 * share / (3 * share + 1 - share)
    assert abs(np.mean(often.on) - expected) < 4 * np.sqrt(expected / (2 * COUNT))


def test_pixels_at_the_silhouette_say_nothing():
    views = sphere()
    views["mask"] = jnp.where(views["mask"] > 0, 120, 120).astype(jnp.uint8)
    points = surface.draw_points(
        jax.random.key(0), views, weight=jnp.ones(views["mask"].shape), count=50, options=OPTIONS
    )
    assert not np.any(points.on | points.off)
    flat = jnp.zeros((2, 50))
    assert surface.opacity_losses(flat, flat, points=points, options=OPTIONS) == 0.0


def test_the_loss_is_the_cross_entropy_of_an_intervals_opacity():
    points = drawn()
    rng = np.random.default_rng(1)
    empty, solid = rng.normal(0, 20, (2, 2, COUNT))
    interval = (3.15 - 2.25) / 24
    opacity = [1 - np.exp(-interval * np.logaddexp(0, x - 1)) for x in (empty, solid)]
    on, told = np.asarray(points.on), np.asarray(points.on | points.off)
    expected = (
        -np.log(1 - opacity[0][told]).mean() - np.log(np.maximum(opacity[1][on], 1e-6)).mean()
    )
    found = surface.opacity_losses(
        jnp.asarray(empty, jnp.float32), jnp.asarray(solid, jnp.float32), points=points,
        options=OPTIONS,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-3)
