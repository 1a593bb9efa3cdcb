"""EG3D's tri-plane generator and PanoHead's tri-grid generator.

Alphabet: b heads, d of the latent z, k of the camera label c, l style layers (ws is [b, l, e]),
n planes, h w rows and columns, p points, r rays, s samples, m importance samples, f features.

Latent and label give style vectors (`mapping`), these give planes (`planes`), a camera sees
features and a raw image of them (`render`), and super-resolution makes the image. PanoHead's
planes have depth, it draws a background, reads colours off features by a layer of its own, and
corrects the label's camera position from the latent.

Names follow the public state dict: backbone/{mapping, synthesis}, decoder/net/{0, 2},
superresolution/block{0, 1}; PanoHead's torgb, bcg_synthesis and t_mapping.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from headjax.geometry.cameras import camera_from_label
from headjax.geometry.rays import pixel_rays
from headjax.nets.remat import Remat
from headjax.nets.resize import resize
from headjax.nets.stylegan2 import FullyConnected, NoiseMode, SynthesisNetwork, ToRGB
from headjax.nets.stylegan2_mapping import MappingNetwork, truncate, w_avg_update
from headjax.nets.superresolution import FORMS, Form, Superresolution
from headjax.render import triplane
from headjax.render.triplane import TriplaneOptions
from pallas_kernels.ray_march import Decoder

Kind = Literal["eg3d", "panohead"]
Planes = Float[Array, "b n *s f"]
# The margin of PanoHead's mask at both ends.
MASK_MARGIN = 0.001
# Where a label holds the camera's position.
POSITION = (3, 7, 11)
# The middle of a stratum: what takes the place of the jitter that EG3D always draws.
MIDDLE = 0.5


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is; the defaults are EG3D's for FFHQ at 512² (`panohead_config` below).

    Attributes:
        kind: 'eg3d', or 'panohead': background, raw toRGB and camera correction.
        z_dim, c_dim, w_dim: lengths of latent, camera label and style; c_dim 0 for no label.
        mapping_layers: fully connected layers of the mapping.
        c_scale: multiplies the label before the mapping; 0 makes it independent of the camera.
        channel_base, channel_max: features(r) = min(channel_base // r, channel_max).
        plane_resolution, plane_features: of each plane.
        plane_depth: slices of a tri-grid's planes; 0 for tri-planes.
        decoder_hidden: width of the decoder's hidden layer.
        decoder_lr_multiplier: the decoder's learning rate's factor.
        rendering: how planes become pictures.
        neural_resolution: of the raw image where none is given.
        superresolution: sizes of the last network; None ends with the raw image.
        sr_antialias: of the resize before super-resolution.
        sr_noise: of the super-resolution's layers.
        background_resolution: PanoHead's; 0 for no background.
        raw_torgb: PanoHead's raw image is made by a layer of its own; without it, as EG3D's, it
            is the first three features.
        clamp, sr_clamp: bounds of the activations' magnitude in the backbone and in the
            super-resolution; None for none. Official weights were trained with 256 in the latter.
        dtype: compute dtype of the convolutions; rendering is float32.
        remat: what each resolution's backward pass computes again (`headjax.nets.remat`).
    """

    kind: Kind = "eg3d"
    z_dim: int = 512
    c_dim: int = 25
    w_dim: int = 512
    mapping_layers: int = 2
    c_scale: float = 1.0
    channel_base: int = 32768
    channel_max: int = 512
    plane_resolution: int = 256
    plane_features: int = 32
    plane_depth: int = 0
    decoder_hidden: int = 64
    decoder_lr_multiplier: float = 1.0
    rendering: TriplaneOptions = TriplaneOptions()
    neural_resolution: int = 64
    superresolution: Form | None = FORMS["8xdc"]
    sr_antialias: bool = True
    sr_noise: NoiseMode = "none"
    background_resolution: int = 0
    raw_torgb: bool = False
    clamp: float | None = None
    sr_clamp: float | None = None
    dtype: Any = jnp.float32
    remat: Remat = "none"

    def __post_init__(self):
        """Checks the choices at construction."""
        if self.kind not in ("eg3d", "panohead"):
            raise ValueError(f"kind is {self.kind!r}; 'eg3d' or 'panohead' was expected")
        if self.kind == "eg3d" and (self.background_resolution or self.raw_torgb):
            raise ValueError("background_resolution and raw_torgb belong to kind 'panohead'")
        if len(triplane.AXES[self.rendering.axes][0]) != (3 if self.plane_depth else 2):
            raise ValueError(
                f"plane_depth={self.plane_depth} does not go with axes={self.rendering.axes!r}; "
                "tri-grids have a depth of at least 1 and axes 'panohead', tri-planes have 0"
            )

    @property
    def resolution(self) -> int:
        """Of the image."""
        form = self.superresolution
        return self.neural_resolution if form is None else form.resolution

    @property
    def num_planes(self) -> int:
        """3 for all axes that are known."""
        return len(triplane.AXES[self.rendering.axes])

    @property
    def num_ws(self) -> int:
        """Style vectors of the backbone."""
        return 2 * (self.plane_resolution.bit_length() - 2)


