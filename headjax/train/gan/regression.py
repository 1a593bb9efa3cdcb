"""A generator's warm start: it is shown labelled heads together with the latents to make them of.

First at points of the heads' surfaces (`headjax.train.gan.surface`), which gives them their form
and colours in minutes, then in pictures, which gives them clean silhouettes and teaches the
super-resolution, where there is one.

The embedded heads' identities are points of a standard normal distribution
(`headjax.head.procedural.person_latent`), and the first numbers of z are taken to be such a point.
A generator that has learned to draw the training heads from theirs draws new ones from fresh
latents. This is no part of EG3D: it takes the place of the many millions of images that adversarial
training needs to find heads by itself, where minutes on a CPU are all there is.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float

from headjax.nets.resize import resize
from headjax.nets.triplane_gan import Generator, GeneratorConfig, averaged
from headjax.render.parts import PART_IDS
from headjax.train.gan.surface import draw_points, opacity_losses
from headjax.train.state import TrainState, ema_update, new_state

FIELDS = ("image", "depth", "mask", "parts", "camera", "identity")
FEATURES = ("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip")
# A ray's distance is compared where it meets at least so much of the head.
SOLID = 0.1
# Where a label holds the principal point, in image sizes.
CENTRE_X, CENTRE_Y = 18, 21
# In this order; a phase of no steps is left out.
PHASES = ("surface", "pictures")
# Losses at points of the field; all others are of rendered pictures.
POINTWISE = {"opacity", "color"}
# And one of PanoHead's correction of the camera.
UNSEEN = POINTWISE | {"camera"}
LOSSES = UNSEEN | {"image", "raw", "mask", "depth"}
# How often a pixel of the background is looked at, of points and to one of the skin.
OFF_HEAD = 0.7
Terms = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class WithLatents:
    """Batches with `latent` [b, k], each head's own, for `identity` [b].

    Attributes:
        latents: [identities, k].
    """

    latents: np.ndarray

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch with the latents."""
        return batch | {"latent": self.latents[batch["identity"]]}


