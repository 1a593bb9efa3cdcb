"""A trained Gaussian3Diff, for notebooks, tools and later applications."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from headjax.errors import UserError
from headjax.render import gaussian_field as field
from headjax.render.gaussian_field import GaussianHeads
from headjax.systems.g3diff import artefacts, diffusion, evaluate, report, settings
from headjax.train import config as configs


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Parameters and the pure functions of them.

    Attributes:
      config: the run's config.
      autodecoder: decoder, rendering MLP, tables and registration of the training identities.
      diffusion: U-Net and standardisation, or None before that stage.
      samples: the heads that the run drew, or None before that stage.
    """

    config: ml_collections.FrozenConfigDict
    autodecoder: artefacts.AutoDecoder
    diffusion: artefacts.Diffusion | None
    samples: GaussianHeads | None

    def sample(self, key: Array, *, count: int) -> GaussianHeads:
        """Draws new heads.

        Args:
          key: of the noise; the same key gives the same heads.
          count: how many.

        Raises:
          UserError: the run has not trained its diffusion model yet.
        """
        model = self.diffusion
        if model is None:
            raise UserError("this run has no diffusion model yet; run its remaining stages first")
        return _sample(self.config, count)(model.params, key, model.standard, model.valid)

    def reconstruct(self, ids: Int[Array, "b"]) -> GaussianHeads:
        """The heads of training identities, by number."""
        build = _builder(self.config)
        valid = self.autodecoder.registration.valid
        return build(self.autodecoder.params, ids, valid)

    def head(self, name: str) -> GaussianHeads:
        """One head (leading axis 1): 'sample:N' of the run's samples, or 'train:N'.

        Raises:
          UserError: no such head.
        """
        kind, _, number = name.partition(":")
        counts = {
            "sample": 0 if self.samples is None else self.samples.centers.shape[0],
            "train": self.autodecoder.registration.valid.shape[0],
        }
        known = number.isascii() and number.isdigit() and int(number) < counts.get(kind, 0)
        if not known:
            have = [f"{k}:0 to {k}:{count - 1}" for k, count in counts.items() if count]
            raise UserError(f"there is no head {name!r}; this run has {' and '.join(have)}")
        index = int(number)
        if kind == "train":
            return self.reconstruct(jnp.array([index]))
        return report.take_heads(self.samples, slice(index, index + 1))

    def render(
        self, heads: GaussianHeads, labels: Float[Array, "b 25"], *, resolution: int
    ) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w"], Float[Array, "b h w"]]:
        """Pictures over white in [0, 1], depth along the rays, and silhouettes.

        Args:
          heads: b heads.
          labels: a camera for each (EG3D's 25 numbers).
          resolution: pixels of a side.
        """
        mlp = self.autodecoder.params["shared"]["mlp"]
        return _renderer(self.config, resolution)(mlp, heads, labels)

    def query(
        self, head: GaussianHeads, points: Float[Array, "p 3"]
    ) -> tuple[Float[Array, "p"], Float[Array, "p 3"]]:
        """Density (per world unit) and colour in [0, 1] of one head at points."""
        mlp = self.autodecoder.params["shared"]["mlp"]
        return _query(self.config)(mlp, head, points)


@functools.lru_cache
def _sample(config: Any, count: int):
    def draw(params, key, standard, valid):
        return diffusion.sample_heads(
            params, key=key, count=count, standard=standard, valid=valid, config=config
        )

    return jax.jit(draw)


@functools.lru_cache
def _renderer(config: Any, resolution: int):
    return evaluate.make_renderer(config, resolution=resolution)


@functools.lru_cache
def _builder(config: Any):
    return jax.jit(
        lambda params, ids, valid: evaluate.make_builder(config, valid=valid)(params, ids)
    )


@functools.lru_cache
def _query(config: Any):
    options = settings.field_options(config)

    def query(mlp, head, points):
        samples = field.query(mlp, head, points=points[None], options=options)
        return samples.sigma[0], samples.color[0]

    return jax.jit(query)


def load(workdir: str | Path) -> Model:
    """The trained model of a work directory.

    Raises:
      UserError: no work directory of this system, or its auto-decoder is not trained yet.
    """
    workdir = Path(workdir)
    config = configs.read(workdir).values
    path = workdir / "autodecoder.safetensors"
    if not path.exists():
        raise UserError(f"{workdir} has no {path.name} yet; run its stages first")
    unet, samples = workdir / "diffusion.safetensors", workdir / "samples.safetensors"
    return Model(
        config=config,
        autodecoder=artefacts.load_autodecoder(path),
        diffusion=artefacts.load_diffusion(unet) if unet.exists() else None,
        samples=artefacts.load_heads(samples) if samples.exists() else None,
    )
