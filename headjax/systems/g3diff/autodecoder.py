"""The auto-decoder: codes and free Gaussian maps of every identity, one decoder for all.

Trained variables are of two kinds: `shared` (payload decoder and rendering MLP) and `tables`, one
row an identity (code z, and the free maps μ, rpy, radii). A step renders some rays of one view
of each identity of the batch and moves the shared parameters and those identities' rows only
(Gaussian3Diff, supplement §1.1–1.3).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from headjax.geometry.rays import box_range
from headjax.nets.payload_decoder import payload_decoder
from headjax.render import devices
from headjax.render import gaussian_field as field
from headjax.systems.g3diff import losses, rays, settings
from headjax.train import accumulation, rows
from headjax.train.state import TrainState, new_state

# Rows of the tables belong to identities: each device keeps those of some.
RULES = (("^(params/tables|opt_state/rows)/", "rows"),)


@flax.struct.dataclass
class Registration:
    """What is known of the training identities before training: their registered surfaces.

    Attributes:
      surface: UV position maps, world units.
      valid: UV cells that hold a Gaussian.
      identity_code: interpretable numbers of each identity, about unit variance.
    """

    surface: Float[Array, "i g g 3"]
    valid: Bool[Array, "i g g"]
    identity_code: Float[Array, "i d"]


def cell_spacing(
    surface: Float[np.ndarray, "*i g g 3"], valid: Bool[np.ndarray, "*i g g"]
) -> Float[np.ndarray, "*i g g"]:
    """Mean distance of each cell to its valid UV neighbours, world units (0 where it has none)."""
    total = np.zeros(surface.shape[:-1], np.float32)
    count = np.zeros(surface.shape[:-1], np.float32)
    for axis in (-2, -1):
        for shift in (-1, 1):
            other = np.roll(surface, shift, axis=axis - 1)
            ok = valid & np.roll(valid, shift, axis=axis)
            edge = [slice(None)] * valid.ndim
            edge[axis] = 0 if shift == 1 else -1
            ok[tuple(edge)] = False
            total += np.where(ok, np.linalg.norm(other - surface, axis=-1), 0.0)
            count += ok
    return total / np.maximum(count, 1)


def initial_codes(key: Array, identity_code: Float[Array, "i d"], *, config) -> Array:
    """Codes z: 'random' draws N(0, z_std²) (the paper); 'identity' starts from the identity.

    The latter projects the identities' own numbers by a fixed random matrix with unit columns, so
    that like people start with like codes.
    """
    count = identity_code.shape[0]
    if config.autodecoder.code_init == "random":
        noise = jax.random.normal(key, (count, config.decoder.code_dim))
        return config.autodecoder.z_std * noise
    matrix = jax.random.normal(key, (identity_code.shape[1], config.decoder.code_dim))
    matrix = matrix / np.sqrt(identity_code.shape[1])
    return config.autodecoder.z_std * (identity_code @ matrix)


def init_tables(key: Array, registration: Registration, *, config) -> dict[str, Array]:
    """One row an identity: z, and Gaussians on the registered surface, unrotated."""
    spacing = cell_spacing(np.asarray(registration.surface), np.asarray(registration.valid))
    low, high = config.autodecoder.radii_range
    radii = np.clip(spacing * config.autodecoder.radii_per_spacing, low, high)
    centers = jnp.asarray(registration.surface)
    return {
        "z": initial_codes(key, registration.identity_code, config=config),
        "centers": centers,
        "rpy": jnp.zeros_like(centers),
        "radii": jnp.asarray(np.repeat(radii[..., None], 3, -1)),
    }


def init_shared(key: Array, *, config) -> dict[str, Any]:
    """Parameters of the payload decoder and of the rendering MLP."""
    first, second = jax.random.split(key)
    module = payload_decoder(settings.decoder_config(config))
    variables = module.init(first, jnp.zeros((1, config.decoder.code_dim)))
    return {
        "decoder": variables["params"],
        "mlp": field.init_decoder(second, channels=config.decoder.channels // 3),
    }


def build_heads(
    shared: dict[str, Any],
    table: dict[str, Array],
    *,
    valid: Bool[Array, "b g g"],
    config: ml_collections.FrozenConfigDict,
) -> field.GaussianHeads:
    """Decodes rows of the table into heads."""
    module = payload_decoder(settings.decoder_config(config))
    return field.GaussianHeads(
        centers=table["centers"],
        rpy=table["rpy"],
        radii=table["radii"],
        payload=devices.spread(
            lambda z: module.apply({"params": shared["decoder"]}, z), table["z"]
        ),
        valid=valid,
    )


def schedule(section: Any, *, steps: int) -> optax.Schedule:
    """Factor of all learning rates: 'halve' every `decay_steps` (paper), or 'cosine' to `final`."""
    if section.decay == "halve":
        return lambda step: 0.5 ** jnp.floor(step / section.decay_steps)
    return optax.warmup_cosine_decay_schedule(
        0.1, 1.0, min(section.warmup_steps, steps // 4), steps, section.final
    )


def shared_optimizer(config, *, steps: int) -> optax.GradientTransformation:
    """AdamW without decay: decoder and MLP at their own learning rates, gradients clipped."""
    train = config.autodecoder
    factor = schedule(train.schedule, steps=steps)

    def adam(rate):
        return optax.adamw(
            lambda step: rate * factor(step), b1=train.b1, b2=train.b2, weight_decay=0.0
        )

    groups = {"decoder": adam(train.lr.decoder), "mlp": adam(train.lr.mlp)}
    chain = [optax.multi_transform(groups, {name: name for name in groups})]
    if train.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(train.clip_norm))
    return optax.chain(*chain)


def init_state(key: Array, registration: Registration, *, config, steps: int) -> TrainState:
    """State before the first of `steps` steps."""
    first, second = jax.random.split(key)
    shared = init_shared(first, config=config)
    tables = init_tables(second, registration, config=config)
    return new_state(
        {"shared": shared, "tables": tables},
        {
            "shared": shared_optimizer(config, steps=steps).init(shared),
            "rows": rows.init_rows(tables),
        },
    )


def regularisers(
    heads: field.GaussianHeads, table, *, surface, rbf, cells, config
) -> dict[str, Float[Array, ""]]:
    """The terms of equation 10 that need no picture, and the priors."""
    return {
        "coverage": losses.coverage(rbf, neighbors=config.field.neighbors),
        "volume": losses.volume(heads, count=cells),
        "tv": losses.total_variation(
            heads, smooth=config.autodecoder.tv_smooth, count=cells
        ),
        "mesh": losses.mesh(heads, surface, count=cells),
        "code": losses.code(table["z"], sigma=config.autodecoder.code_sigma),
        "tanh": losses.tanh_range(heads.payload),
    }


def ray_terms(mlp, heads, batch: rays.RayBatch, *, depths, pixels, config):
    """Renders the rays and compares: equations 1–3 and 8. Returns terms and mean Σ of RBFs."""
    train = config.autodecoder
    composite, rbf = field.march_rays(
        mlp,
        heads,
        origins=batch.origins,
        directions=batch.directions,
        depths=depths,
        options=settings.field_options(config),
        rule=config.render.evaluation.rule,
    )
    color, target = composite.features * 2.0 - 1.0, batch.color * 2.0 - 1.0
    terms = {
        "l1": losses.l1(color, target),
        "depth": losses.depth(composite.depth, batch.depth, batch.mask, count=pixels),
        "silhouette": losses.silhouette(composite.alpha, batch.mask),
    }
    if train.perceptual == "multiscale_l1":
        terms["multiscale_l1"] = losses.multiscale_l1(color, target, side=train.patch_side)
    return terms, rbf


def surface_depths(key: Array, batch: rays.RayBatch, *, config) -> Float[Array, "b r 3"]:
    """Where the warm-up looks along each ray.

    Three points: at the surface or just behind it (colour and opaque), and two before it (empty);
    rays of the background have all three anywhere in the box (empty).
    """
    warm = config.autodecoder.warmup
    near, far, _ = box_range(
        batch.origins, batch.directions, half_size=config.render.evaluation.box
    )
    u = jax.random.uniform(key, (*batch.depth.shape, 3))
    hit = batch.mask[..., None] > 0
    surface = batch.depth + u[..., 0] * warm.thickness
    close = batch.depth - warm.gap - u[..., 1] * warm.reach
    free = near + u[..., 2] * (batch.depth - warm.gap - near)
    known = jnp.stack([surface, close, free], axis=-1)
    return jnp.where(hit, known, near[..., None] + u * (far - near)[..., None])


def surface_terms(mlp, heads, batch: rays.RayBatch, *, depths, pixels, config):
    """Warm-up without ray marching: colour at the known surface, inside and outside of it."""
    warm = config.autodecoder.warmup
    points = batch.origins[..., None, :] + depths[..., None] * batch.directions[..., None, :]
    samples = field.query(mlp, heads, points=points, options=settings.field_options(config))
    inside = jnp.stack([batch.mask, 0 * batch.mask, 0 * batch.mask], axis=-1)
    terms = {
        "surface_color": losses.surface_color(
            samples.color[:, :, :1] * 2 - 1, batch.color * 2 - 1, batch.mask, count=pixels
        ),
        "surface_occupancy": losses.occupancy(samples.sigma, inside, length=warm.length),
    }
    return terms, samples.rbf


@flax.struct.dataclass
class StepBatch:
    """What a step looks at, all that is random in it drawn; leaves lead with the examples' axis.

    Attributes:
      rays: some pixels' rays of each view.
      depths: where along them the field is asked.
      surface: registered surfaces.
      valid: UV cells that hold a Gaussian.
    """

    rays: rays.RayBatch
    depths: Float[Array, "b r s"]
    surface: Float[Array, "b g g 3"]
    valid: Bool[Array, "b g g"]


@dataclasses.dataclass(frozen=True, eq=False)
class AutoDecoderStep:
    """The jittable training step, `step(state, batch, key) -> (state, metrics)`.

    Attributes:
      config: the run's config.
      warm: learn from points near the known surface, without ray marching.
    """

    config: ml_collections.FrozenConfigDict
    warm: bool

    @property
    def steps(self) -> int:
        """Steps of this phase, for its schedule."""
        train = self.config.autodecoder
        return train.warmup.steps if self.warm else train.steps

    def draw(self, views: dict[str, Array], *, key: Array) -> StepBatch:
        """Draws pixels of the views and places along their rays."""
        config, train = self.config, self.config.autodecoder
        pixels_key, render_key = jax.random.split(key)
        weights = rays.part_weights(**train.part_weights)[views["parts"][..., 0]]
        pixels = rays.draw_pixels(
            pixels_key, weights, patches=train.patches, side=train.patch_side
        )
        batch = rays.ray_batch(views, pixels)
        if self.warm:
            depths = surface_depths(render_key, batch, config=config)
        else:
            depths = rays.draw_depths(
                render_key, batch, sampling=train.sampling, box=config.render.evaluation.box
            )
        return StepBatch(
            rays=batch, depths=depths, surface=views["uv_positions"], valid=views["uv_valid"]
        )

    def loss(self, params, batch: StepBatch, *, counts: losses.Counts):
        """Total loss of one batch, or of a part of it, and its terms."""
        config = self.config
        shared, table = params
        heads = build_heads(shared, table, valid=batch.valid, config=config)
        terms_of = surface_terms if self.warm else ray_terms
        terms, rbf = terms_of(
            shared["mlp"], heads, batch.rays,
            depths=batch.depths, pixels=counts.pixels, config=config,
        )  # fmt: skip
        terms |= regularisers(
            heads, table, surface=batch.surface, rbf=rbf, cells=counts.cells, config=config
        )
        return losses.weighted(terms, config.autodecoder.loss.to_dict()), terms

    def value_and_grad(self, shared, table, views: dict[str, Array], *, key: Array):
        """((loss, terms), (gradients of `shared`, of the rows of `table`)) of a batch of views."""
        parts = self.config.autodecoder.accumulate
        batch, counts = self.draw(views, key=key), losses.Counts()
        if parts > 1:
            counts = losses.share_of_counts(batch.rays.mask, batch.valid, parts=parts)
        loss = functools.partial(self.loss, counts=counts)
        return accumulation.value_and_grad(loss, shared, batch, parts=parts, rows=table)

    def __call__(self, state: TrainState, views: dict[str, Array], key: Array):
        """One step on a batch of views of distinct identities, with their registered surfaces."""
        train = self.config.autodecoder
        ids = views["identity"]
        table = rows.take_rows(state.params["tables"], ids)
        (total, terms), (shared_grads, row_grads) = self.value_and_grad(
            state.params["shared"], table, views, key=key
        )
        optimizer = shared_optimizer(self.config, steps=self.steps)
        updates, shared_state = optimizer.update(
            shared_grads, state.opt_state["shared"], state.params["shared"]
        )
        factor = schedule(train.schedule, steps=self.steps)(state.step)
        rates = {"z": train.lr.z, **dict.fromkeys(("centers", "rpy", "radii"), train.lr.gaussians)}
        tables, row_state = rows.update_rows(
            state.params["tables"],
            state.opt_state["rows"],
            grads=row_grads,
            ids=ids,
            learning_rates=jax.tree.map(lambda rate: rate * factor, rates),
            b1=train.b1,
            b2=train.b2,
        )
        params = {"shared": optax.apply_updates(state.params["shared"], updates), "tables": tables}
        opt_state = {"shared": shared_state, "rows": row_state}
        metrics = {
            "loss": total,
            "grad_norm": optax.tree.norm(shared_grads),
            "update_norm": optax.tree.norm(updates),
        }
        metrics |= {f"loss/{name}": value for name, value in terms.items()}
        return state.replace(params=params, opt_state=opt_state), metrics
