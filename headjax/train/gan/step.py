"""Adversarial training of EG3D and PanoHead: the state, and the step that the loop repeats.

A step makes four updates, each seeing what those before it have made: the generator by its loss,
every k_g-th step by its regularisers, the discriminator by its loss, every k_d-th step by R1.
What changes while training (blur, pose swap, density noise, averaging, augmentation) follows the
images that were seen, so that a run which is resumed makes the very steps it would have made.

Alphabet: b batch, h w rows and columns.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from headjax.nets.stylegan2_discriminator import Discriminator, DiscriminatorConfig
from headjax.nets.triplane_gan import Generated, Generator, GeneratorConfig, averaged
from headjax.train.gan import adaptive, conditioning, lazy, losses, schedules
from headjax.train.gan import augment as augmentation
from headjax.train.gan.augment_settings import preset
from headjax.train.gan.images import Images, as_seen, real_pair
from headjax.train.state import TrainState, new_state

Terms = dict[str, jax.Array]
Params = Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Numbers of the adversarial step; kimg are thousands of images seen.

    Attributes:
        batch_size: of images, over all devices.
        lr_generator, lr_discriminator: Adam's rates, before the correction for lazy steps.
        generator_interval, discriminator_interval: steps between regularisations; 0: none of G.
        gamma, gamma_mask: weights of R1 on images, and on PanoHead's mask.
        density_weight, density_spread, density_points: of the density regularisation.
        translation: weight of PanoHead's mean camera correction.
        swap, swap_kimg: final pose-swap probability, and how long it takes from 1.
        background_swap: probability of another head's background (PanoHead).
        blur, blur_kimg: initial blur in pixels, and how long it takes to 0; None for EG3D's.
        density_noise, density_noise_kimg: initial noise on raw densities, and how long to 0.
        ema_kimg, ema_ramp: half-life of the average (None for EG3D's), and its ramp-up.
        augment: what the discriminator's images go through (`augment_settings.preset`).
        augment_start, augment_target, augment_kimg: strength at first, the target of r_t (0 keeps
            the strength), and how long the strength takes from 0 to 1.
        mirror: half of the real images are flipped, with their cameras.
    """

    batch_size: int
    lr_generator: float
    lr_discriminator: float
    generator_interval: int
    discriminator_interval: int
    gamma: float
    gamma_mask: float
    density_weight: float
    density_spread: float
    density_points: int
    translation: float
    swap: float
    swap_kimg: float
    background_swap: float
    blur: float
    blur_kimg: float | None
    density_noise: float
    density_noise_kimg: float
    ema_kimg: float | None
    ema_ramp: float | None
    augment: str
    augment_start: float
    augment_target: float
    augment_kimg: float
    mirror: bool

    def gamma_of(self, kind: str) -> dict[str, float]:
        """R1's weight of each of the discriminator's inputs."""
        gamma = {"image": self.gamma, "image_raw": self.gamma}
        return gamma | ({"mask": self.gamma_mask} if kind == "panohead" else {})


