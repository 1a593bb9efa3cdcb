"""3D consistency: a head that is one thing from all sides scores higher than one that is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import orbit
from headjax.head.procedural import person_scene, sample_person
from headjax.metrics import consistency as c
from headjax.metrics.images import squared_error
from headjax.render.mesh import render_views

SMALL = c.Settings(steps=300, grid=32, rays=256, samples=32, density=4, color=8)
VIEWS, SIZE = 32, 32


@pytest.fixture(scope="module")
def head():
    """Cameras about a procedural head, what they see, and what they would see 17° to the side."""
    rng = np.random.default_rng(0)
    yaws = np.linspace(-np.pi, np.pi, VIEWS, endpoint=False).astype(np.float32)
    pitches = rng.uniform(-0.35, 0.35, VIEWS).astype(np.float32)
    aside = (yaws + rng.choice([-0.3, 0.3], VIEWS)).astype(np.float32)
    scene = person_scene(sample_person(3))

    def pictures(yaws):
        views = render_views(scene, orbit(yaws, pitches), resolution=SIZE)
        return np.clip(views.color, 0, 1).astype(np.float32)

    return orbit(yaws, pitches), pictures(yaws), pictures(aside)


@pytest.fixture(scope="module")
def fitted(head):
    cameras, images, _ = head
    return c.consistency(images, cameras, key=jax.random.key(0), settings=SMALL)


def test_views_of_one_head_beat_views_that_contradict_each_other(head, fitted):
    cameras, _, contradictory = head
    other = c.consistency(contradictory, cameras, key=jax.random.key(0), settings=SMALL)
    assert fitted.psnr > 26
    assert fitted.psnr > other.psnr + 4


def test_the_score_is_the_mean_psnr_of_the_pictures_that_it_returns(head, fitted):
    _, images, _ = head
    assert len(set(fitted.held_out.tolist())) == VIEWS - VIEWS // 2
    pairs = zip(fitted.pictures, images[fitted.held_out], strict=True)
    np.testing.assert_allclose(fitted.psnr, np.mean([squared_error(*p).psnr() for p in pairs]))
    blank = np.mean([squared_error(np.ones_like(i), i).psnr() for i in images])
    assert fitted.psnr > blank + 10
    assert fitted.train_psnr > fitted.psnr


def test_the_field_is_the_sum_of_planes_times_lines():
    settings = c.Settings(grid=5, density=2, color=3, box=2.0)
    params = c.init(jax.random.key(1), settings)
    i, j, k = 1, 4, 2
    point = jnp.array([i, j, k]) / 2.0 - 1.0
    sigma, color = jax.jit(c.query, static_argnames="settings")(params, point, settings=settings)
    planes, lines = np.asarray(params["planes"]), np.asarray(params["lines"])
    products = [
        planes[0, i, j] * lines[0, k],
        planes[1, i, k] * lines[1, j],
        planes[2, j, k] * lines[2, i],
    ]
    raw = sum(p[:2].sum() for p in products)
    np.testing.assert_allclose(sigma, 100 * np.logaddexp(0, 10 * raw - 4), rtol=1e-5)
    mixed = 10 * np.concatenate([p[2:] for p in products]) @ np.asarray(params["basis"])
    np.testing.assert_allclose(color, 1 / (1 + np.exp(-mixed)), rtol=1e-5)


def test_between_texels_it_is_bilinear_and_beyond_the_box_there_is_background():
    settings = c.Settings(grid=6, density=2, color=3, box=1.0, samples=16, background=0.25)
    plane = jax.random.normal(jax.random.key(2), (6, 6, 4))
    corners = [c._plane(plane, jnp.array(p)) for p in ([-1.0, -0.6], [-0.6, -0.6])]
    middle = c._plane(plane, jnp.array([-0.8, -0.6]))
    np.testing.assert_allclose(middle, (corners[0] + corners[1]) / 2, atol=1e-6)
    params = c.init(jax.random.key(3), settings)
    origins = jnp.array([[0.0, 3.0, 2.0]])
    render = jax.jit(c.render_rays, static_argnames="settings")
    shown, sigma = render(params, origins, jnp.array([[0.0, 0.0, -1.0]]), settings=settings)
    np.testing.assert_allclose(shown, 0.25, rtol=1e-6)
    assert not sigma.any()


def test_too_few_views_are_refused(head):
    cameras, images, _ = head
    with pytest.raises(ValueError, match="at least 4 square views, got 3 of 32x32"):
        c.consistency(images[:3], cameras[:3], key=jax.random.key(0))
