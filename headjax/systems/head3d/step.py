"""Phase B of Head3D: a student of full heads learns from a frozen teacher of faces.

Steps take turns (§3.3): at even ones cameras are in front and D_front judges, at odd ones they are
behind and D_back does. Both turns compare tri-planes and styles of the same latents under the same
conditioning label; pictures are compared where the teacher can be trusted, |yaw| ≤ τ.

    L = λ_gan L_gan + λ_kd L_kd + λ_map L_map + λ_rgb L_rgb + λ_lpips L_lpips        (equation 10)

λ_gan and R1's γ are those of the turn; λ_gan acts on the generator alone. What else a step does,
and in which order, is `headjax.train.gan.step`'s.

Alphabet: b batch, h w rows and columns, n planes, f features, l style layers, e width of a style.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from headjax.nets.perceptual.weights import Network
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.triplane_gan import Generator, GeneratorConfig
from headjax.systems.head3d import losses
from headjax.train.gan import conditioning, schedules
from headjax.train.gan import losses as gan_losses
from headjax.train.gan.images import Images
from headjax.train.gan.step import AdversarialStep, Moment, Recipe, Terms
from headjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What is distilled, and how strongly (§4.1).

    Attributes:
        kd, map, rgb, perceptual: weights λ of equations 5, 7, 8 and 9.
        gan_front, gan_back: weights of the generator's adversarial term, by turn.
        gamma_front, gamma_back: R1's weights.
        tau: half of the yaws where pictures are compared, radians.
        planes: "xy", or "all" (the ablation of figure 12b).
        dual: two discriminators; False for one at both turns (figure 12c).
    """

    kd: float
    map: float
    rgb: float
    perceptual: float
    gan_front: float
    gan_back: float
    gamma_front: float
    gamma_back: float
    tau: float
    planes: losses.Distilled
    dual: bool


@dataclasses.dataclass(frozen=True)
class Start:
    """The networks that phase B begins with.

    Attributes:
        teacher, student: variables of the face generator, and of the one that knows full heads.
        front, back: parameters of D_front (the teacher's) and D_back (the student's); None for
            fresh ones.
    """

    teacher: Any
    student: Any
    front: Any = None
    back: Any = None


@struct.dataclass
class Drawn:
    """What a generator makes of a batch of latents.

    Attributes:
        ws: style vectors.
        planes: tri-planes.
        image, image_raw: pictures in [-1, 1], about.
    """

    ws: Float[Array, "b l e"]
    planes: Float[Array, "b n h w f"]
    image: Float[Array, "b i i 3"]
    image_raw: Float[Array, "b j j 3"]

    @property
    def images(self) -> Images:
        """What a discriminator is shown."""
        return {"image": self.image, "image_raw": self.image_raw}


@struct.dataclass
class Draws:
    """The random numbers that teacher and student share.

    Attributes:
        z: latents.
        told: labels that the mapping is conditioned on.
        labels: the cameras.
        jitter, uniform: of the rays' samples.
        noise: key of the planes' noise.
    """

    z: Float[Array, "b d"]
    told: Float[Array, "b 25"]
    labels: Float[Array, "b 25"]
    jitter: Float[Array, "b r s"]
    uniform: Float[Array, "b r m"]
    noise: Any


