import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from headjax.systems.g3diff import autodecoder, losses
from headjax.train import rows
from tests.systems.g3diff import tiny

IDENTITIES = 4
OVERRIDES = (
    "autodecoder.steps=15", "autodecoder.warmup.steps=15", "autodecoder.schedule.warmup_steps=1",
    "autodecoder.patches=24", "autodecoder.batch_identities=2", "decoder.width=8",
)  # fmt: skip


@functools.lru_cache
def parts():
    """Config, registration and initial state of four spheres."""
    config = tiny.config(*OVERRIDES)
    registration = tiny.registration(IDENTITIES, grid=4)
    init = functools.partial(autodecoder.init_state, config=config, steps=15)
    state = jax.jit(lambda key: init(key, registration))(jax.random.key(0))
    return config, registration, state


@functools.lru_cache
def step(warm):
    """The compiled step, which counts like the training loop does."""
    config, _, _ = parts()
    training = autodecoder.AutoDecoderStep(config, warm=warm)

    @jax.jit
    def update(state, views, key):
        new, metrics = training(state, views, key)
        return new.replace(step=state.step + 1), metrics

    return update


def plane(grid, *, spacing):
    y, x = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    return (spacing * np.stack([x, y, 0 * x], axis=-1)).astype(np.float32)


def test_the_spacing_of_cells_on_a_plane_is_the_planes():
    valid = np.ones((5, 5), bool)
    np.testing.assert_allclose(
        autodecoder.cell_spacing(plane(5, spacing=0.1), valid), 0.1, rtol=1e-6
    )


def test_spacing_looks_at_valid_neighbours_only_and_never_across_the_border():
    surface = plane(4, spacing=0.1)
    surface[2, 2], surface[0, 0] = 99.0, 55.0
    valid = np.ones((2, 4, 4), bool)
    valid[:, 2, 2] = valid[:, 0, 0] = False
    valid[1] = False
    valid[1, 3, 3] = True
    spacing = autodecoder.cell_spacing(np.stack([surface, surface]), valid)
    np.testing.assert_allclose(spacing[0][valid[0]], 0.1, rtol=1e-5)
    np.testing.assert_array_equal(spacing[~valid], 0.0)
    assert spacing[1, 3, 3] == 0  # alone on its map


def test_spacing_is_the_mean_over_neighbours():
    surface = plane(3, spacing=1.0)
    surface[:, 2, 0] += 2.0  # the last column is three times as far away
    spacing = autodecoder.cell_spacing(surface, np.ones((3, 3), bool))
    np.testing.assert_allclose(spacing[1, 1], (1 + 1 + 1 + 3) / 4)
    np.testing.assert_allclose(spacing[0, 0], 1.0)
    np.testing.assert_allclose(spacing[1, 2], (1 + 1 + 3) / 3)


def test_heads_start_on_their_registered_surface_unrotated_and_as_wide_as_their_cells():
    config, registration, state = parts()
    tables = state.params["tables"]
    np.testing.assert_array_equal(tables["centers"], registration.surface)
    np.testing.assert_array_equal(tables["rpy"], np.zeros_like(registration.surface))
    spacing = autodecoder.cell_spacing(
        np.asarray(registration.surface), np.asarray(registration.valid)
    )
    low, high = config.autodecoder.radii_range
    expected = np.clip(spacing * config.autodecoder.radii_per_spacing, low, high)
    for axis in range(3):
        np.testing.assert_allclose(tables["radii"][..., axis], expected, rtol=1e-6)


def test_random_codes_are_the_papers_normal_ones():
    config = tiny.load("paper")
    codes = jax.jit(lambda key: autodecoder.initial_codes(
        key, jnp.zeros((200, 5)), config=config
    ))(jax.random.key(0))  # fmt: skip
    assert codes.shape == (200, 512)
    np.testing.assert_allclose(np.std(codes), 0.01, rtol=0.01)
    assert abs(np.mean(codes)) < 1e-4


def test_codes_from_the_identity_keep_who_is_like_whom():
    config, registration, state = parts()
    z, code = np.asarray(state.params["tables"]["z"]), np.asarray(registration.identity_code)
    assert z.shape == (IDENTITIES, config.decoder.code_dim)
    same = autodecoder.initial_codes(
        jax.random.key(1), jnp.stack([registration.identity_code[0]] * 2), config=config
    )
    np.testing.assert_array_equal(same[0], same[1])
    # The map is linear: the codes have no more dimensions than the identities' numbers.
    assert np.linalg.matrix_rank(z, tol=1e-4) <= code.shape[1]
    wide = autodecoder.initial_codes(
        jax.random.key(2), jnp.eye(300), config=tiny.config("decoder.code_dim=512")
    )
    np.testing.assert_allclose(np.std(np.asarray(wide)) * 300**0.5, 1.0, rtol=0.02)


