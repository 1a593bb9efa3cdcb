"""The public K-nearest Gaussian blending."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.knn_blend import gpu, reference, tpu
from pallas_kernels.knn_blend.types import BlendOptions, GaussianTable, check

_KERNELS = {"tpu": tpu, "gpu": gpu}


def _reference_forward(points, frames, texels, *, options: BlendOptions) -> tuple:
    """One head after another; rows of points inside, as the reference has them."""
    rows = points.swapaxes(-1, -2)
    features, total, ids = jax.lax.map(
        lambda head: reference.forward(*head, options=options), (rows, frames, texels)
    )
    ids = jax.vmap(lambda i: reference.untile(i, count=rows.shape[1]))(ids)
    return features.swapaxes(-1, -2), total, ids.swapaxes(-1, -2)


def _reference_backward(
    points, frames, texels, ids, dfeatures, dtotal, *, options: BlendOptions
) -> tuple:
    rows = tuple(a.swapaxes(-1, -2) for a in (points, ids, dfeatures))

    def one_head(head):
        points, ids, dfeatures, dtotal, frames, texels = head
        return reference.backward(
            points,
            frames,
            texels,
            ids=reference.tiled_ids(ids, options=options),
            cotangents=(dfeatures, dtotal),
            options=options,
        )

    dpoints, *others = jax.lax.map(one_head, (*rows, dtotal, frames, texels))
    return dpoints.swapaxes(-1, -2), *others


def _run(name: str, arguments: tuple, *, options: BlendOptions, plain: Callable, gradient: bool):
    """One pass of the operation in the form that the options and the platform choose."""
    return dispatch.run(
        name,
        arguments,
        implementation=options.implementation,
        reference=functools.partial(plain, options=options),
        kernels={
            platform: functools.partial(
                kernels.backward if gradient else kernels.forward, options=options
            )
            for platform, kernels in _KERNELS.items()
        },
        reasons={
            platform: kernels.why_not(*arguments[:3], options=options, gradient=gradient)
            for platform, kernels in _KERNELS.items()
        },
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blend(
    points: Float[Array, "b 3 r"],
    frames: Float[Array, "b 12 g"],
    texels: Float[Array, "b n m"],
    options: BlendOptions,
) -> tuple[Float[Array, "b c r"], Float[Array, "b r"], Int[Array, "b k r"]]:
    """Points-minor throughout: three numbers on a TPU's last axis would be padded to 128."""
    return _blend_forward(points, frames, texels, options)[0]


def _blend_forward(points, frames, texels, options):
    arguments = points, frames, texels
    outputs = _run(
        "knn_blend", arguments, options=options, plain=_reference_forward, gradient=False
    )
    return outputs, (*arguments, outputs[2])


def _blend_backward(options, residuals, cotangents):
    return _run(
        "knn_blend gradient",
        (*residuals, *cotangents[:2]),
        options=options,
        plain=_reference_backward,
        gradient=True,
    )


_blend.defvjp(_blend_forward, _blend_backward)


def knn_blend(
    points: Float[Array, "b r 3"],
    gaussians: GaussianTable,
    *,
    atlas: Float[Array, "b h w d"],
    options: BlendOptions,
) -> tuple[Float[Array, "b r c"], Float[Array, "b r"], Int[Array, "b r k"]]:
    """Blends the local tri-planes of each point's K nearest Gaussians.

    f(x) = Σ_k w_k · mean over planes of bilinear(h_k, Rᵀ(x−μ)/(κ·std)), w_k = g_k / (Σ g + 1e-7)
    (Gaussian3Diff, supplement §1.1 and fig. 2; `docs/paper_map.md`).

    Args:
      points: query points, world units.
      gaussians: the heads' Gaussians, leading axis b, in row-major order of the UV grid.
      atlas: payload, [G·p, G·p, 3·c]: patch (i, j) holds Gaussian i·G + j; plane-major channels.
      options: see `BlendOptions`.

    Returns:
      features, Σ_k g_k, and the neighbours' indices (nearest first). Gradients flow to points,
      Gaussians and atlas; the choice of neighbours carries none. All float32.

    Raises:
      ValueError: the atlas does not hold one p×p patch for each Gaussian, or there are fewer
        Gaussians than neighbours.
    """
    check(gaussians.centers.shape[-2], atlas, options)
    frames = jax.vmap(lambda table: reference.frames(table, options=options))(gaussians)
    texels = jax.vmap(lambda a: reference.texel_table(a, patch=options.patch))(atlas)
    arrays = points.swapaxes(-1, -2), frames, texels
    arrays = dispatch.varying_alike(tuple(a.astype(jnp.float32) for a in arrays))
    features, total, ids = _blend(*arrays, options)
    return features.swapaxes(-1, -2), total, ids.swapaxes(-1, -2)
