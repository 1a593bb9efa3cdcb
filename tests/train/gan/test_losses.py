import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.gan import losses
from tests.train.gan import tiny


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def pair():
    return {
        "image": tiny.normal(1, 4, 8, 8, 3),
        "image_raw": tiny.normal(2, 4, 8, 8, 3),
        "mask": tiny.normal(3, 4, 8, 8, 1),
    }


def judge(params, labels):
    return lambda images: tiny.TinyDiscriminator().apply({"params": params}, images, labels)


GAMMAS = {"image": 2.0, "image_raw": 2.0, "mask": 0.7}


def test_r1_differentiates_twice_with_respect_to_the_discriminator(float64):
    images, labels = pair(), tiny.normal(4, 4, 25)
    params = tiny.parameters(tiny.TinyDiscriminator(), images, labels)
    tiny.assert_gradient_is_that_of_differences(
        lambda p: losses.r1(judge(p, labels), images, gamma=GAMMAS)[0], params
    )


def test_r1_is_the_squared_length_of_the_gradient_by_differences(float64):
    images, labels = pair(), tiny.normal(4, 4, 25)
    discriminate = judge(tiny.parameters(tiny.TinyDiscriminator(), images, labels), labels)
    total = jax.jit(lambda flat: discriminate(split(flat)).sum())
    sizes = {name: x.size for name, x in images.items()}

    def split(flat):
        parts = jnp.split(flat, np.cumsum(list(sizes.values()))[:-1])
        return {name: p.reshape(images[name].shape) for name, p in zip(sizes, parts, strict=True)}

    flat = jnp.concatenate([x.ravel() for x in images.values()])
    moves = 1e-6 * jnp.eye(flat.size)
    slopes = jax.lax.map(lambda m: (total(flat + m) - total(flat - m)) / 2e-6, moves, batch_size=64)
    squares = {name: float(jnp.square(g).sum()) for name, g in split(slopes).items()}
    loss, norms = jax.jit(lambda x: losses.r1(discriminate, x, gamma=GAMMAS))(images)
    for name, square in squares.items():
        np.testing.assert_allclose(norms[name], square / 4, rtol=1e-6)
    expected = sum(GAMMAS[name] / 2 * square / 4 for name, square in squares.items())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_r1_of_a_linear_discriminator_is_closed_form():
    images = pair()
    slope = jax.tree.map(lambda x: tiny.normal(9, *x.shape[1:]), images)

    def discriminate(inputs):
        return sum((inputs[name] * slope[name]).sum((1, 2, 3)) for name in inputs)

    loss, _ = losses.r1(discriminate, images, gamma=5.0)
    expected = 2.5 * sum(np.square(s).sum() for s in jax.tree.leaves(slope))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_r1_wants_a_weight_for_each_input():
    with pytest.raises(ValueError, match="give one each"):
        losses.r1(lambda x: x["image"].sum((1, 2, 3)), pair(), gamma={"image": 1.0})


def test_gradients_in_float32_are_those_of_float64():
    def gradient():
        images, labels = pair(), tiny.normal(4, 4, 25)
        params = tiny.parameters(tiny.TinyDiscriminator(), images, labels)
        grad = jax.jit(jax.grad(lambda p: losses.r1(judge(p, labels), images, gamma=1.0)[0]))(
            params
        )
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grad)])

    single = gradient()
    with jax.enable_x64(True):
        double = gradient()
    assert single.dtype == np.float32
    assert np.linalg.norm(single - double) < 1e-5 * np.linalg.norm(double)


def test_the_path_regulariser_differentiates_twice_with_respect_to_the_generator(float64):
    ws, probe = tiny.normal(5, 4, 2, 7), tiny.normal(6, 4, 8, 8, 3)
    generator = tiny.TinyGenerator()
    params = tiny.parameters(generator, ws)

    def loss(p):
        lengths = losses.path_lengths(lambda w: generator.apply({"params": p}, w), ws, probe=probe)
        return losses.path_regulariser(lengths, jnp.float64(0.3), decay=0.25)[0]

    tiny.assert_gradient_is_that_of_differences(loss, params)


def test_path_lengths_are_those_of_the_jacobian():
    ws = tiny.normal(5, 3, 2, 7)
    probe = tiny.normal(6, 3, 8, 8, 3)
    generator = tiny.TinyGenerator()
    params = tiny.parameters(generator, ws)

    def synthesise(w):
        return generator.apply({"params": params}, w)

    ours = jax.jit(lambda w: losses.path_lengths(synthesise, w, probe=probe))(ws)
    differentiate = jax.jit(jax.jacfwd(lambda w: synthesise(w[None])[0]))
    for i in range(3):
        pulled = np.einsum("hwcld,hwc->ld", differentiate(ws[i]), probe[i] / 8)
        expected = np.sqrt(np.square(pulled).sum(1).mean())
        np.testing.assert_allclose(ours[i], expected, rtol=1e-5)


