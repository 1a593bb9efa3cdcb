"""What sampling needs of a generator, and the generators of weights files that give it.

Alphabet: d of the latent z, l style layers of width w, k = 25 of a camera label, p points.
"""

import dataclasses
import json
import os
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import safetensors
from jaxtyping import Bool, Float

from headjax.errors import UserError
from headjax.geometry.cameras import RADIUS
from headjax.nets import triplane_gan_weights
from headjax.nets.stylegan2 import NoiseMode
from headjax.nets.triplane_gan import Generator, GeneratorConfig

Point = tuple[float, float, float]
# Numbers of points are filled up to multiples of this, so that few sizes are compiled.
STEP = 8192


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a camera sees of one head.

    Attributes:
        image: in [−1, 1], about.
        depth: mean distance along the ray, world units, at the neural resolution.
        inside: where a ray met more than half of something.
    """

    image: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "i j"]
    inside: Bool[np.ndarray, "i j"]


@runtime_checkable
class Heads(Protocol):
    """A generator of heads, as sampling sees it.

    Attributes:
        kind: 'eg3d' or 'panohead'.
        z_dim: length of a latent.
        box: side of the cube that holds the field, world units.
        pivot, radius: of its cameras, where the weights say so.
    """

    kind: str
    z_dim: int
    box: float
    pivot: Point | None
    radius: float

    def styles(
        self,
        z: Float[np.ndarray, "1 d"],
        label: Float[np.ndarray, "1 k"],
        *,
        psi: float,
        cutoff: int | None,
    ) -> Float[np.ndarray, "1 l w"]:
        """The latent's style vectors under the label that they are conditioned on."""
        ...

    def planes(self, ws: Float[np.ndarray, "1 l w"]) -> Any:
        """The field of style vectors, for the methods below."""
        ...

    def picture(
        self, ws: Float[np.ndarray, "1 l w"], planes: Any, *, label: Float[np.ndarray, "1 k"]
    ) -> Picture:
        """What the label's camera sees."""
        ...

    def density(self, planes: Any, *, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p"]:
        """Density before its activation."""
        ...

    def colors(
        self, ws: Float[np.ndarray, "1 l w"], planes: Any, *, points: Float[np.ndarray, "p 3"]
    ) -> Float[np.ndarray, "p 3"]:
        """Colours in [0, 1] of points on the surface."""
        ...


class GeneratorHeads:
    """Heads of a `Generator`; every method is compiled once a shape.

    Args:
        config, variables: as `headjax.nets.triplane_gan_weights.load` gives them.
        noise: of the backbone's layers.
        neural_resolution: of the raw image; None for the config's.
        pivot, radius: of the cameras.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        variables: Any,
        *,
        noise: NoiseMode = "const",
        neural_resolution: int | None = None,
        pivot: Point | None = None,
        radius: float = RADIUS,
    ) -> None:
        self.kind, self.z_dim, self.box = config.kind, config.z_dim, float(config.rendering.box)
        self.pivot, self.radius = pivot, float(radius)
        self._labelled = config.c_dim > 0
        self._variables = variables
        apply = Generator(config).apply
        self._mapping = jax.jit(
            partial(apply, method="mapping"),
            static_argnames=("truncation_psi", "truncation_cutoff"),
        )
        self._planes = jax.jit(partial(apply, noise=noise, method="planes"))
        options = {"noise": noise, "neural_resolution": neural_resolution, "method": "synthesis"}
        self._synthesis = jax.jit(
            lambda variables, ws, c, planes: apply(variables, ws, c, planes=planes, **options)
        )
        self._density = jax.jit(lambda *given: apply(*given, method="query")[0])
        self._colors = jax.jit(partial(apply, method="colors"))

    def styles(
        self,
        z: Float[np.ndarray, "1 d"],
        label: Float[np.ndarray, "1 k"],
        *,
        psi: float,
        cutoff: int | None,
    ) -> Float[np.ndarray, "1 l w"]:
        """See `Heads`."""
        truncation = {"truncation_psi": psi, "truncation_cutoff": cutoff}
        c = label if self._labelled else None
        return _host(self._mapping(self._variables, z, c, **truncation))

    def planes(self, ws: Float[np.ndarray, "1 l w"]) -> Any:
        """See `Heads`."""
        return self._planes(self._variables, ws)

    def picture(
        self, ws: Float[np.ndarray, "1 l w"], planes: Any, *, label: Float[np.ndarray, "1 k"]
    ) -> Picture:
        """See `Heads`."""
        seen = self._synthesis(self._variables, ws, label, planes)
        depth, mask = _host(seen.depth)[0, ..., 0], _host(seen.mask)[0, ..., 0]
        return Picture(image=_host(seen.image)[0], depth=depth, inside=mask > 0.5)

    def density(self, planes: Any, *, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p"]:
        """See `Heads`."""
        found = self._density(self._variables, planes, _filled(points))
        return np.asarray(found, np.float32)[0, : len(points)]

    def colors(
        self, ws: Float[np.ndarray, "1 l w"], planes: Any, *, points: Float[np.ndarray, "p 3"]
    ) -> Float[np.ndarray, "p 3"]:
        """See `Heads`."""
        found = self._colors(self._variables, ws, planes, _filled(points))
        return _host(found)[0, : len(points)]


def load_heads(
    path: str | os.PathLike,
    *,
    noise: NoiseMode = "const",
    neural_resolution: int | None = None,
    sample_multiplier: float = 1.0,
) -> GeneratorHeads:
    """The generator of a weights file.

    Args:
        path: as `python -m headjax.tools.convert` writes it.
        noise, neural_resolution: see `GeneratorHeads`.
        sample_multiplier: on the numbers of samples along a ray.

    Raises:
        UserError: the file cannot be read, or holds a discriminator.
    """
    config, variables = triplane_gan_weights.load(path)
    if not isinstance(config, GeneratorConfig):
        raise UserError(f"{path} holds a discriminator; give the weights of G_ema")
    rendering = config.rendering
    rendering = dataclasses.replace(
        rendering,
        samples=int(rendering.samples * sample_multiplier),
        importance=int(rendering.importance * sample_multiplier),
    )
    pivot, radius = stored_camera(path)
    return GeneratorHeads(
        dataclasses.replace(config, rendering=rendering),
        variables,
        noise=noise,
        neural_resolution=neural_resolution,
        pivot=pivot,
        radius=radius,
    )


def stored_camera(path: str | os.PathLike) -> tuple[Point | None, float]:
    """The pivot and radius of the cameras that the network was trained with, where it says so."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    stored = json.loads(metadata.get("architecture", "{}")).get("rendering_kwargs") or {}
    pivot, radius = stored.get("avg_camera_pivot"), stored.get("avg_camera_radius", RADIUS)
    try:
        pivot = None if pivot is None else tuple(float(value) for value in pivot)
        if (pivot is None or len(pivot) == 3) and float(radius) > 0:
            return pivot, float(radius)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{path}: its architecture has {pivot=!r} and {radius=!r} for its cameras; three numbers "
        "and a positive one were expected"
    )


def _filled(points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "1 q 3"]:
    """The points, and zeros up to the next multiple of `STEP`."""
    return np.pad(points, ((0, -len(points) % STEP), (0, 0)))[None]


def _host(values: Any) -> Float[np.ndarray, "..."]:
    """float32 on the host, finite."""
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise UserError(
            "the generator gives NaN or infinite numbers; its weights are broken, or another "
            "network's"
        )
    return array
