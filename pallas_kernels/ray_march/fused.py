"""The public march through a field: rays in, what they saw out, no sample's features in between."""

from __future__ import annotations

import functools
from types import ModuleType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.ray_march import fused_gpu, fused_reference, fused_tpu, importance
from pallas_kernels.ray_march.fields import Field
from pallas_kernels.ray_march.fused_reference import Plan
from pallas_kernels.ray_march.reference import interval_weights
from pallas_kernels.ray_march.types import (
    Decoder,
    DecoderOptions,
    FieldMarched,
    MarchOptions,
    Rays,
    no_gradient,
)

_KERNELS = {"tpu": fused_tpu, "gpu": fused_gpu}


def _run(kind: str, arguments: tuple, plan: Plan):
    """One of `forward`, `forward_twice`, `backward`: the reference's, or the platform's kernel."""
    depths = arguments[3]
    if kind == "forward_twice":
        samples = depths.shape[-1] + arguments[4].shape[-1]
        depths = jax.ShapeDtypeStruct((*depths.shape[:-1], samples), depths.dtype)
    gradient = kind == "backward"
    return dispatch.run(
        f"march_field {kind}",
        arguments,
        implementation=plan.march.implementation,
        reference=functools.partial(getattr(fused_reference, kind), plan=plan),
        kernels={
            platform: functools.partial(_kernel(module, kind), plan=plan)
            for platform, module in _KERNELS.items()
        },
        reasons={
            platform: module.why_not(*arguments[:2], depths, gradient=gradient)
            for platform, module in _KERNELS.items()
        },
    )


def _kernel(module: ModuleType, kind: str):
    if kind == "forward_twice":
        return functools.partial(forward_then_again, module.forward)
    return getattr(module, kind)


def forward_then_again(forward, field, decoder, rays, depths, uniform, *, plan: Plan, **kwargs):
    """Both passes by two marches: the way of the kernels, whose samples are never in memory."""
    sigma = forward(field, decoder, rays, depths, plan=plan, **kwargs)[1]
    weights = interval_weights(sigma, depths, options=plan.march)
    new = importance.resample(
        depths, weights[..., : depths.shape[-1] - 1], uniform=uniform, kind=plan.importance
    )
    depths = jnp.sort(jnp.concatenate([depths, new], axis=-1), axis=-1)
    return *forward(field, decoder, rays, depths, plan=plan, **kwargs), depths


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _march(field: Field, decoder: Decoder, rays: Rays, depths: Array, plan: Plan):
    return _run("forward", (field, decoder, rays, depths), plan)[:2]


def _march_forward(field, decoder, rays, depths, plan):
    seen, sigma, saved = _run("forward", (field, decoder, rays, depths), plan)
    return (seen, sigma), (field, decoder, rays, depths, sigma, saved)


def _march_backward(plan, residuals, cotangents):
    return _run("backward", (*residuals, cotangents[0]), plan)


_march.defvjp(_march_forward, _march_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _march_twice(field, decoder, rays, depths, uniform, plan: Plan):
    seen, sigma, _, depths = _run("forward_twice", (field, decoder, rays, depths, uniform), plan)
    return seen, sigma, depths


def _march_twice_forward(field, decoder, rays, depths, uniform, plan):
    out = _run("forward_twice", (field, decoder, rays, depths, uniform), plan)
    seen, sigma, saved, all_depths = out
    kept = (field, decoder, rays, all_depths, sigma, saved)
    return (seen, sigma, all_depths), (*kept, depths, uniform)


def _march_twice_backward(plan, residuals, cotangents):
    *residuals, depths, uniform = residuals
    dfield, ddecoder, drays, _ = _run("backward", (*residuals, cotangents[0]), plan)
    return dfield, ddecoder, drays, jnp.zeros_like(depths), jnp.zeros_like(uniform)


_march_twice.defvjp(_march_twice_forward, _march_twice_backward)


def _result(seen: tuple, sigma: Array, depths: Array) -> FieldMarched:
    features, distance, alpha, reach = seen
    return FieldMarched(
        features=features,
        distance=distance,
        alpha=alpha,
        reach=reach,
        depths=no_gradient(depths),
        sigma=no_gradient(sigma),
    )


def _arguments(depths: Array, *trees):
    if depths.shape[-1] < 2:
        raise ValueError(f"marching needs at least 2 samples a ray, got {depths.shape[-1]}")
    return dispatch.varying_alike(jax.tree.map(lambda a: a.astype(jnp.float32), (*trees, depths)))


def march_field(
    field: Field,
    decoder: Decoder,
    *,
    rays: Rays,
    depths: Float[Array, "b r s"],
    options: MarchOptions,
    decoding: DecoderOptions,
) -> FieldMarched:
    """Marches rays through each head's field, at given distances.

    Equal to looking the field up at every sample, decoding, and `ray_march`; but rays are walked
    in tiles, and no sample's features are kept. The backward pass recomputes them.

    Args:
      field: `GaussianField` or `TriplaneField` of b heads.
      decoder: the rendering MLP, the same for all heads.
      rays: origins and directions, world units.
      depths: ascending distances along the rays.
      options: how samples become what a ray sees.
      decoding: how the MLP's outputs are read.

    Returns:
      see `FieldMarched`. Gradients flow to field, decoder, rays and depths; none through the
      choice of neighbours, and none from `sigma`.

    Raises:
      ValueError: fewer than two samples a ray, or a kernel asked for that cannot serve the shapes.
    """
    arguments = _arguments(depths, field, decoder, rays)
    return _result(*_march(*arguments, Plan(options, decoding)), depths)


def march_field_twice(
    field: Field,
    decoder: Decoder,
    *,
    rays: Rays,
    depths: Float[Array, "b r s"],
    uniform: Float[Array, "b r m"],
    options: MarchOptions,
    decoding: DecoderOptions,
    kind: importance.Importance = "plain",
) -> FieldMarched:
    """`march_field` at given distances and at those where their weights lie (NeRF, §5.2).

    A first pass weighs the given samples, `importance.resample` draws m more, and a ray sees all
    s + m in order. The distances carry no gradient.

    Args:
      field, decoder, rays, options, decoding: as in `march_field`.
      depths: ascending distances of the first pass.
      uniform: numbers in [0, 1) by which the others are drawn.
      kind: the density that they are drawn from, see `importance.resample`.

    Returns:
      see `FieldMarched`; `depths` and `sigma` have s + m samples.

    Raises:
      ValueError: fewer than two samples a ray, or a kernel asked for that cannot serve the shapes.
    """
    *arguments, depths, uniform = dispatch.varying_alike(
        (*_arguments(depths, field, decoder, rays), uniform.astype(jnp.float32))
    )
    arguments = (*arguments, *no_gradient((depths, uniform)))
    return _result(*_march_twice(*arguments, Plan(options, decoding, kind)))
