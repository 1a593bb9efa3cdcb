"""Small networks of real layers, in the dtype of their inputs, and derivatives by differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from headjax.nets.stylegan2 import FullyConnected, ToRGB, leaky_relu, upsample
from headjax.nets.stylegan2_discriminator import ConvLayer, DiscriminatorBlock, minibatch_std


class TinyDiscriminator(nn.Module):
    """Image and raw image (8 x 8) and a label -> logits, with the dual discriminator's layers."""

    @nn.compact
    def __call__(self, images, labels):
        x = jnp.concatenate([images[name] for name in sorted(images)], axis=-1)
        x = DiscriminatorBlock(4, 6, first=True, name="b8")(x)
        x = ConvLayer(6, name="conv")(minibatch_std(x, group=2))
        x = leaky_relu(FullyConnected(6, name="fc")(x.reshape(x.shape[0], -1)))
        x = FullyConnected(5, name="out")(x)
        return jnp.sum(x * FullyConnected(5, name="embed")(labels), axis=-1)


class TinyGenerator(nn.Module):
    """Styles [b, 2, d] -> image [b, 8, 8, 3] by two modulated layers on a constant."""

    @nn.compact
    def __call__(self, ws):
        const = self.param("const", nn.initializers.normal(1.0), (4, 4, 5)).astype(ws.dtype)
        x = jnp.broadcast_to(const, (ws.shape[0], *const.shape))
        x = upsample(leaky_relu(ToRGB(6, name="first")(x, ws[:, 0])))
        return ToRGB(3, name="second")(x, ws[:, 1])


class TinyField(nn.Module):
    """Points [b, n, 3] -> raw densities [b, n, 1]."""

    @nn.compact
    def __call__(self, points):
        x = points.reshape(-1, 3)
        x = jnp.sin(FullyConnected(16, name="fc0")(8.0 * x))
        return FullyConnected(1, name="fc1")(x).reshape(*points.shape[:2], 1)


def normal(seed, *shape, dtype=None):
    """Normal values: float64 where that is switched on, else float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def parameters(module, *inputs):
    """Normal values for every parameter of the module."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    values = [normal(100 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, values)


def assert_gradient_is_that_of_differences(function, argument, *, h=1e-6, rtol=1e-6):
    """The gradient along three random directions, against central differences in float64."""
    assert jax.config.jax_enable_x64
    function = jax.jit(function)
    value, gradient = jax.value_and_grad(function)(argument)
    assert value.dtype == jnp.float64
    for seed in range(3):
        way = jax.tree.map(lambda x, s=seed: normal(s + x.size, *x.shape), argument)
        ahead, behind = (
            function(jax.tree.map(lambda x, w, s=s: x + s * h * w, argument, way)) for s in (1, -1)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, way)))
        assert abs(slope) > 1e-6
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=rtol)