@struct.dataclass
class Moment:
    """What the schedules say at a step.

    Attributes:
        seen: images before this step.
        swap: probability that the mapping is told a neighbour's label.
        sigma: blur of what the discriminator sees, pixels.
        strength: of the augmentation.
        density_noise: standard deviation of the noise on raw densities.
    """

    seen: Float[Array, ""]
    swap: Float[Array, ""]
    sigma: Float[Array, ""]
    strength: Float[Array, ""]
    density_noise: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch of generated heads.

    Attributes:
        images: what the discriminator is shown, before blur and augmentation.
        ws: style vectors.
        delta: PanoHead's camera corrections; zeros elsewhere.
    """

    images: Images
    ws: Array
    delta: Array


class AdversarialStep:
    """(state, batch, key) -> (state, terms): one step of a recipe.

    A batch has image [b, h, w, 3] uint8, camera [b, 25] and, for PanoHead, mask [b, h, w, 1]
    uint8. The generator's labels are the batch's own in another order.
    """

    def __init__(
        self,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        *,
        recipe: Recipe,
        neural_resolution: int,
    ):
        """Takes the two networks, the recipe, and the side of the raw images."""
        self.size, self.kind = neural_resolution, generator.kind
        self.generator, self.discriminator = Generator(generator), Discriminator(discriminator)
        self.recipe, self.batch = recipe, recipe.batch_size
        self._noisy = recipe.density_noise > 0
        self.augmentation = None if recipe.augment == "none" else preset(recipe.augment)
        self.optimizers = {
            "g": lazy.lazy_adam(recipe.lr_generator, interval=recipe.generator_interval or None),
            "d": lazy.lazy_adam(recipe.lr_discriminator, interval=recipe.discriminator_interval),
        }

    def init(self, key: Array, start: Any = None) -> TrainState:
        """The state before the first step.

        Args:
            key: of the parameters.
            start: variables of a generator to go on from, or None.
        """
        keys = jax.random.split(key, 2)
        z = jnp.zeros((1, self.generator.config.z_dim))
        label = jnp.zeros((1, 25))
        variables = start
        if variables is None:
            variables = self.generator.init(keys[0], z, label, neural_resolution=8)
        size = self.discriminator.config.resolution
        images = {"image": jnp.zeros((1, size, size, 3)), "image_raw": jnp.zeros((1, 8, 8, 3))}
        if self.kind == "panohead":
            images["mask"] = jnp.zeros((1, 8, 8, 1))
        params = {
            "g": variables["params"],
            "d": self.discriminator.init(keys[1], images, label)["params"],
        }
        opt_state = {name: self.optimizers[name].init(params[name]) for name in params}
        extras = {
            "buffers": variables["buffers"],
            "strength": adaptive.start(self.recipe.augment_start),
            "terms": self._unmeasured(),
        }
        state = new_state(params, opt_state, extras=extras)
        return state.replace(ema=jax.tree.map(jnp.copy, params["g"]))

    def __call__(self, state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Terms]:
        """One step; terms are named after what they measure, `loss` is the generator's."""
        recipe, keys = self.recipe, jax.random.split(key, 6)
        now = self._moment(state)
        real, labels = self._real(batch, now, keys[0])
        fake_labels = jax.random.permutation(keys[1], labels, axis=0)
        terms: Terms = {}

        state, terms["generator"] = self._update_generator(state, fake_labels, now, keys[2])
        if recipe.generator_interval:
            state, terms["regularisers"] = self._every(
                "regularisers", recipe.generator_interval, state,
                functools.partial(self._regularise, labels=fake_labels, now=now, key=keys[3]),
            )  # fmt: skip
        state, terms["discriminator"] = self._update_discriminator(
            state, (real, labels), fake_labels, now, keys[4]
        )
        state, terms["r1"] = self._every(
            "r1", recipe.discriminator_interval, state,
            functools.partial(self._penalise, real=real, labels=labels, now=now, key=keys[5]),
        )  # fmt: skip

        decay = schedules.ema_decay(
            now.seen, batch=self.batch, kimg=recipe.ema_kimg, ramp=recipe.ema_ramp
        )
        state = state.replace(ema=schedules.ema_update(state.ema, state.params["g"], decay=decay))
        state = self._adapted(state)
        logged = {f"{part}/{name}": value for part in terms for name, value in terms[part].items()}
        scheduled = {"swap": now.swap, "blur": now.sigma, "augment": now.strength}
        return state, logged | scheduled | {"loss": terms["generator"]["loss"]}

    def _moment(self, state: TrainState) -> Moment:
        recipe = self.recipe
        seen = state.step.astype(jnp.float32) * self.batch
        return Moment(
            seen=seen,
            swap=schedules.swap_probability(seen, final=recipe.swap, kimg=recipe.swap_kimg),
            sigma=schedules.blur_sigma(
                seen, batch=self.batch, initial=recipe.blur, kimg=recipe.blur_kimg
            ),
            strength=state.extras["strength"].p,
            density_noise=schedules.density_noise(
                seen, initial=recipe.density_noise, kimg=recipe.density_noise_kimg
            ),
        )

    def _real(self, batch: Any, now: Moment, key: Array) -> tuple[Images, Array]:
        """Real images as the generator would draw them, and their labels."""
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        shown = {"image": image}
        if self.kind == "panohead":
            shown["mask"] = batch["mask"].astype(jnp.float32) / 255.0
        labels = batch["camera"]
        if self.recipe.mirror:
            flips = jax.random.bernoulli(key, 0.5, (image.shape[0],))
            shown, labels = conditioning.mirror(shown, labels, flips=flips)
        pair = real_pair(
            shown["image"], neural_resolution=self.size, raw_sigma=now.sigma,
            mask=shown.get("mask"),
        )  # fmt: skip
        return pair, labels

    def _draw(self, params: Params, buffers: Any, labels: Array, now: Moment, key: Array) -> Drawn:
        """Heads of fresh latents, seen from `labels`."""
        config = self.generator.config
        variables = {"params": params, "buffers": buffers}
        keys = jax.random.split(key, 7)
        count, rays = labels.shape[0], self.size**2
        z = jax.random.normal(keys[0], (count, config.z_dim))
        told = conditioning.swap_labels(keys[1], labels, probability=now.swap)
        ws = self.generator.apply(variables, z, told, method="mapping")
        delta, behind = jnp.zeros((count, 3)), {}
        if self.kind == "panohead":
            labels, delta = self.generator.apply(variables, z, labels, method="adapted")
            if config.background_resolution:
                swapped = conditioning.swap_backgrounds(
                    keys[5], ws, probability=self.recipe.background_swap
                )
                behind = {"ws_background": swapped}
        first, later = config.rendering.samples, config.rendering.importance
        draw = functools.partial(
            self.generator.apply, variables, ws, labels, neural_resolution=self.size,
            noise="random", jitter=jax.random.uniform(keys[2], (count, rays, first)),
            uniform=jax.random.uniform(keys[3], (count, rays, later)),
            rngs={"noise": keys[4]}, method="synthesis", **behind,
        )  # fmt: skip

        def noisily() -> Generated:
            noise = jax.random.normal(keys[6], (count, rays, first + later))
            return draw(density_noise=now.density_noise * noise)

        # Once the noise has faded, the fused marcher takes over.
        seen = jax.lax.cond(now.density_noise > 0, noisily, draw) if self._noisy else draw()
        images = {"image": seen.image, "image_raw": seen.image_raw}
        if self.kind == "panohead":
            images["mask"] = seen.mask
        return Drawn(images, ws, delta)

    def _judge(
        self, params: Params, images: Images, labels: Array, now: Moment, key: Array
    ) -> Float[Array, "b"]:
        """The discriminator's logits of images as it sees them."""
        change = None
        if self.augmentation is not None:
            change = functools.partial(
                augmentation.augment, key, p=now.strength, settings=self.augmentation
            )
        shown = as_seen(images, sigma=now.sigma, augment=change)
        return self.discriminator.apply({"params": params}, shown, labels)

    def _update_generator(self, state, labels, now, key) -> tuple[TrainState, Terms]:
        draw_key, judge_key = jax.random.split(key)

        def loss(params):
            drawn = self._draw(params, state.extras["buffers"], labels, now, draw_key)
            logits = self._judge(state.params["d"], drawn.images, labels, now, judge_key)
            terms = {"adversarial": losses.generator_loss(logits), "fake": logits.mean()}
            total = terms["adversarial"]
            if self.kind == "panohead":
                terms["translation"] = losses.translation(drawn.delta)
                total += self.recipe.translation * terms["translation"]
            return total, terms | {"loss": total}

        gradients, terms = jax.grad(loss, has_aux=True)(state.params["g"])
        return self._updated(state, "g", gradients, terms)

    def _regularise(self, state, *, labels, now, key) -> tuple[TrainState, Terms]:
        """Density regularisation, as strong as if it acted every step."""
        recipe, config = self.recipe, self.generator.config
        keys = jax.random.split(key, 4)
        points, moved = losses.density_points(
            keys[0], labels.shape[0], half_side=0.5 * config.rendering.box,
            spread=recipe.density_spread, count=recipe.density_points,
        )  # fmt: skip

        def loss(params):
            variables = {"params": params, "buffers": state.extras["buffers"]}
            z = jax.random.normal(keys[1], (labels.shape[0], config.z_dim))
            told = conditioning.swap_labels(keys[2], labels, probability=now.swap)
            ws = self.generator.apply(variables, z, told, method="mapping")
            planes = self.generator.apply(
                variables, ws, noise="random", rngs={"noise": keys[3]}, method="planes"
            )

            def query(points):
                sigma, _ = self.generator.apply(variables, planes, points, method="query")
                return sigma[..., None]

            term = losses.density_l1(query, points, moved)
            weight = recipe.density_weight * recipe.generator_interval
            return weight * term, {"density": term}

        gradients, terms = jax.grad(loss, has_aux=True)(state.params["g"])
        return self._updated(state, "g", gradients, terms)

    def _update_discriminator(self, state, real, fake_labels, now, key) -> tuple[TrainState, Terms]:
        keys = jax.random.split(key, 3)
        drawn = self._draw(state.params["g"], state.extras["buffers"], fake_labels, now, keys[0])

        def loss(params):
            real_logits = self._judge(params, *real, now, keys[1])
            fake_logits = self._judge(params, drawn.images, fake_labels, now, keys[2])
            terms = losses.discriminator_losses(real_logits=real_logits, fake_logits=fake_logits)
            return terms["real"] + terms["fake"], (terms, real_logits)

        gradients, (terms, real_logits) = jax.grad(loss, has_aux=True)(state.params["d"])
        terms["sign"] = jnp.sign(real_logits).mean()
        state, terms = self._updated(state, "d", gradients, terms)
        strength = adaptive.observe(state.extras["strength"], real_logits)
        buffers = averaged(state.extras["buffers"], drawn.ws)
        extras = state.extras | {"strength": strength, "buffers": buffers}
        return state.replace(extras=extras), terms

    def _penalise(self, state, *, real, labels, now, key) -> tuple[TrainState, Terms]:
        """R1 on real images, as strong as if it acted every step."""

        def loss(params):
            def discriminate(images):
                return self._judge(params, images, labels, now, key)

            penalty, norms = losses.r1(discriminate, real, gamma=self.recipe.gamma_of(self.kind))
            terms = {f"norm_{name}": norm for name, norm in norms.items()} | {"penalty": penalty}
            return penalty * self.recipe.discriminator_interval, terms

        gradients, terms = jax.grad(loss, has_aux=True)(state.params["d"])
        return self._updated(state, "d", gradients, terms)

    def _updated(self, state, name, gradients, terms) -> tuple[TrainState, Terms]:
        """The state after one network's update."""
        update = lazy.update(
            self.optimizers[name], gradients, params=state.params[name],
            opt_state=state.opt_state[name],
        )  # fmt: skip
        state = state.replace(
            params=state.params | {name: update.params},
            opt_state=state.opt_state | {name: update.opt_state},
        )
        return state, terms | update.norms

    def _every(self, name, interval, state, phase) -> tuple[TrainState, Terms]:
        """A phase on its steps; between them what it measured last."""
        measured = state.extras["terms"]
        state, terms = lazy.every(interval, phase, state, step=state.step, terms=measured[name])
        extras = state.extras | {"terms": state.extras["terms"] | {name: terms}}
        return state.replace(extras=extras), terms

    def _unmeasured(self) -> dict[str, Terms]:
        zero = jnp.float32(0.0)
        norms = dict.fromkeys(("grad_norm", "update_norm", "broken"), zero)
        names = ["image", "image_raw"] + ["mask"] * (self.kind == "panohead")
        penalised = {f"norm_{name}": zero for name in names} | {"penalty": zero}
        terms = {"r1": norms | penalised}
        if self.recipe.generator_interval:
            terms["regularisers"] = norms | {"density": zero}
        return terms

    def _adapted(self, state: TrainState) -> TrainState:
        """The augmentation's strength after this step."""
        recipe = self.recipe
        if self.augmentation is None or not recipe.augment_target:
            return state
        strength = adaptive.adapt(
            state.extras["strength"], done=state.step + 1, batch=self.batch,
            target=recipe.augment_target, kimg=recipe.augment_kimg,
        )  # fmt: skip
        return state.replace(extras=state.extras | {"strength": strength})
