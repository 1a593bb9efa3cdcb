"""The state that the diffusion model generates (Gaussian3Diff, table 1).

G₀ is a [G·p, G·p, 9 + 3·c] image in UV space: centres, rotations and radii of the Gaussian to
which a texel's patch belongs (nearest up-sampling), then the payload. Each group has the
normaliser of table 1; all values lie in [−1, 1].

Invariant: `unpack(pack(heads))` returns the heads, up to the clipping of their values.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from headjax.render.gaussian_field import GaussianHeads

GEOMETRY_CHANNELS = 9
# Beyond this the inverse of tanh grows without bound.
_TANH_LIMIT = 1.0 - 1e-4
_RADIUS_LIMIT = 0.15


def normalise_geometry(
    centers: Float[Array, "*b 3"], rpy: Float[Array, "*b 3"], radii: Float[Array, "*b 3"]
) -> Float[Array, "*b 9"]:
    """(x + 0.12)·2, x/π and (clip(|x|, 0, 0.15) − 0.06)·10 (table 1)."""
    radii = jnp.clip(jnp.abs(radii), 0.0, _RADIUS_LIMIT)
    parts = ((centers + 0.12) * 2.0, rpy / jnp.pi, (radii - 0.06) * 10.0)
    return jnp.concatenate(parts, axis=-1)


def restore_geometry(
    state: Float[Array, "*b 9"],
) -> tuple[Float[Array, "*b 3"], Float[Array, "*b 3"], Float[Array, "*b 3"]]:
    """Centres, rotations and radii of a normalised geometry; radii clipped to [0, 0.15]."""
    centers = state[..., :3] / 2.0 - 0.12
    radii = jnp.clip(state[..., 6:9] / 10.0 + 0.06, 0.0, _RADIUS_LIMIT)
    return centers, jnp.pi * state[..., 3:6], radii


def normalise_payload(payload: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """tanh(x) (table 1)."""
    return jnp.tanh(payload)


def restore_payload(state: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """atanh, clipped just inside ±1."""
    return jnp.arctanh(jnp.clip(state, -_TANH_LIMIT, _TANH_LIMIT))


def pack(heads: GaussianHeads) -> Float[Array, "b h w d"]:
    """Heads → G₀ [b, G·p, G·p, 9 + 3c] in [−1, 1]; cells without a Gaussian are 0."""
    geometry = normalise_geometry(heads.centers, heads.rpy, heads.radii)
    patch = heads.payload.shape[1] // heads.centers.shape[1]
    wide = _upsample(geometry, patch)
    state = jnp.concatenate([wide, normalise_payload(heads.payload)], axis=-1)
    keep = _upsample(heads.valid[..., None], patch)
    return jnp.where(keep, jnp.clip(state, -1.0, 1.0), 0.0)


def unpack(
    state: Float[Array, "b h w d"], *, valid: Bool[Array, "*v g g"]
) -> GaussianHeads:
    """G₀ → heads; the geometry of a Gaussian is the mean over its patch.

    Args:
      state: values are clipped to [−1, 1].
      valid: UV cells that hold a Gaussian, one map for all heads or one each.
    """
    grid = valid.shape[-1]
    batch, patch = state.shape[0], state.shape[1] // grid
    state = jnp.clip(state, -1.0, 1.0)
    blocks = state[..., :GEOMETRY_CHANNELS].reshape(batch, grid, patch, grid, patch, -1)
    centers, rpy, radii = restore_geometry(jnp.mean(blocks, axis=(2, 4)))
    return GaussianHeads(
        centers=centers,
        rpy=rpy,
        radii=radii,
        payload=restore_payload(state[..., GEOMETRY_CHANNELS:]),
        valid=jnp.broadcast_to(valid, (batch, grid, grid)),
    )


def _upsample(maps: Array, factor: int) -> Array:
    return jnp.repeat(jnp.repeat(maps, factor, axis=1), factor, axis=2)