@pytest.mark.parametrize("warm", [True, False])
def test_a_step_moves_the_decoder_and_the_rows_of_its_batch_only(warm):
    _, _, state = parts()
    new, metrics = step(warm)(state, tiny.views([2, 0]), jax.random.key(0))
    old_tables, new_tables = state.params["tables"], new.params["tables"]
    stay, move = [1, 3], [0, 2]
    for name in old_tables:
        np.testing.assert_array_equal(
            np.asarray(new_tables[name])[stay], np.asarray(old_tables[name])[stay]
        )
        moved = np.abs(np.asarray(new_tables[name])[move] - np.asarray(old_tables[name])[move])
        assert moved.reshape(2, -1).max(1).min() > 0, name
    np.testing.assert_array_equal(new.opt_state["rows"].count, [1, 0, 1, 0])
    for old, now in zip(
        jax.tree.leaves(state.params["shared"]["mlp"]),
        jax.tree.leaves(new.params["shared"]["mlp"]), strict=True,
    ):  # fmt: skip
        assert np.any(np.asarray(old) != np.asarray(now))
    terms = {"surface_color", "surface_occupancy"} if warm else {
        "l1", "multiscale_l1", "depth", "silhouette",
    }  # fmt: skip
    terms |= {"coverage", "volume", "tv", "mesh", "code", "tanh"}
    assert set(metrics) == {"loss", "grad_norm", "update_norm"} | {f"loss/{t}" for t in terms}
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("warm", [True, False])
def test_the_loss_is_the_weighted_sum_of_its_logged_terms(warm):
    config, _, state = parts()
    _, metrics = step(warm)(state, tiny.views([2, 0]), jax.random.key(0))
    terms = {k.removeprefix("loss/"): v for k, v in metrics.items() if k.startswith("loss/")}
    np.testing.assert_allclose(
        metrics["loss"], losses.weighted(terms, config.autodecoder.loss.to_dict()), rtol=1e-5
    )


@pytest.mark.parametrize("warm", [True, False])
def test_fifteen_steps_lower_the_loss_of_a_batch(warm):
    _, _, state = parts()
    views, losses_seen = tiny.views([1, 3]), []
    for i in range(15):
        state, metrics = step(warm)(state, views, jax.random.key(i))
        losses_seen.append(float(metrics["loss"]))
    assert np.mean(losses_seen[-3:]) < 0.95 * np.mean(losses_seen[:3])


def test_a_step_depends_on_its_key_alone():
    _, _, state = parts()
    views = tiny.views([2, 0])
    first, again, other = (step(True)(state, views, jax.random.key(k))[0] for k in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(first.params["tables"]["z"] != other.params["tables"]["z"])


def test_rates_halve_as_in_the_paper_or_follow_a_cosine():
    paper = autodecoder.schedule(tiny.load("paper").autodecoder.schedule, steps=250_000)
    for at, factor in ((0, 1.0), (99_999, 1.0), (100_000, 0.5), (249_999, 0.25)):
        np.testing.assert_allclose(paper(jnp.int32(at)), factor)
    section = tiny.load("default").autodecoder.schedule
    demo = autodecoder.schedule(section, steps=1000)
    np.testing.assert_allclose(demo(section.warmup_steps), 1.0, rtol=1e-6)
    np.testing.assert_allclose(demo(1000), section.final, rtol=1e-5)
    middle = (section.warmup_steps + 1000) / 2
    np.testing.assert_allclose(demo(middle), (1 + section.final) / 2, rtol=1e-3)


def test_the_shared_optimiser_is_adam_with_a_rate_for_each_part():
    config = tiny.load("paper")
    optimizer = autodecoder.shared_optimizer(config, steps=10)
    params = {"decoder": {"a": jnp.ones((3,))}, "mlp": {"b": jnp.ones((2,))}}
    grads = jax.tree.map(lambda leaf: jnp.linspace(0.1, 0.2, leaf.size), params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    # Adam's first step is the rate times the sign, and decay adds nothing.
    np.testing.assert_allclose(updates["decoder"]["a"], -config.autodecoder.lr.decoder, rtol=1e-5)
    np.testing.assert_allclose(updates["mlp"]["b"], -config.autodecoder.lr.mlp, rtol=1e-5)


def test_gradients_are_clipped_by_their_common_norm_where_asked_for():
    config = tiny.config("autodecoder.clip_norm=1.0")
    optimizer = autodecoder.shared_optimizer(config, steps=10)
    params = {"decoder": jnp.zeros((2,)), "mlp": jnp.zeros((2,))}
    big = {"decoder": jnp.array([3e3, 0.0]), "mlp": jnp.array([0.0, 4e3])}
    _, state = optimizer.update(big, optimizer.init(params), params)
    moments = [
        leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "shape", None) == (2,)
    ]
    first = jnp.concatenate([m for m in moments if float(jnp.abs(m).max()) > 0.05])
    np.testing.assert_allclose(
        np.sort(first[first > 0]), (1 - config.autodecoder.b1) * np.array([0.6, 0.8]), rtol=1e-4
    )


def test_a_decoded_head_is_its_row_of_the_table():
    config, registration, state = parts()
    table = rows.take_rows(state.params["tables"], jnp.array([3]))
    build = jax.jit(lambda shared, table, valid: autodecoder.build_heads(
        shared, table, valid=valid, config=config
    ))  # fmt: skip
    head = build(state.params["shared"], table, registration.valid[3:])
    assert head.payload.shape == (1, 8, 8, 24)
    np.testing.assert_array_equal(head.centers, state.params["tables"]["centers"][3:])
    every = build(state.params["shared"], state.params["tables"], registration.valid)
    np.testing.assert_allclose(every.payload[3:], head.payload, atol=1e-5)


def test_rows_and_shared_parameters_have_their_own_rates():
    """Adam's first step moves every touched number by its group's rate, up to the warm-up."""
    config, _, state = parts()
    rate = config.autodecoder.lr
    factor = float(autodecoder.schedule(config.autodecoder.schedule, steps=15)(state.step))
    new, _ = step(False)(state, tiny.views([2, 0]), jax.random.key(0))
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), new.params["tables"], state.params["tables"]
    )
    np.testing.assert_allclose(moved["z"], factor * rate.z, rtol=1e-2)
    np.testing.assert_allclose(moved["centers"], factor * rate.gaussians, rtol=1e-2)
    shared = optax.tree.sub(new.params["shared"]["mlp"], state.params["shared"]["mlp"])
    np.testing.assert_allclose(
        max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(shared)),
        factor * rate.mlp, rtol=1e-2,
    )  # fmt: skip
