"""The pictures that a user gets of a 3D GAN: data, samples, turntable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from headjax.geometry.cameras import orbit_labels
from headjax.io.colormaps import colorize_depth
from headjax.io.images import enlarge, image_grid, to_uint8
from headjax.nets.triplane_gan import Generated, Generator, GeneratorConfig, Planes

# Heads that are drawn at a time.
CHUNK = 8
# Smaller pictures than this are shown enlarged, pixel by pixel.
SHOWN = 128


class Drawer:
    """A generator with its weights, compiled for pictures.

    Attributes:
        config: of the generator.
        variables: its parameters and buffers.
    """

    def __init__(self, config: GeneratorConfig, variables: Any):
        """Takes what `triplane_gan_weights.load` gives."""
        self.config = config
        self.variables = jax.tree.map(jnp.asarray, variables)
        generator = Generator(config)

        def apply(method):
            return lambda variables, *inputs, **options: generator.apply(
                variables, *inputs, method=method, **options
            )

        self._mapping = jax.jit(apply("mapping"), static_argnames=("truncation_psi",))
        self._planes = jax.jit(apply("planes"))
        self._synthesis = jax.jit(apply("synthesis"))

    def styles(self, z: Float[Array, "b z"], *, psi: float = 1.0) -> Float[Array, "b l e"]:
        """Style vectors of latents, told the frontal camera."""
        front = jnp.broadcast_to(jnp.asarray(orbit_labels([0.0])), (z.shape[0], 25))
        return self._mapping(self.variables, z, front, truncation_psi=psi)

    def planes(self, ws: Float[Array, "b l e"]) -> Planes:
        """The planes of each head."""
        return self._planes(self.variables, ws)

    def draw(
        self, ws: Float[Array, "b l e"], labels: Float[Array, "b 25"], *, planes: Any = None
    ) -> Generated:
        """What each head's camera sees."""
        return self._synthesis(self.variables, ws, labels, planes=planes)

    def new_heads(self, key: Array, labels: Float[Array, "b 25"]) -> Float[np.ndarray, "b h w 3"]:
        """Pictures of fresh latents, one for each camera."""
        ws = self.styles(jax.random.normal(key, (len(labels), self.config.z_dim)))
        return np.asarray(self.draw(ws, labels).image)

    def views(
        self,
        ws: Float[Array, "n l e"],
        *,
        yaws: Sequence[float],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Generated]]:
        """Every head from every yaw (degrees), NumPy, one head's pictures a list."""
        heads: list[list[Generated]] = []
        labels = jnp.asarray(orbit_labels(list(yaws)))
        for start in range(0, len(ws), CHUNK):
            part = ws[start : start + CHUNK]
            planes = self.planes(part)
            seen = [
                jax.tree.map(
                    np.asarray,
                    self.draw(part, jnp.broadcast_to(label, (len(part), 25)), planes=planes),
                )
                for label in labels
            ]
            heads += [
                [jax.tree.map(lambda leaf, i=i: leaf[i], view) for view in seen]
                for i in range(len(part))
            ]
            if progress is not None:
                progress(len(heads), len(ws))
        return heads


def parts_of(rows: Any) -> list[Any]:
    """What is drawn at a time."""
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def views_of(heads: Sequence[Sequence[Any]], view: int) -> Float[np.ndarray, "n h w 3"]:
    """The images of one of the views that `Drawer.views` gives, cut off at [-1, 1]."""
    return np.stack([np.clip(views[view].image, -1.0, 1.0) for views in heads])


def sheet(pictures: UInt8[np.ndarray, "n h w 3"], *, columns: int) -> UInt8[np.ndarray, "a b 3"]:
    """Pictures in rows of `columns`, the last filled up with white; small ones are enlarged."""
    blank = np.full_like(pictures[0], 255)
    missing = -len(pictures) % columns
    cells = [shown(picture) for picture in (*pictures, *[blank] * missing)]
    return image_grid([cells[i : i + columns] for i in range(0, len(cells), columns)], gap=2)


def shown(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture large enough to be looked at."""
    return enlarge(picture, max(1, SHOWN // picture.shape[0]))


def sample_sheet(
    heads: list[list[Generated]], *, heads_per_row: int = 3
) -> UInt8[np.ndarray, "a b 3"]:
    """All views of every head, and the depth of the middle one."""
    cells = []
    for views in heads:
        middle = views[len(views) // 2]
        depth = depth_picture(middle)
        cells += [*(to_uint8(np.clip(view.image, -1.0, 1.0)) for view in views), depth]
    return sheet(np.stack(cells), columns=heads_per_row * (len(heads[0]) + 1))


def depth_picture(view: Generated) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in false colours where the silhouette is, as large as the image."""
    picture = colorize_depth(view.depth[..., 0], inside=view.mask[..., 0] > 0.5)
    factor = view.image.shape[0] // picture.shape[0]
    return enlarge(picture, factor)


def turntable(
    draw: Drawer, ws: Float[Array, "n l e"], section: Any
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Heads side by side that sway from side to side, or turn, one picture a frame."""
    places = np.linspace(0.0, 2.0 * np.pi, section.turntable_frames, endpoint=False)
    reach = section.turntable_yaw
    yaws = np.rad2deg(places) if reach >= 180.0 else reach * np.sin(places)
    heads = draw.views(ws, yaws=yaws.tolist())
    pictures = [[to_uint8(np.clip(view.image, -1.0, 1.0)) for view in views] for views in heads]
    return [image_grid([[shown(head[i]) for head in pictures]], gap=0) for i in range(len(yaws))]
