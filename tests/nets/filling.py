"""Parameters for tests of networks, without compiling their initialisation."""

import flax.linen as nn
import jax
import numpy as np


def filled(module: nn.Module, *inputs, spread: float = 0.2) -> dict:
    """Variables of the module with normal values of this spread, scales of norms about 1.

    Nothing is left at zero, so that every part of a network acts.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    draw = np.random.default_rng(0).standard_normal

    def fill(path, leaf):
        return spread * draw(leaf.shape, dtype=np.float32) + (path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(fill(path, leaf), np.float32), shapes
    )