def panohead_config(**changes: Any) -> GeneratorConfig:
    """PanoHead's for full heads at 512², with `changes`."""
    rendering = TriplaneOptions(axes="panohead", color="none", crop=0.1)
    config = GeneratorConfig(
        kind="panohead", plane_depth=3, rendering=rendering, background_resolution=128,
        raw_torgb=True,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@struct.dataclass
class Rendered:
    """What a camera sees of the planes.

    Attributes:
        foreground: rendered features, with nothing behind them.
        features: the same with PanoHead's background behind them, where it is drawn.
        raw: the raw image in [-1, 1], about.
        depth: mean distance along the ray, world units.
        alpha: Σ w of the ray, in [0, 1].
    """

    foreground: Float[Array, "b h w f"]
    features: Float[Array, "b h w f"]
    raw: Float[Array, "b h w 3"]
    depth: Float[Array, "b h w 1"]
    alpha: Float[Array, "b h w 1"]


@struct.dataclass
class Generated:
    """A generator's pictures.

    Attributes:
        image: in [-1, 1], about.
        image_raw: the raw image, at the neural resolution.
        depth: mean distance along the ray, world units; `mask` 0 has the farthest of the batch.
        mask: Σ w; PanoHead's stretched by its margin: about [-0.001, 1.001].
        features: rendered features, PanoHead's with the background behind them.
    """

    image: Float[Array, "b h w 3"]
    image_raw: Float[Array, "b i j 3"]
    depth: Float[Array, "b i j 1"]
    mask: Float[Array, "b i j 1"]
    features: Float[Array, "b i j f"]


def averaged(buffers: Any, ws: Float[Array, "b l e"]) -> Any:
    """A generator's buffers with the moving average of styles one batch on."""
    mapping = buffers["backbone"]["mapping"]
    average = w_avg_update(mapping["w_avg"], ws[:, 0])
    backbone = buffers["backbone"] | {"mapping": mapping | {"w_avg": average}}
    return buffers | {"backbone": backbone}


class _Net(nn.Module):
    """The decoder's two layers, as parameters `0` and `2` (1 is the activation)."""

    hidden: int
    outputs: int
    lr_multiplier: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        lr = {"lr_multiplier": self.lr_multiplier}
        x = jax.nn.softplus(FullyConnected(self.hidden, name="0", **lr)(x))
        return FullyConnected(self.outputs, name="2", **lr)(x)


class _OSGDecoder(nn.Module):
    """EG3D's decoder: its parameters, with their gains, as the marcher takes them."""

    features: int
    hidden: int
    lr_multiplier: float

    def setup(self):
        self.net = _Net(self.hidden, 1 + self.features, self.lr_multiplier)

    def __call__(self) -> Decoder:
        self.net(jnp.zeros((1, self.features)))
        layers = self.net.variables["params"]
        lr = self.lr_multiplier

        def layer(name: str) -> tuple[Array, Array]:
            weight = layers[name]["weight"]
            return weight * (lr / weight.shape[0] ** 0.5), layers[name]["bias"] * lr

        return Decoder(*layer("0"), *layer("2"))


class _Backbone(nn.Module):
    config: GeneratorConfig

    def setup(self):
        cfg = self.config
        self.mapping = MappingNetwork(cfg.z_dim, cfg.c_dim, cfg.w_dim, layers=cfg.mapping_layers)
        self.synthesis = SynthesisNetwork(
            resolution=cfg.plane_resolution,
            channels_out=cfg.num_planes * cfg.plane_features * max(cfg.plane_depth, 1),
            w_dim=cfg.w_dim,
            channel_base=cfg.channel_base,
            channel_max=cfg.channel_max,
            clamp=cfg.clamp,
            dtype=cfg.dtype,
            remat=cfg.remat,
        )


class Generator(nn.Module):
    """Latent and camera label to a head's picture; each step is a method of its own.

    `init(key, z, c)` makes the variables: parameters, and the buffers of noise and averages.
    """

    config: GeneratorConfig

    def setup(self):
        cfg = self.config
        self.backbone = _Backbone(cfg)
        self.decoder = _OSGDecoder(
            cfg.plane_features, cfg.decoder_hidden, cfg.decoder_lr_multiplier
        )
        shared = {"dtype": cfg.dtype, "remat": cfg.remat}
        if cfg.superresolution is not None:
            self.superresolution = Superresolution(
                cfg.superresolution, antialias=cfg.sr_antialias, clamp=cfg.sr_clamp, **shared
            )
        if cfg.kind != "panohead":
            return
        if cfg.raw_torgb:
            self.torgb = ToRGB(3)
        self.t_mapping = MappingNetwork(
            cfg.z_dim, cfg.c_dim, 3, layers=cfg.mapping_layers, lr_multiplier=1.0, last="linear"
        )
        if cfg.background_resolution:
            self.bcg_synthesis = SynthesisNetwork(
                resolution=cfg.background_resolution,
                channels_out=cfg.plane_features,
                w_dim=cfg.w_dim,
                channel_base=cfg.channel_base // 2,
                channel_max=cfg.channel_max,
                clamp=cfg.clamp,
                **shared,
            )

    def mapping(
        self,
        z: Float[Array, "b d"],
        c: Float[Array, "b k"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Array, "b l e"]:
        """Style vectors of latents under the labels that they are conditioned on.

        Args:
            z: latents, standard normal.
            c: camera labels; None where `c_dim` is 0.
            truncation_psi: 1 keeps the styles, 0 gives the average.
            truncation_cutoff: how many layers are truncated; None for all.
        """
        cfg = self.config
        w = self.backbone.mapping(z, None if c is None else c * cfg.c_scale)
        ws = jnp.repeat(w[:, None], cfg.num_ws, axis=1)
        if truncation_psi == 1.0:
            return ws
        average = self.backbone.mapping.average()
        return truncate(ws, average, psi=truncation_psi, cutoff=truncation_cutoff)

    def planes(self, ws: Float[Array, "b l e"], *, noise: NoiseMode = "const") -> Planes:
        """Tri-planes [b, 3, h, w, f], or tri-grids [b, 3, depth, h, w, f]."""
        cfg = self.config
        drawn = self.backbone.synthesis(ws, noise=noise)
        shape, depth = drawn.shape[:3], cfg.plane_depth
        if not depth:
            split = drawn.reshape(*shape, cfg.num_planes, cfg.plane_features)
            return jnp.moveaxis(split, 3, 1)
        # Channels are plane-major, then features, and slices vary fastest.
        split = drawn.reshape(*shape, cfg.num_planes, cfg.plane_features, depth)
        return jnp.transpose(split, (0, 3, 5, 1, 2, 4))

    def query(
        self, planes: Planes, points: Float[Array, "b p 3"]
    ) -> tuple[Float[Array, "b p"], Float[Array, "b p f"]]:
        """Density before its activation, and features, at points; nothing is cropped."""
        return triplane.query(self.decoder(), planes, points=points, options=self.config.rendering)

    def seen_at(
        self, ws: Float[Array, "b l e"], planes: Planes, points: Float[Array, "b p 3"]
    ) -> tuple[Float[Array, "b p"], Float[Array, "b p 3"]]:
        """Density before its activation, and the raw image's colours in [-1, 1], at points."""
        density, features = self.query(planes, points)
        if self.config.rendering.color == "sigmoid":
            features = 2.0 * features - 1.0
        return density, self._raw(features[:, None], ws)[:, 0]

    def colors(
        self, ws: Float[Array, "b l e"], planes: Planes, points: Float[Array, "b p 3"]
    ) -> Float[Array, "b p 3"]:
        """Colours in [0, 1] of points on the surface, as the raw image would show them."""
        return jnp.clip(0.5 * (self.seen_at(ws, planes, points)[1] + 1.0), 0.0, 1.0)

    def background(
        self, ws: Float[Array, "b l e"], *, noise: NoiseMode = "const"
    ) -> Float[Array, "b h w f"]:
        """PanoHead's background features, at their own resolution."""
        return self.bcg_synthesis(ws[:, : self.bcg_synthesis.num_ws], noise=noise)

    def adapted(
        self, z: Float[Array, "b d"], c: Float[Array, "b k"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b 3"]]:
        """PanoHead's label with the camera moved, and by how much."""
        delta = self.t_mapping(z, c)
        return c.at[:, jnp.array(POSITION)].add(delta), delta

    def render(
        self,
        planes: Planes,
        c: Float[Array, "b k"],
        *,
        ws: Float[Array, "b l e"],
        neural_resolution: int | None = None,
        jitter: Float[Array, "b r s"] | None = None,
        uniform: Float[Array, "b r m"] | None = None,
        background: Float[Array, "b h w f"] | None = None,
        density_noise: Float[Array, "b r t"] | None = None,
    ) -> Rendered:
        """What the labels' cameras see; arguments as in `synthesis`."""
        cfg = self.config
        size = neural_resolution or cfg.neural_resolution
        origins, directions = pixel_rays(camera_from_label(c), resolution=size)
        if jitter is None:
            jitter = jnp.full((*origins.shape[:-1], cfg.rendering.samples), MIDDLE)
        seen = triplane.render_rays(
            self.decoder(),
            planes,
            origins=origins,
            directions=directions,
            options=cfg.rendering,
            jitter=jitter,
            uniform=uniform,
            density_noise=density_noise,
        )

        def image(values: Array) -> Array:
            return values.reshape(values.shape[0], size, size, -1)

        foreground, alpha = image(seen.features), image(seen.alpha)
        if cfg.rendering.color == "sigmoid":
            foreground = 2.0 * foreground - 1.0
        features = foreground
        if background is not None:
            features = features + (1.0 - alpha) * resize(background, size)
        return Rendered(
            foreground=foreground,
            features=features,
            raw=self._raw(features, ws),
            depth=image(seen.depth),
            alpha=alpha,
        )

    def _raw(self, features: Float[Array, "b h w f"], ws: Float[Array, "b l e"]) -> Array:
        if self.config.raw_torgb:
            return self.torgb(features, ws[:, -1])
        return features[..., :3]

    def synthesis(
        self,
        ws: Float[Array, "b l e"],
        c: Float[Array, "b k"],
        *,
        neural_resolution: int | None = None,
        noise: NoiseMode = "const",
        jitter: Float[Array, "b r s"] | None = None,
        uniform: Float[Array, "b r m"] | None = None,
        planes: Planes | None = None,
        ws_background: Float[Array, "b l e"] | None = None,
        draw_background: bool = True,
        density_noise: Float[Array, "b r t"] | None = None,
    ) -> Generated:
        """Pictures of the heads that style vectors stand for, from the labels' cameras.

        Args:
            ws: style vectors.
            c: camera labels, as they are (see `adapted`).
            neural_resolution: of the raw image; None for the config's.
            noise: of the backbone: 'none', 'const' or 'random' (rng stream "noise").
            jitter: in [0, 1), moves the first pass' samples; None for their middle.
            uniform: in [0, 1), draws the importance samples; None for evenly spaced numbers.
            planes: taken instead of those of `ws`.
            ws_background: style vectors of PanoHead's background; None for `ws`.
            draw_background: draws PanoHead's background; without it features are black behind.
            density_noise: added to the samples' raw densities (`triplane.render_rays`).
        """
        cfg = self.config
        if planes is None:
            planes = self.planes(ws, noise=noise)
        background = None
        if cfg.background_resolution and draw_background:
            of = ws if ws_background is None else ws_background
            background = self.background(of, noise=noise)
        seen = self.render(
            planes, c, ws=ws, neural_resolution=neural_resolution, jitter=jitter,
            uniform=uniform, background=background, density_noise=density_noise,
        )  # fmt: skip
        mask = seen.alpha
        if cfg.kind == "panohead":
            mask = mask * (1.0 + 2.0 * MASK_MARGIN) - MASK_MARGIN
        return Generated(
            image=self.superresolved(seen, ws),
            image_raw=seen.raw,
            depth=seen.depth,
            mask=mask,
            features=seen.features,
        )

    def superresolved(self, seen: Rendered, ws: Float[Array, "b l e"]) -> Float[Array, "b r r 3"]:
        """The image of what was rendered; the raw image where there is no super-resolution."""
        if self.config.superresolution is None:
            return seen.raw
        return self.superresolution(
            seen.features, seen.raw, w=ws[:, -1], noise=self.config.sr_noise
        )

    def __call__(self, z: Float[Array, "b d"], c: Float[Array, "b k"], **options: Any) -> Generated:
        """`mapping`, PanoHead's camera correction, and `synthesis` with its options."""
        ws = self.mapping(z, c if self.config.c_dim else None)
        if self.config.kind == "panohead":
            c, _ = self.adapted(z, c)
        return self.synthesis(ws, c, **options)
