"""The public march through a field: rays in, what they saw out, no sample's features in between."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.ray_march import fused_reference
from pallas_kernels.ray_march.fields import Field
from pallas_kernels.ray_march.fused_reference import Plan
from pallas_kernels.ray_march.types import (
    Decoder,
    DecoderOptions,
    FieldMarched,
    MarchOptions,
    Rays,
)


def _run(kind: str, arguments: tuple, plan: Plan):
    return dispatch.run(
        f"march_field {kind}",
        arguments,
        implementation=plan.march.implementation,
        reference=functools.partial(getattr(fused_reference, kind), plan=plan),
        kernels={},
        reasons={},
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _march(field: Field, decoder: Decoder, rays: Rays, depths: Array, plan: Plan):
    return _run("forward", (field, decoder, rays, depths), plan)[:2]


def _march_forward(field, decoder, rays, depths, plan):
    seen, sigma, saved = _run("forward", (field, decoder, rays, depths), plan)
    return (seen, sigma), (field, decoder, rays, depths, saved)


def _march_backward(plan, residuals, cotangents):
    return _run("backward", (*residuals, cotangents[0]), plan)


_march.defvjp(_march_forward, _march_backward)


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
    if depths.shape[-1] < 2:
        raise ValueError(f"marching needs at least 2 samples a ray, got {depths.shape[-1]}")
    arguments = jax.tree.map(lambda a: a.astype(jnp.float32), (field, decoder, rays, depths))
    seen, sigma = _march(*dispatch.varying_alike(arguments), Plan(options, decoding))
    features, distance, alpha, reach = seen
    return FieldMarched(
        features=features,
        distance=distance,
        alpha=alpha,
        reach=reach,
        depths=jax.lax.stop_gradient(depths),
        sigma=jax.lax.stop_gradient(sigma),
    )
