import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.render.gaussian_field import GaussianHeads
from headjax.systems.g3diff import uv_state
from tests.systems.g3diff import tiny


def test_geometry_is_normalised_as_table_1_says():
    centers = jnp.array([0.0, -0.12, 0.38])
    rpy = jnp.array([0.0, np.pi / 2, -np.pi])
    radii = jnp.array([0.06, -0.16, 0.0])
    state = uv_state.normalise_geometry(centers, rpy, radii)
    np.testing.assert_allclose(
        state, [0.24, 0.0, 1.0, 0.0, 0.5, -1.0, 0.0, 0.9, -0.6], atol=1e-6
    )


def test_the_inverses_are_those_of_table_1():
    state = jnp.array([0.24, 0.0, 1.0, 0.0, 0.5, -1.0, 0.0, 1.0, -0.9])
    centers, rpy, radii = uv_state.restore_geometry(state)
    np.testing.assert_allclose(centers, [0.0, -0.12, 0.38], atol=1e-6)
    np.testing.assert_allclose(rpy, [0.0, np.pi / 2, -np.pi], atol=1e-6)
    np.testing.assert_allclose(radii, [0.06, 0.15, 0.0], atol=1e-6)


def test_the_payload_goes_through_tanh_and_comes_back_finite_even_from_the_bounds():
    payload = jnp.array([-2.0, 0.0, 0.3, 4.0])
    state = uv_state.normalise_payload(payload)
    np.testing.assert_allclose(state, np.tanh(payload), rtol=1e-6)
    np.testing.assert_allclose(uv_state.restore_payload(state), payload, rtol=1e-3, atol=1e-6)
    bounds = uv_state.restore_payload(jnp.array([-1.0, 1.0]))
    np.testing.assert_allclose(bounds, [-np.arctanh(0.9999), np.arctanh(0.9999)], rtol=1e-4)
    slope = jax.grad(lambda x: uv_state.restore_payload(x).sum())(jnp.array([-1.0, 0.0, 1.0]))
    assert np.isfinite(slope).all()


def test_heads_survive_the_round_trip():
    heads = tiny.heads()
    back = uv_state.unpack(uv_state.pack(heads), valid=heads.valid)
    there = np.asarray(heads.valid)
    for name in ("centers", "rpy", "radii"):
        np.testing.assert_allclose(
            np.asarray(getattr(back, name))[there], np.asarray(getattr(heads, name))[there],
            atol=1e-5,
        )  # fmt: skip
    texels = there.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        np.asarray(back.payload)[texels], np.asarray(heads.payload)[texels], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_array_equal(back.valid, heads.valid)


def test_a_state_is_the_images_that_table_1_describes():
    heads = tiny.heads(channels=24)
    state = np.asarray(uv_state.pack(heads))
    assert state.shape == (2, 8, 8, 9 + 3 * 8)
    assert np.abs(state).max() <= 1
    for i in range(8):
        for j in range(8):
            cell = (slice(None), i // 2, j // 2)
            want = np.concatenate([
                uv_state.normalise_geometry(
                    heads.centers[cell], heads.rpy[cell], heads.radii[cell]
                ),
                np.tanh(heads.payload[:, i, j]),
            ], axis=-1)  # fmt: skip
            if heads.valid[0, i // 2, j // 2]:
                np.testing.assert_allclose(state[:, i, j], want, rtol=1e-6)
            else:
                assert not state[:, i, j].any()


def test_what_the_normalisers_cannot_hold_is_clipped():
    heads = tiny.heads()
    far = heads.replace(
        centers=jnp.full_like(heads.centers, 0.5), radii=jnp.full_like(heads.radii, -0.4)
    )
    state = np.asarray(uv_state.pack(far))[np.asarray(heads.valid).repeat(2, 1).repeat(2, 2)]
    np.testing.assert_allclose(state[:, :3], 1.0)
    np.testing.assert_allclose(state[:, 6:9], 0.9, rtol=1e-6)
    back = uv_state.unpack(uv_state.pack(far), valid=heads.valid)
    there = np.asarray(heads.valid)
    np.testing.assert_allclose(np.asarray(back.centers)[there], 0.38, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(back.radii)[there], 0.15, rtol=1e-6)


def test_a_gaussian_is_the_mean_over_its_patch():
    heads = tiny.heads()
    state = np.array(uv_state.pack(heads))
    noise = 0.05 * np.random.default_rng(3).standard_normal((2, 4, 2, 4, 2, 9))
    noise -= noise.mean(axis=(2, 4), keepdims=True)
    noisy = 0.5 * state
    clean = uv_state.unpack(jnp.asarray(noisy), valid=heads.valid)
    noisy[..., :9] += noise.reshape(2, 8, 8, 9)
    smoothed = uv_state.unpack(jnp.asarray(noisy), valid=heads.valid)
    np.testing.assert_allclose(smoothed.centers, clean.centers, atol=1e-5)
    np.testing.assert_allclose(smoothed.rpy, clean.rpy, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_any_state_gives_a_finite_head(scale):
    state = scale * jax.random.normal(jax.random.key(0), (1, 8, 8, 33))
    head = uv_state.unpack(state, valid=jnp.ones((4, 4), bool))
    assert isinstance(head, GaussianHeads)
    assert head.valid.shape == (1, 4, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(head))
    assert np.asarray(head.radii).min() >= 0 and np.asarray(head.radii).max() <= 0.15 + 1e-7
