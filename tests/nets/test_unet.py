"""The diffusion U-Net."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets import unet
from tests.nets.filling import filled

SMALL = unet.UNetConfig(
    channels=3,
    base=16,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    heads=2,
    head_channels=8,
    groups=4,
)


def parameters(config: unet.UNetConfig, size: int) -> int:
    x = jax.ShapeDtypeStruct((1, size, size, config.channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(unet.UNet(config).init, jax.random.key(0), x, t)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_default_has_the_papers_464_million_parameters():
    # Counted: everything at 256x256x33 - time MLP 256-1024-1024, 3x3 stem and head, 2 + 3 residual
    # blocks a level with their FiLM projections, attention of inner width 256 after each block at
    # 32, 16 and 8 and in the middle, a 3x3 convolution a halving and a doubling, norms.
    count = parameters(unet.UNetConfig(), 256)
    assert count == 464_073_761
    assert abs(count / 464.07e6 - 1) < 1e-3


def test_attention_as_wide_as_its_level_would_be_adms_501_million():
    # The same layout with 8 heads of 64 at 512 channels and 16 at 1024: the difference of the
    # projections (4 c inner, and 3 inner of biases) at 5 places of 512 and 11 of 1024 channels.
    def projections(c, inner):
        return 4 * c * inner + 3 * inner

    wider = sum(n * (projections(c, c) - projections(c, 256)) for n, c in ((5, 512), (11, 1024)))
    assert parameters(unet.UNetConfig(), 256) + wider == 501_327_393


@pytest.fixture(scope="module")
def network():
    """(config, variables without zeros, x, t, compiled apply)."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    t = jnp.array([3, 700])
    module = unet.UNet(SMALL)
    return SMALL, filled(module, x, t), x, t, jax.jit(module.apply)


def test_predictions_start_at_zero(network):
    config, variables, x, t, apply = network
    key = jax.random.key(1)
    head = jax.jit(lambda: unet.UNet(config).init(key, x, t)["params"]["head"])()
    params = {**variables["params"], "head": head}
    np.testing.assert_array_equal(apply({"params": params}, x, t), 0.0)


def test_predictions_depend_on_the_step(network):
    _, variables, x, t, apply = network
    assert np.abs(apply(variables, x, t) - apply(variables, x, t + 100)).max() > 1e-3


def test_attention_is_softmax_of_scaled_products(network):
    x = jax.random.normal(jax.random.key(5), (2, 4, 4, 16))
    block = unet.AttentionBlock(SMALL)
    params = filled(block, x)["params"]
    ours = jax.jit(block.apply)({"params": params}, x)

    groups = np.asarray(x, np.float64).reshape(2, 16, 4, 4)
    normed = groups - groups.mean((1, 3), keepdims=True)
    normed = (normed / np.sqrt((normed**2).mean((1, 3), keepdims=True) + 1e-5)).reshape(2, 16, 16)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    qkv = normed @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = qkv.reshape(2, 16, 3, 2, 8).swapaxes(0, 2)
    q, k, v = (part.swapaxes(0, 1) for part in (q, k, v))
    logits = np.einsum("bnkd,bmkd->bknm", q, k) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.einsum("bknm,bmkd->bnkd", weights, v).reshape(2, 16, 16)
    y = y @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(ours, x + y.reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_attention_stands_where_it_is_asked_for(network):
    names = set(network[1]["params"])
    assert {"down1_attention0", "up1_attention1", "middle_attention"} <= names
    assert not {"down0_attention0", "up0_attention0"} & names


def test_the_time_embedding_is_the_sinusoidal_one():
    ours = unet.time_embedding(jnp.array([0, 1, 999]), size=8)
    angles = np.array([0, 1, 999])[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(ours, np.hstack([np.cos(angles), np.sin(angles)]), atol=1e-4)


def test_patches_fold_and_unfold():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    folded = unet.fold_patches(x, patch=4)
    assert folded.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(4, 4, 3), x[1, 4:8, 8:12])
    np.testing.assert_array_equal(unet.unfold_patches(folded, patch=4), x)


def test_dropout_acts_in_training_only(network):
    config, variables, x, t, apply = network
    module = unet.UNet(replace(config, dropout=0.5))
    run = jax.jit(module.apply, static_argnames="train")
    expected = apply(variables, x, t)
    np.testing.assert_allclose(run(variables, x, t), expected, atol=1e-5)
    dropped = run(variables, x, t, train=True, rngs={"dropout": jax.random.key(0)})
    assert np.abs(dropped - expected).max() > 1e-3


def test_a_state_of_the_wrong_size_is_refused(network):
    config, variables, x, t, _ = network
    with pytest.raises(ValueError, match="multiples of 2"):
        unet.UNet(config).apply(variables, x[:, :7], t)
