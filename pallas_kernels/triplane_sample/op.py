"""The public tri-plane and tri-grid lookup."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.triplane_sample import gpu, reference, tpu
from pallas_kernels.triplane_sample.types import LookupOptions, check

# By platform, modules with `forward`, `backward` (the reference's signatures, and `interpret`) and
# `why_not(points, planes, options=, gradient=)`.
_KERNELS = {"tpu": tpu, "gpu": gpu}


def _run(form: str, arguments: tuple, options: LookupOptions):
    reasons = {
        platform: kernel.why_not(*arguments[:2], options=options, gradient=form == "backward")
        for platform, kernel in _KERNELS.items()
    }
    return dispatch.run(
        f"triplane_sample {form}",
        arguments,
        implementation=options.implementation,
        reference=functools.partial(getattr(reference, form), options=options),
        kernels={
            platform: functools.partial(getattr(kernel, form), options=options)
            for platform, kernel in _KERNELS.items()
        },
        reasons=reasons,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(points: Array, planes: Array, options: LookupOptions):
    return _run("forward", (points, planes), options)


def _sample_forward(points, planes, options):
    return _sample(points, planes, options), (points, planes)


def _sample_backward(options, residuals, dfeatures):
    return _run("backward", (*residuals, dfeatures), options)


_sample.defvjp(_sample_forward, _sample_backward)


def triplane_sample(
    points: Float[Array, "b r 3"], planes: Float[Array, "b n *s c"], *, options: LookupOptions
) -> Float[Array, "b *n r c"]:
    """Looks points up in planes, or in grids of a few layers, and adds up what they hold.

    f(x) = mean over planes p of p(2x/box) by `grid_sample`'s rule: bilinear (a grid: trilinear),
    zeros outside, align_corners False: u in [−1, 1] lies at texel ((u + 1)·size − 1)/2. At a
    texel's centre the derivative is the one to the right.

    Args:
      points: query points, world units.
      planes: tri-plane [b n h w c] or tri-grid [b n d h w c], any n.
      options: see `LookupOptions`; `EG3D_AXES`, `PANOHEAD_AXES` and others name plane axes.

    Returns:
      Features [b r c], or [b n r c] for reduce='none'; float32. Gradients flow to both arguments.

    Raises:
      ValueError: points, planes and axes do not belong together.

    Source: EG3D (Chan et al. 2022) §4, PanoHead (An et al. 2023) §3.3; `docs/paper_map.md`.
    """
    check(points, planes, options)
    points, planes = dispatch.varying_alike(
        (points.astype(jnp.float32).swapaxes(1, 2), planes.astype(jnp.float32))
    )
    return _sample(points, planes, options)
