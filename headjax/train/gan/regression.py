"""A generator's warm start: it is shown labelled heads together with the latents to make them of.

The embedded heads' identities are points of a standard normal distribution
(`headjax.head.procedural.person_latent`), and the first numbers of z are taken to be such a point.
A generator that has learned to draw the training heads from theirs draws new ones from fresh
latents. This is no part of EG3D: it takes the place of the many millions of images that adversarial
training needs to find heads by itself, where minutes on a CPU are all there is.
"""

from __future__ import annotations

import dataclasses
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
from headjax.train.state import TrainState, ema_update, new_state

FIELDS = ("image", "depth", "mask", "parts", "camera", "identity")
FEATURES = ("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip")
# A ray's distance is compared where it meets at least so much of the head.
SOLID = 0.1
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
    """(state, batch, key) -> (state, terms): one step of a config's section `regression`.

    A batch has what the data set holds (`FIELDS`) and `latent`.
    """

    def __init__(self, generator: GeneratorConfig, *, section: ml_collections.FrozenConfigDict):
        """Takes what the step needs out of the section; nothing of it is read inside."""
        self.generator = Generator(generator)
        self.weights = section.loss.to_dict()
        self.ema = section.ema
        weight = np.ones(256, np.float32)
        weight[[PART_IDS[name] for name in FEATURES]] = section.feature_weight
        self.part_weight = jnp.asarray(weight)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, section.lr, section.warmup_steps, section.steps, section.final * section.lr
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(section.clip_norm),
            optax.adam(schedule, b1=section.b1, b2=section.b2),
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
        config = self.generator.config
        keys = jax.random.split(key, 3)
        labels = batch["camera"]
        count, size = labels.shape[0], config.neural_resolution
        variables = {"params": params, "buffers": buffers}
        ws = self.generator.apply(
            variables, latents_to_z(batch["latent"], keys[0], z_dim=config.z_dim),
            jax.random.permutation(keys[1], labels, axis=0), method="mapping",
        )  # fmt: skip
        jitter = jax.random.uniform(keys[2], (count, size**2, config.rendering.samples))
        seen = self.generator.apply(variables, ws, labels, jitter=jitter, method="synthesis")
        terms = self._compare(seen, batch)
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        return total, (terms | {"loss": total}, ws)

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


def latents_to_z(latent: Float[Array, "b k"], key: Array, *, z_dim: int) -> Float[Array, "b z"]:
    """The latent, followed by fresh normal numbers that stand for nothing."""
    rest = jax.random.normal(key, (latent.shape[0], z_dim - latent.shape[1]))
    return jnp.concatenate([latent, rest], axis=1)
