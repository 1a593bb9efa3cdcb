"""Both training steps take their batch in parts: the same gradients, from draws made once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from headjax.errors import UserError
from headjax.systems.g3diff import autodecoder, diffusion, settings
from tests.systems.g3diff import tiny

SMALL = (
    "autodecoder.patches=8", "autodecoder.batch_identities=4", "decoder.width=8",
    "decoder.blocks=1", "decoder.code_dim=8", "diffusion.batch_size=4", "diffusion.unet.base=8",
    "diffusion.unet.multipliers=(1,)", "diffusion.unet.attention=()",
)  # fmt: skip


def config(stage, parts):
    return tiny.config(*SMALL, f"{stage}.accumulate={parts}")


def assert_close(ours, whole):
    """Metrics one by one, gradients of each array by their relative distance."""
    (value, terms), grads = ours
    (expected, expected_terms), expected_grads = whole
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert terms.keys() == expected_terms.keys()
    for name, term in terms.items():
        np.testing.assert_allclose(term, expected_terms[name], rtol=2e-5, err_msg=name)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        assert np.linalg.norm(leaf - other) <= 2e-5 * np.linalg.norm(other) + 1e-9, path


@pytest.mark.parametrize("warm", [True, False], ids=["surface", "rays"])
def test_the_auto_decoders_parts_give_the_whole_batchs_gradients(warm):
    views = tiny.views([2, 0, 3, 1])
    # Neither pixels nor cells are shared out evenly: sums are divided by the batch's numbers.
    views["mask"] = views["mask"].at[0].set(0)
    views["uv_valid"] = views["uv_valid"].at[1, :2].set(False)
    init = jax.jit(lambda key: autodecoder.init_shared(key, config=config("autodecoder", 1)))
    shared, codes = init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (4, 8))
    table = {"z": codes, "centers": views["uv_positions"] + 0.01}
    table |= {"rpy": 0 * table["centers"] + 0.1, "radii": 0 * table["centers"] + 0.05}

    def gradients(parts):
        step = autodecoder.AutoDecoderStep(config("autodecoder", parts), warm=warm)
        return jax.jit(step.value_and_grad)(shared, table, views, key=jax.random.key(2))

    assert_close(gradients(2), gradients(1))


def test_the_diffusions_parts_give_the_whole_batchs_gradients():
    states = jax.random.normal(jax.random.key(0), (4, 8, 8, 33))
    standard = diffusion.Standard(mean=jnp.zeros((8, 8, 33)), scale=jnp.ones((33,)))
    params = jax.jit(lambda key: diffusion.init_params(key, config=config("diffusion", 1)))(
        jax.random.key(0)
    )
    # A head of zeros would hide every gradient but its own.
    flat, unravel = ravel_pytree(params)
    params = unravel(flat + 0.05 * jax.random.normal(jax.random.key(3), flat.shape))

    def gradients(parts):
        step = diffusion.DiffusionStep(config("diffusion", parts), standard)
        return jax.jit(step.value_and_grad)(params, states, key=jax.random.key(2))

    whole = gradients(1)
    assert_close(gradients(4), whole)


@pytest.mark.parametrize(
    ("stage", "of"), [("autodecoder", "batch_identities"), ("diffusion", "batch_size")]
)
def test_parts_that_do_not_divide_a_batch_are_refused(stage, of):
    with pytest.raises(UserError, match=f"{stage}.accumulate=3 must divide {stage}.{of}=4"):
        settings.check(config(stage, 3))
    with pytest.raises(UserError, match=f"{stage}.accumulate=0 must be at least 1"):
        settings.check(config(stage, 0))
