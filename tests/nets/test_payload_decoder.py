"""Payload decoders."""

import jax
import jax.numpy as jnp
import numpy as np

from headjax.nets import payload_decoder as decoders
from tests.nets.filling import filled

NETWORK = decoders.payload_decoder(
    decoders.PayloadDecoderConfig(grid=4, patch=2, code_dim=8, width=16, blocks=2)
)
CODES = jax.random.normal(jax.random.key(1), (3, 8))


def test_patch_i_j_is_a_block_of_the_atlas():
    patches = np.zeros((2, 3, 3, 2 * 2 * 5), np.float32)
    patches[1, 2, 0] = np.arange(1, 21)
    atlas = np.asarray(decoders.patches_to_atlas(jnp.asarray(patches), patch=2))
    assert atlas.shape == (2, 6, 6, 5)
    np.testing.assert_array_equal(atlas[1, 4:6, 0:2], np.arange(1, 21).reshape(2, 2, 5))
    assert np.count_nonzero(atlas) == 20


def test_patches_survive_the_round_trip():
    atlas = jax.random.normal(jax.random.key(0), (2, 3, 12, 12, 24))
    patches = decoders.atlas_to_patches(atlas, patch=4)
    assert patches.shape == (2, 3, 3, 3, 4 * 4 * 24)
    np.testing.assert_array_equal(decoders.patches_to_atlas(patches, patch=4), atlas)


def test_the_papers_decoder_has_the_papers_size():
    config = decoders.PayloadDecoderConfig(kind="stylegan2", grid=32, patch=8)
    network = decoders.payload_decoder(config)
    z = jax.ShapeDtypeStruct((1, 512), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), z)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 17_293_045
    out = jax.eval_shape(network.apply, shapes, z)
    assert out.shape == (1, 256, 256, 24)


def test_the_position_bias_is_a_payload_of_its_own():
    params = filled(NETWORK, CODES)["params"]
    params["head_weight"] *= 0
    atlas = jax.jit(NETWORK.apply)({"params": params}, CODES)
    expected = decoders.patches_to_atlas(jnp.asarray(params["position_bias"]), patch=2)
    np.testing.assert_allclose(atlas, np.broadcast_to(expected, atlas.shape), atol=1e-6)


def test_codes_change_the_payload_at_every_position():
    atlas = jax.jit(lambda key: NETWORK.apply(NETWORK.init(key, CODES), CODES))(jax.random.key(0))
    assert (np.abs(atlas[0] - atlas[1]).max(-1) > 1e-3).all()