class RegressionStep:
    """(state, batch, key) -> (state, terms): one step of a phase of a section `regression`.

    A batch has what the data set holds (`FIELDS`) and `latent`.
    """

    def __init__(
        self,
        generator: GeneratorConfig,
        *,
        section: ml_collections.FrozenConfigDict,
        phase: ml_collections.FrozenConfigDict,
    ):
        """Takes what the step needs out of the section; nothing of it is read inside.

        Args:
            generator: what it is.
            section: `regression`, what all phases share.
            phase: its `surface` or `pictures`: steps, learning rate and losses' weights.
        """
        self.generator = Generator(generator)
        self.weights = {name: weight for name, weight in phase.loss.items() if weight}
        self.points = section.points
        self.stride = section.stride
        self.ema = section.ema
        weight = np.ones(256, np.float32)
        weight[[PART_IDS[name] for name in FEATURES]] = section.feature_weight
        self.part_weight = jnp.asarray(weight)
        drawn = weight.copy()
        drawn[PART_IDS["background"]] = OFF_HEAD
        self.pixel_weight = jnp.asarray(drawn)
        warmup = min(section.warmup_steps, phase.steps // 2)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, phase.lr, warmup, phase.steps, section.final * phase.lr
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(section.clip_norm),
            optax.adam(schedule, b1=section.b1, b2=section.b2),
            # Its layers' own learning rate is a hundredth of the others', made for long trainings.
            optax.masked(optax.scale(section.mapping_factor), _is_mapping),
        )

    def init(self, key: Array) -> TrainState:
        """The state before the first step."""
        z = jnp.zeros((1, self.generator.config.z_dim))
        variables = self.generator.init(key, z, jnp.zeros((1, 25)), neural_resolution=8)
        params = variables["params"]
        extras = {"buffers": variables["buffers"]}
        return new_state(params, self.optimizer.init(params), ema=True, extras=extras)

    def __call__(self, state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Terms]:
        """One step; terms are the losses by name, before their weights."""
        gradients, (terms, ws) = jax.grad(self._loss, has_aux=True)(
            state.params, state.extras["buffers"], batch, key
        )
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(
            params=params,
            opt_state=opt_state,
            ema=ema_update(state.ema, params, step=state.step, decay=self.ema),
            extras={"buffers": averaged(state.extras["buffers"], ws)},
        )
        norms = {
            "grad_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(updates)
        }  # fmt: skip
        return state, terms | norms

    def _loss(self, params: Any, buffers: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        z_key, label_key, ray_key, point_key = jax.random.split(key, 4)
        draw = functools.partial(self.generator.apply, {"params": params, "buffers": buffers})
        labels = batch["camera"]
        z = latents_to_z(batch["latent"], z_key, z_dim=self.generator.config.z_dim)
        ws = draw(z, jax.random.permutation(label_key, labels, axis=0), method="mapping")
        planes, terms = draw(ws, method="planes"), {}
        if "camera" in self.weights:
            # Labelled cameras are right as they are.
            _, moved = draw(z, labels, method="adapted")
            terms["camera"] = jnp.square(moved).sum(axis=-1).mean()
        if not POINTWISE.isdisjoint(self.weights):
            terms |= self._at_points(draw, ws, planes, batch, point_key)
        if not UNSEEN.issuperset(self.weights):
            terms |= self._in_pictures(draw, ws, planes, batch, ray_key)
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        return total, (terms | {"loss": total}, ws)

    def _at_points(self, draw: Any, ws: Array, planes: Array, batch: Any, key: Array) -> Terms:
        """Errors at points of the field: opacity, and colours of the surface."""
        options = self.generator.config.rendering
        points = draw_points(
            key, batch, weight=self.pixel_weight[batch["parts"]], count=self.points, options=options
        )
        every = jnp.concatenate([points.surface, points.empty, points.solid], axis=1)
        density, color = draw(ws, planes, every, method="seen_at")
        count = self.points
        error = jnp.abs(color[:, :count] - points.color).mean(-1)
        return {
            "opacity": opacity_losses(
                density[:, count : 2 * count], density[:, 2 * count :], points=points,
                options=options,
            ),
            "color": jnp.sum(error * points.on) / jnp.maximum(jnp.sum(points.on), 1),
        }  # fmt: skip

    def _in_pictures(self, draw: Any, ws: Array, planes: Array, batch: Any, key: Array) -> Terms:
        """Errors of the rendered pictures, of every `stride`-th of their rays."""
        config = self.generator.config
        phase_key, jitter_key = jax.random.split(key)
        fields = {name: batch[name] for name in ("image", "depth", "mask", "parts")}
        labels, size = batch["camera"], config.neural_resolution
        if self.stride > 1:
            labels, fields = thinned(phase_key, labels, fields, stride=self.stride)
            size //= self.stride
        jitter = jax.random.uniform(jitter_key, (len(labels), size**2, config.rendering.samples))
        seen = draw(
            ws, labels, jitter=jitter, planes=planes, neural_resolution=size, method="synthesis"
        )
        return self._compare(seen, fields)

    def _compare(self, seen: Any, batch: Any) -> Terms:
        """Mean errors: colours where they matter more weighted, silhouette, depth inside it."""
        size = seen.image_raw.shape[1]
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        mask = resize(batch["mask"].astype(jnp.float32) / 255.0, size)
        weight = self.part_weight[batch["parts"]]
        small_weight = resize(weight, size)
        inside = mask * jax.nn.relu(resize((batch["depth"] > 0).astype(jnp.float32), size) - 0.99)
        # Where hardly anything is yet, a mean distance says nothing and its gradient is huge.
        inside = inside * (seen.mask > SOLID)
        error = jnp.abs(seen.depth - resize(batch["depth"], size)) * inside
        return {
            "image": jnp.mean(weight * jnp.abs(seen.image - image)),
            "raw": jnp.mean(small_weight * jnp.abs(seen.image_raw - resize(image, size))),
            "mask": jnp.mean(jnp.abs(seen.mask - mask)),
            "depth": jnp.sum(error) / jnp.maximum(jnp.sum(inside), 1e-6),
        }


def thinned(
    key: Array, labels: Float[Array, "b k"], fields: dict[str, Array], *, stride: int
) -> tuple[Float[Array, "b k"], dict[str, Array]]:
    """Every `stride`-th pixel of each row and column from a random first one, and its camera.

    The camera's principal point is moved so that a picture of 1/stride of the size has its rays
    through exactly these pixels.

    Args:
        key: of the first pixel, the same for all views.
        labels: cameras.
        fields: images [b, h, w, c] by name.
        stride: of which h and w are multiples.
    """
    first = jax.random.randint(key, (2,), 0, stride)

    def kept(values: Array) -> Array:
        count, height, width, channels = values.shape
        split = values.reshape(count, height // stride, stride, width // stride, stride, channels)
        return split[:, :, first[0], :, first[1]]

    size = next(iter(fields.values())).shape[1]
    moved = (first - (stride - 1) / 2) / size
    labels = labels.at[:, CENTRE_X].add(-moved[1]).at[:, CENTRE_Y].add(-moved[0])
    return labels, {name: kept(values) for name, values in fields.items()}


def latents_to_z(latent: Float[Array, "b k"], key: Array, *, z_dim: int) -> Float[Array, "b z"]:
    """The latent, followed by fresh normal numbers that stand for nothing."""
    rest = jax.random.normal(key, (latent.shape[0], z_dim - latent.shape[1]))
    return jnp.concatenate([latent, rest], axis=1)


def _is_mapping(tree: Any) -> Any:
    """Where in a tree of parameters the mapping is (not that of PanoHead's camera)."""

    def inside(path: Any, _: Array) -> bool:
        return "mapping" in jax.tree_util.keystr(path, simple=True, separator="/").split("/")

    return jax.tree_util.tree_map_with_path(inside, tree)
