"""Compositing of given samples on a TPU (Pallas, Mosaic), forward and backward.

Rays lie along the lanes. A step of the grid holds all samples of a tile of rays in VMEM and walks
them front to back (`stream.py`). The wrapper lays samples before features before rays; a producer
that XLA can fuse writes them so in the first place.

Alphabet: `b` heads, `s` samples, `c` features, `r` rays, `t` rays of a tile.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.ray_march import stream
from pallas_kernels.ray_march.types import MarchOptions
from pallas_kernels.tpu_memory import LANES, SUBLANES, VMEM

# Rays of a tile, at most, and bytes of its features in VMEM: they are there twice, coming and
# going, and a v5e and a v6e have 128 MiB.
_MOST_RAYS = 512
_BLOCK_BYTES = 12 << 20


def _bytes_a_ray(samples: int, channels: int) -> int:
    return 4 * samples * -(-channels // SUBLANES) * SUBLANES


def why_not(features: Array, options: MarchOptions) -> str | None:
    """What speaks against the kernel for features [b r s c]."""
    samples, channels = features.shape[-2:]
    if features.size == 0:
        return "there are no samples"
    if LANES * _bytes_a_ray(samples, channels) > _BLOCK_BYTES:
        return f"{samples} samples of {channels} features do not fit VMEM for {LANES} rays"
    return None


def _tile(features: Array) -> int:
    """Rays of a tile: a power of two times the lanes."""
    rays, samples, channels = features.shape[1:]
    tile = LANES
    while tile < min(_MOST_RAYS, rays):
        if 2 * tile * _bytes_a_ray(samples, channels) > _BLOCK_BYTES:
            break
        tile *= 2
    return tile


def _rays_last(array: Array, tile: int) -> Array:
    """[b r …] as [b … r], padded with zeros to whole tiles."""
    array = jnp.moveaxis(array, 1, -1)
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % tile)])


def _rays_second(array: Array, rays: int) -> Array:
    return jnp.moveaxis(array, -1, 1)[:, :rays]


def _row(ref, s):
    """Sample s of scalars [1 s t], as [1 t]."""
    return ref[0, pl.ds(s, 1)]


def _forward_kernel(features, sigma, depths, seen, distance, alpha, *, options):
    samples = depths.shape[1]
    seen[0], distance[0], alpha[0] = stream.forward(
        samples,
        depth=functools.partial(_row, depths),
        sample=lambda s: (_row(sigma, s), features[0, s]),
        options=options,
    )


def _backward_kernel(
    features, sigma, depths, dseen, ddistance, dalpha, dfeatures, dsigma, ddepths, gains, *, options
):
    samples = depths.shape[1]

    def gain(s, _):
        share = jnp.sum(features[0, s] * dseen[0], axis=0, keepdims=True)
        gains[0, pl.ds(s, 1)] = share + ddistance[0] * _row(depths, s) + dalpha[0]
        return 0

    def emit(s, weight, slope, along):
        dfeatures[0, s] = weight * dseen[0]
        dsigma[0, pl.ds(s, 1)] = slope
        ddepths[0, pl.ds(s, 1)] = along + weight * ddistance[0]

    jax.lax.fori_loop(0, samples, gain, 0)
    stream.backward(
        samples,
        depth=functools.partial(_row, depths),
        sigma=functools.partial(_row, sigma),
        gain=functools.partial(_row, gains),
        emit=emit,
        options=options,
    )


def _spec(array_shape: tuple[int, ...], tile: int) -> pl.BlockSpec:
    """One head's tile of rays of an array [b … r]."""
    middle = array_shape[1:-1]
    return pl.BlockSpec((1, *middle, tile), lambda b, i: (b, *(0 for _ in middle), i))


def _call(kernel, arrays: list[Array], shapes: list[tuple], tile: int, *, scratch, interpret):
    head, rays = arrays[0].shape[0], arrays[0].shape[-1]
    return pl.pallas_call(
        kernel,
        grid=(head, rays // tile),
        in_specs=[_spec(a.shape, tile) for a in arrays],
        out_specs=[_spec(shape, tile) for shape in shapes],
        out_shape=[dispatch.like(arrays[0], shape) for shape in shapes],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM
        ),
        interpret=dispatch.tpu_interpreter() if interpret else False,
        name="ray_march",
    )(*arrays)


def forward(
    features: Float[Array, "b r s c"],
    sigma: Float[Array, "b r s"],
    depths: Float[Array, "b r s"],
    *,
    options: MarchOptions,
    interpret: bool,
) -> tuple[Float[Array, "b r c"], Float[Array, "b r"], Float[Array, "b r"]]:
    """`reference.forward` as a kernel."""
    tile, rays = _tile(features), features.shape[1]
    arrays = [_rays_last(a, tile) for a in (features, sigma, depths)]
    heads, _, channels, padded = arrays[0].shape
    shapes = [(heads, channels, padded), (heads, 1, padded), (heads, 1, padded)]
    kernel = functools.partial(_forward_kernel, options=options)
    out = _call(kernel, arrays, shapes, tile, scratch=[], interpret=interpret)
    seen, distance, alpha = (_rays_second(a, rays) for a in out)
    return seen, distance[..., 0], alpha[..., 0]


def backward(
    features: Float[Array, "b r s c"],
    sigma: Float[Array, "b r s"],
    depths: Float[Array, "b r s"],
    dfeatures: Float[Array, "b r c"],
    ddistance: Float[Array, "b r"],
    dalpha: Float[Array, "b r"],
    *,
    options: MarchOptions,
    interpret: bool,
) -> tuple[Float[Array, "b r s c"], Float[Array, "b r s"], Float[Array, "b r s"]]:
    """`reference.backward` as a kernel."""
    tile, rays = _tile(features), features.shape[1]
    inputs = (features, sigma, depths, dfeatures, ddistance[..., None], dalpha[..., None])
    arrays = [_rays_last(a, tile) for a in inputs]
    kernel = functools.partial(_backward_kernel, options=options)
    scratch = [pltpu.VMEM((1, depths.shape[-1], tile), jnp.float32)]
    shapes = [a.shape for a in arrays[:3]]
    out = _call(kernel, arrays, shapes, tile, scratch=scratch, interpret=interpret)
    dcolor, dsigma, ddepths = (_rays_second(a, rays) for a in out)
    return dcolor, dsigma, ddepths
