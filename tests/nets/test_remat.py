"""Rematerialisation: the same gradients from less that is stored."""

import functools
import os
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from headjax.nets.payload_decoder import PayloadDecoderConfig, payload_decoder
from headjax.nets.remat import REMAT, rematerialised
from headjax.nets.unet import AttentionBlock, ResBlock, UNet, UNetConfig
from tests.nets.filling import filled

UNET = UNetConfig(
    channels=3, base=16, multipliers=(1,), blocks=1, attention=(8,), heads=2, head_channels=8,
    groups=4, dropout=0.1,
)  # fmt: skip
GRID = PayloadDecoderConfig(grid=4, patch=2, code_dim=8, width=16, blocks=2)
STYLEGAN2 = replace(GRID, kind="stylegan2", channel_base=128, channel_max=16)


def unet_loss(config, variables, x):
    t, rngs = jnp.full(x.shape[:1], 700), {"dropout": jax.random.key(3)}
    return jnp.square(UNet(config).apply(variables, x, t, train=True, rngs=rngs)).sum()


def decoder_loss(config, variables, z):
    return jnp.square(payload_decoder(config).apply(variables, z)).sum()


# Per network: its config, its loss of (config, variables, input), the input's shape.
CASES = {
    "unet": (UNET, unet_loss, (2, 8, 8, 3)),
    "grid": (GRID, decoder_loss, (2, 8)),
    "stylegan2": (STYLEGAN2, decoder_loss, (2, 8)),
}


def case(name):
    config, loss, shape = CASES[name]
    inputs = jax.random.normal(jax.random.key(1), shape)
    module = UNet(config) if loss is unet_loss else payload_decoder(config)
    more = (np.zeros(shape[:1], np.int32),) if loss is unet_loss else ()
    return config, loss, filled(module, inputs, *more), inputs


def stored(name, policy):
    """Bytes that the forward pass keeps for the backward pass, parameters left out."""
    config, loss, variables, inputs = case(name)

    def pullback(variables):
        return jax.vjp(lambda v: loss(replace(config, remat=policy), v, inputs), variables)[1]

    kept = jax.tree.leaves(jax.eval_shape(pullback, variables))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept) - parameters


@pytest.mark.parametrize("policy", [p for p in REMAT if p != "none"])
def test_a_policy_changes_no_value_and_no_gradient(policy):
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
    variables = filled(AttentionBlock(UNET), x)

    def value_and_gradient(policy):
        block = rematerialised(AttentionBlock, policy)(UNET)
        loss = jax.value_and_grad(lambda v: jnp.square(block.apply(v, x)).sum())
        return ravel_pytree(jax.jit(loss)(variables))[0]

    ours, plain = value_and_gradient(policy), value_and_gradient("none")
    assert np.linalg.norm(ours - plain) < 1e-5 * np.linalg.norm(plain)


@pytest.mark.parametrize("name", CASES)
def test_recomputing_blocks_changes_no_value_and_no_gradient_of_a_network(name):
    config, loss, variables, inputs = case(name)

    def value_and_gradient(policy):
        chosen = functools.partial(loss, replace(config, remat=policy))
        return ravel_pytree(jax.jit(jax.value_and_grad(chosen))(variables, inputs))[0]

    ours, plain = value_and_gradient("block"), value_and_gradient("none")
    assert np.linalg.norm(ours - plain) < 1e-5 * np.linalg.norm(plain)


@pytest.mark.parametrize("name", CASES)
def test_each_policy_stores_less_than_the_one_before(name):
    kept = [stored(name, policy) for policy in REMAT]
    assert kept == sorted(kept, reverse=True), dict(zip(REMAT, kept, strict=True))
    assert kept[-1] < 0.5 * kept[0]
    # Without attention no product lacks weights.
    assert (kept[2] < kept[1]) == (name == "unet")


def test_parameters_have_the_same_names_by_any_policy():
    x, t = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    trees = [
        jax.eval_shape(UNet(replace(UNET, remat=policy)).init, jax.random.key(0), x, t)
        for policy in REMAT
    ]
    assert all(tree == trees[0] for tree in trees)


def test_nothing_is_wrapped_without_a_policy():
    assert rematerialised(ResBlock, "none") is ResBlock


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="'blocks' is unknown; one of none, dots, weights, block"):
        rematerialised(ResBlock, "blocks")


class Block(nn.Module):
    """What the networks' blocks are made of, in little: the TPU compiler takes long for more."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(256, dtype=x.dtype)(jax.nn.silu(x))
        return x + nn.Dense(256, dtype=x.dtype)(jax.nn.silu(h))


class Chain(nn.Module):
    """Four blocks under a policy."""

    policy: str

    @nn.compact
    def __call__(self, x):
        block = rematerialised(Block, self.policy)
        for i in range(4):
            x = block(name=f"block{i}")(x)
        return x


@pytest.mark.tpu_backend
def test_on_a_tpu_what_is_computed_again_takes_no_memory():
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, comes with the extra 'tpu'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    chip = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
    mesh = jax.sharding.Mesh(np.array([chip]), ("chip",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    # Larger than the chip's fast memory, which the analysis leaves out.
    x = jax.ShapeDtypeStruct((2**19, 256), jnp.bfloat16, sharding=sharding)
    size = x.size * x.dtype.itemsize

    def temporaries(policy):
        chain = Chain(policy)
        variables = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(chain.init, jax.random.key(0), x),
        )

        def loss(variables, x):
            return jnp.square(chain.apply(variables, x).astype(jnp.float32)).mean()

        compiled = jax.jit(jax.grad(loss)).lower(variables, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / size

    kept = {policy: temporaries(policy) for policy in ("none", "dots", "block")}
    print("arrays of an activation's size:", kept)
    assert kept["block"] < kept["dots"] <= kept["none"]
    assert kept["block"] < 0.75 * kept["none"]