class DistillStep(AdversarialStep):
    """(state, batch, key) -> (state, terms): one turn.

    A batch has `image` [b, h, w, 3] uint8 and `camera` [b, 25] of the front, and `back_image` and
    `back_camera` of the back; a turn uses its own. The state's parameters are `g`, `front` and
    (with two discriminators) `back`; the teacher lies in its extras.
    """

    def __init__(
        self,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        *,
        teacher: GeneratorConfig,
        lessons: Lessons,
        recipe: Recipe,
        neural_resolution: int,
        perceptual: Network | None = None,
    ):
        """Takes the networks, what is learned, and LPIPS; None stands for multi-scale L1."""
        super().__init__(
            generator, discriminator, recipe=recipe, neural_resolution=neural_resolution
        )
        self.teacher, self.lessons, self.perceptual = Generator(teacher), lessons, perceptual
        self.perceptual_name = "multiscale_gradients" if perceptual is None else "lpips"

    def init(self, key: Array, start: Start | None = None) -> TrainState:
        """The state before the first turn; without a `start` all networks are fresh ones."""
        state = super().init(key, None if start is None else start.student)
        fresh = state.params["d"]
        if start is None:
            start = Start({"params": state.params["g"], "buffers": state.extras["buffers"]}, None)
        judges = {"front": start.front} | ({"back": start.back} if self.lessons.dual else {})
        judges = {name: fresh if params is None else params for name, params in judges.items()}
        params = {"g": state.params["g"]} | judges
        moments = {name: self.optimizers["d"].init(params[name]) for name in judges}
        extras = state.extras | {"teacher": dict(start.teacher)}
        if self.perceptual is not None:
            extras |= {"perceptual": self.perceptual.variables}
        # Every array is the state's own, as it is donated to the step.
        return jax.tree.map(
            jnp.array,
            state.replace(
                params=params, opt_state={"g": state.opt_state["g"]} | moments, extras=extras
            ),
        )

    def __call__(self, state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Terms]:
        """One turn; terms are named after what they measure, `loss` is the generator's."""
        recipe, keys = self.recipe, jax.random.split(key, 6)
        front = state.step % 2 == 0
        now, turn = self._moment(state), self._facing(state, front)
        shown = {
            name: jnp.where(front, batch[name], batch[f"back_{name}"])
            for name in ("image", "camera")
        }
        real, labels = self._real(shown, now, keys[0])
        cameras = jax.random.permutation(keys[1], labels, axis=0)
        terms: Terms = {}

        turn, terms["generator"] = self._learn(turn, cameras, now, keys[2], front=front)
        if recipe.generator_interval:
            turn, terms["regularisers"] = self._every(
                "regularisers", recipe.generator_interval, turn,
                functools.partial(self._regularise, labels=cameras, now=now, key=keys[3]),
            )  # fmt: skip
        turn, terms["discriminator"] = self._update_discriminator(
            turn, (real, labels), cameras, now, keys[4]
        )
        gamma = jnp.where(front, self.lessons.gamma_front, self.lessons.gamma_back)
        turn, terms["r1"] = self._every(
            "r1", recipe.discriminator_interval, turn,
            functools.partial(
                self._penalise_by, real=real, labels=labels, now=now, key=keys[5], gamma=gamma
            ),
        )  # fmt: skip

        decay = schedules.ema_decay(
            now.seen, batch=self.batch, kimg=recipe.ema_kimg, ramp=recipe.ema_ramp
        )
        turn = turn.replace(ema=schedules.ema_update(turn.ema, turn.params["g"], decay=decay))
        state = self._adapted(self._returned(state, turn, front))
        logged = {f"{part}/{name}": value for part in terms for name, value in terms[part].items()}
        scheduled = {"swap": now.swap, "blur": now.sigma, "front": front.astype(jnp.float32)}
        return state, logged | scheduled | {"loss": terms["generator"]["loss"]}

    def _facing(self, state: TrainState, front: Bool[Array, ""]) -> TrainState:
        """The state as an adversarial step knows it: with the turn's discriminator as `d`.

        Its step counts the turns of that discriminator, which is what lazy regularisers go by.
        """

        def faced(tree: Any) -> Any:
            judge = tree["front"]
            if self.lessons.dual:
                judge = jax.tree.map(functools.partial(jnp.where, front), judge, tree["back"])
            return {"g": tree["g"], "d": judge}

        return state.replace(
            step=state.step // 2, params=faced(state.params), opt_state=faced(state.opt_state)
        )

    def _returned(self, state: TrainState, turn: TrainState, front: Bool[Array, ""]) -> TrainState:
        """`state` with what the turn has changed."""

        def put(before: Any, after: Any) -> Any:
            if not self.lessons.dual:
                return {"g": after["g"], "front": after["d"]}
            choose = functools.partial(jax.tree.map, functools.partial(jnp.where, front))
            return {
                "g": after["g"],
                "front": choose(after["d"], before["front"]),
                "back": choose(before["back"], after["d"]),
            }

        return turn.replace(
            step=state.step,
            params=put(state.params, turn.params),
            opt_state=put(state.opt_state, turn.opt_state),
        )

    def _learn(self, state, labels, now, key, *, front) -> tuple[TrainState, Terms]:
        """The generator's update by equation 10."""
        draw_key, judge_key = jax.random.split(key)
        draws, lessons = self._draws(labels, now, draw_key), self.lessons
        theirs = jax.lax.stop_gradient(
            self._apply(self.teacher, state.extras["teacher"], draws, pictures=front)
        )
        weight = jnp.where(front, lessons.gan_front, lessons.gan_back)

        def loss(params):
            variables = {"params": params, "buffers": state.extras["buffers"]}
            mine = self._apply(self.generator, variables, draws)
            logits = self._judge(state.params["d"], mine.images, labels, now, judge_key)
            terms = self.compared(theirs, mine, labels, state.extras.get("perceptual"))
            adversarial = gan_losses.generator_loss(logits)
            total = weight * adversarial + lessons.kd * terms["kd"] + lessons.map * terms["map"]
            total += lessons.rgb * terms["rgb"] + lessons.perceptual * terms[self.perceptual_name]
            return total, terms | {
                "adversarial": adversarial, "fake": logits.mean(), "loss": total
            }  # fmt: skip

        gradients, terms = jax.grad(loss, has_aux=True)(state.params["g"])
        return self._updated(state, "g", gradients, terms)

    def compared(
        self, theirs: Drawn, mine: Drawn, labels: Float[Array, "b 25"], perceptual: Any = None
    ) -> Terms:
        """Equations 5 and 7 to 9, before their weights.

        Args:
            theirs, mine: what teacher and student make of the same latents.
            labels: the cameras.
            perceptual: LPIPS' variables, where it is used.
        """
        gate = losses.gate(labels, tau=self.lessons.tau)

        def lpips(a: Array, b: Array) -> Array:
            return self.perceptual.module.apply(perceptual, a, b).total

        compare = losses.multiscale_gradients if self.perceptual is None else lpips
        return {
            "kd": losses.plane_distance(theirs.planes, mine.planes, planes=self.lessons.planes),
            "map": losses.style_distance(theirs.ws, mine.ws),
            "rgb": losses.color_distance(
                (theirs.image, theirs.image_raw), (mine.image, mine.image_raw), gate=gate
            ),
            self.perceptual_name: losses.perceptual_distance(
                theirs.image, mine.image, compare=compare, gate=gate
            ),
        }

    def _draws(self, labels: Array, now: Moment, key: Array) -> Draws:
        config, keys = self.generator.config, jax.random.split(key, 5)
        count, rays = labels.shape[0], self.size**2
        return Draws(
            z=jax.random.normal(keys[0], (count, config.z_dim)),
            told=conditioning.swap_labels(keys[1], labels, probability=now.swap),
            labels=labels,
            jitter=jax.random.uniform(keys[2], (count, rays, config.rendering.samples)),
            uniform=jax.random.uniform(keys[3], (count, rays, config.rendering.importance)),
            noise=keys[4],
        )

    def _apply(
        self, generator: Generator, variables: Any, draws: Draws, *, pictures: Any = None
    ) -> Drawn:
        """What a generator makes of the draws; where `pictures` is false these are zeros."""
        apply = functools.partial(generator.apply, variables)
        ws = apply(draws.z, draws.told, method="mapping")
        planes = apply(ws, noise="random", rngs={"noise": draws.noise}, method="planes")

        def drawn() -> tuple[Array, Array]:
            seen = apply(
                ws, draws.labels, planes=planes, neural_resolution=self.size,
                jitter=draws.jitter, uniform=draws.uniform, method="synthesis",
            )  # fmt: skip
            return seen.image, seen.image_raw

        if pictures is None:
            image, raw = drawn()
        else:
            form = jax.eval_shape(drawn)
            blank = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in form]
            image, raw = jax.lax.cond(pictures, drawn, lambda: tuple(blank))
        return Drawn(ws=ws, planes=planes, image=image, image_raw=raw)

    def _penalise_by(self, state, *, real, labels, now, key, gamma) -> tuple[TrainState, Terms]:
        """R1 with the turn's γ, as strong as if it acted at every turn of its discriminator."""

        def loss(params):
            def discriminate(images):
                return self._judge(params, images, labels, now, key)

            penalty, norms = gan_losses.r1(discriminate, real, gamma=1.0)
            terms = {f"norm_{name}": norm for name, norm in norms.items()}
            weighted = gamma * penalty
            return weighted * self.recipe.discriminator_interval, terms | {"penalty": weighted}

        gradients, terms = jax.grad(loss, has_aux=True)(state.params["d"])
        return self._updated(state, "d", gradients, terms)
