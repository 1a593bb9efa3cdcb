"""The public ray march of given samples. `fused.py` marches through a field."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.ray_march import gpu, reference, tpu
from pallas_kernels.ray_march.types import Marched, MarchOptions

_KERNELS = {"tpu": tpu, "gpu": gpu}


def _run(kind: str, arguments: tuple, options: MarchOptions):
    """One of `reference.forward`, `reference.backward`, or the platform's kernel for it."""
    return dispatch.run(
        f"ray_march {kind}",
        arguments,
        implementation=options.implementation,
        reference=functools.partial(getattr(reference, kind), options=options),
        kernels={
            platform: functools.partial(getattr(module, kind), options=options)
            for platform, module in _KERNELS.items()
        },
        reasons={
            platform: module.why_not(arguments[0], options)
            for platform, module in _KERNELS.items()
        },
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _march(features: Array, sigma: Array, depths: Array, options: MarchOptions):
    return _run("forward", (features, sigma, depths), options)


def _march_forward(features, sigma, depths, options):
    return _march(features, sigma, depths, options), (features, sigma, depths)


def _march_backward(options, inputs, cotangents):
    return _run("backward", (*inputs, *cotangents), options)


_march.defvjp(_march_forward, _march_backward)


def ray_march(
    features: Float[Array, "b r s c"],
    sigma: Float[Array, "b r s"],
    *,
    depths: Float[Array, "b r s"],
    options: MarchOptions,
) -> Marched:
    """Composites samples front to back.

    w_i = T_i (1 − exp(−σ_i δ_i)), T_i = exp(−Σ_{j<i} σ_j δ_j); results are Σ w·feature, Σ w·t, Σ w
    (NeRF, eq. 3; the midpoint rule is EG3D's).

    Args:
      features: colours or features of the samples.
      sigma: densities per world unit; under `density='given'` ≥ 0.
      depths: ascending distances along the rays, world units.
      options: see `MarchOptions`.

    Returns:
      see `Marched`; float32. Gradients flow to features, densities and depths.

    Raises:
      ValueError: fewer than two samples a ray, or a kernel asked for that cannot serve the shapes.
    """
    if depths.shape[-1] < 2:
        raise ValueError(f"marching needs at least 2 samples a ray, got {depths.shape[-1]}")
    arrays = [a.astype(jnp.float32) for a in (features, sigma, depths)]
    return Marched(*_march(*dispatch.varying_alike(arrays), options))