def test_the_mean_path_length_is_followed_slowly():
    lengths = jnp.asarray([1.0, 2.0, 6.0])
    loss, mean = losses.path_regulariser(lengths, jnp.float32(0.5), decay=0.1)
    np.testing.assert_allclose(mean, 0.75)
    np.testing.assert_allclose(loss, np.mean((np.array([1, 2, 6]) - 0.75) ** 2), rtol=1e-6)
    for _ in range(200):
        _, mean = losses.path_regulariser(lengths, mean, decay=0.1)
    np.testing.assert_allclose(mean, 3.0, rtol=1e-5)


def test_an_image_without_styles_has_no_paths_and_finite_gradients():
    def loss(scale):
        lengths = losses.path_lengths(
            lambda w: scale * jnp.ones((2, 4, 4, 3)) + 0.0 * w.sum(),
            jnp.ones((2, 2, 3)),
            probe=jnp.ones((2, 4, 4, 3)),
        )
        return losses.path_regulariser(lengths, jnp.float32(0.0))[0]

    assert jax.grad(loss)(1.0) == 0.0


@pytest.mark.parametrize("regulariser", ["l1", "monotone", "monotone, front held"])
def test_density_regularisers_have_the_gradients_of_differences(float64, regulariser):
    points, moved = losses.density_points(jax.random.key(0), 2, half_side=0.5, count=50)
    assert points.dtype == jnp.float64
    field = tiny.TinyField()
    params = tiny.parameters(field, points)
    front = field.apply({"params": params}, points)

    def loss(p):
        def query(x):
            sigma = field.apply({"params": p}, x)
            # What is held is a constant; differences must hold it too.
            return sigma.at[:, :50].set(front) if regulariser.endswith("held") else sigma

        if regulariser == "l1":
            return losses.density_l1(query, points, moved)
        return losses.density_monotone(query, points, step=0.1)

    tiny.assert_gradient_is_that_of_differences(loss, params)
    if regulariser.endswith("held"):
        held = jax.grad(
            lambda p: losses.density_monotone(
                lambda x: field.apply({"params": p}, x), points, step=0.1, hold_front=True
            )
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), held(params),
            jax.grad(loss)(params),
        )  # fmt: skip


def test_density_points_fill_the_cube_and_move_by_the_spread():
    points, moved = losses.density_points(jax.random.key(1), 8, half_side=0.7)
    assert points.shape == moved.shape == (8, 1000, 3)
    assert abs(points).max() <= 0.7
    np.testing.assert_allclose(points.mean((0, 1)), 0.0, atol=0.02)
    np.testing.assert_allclose(points.std((0, 1)), 0.7 / 3**0.5, rtol=0.03)
    np.testing.assert_allclose((moved - points).std((0, 1)), 0.004, rtol=0.03)


def test_density_l1_of_a_linear_field_is_the_mean_absolute_step():
    slope = np.array([3.0, -2.0, 5.0], np.float32)
    points, moved = losses.density_points(jax.random.key(2), 2, half_side=0.5, count=200)
    ours = losses.density_l1(lambda x: x @ slope[:, None], points, moved)
    np.testing.assert_allclose(ours, np.abs((moved - points) @ slope).mean(), rtol=1e-4)


def test_monotone_costs_only_where_density_falls_on_the_way_in():
    points, _ = losses.density_points(jax.random.key(3), 1, half_side=0.5, count=20)
    rising = losses.density_monotone(lambda x: -x[..., 2:], points, step=0.1)
    falling = losses.density_monotone(lambda x: x[..., 2:], points, step=0.1)
    assert rising == 0.0
    np.testing.assert_allclose(falling, 0.1, rtol=1e-5)


def test_translation_is_the_squared_mean_and_has_its_gradient(float64):
    delta = tiny.normal(7, 5, 3)
    np.testing.assert_allclose(losses.translation(delta), (delta.mean(0) ** 2).sum())
    tiny.assert_gradient_is_that_of_differences(losses.translation, delta)


def test_adversarial_losses_are_cross_entropies(float64):
    real, fake = tiny.normal(8, 6), tiny.normal(9, 6)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    terms = losses.discriminator_losses(real_logits=real, fake_logits=fake)
    np.testing.assert_allclose(terms["real"], -np.log(sigmoid(real)).mean())
    np.testing.assert_allclose(terms["fake"], -np.log(1 - sigmoid(fake)).mean())
    np.testing.assert_allclose(losses.generator_loss(fake), -np.log(sigmoid(fake)).mean())


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_adversarial_losses_stay_finite_at_extreme_logits(logit):
    logits = jnp.full((3,), logit)
    for loss in (
        losses.generator_loss,
        lambda x: losses.discriminator_losses(real_logits=x, fake_logits=-x)["real"],
        lambda x: losses.discriminator_losses(real_logits=-x, fake_logits=x)["fake"],
    ):
        value, gradient = jax.value_and_grad(loss)(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()
