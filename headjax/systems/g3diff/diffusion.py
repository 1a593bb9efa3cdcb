"""Diffusion over the UV states of the auto-decoder's heads (Gaussian3Diff, table 1).

The states are made once from the trained auto-decoder; a step noises a batch of them and trains
the U-Net. The demo standardises the states (zero mean at each texel, unit variance of each group
of channels), because learned payloads fill a small part of [−1, 1]; the paper does not.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float

from headjax.diffusion.losses import ChannelGroup, diffusion_loss, draw
from headjax.diffusion.sampler import sample
from headjax.diffusion.schedule import Schedule, make_schedule
from headjax.nets.unet import UNet, UNetConfig
from headjax.render.gaussian_field import GaussianHeads
from headjax.systems.g3diff import autodecoder, uv_state
from headjax.train import accumulation, rows
from headjax.train.state import TrainState, ema_update, new_state

GEOMETRY = uv_state.GEOMETRY_CHANNELS


@flax.struct.dataclass
class Standard:
    """The affine map between states and what the network sees: x = (state − mean) / scale."""

    mean: Float[Array, "h w d"]
    scale: Float[Array, "d"]

    def apply(self, state: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        return (state - self.mean) / self.scale

    def invert(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        return x * self.scale + self.mean


def standard_of(
    states: Float[np.ndarray, "n h w d"], *, kind: str, data_scale: float = 1.0
) -> Standard:
    """'none' (the paper) leaves states alone; 'mean_std' centres texels and scales groups.

    The groups are centres, rotations, radii and payload; a group that does not vary keeps its
    scale. `data_scale` is the standard deviation that the network sees: what heads have in common
    (skin tone, hair) is spread over so many texels that it shows through the noise long before
    their details do, and a smaller scale gives those noise levels more of the schedule.
    """
    channels = states.shape[-1]
    if kind == "none":
        return Standard(
            mean=jnp.zeros(states.shape[1:]), scale=jnp.full((channels,), 1.0 / data_scale)
        )
    mean = states.mean(axis=0, dtype=np.float64)
    scale = np.ones((channels,))
    for start, stop in ((0, 3), (3, 6), (6, 9), (GEOMETRY, channels)):
        spread = np.sqrt(np.mean((states[..., start:stop] - mean[..., start:stop]) ** 2))
        scale[start:stop] = spread if spread > 1e-5 else 1.0
    scale = jnp.asarray(scale / data_scale, jnp.float32)
    return Standard(mean=jnp.asarray(mean, jnp.float32), scale=scale)


def training_states(
    params: Any, *, registration: autodecoder.Registration, config, chunk: int = 8
) -> Float[np.ndarray, "n h w d"]:
    """The states of all training identities."""
    count = registration.valid.shape[0]

    @jax.jit
    def pack(params, ids):
        table = rows.take_rows(params["tables"], ids)
        valid = registration.valid[ids]
        heads = autodecoder.build_heads(params["shared"], table, valid=valid, config=config)
        return uv_state.pack(heads)

    states = []
    for start in range(0, count, chunk):
        ids = np.minimum(np.arange(start, start + chunk), count - 1)
        states.append(np.asarray(pack(params, ids)))
    return np.concatenate(states)[:count]


class StateSource:
    """Random access to states for the input pipeline."""

    def __init__(self, states: Float[np.ndarray, "n h w d"]):
        self._states = states

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"state": self._states[index]}


def unet_config(config: ml_collections.FrozenConfigDict) -> UNetConfig:
    """The U-Net's sizes; the channels follow from the payload's."""
    fields = dict(config.diffusion.unet)
    fields |= {name: tuple(fields[name]) for name in ("multipliers", "attention")}
    fields["dtype"] = jnp.dtype(fields["dtype"])
    return UNetConfig(channels=GEOMETRY + config.decoder.channels, **fields)


def schedule_of(config: ml_collections.FrozenConfigDict) -> Schedule:
    """The noise schedule."""
    section = config.diffusion
    return make_schedule(
        section.schedule, steps=section.timesteps, zero_terminal_snr=section.zero_terminal_snr
    )


def state_side(config: ml_collections.FrozenConfigDict) -> int:
    """Side of the state, texels."""
    return config.field.grid * config.field.patch


def init_params(key: Array, *, config) -> Any:
    """The U-Net's parameters."""
    network = unet_config(config)
    side = state_side(config)
    x = jnp.zeros((1, side, side, network.channels))
    return UNet(network).init(key, x, jnp.zeros((1,), jnp.int32))["params"]


@dataclasses.dataclass(frozen=True, eq=False)
class DiffusionStep:
    """`init(key)` and `step(state, batch, key)` of the diffusion training."""

    config: ml_collections.FrozenConfigDict
    standard: Standard

    def optimizer(self) -> optax.GradientTransformation:
        """Adam, gradients clipped, constant rate after a warm-up or a cosine to its final part."""
        section = self.config.diffusion
        if section.decay == "cosine":
            rate = optax.warmup_cosine_decay_schedule(
                0.0,
                section.lr,
                min(section.warmup_steps, section.steps // 4),
                section.steps,
                section.lr * section.final,
            )
        else:
            # optax takes a warm-up of 0 steps for a schedule that stays at its start.
            start = 0.0 if section.warmup_steps else section.lr
            rate = optax.warmup_constant_schedule(start, section.lr, section.warmup_steps)
        adam = optax.adam(rate, b1=section.b1, b2=section.b2)
        if not section.clip_norm:
            return adam
        return optax.chain(optax.clip_by_global_norm(section.clip_norm), adam)

    def init(self, key: Array) -> TrainState:
        params = init_params(key, config=self.config)
        return new_state(params, self.optimizer().init(params), ema=True)

    def __call__(self, state: TrainState, batch: dict[str, Array], key: Array):
        """One step on a batch of states."""
        section = self.config.diffusion
        (_, terms), grads = self.value_and_grad(state.params, batch["state"], key=key)
        updates, opt_state = self.optimizer().update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = ema_update(state.ema, params, step=state.step, decay=section.ema)
        metrics = {f"loss/{name}" if name != "loss" else name: v for name, v in terms.items()}
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["update_norm"] = optax.tree.norm(updates)
        return state.replace(params=params, opt_state=opt_state, ema=ema), metrics

    def value_and_grad(self, params: Any, states: Float[Array, "b h w d"], *, key: Array):
        """((loss, terms), gradients) of a batch of states, its noise drawn from `key`.

        With `accumulate`, dropout alone (0 in every preset) draws otherwise than without.
        """
        section, schedule = self.config.diffusion, schedule_of(self.config)
        x0, dropout_key = self.standard.apply(states), jax.random.fold_in(key, 1)
        batch = {"x0": x0}
        if section.accumulate > 1:
            t, noise = draw(key, x0, steps=schedule.steps)
            batch |= {"t": t, "noise": noise, "dropout": jax.random.split(dropout_key, len(x0))}

        def loss(params, batch):
            terms = self.loss_terms(
                params, batch["x0"], key=key, t=batch.get("t"), noise=batch.get("noise"),
                dropout_key=batch["dropout"][0] if "dropout" in batch else dropout_key,
            )  # fmt: skip
            return terms["loss"], terms

        return accumulation.value_and_grad(loss, params, batch, parts=section.accumulate)

    def loss_terms(self, params: Any, x0: Float[Array, "b h w d"], *, key, t, noise, dropout_key):
        """`diffusion_loss` of the network in training."""
        section, network = self.config.diffusion, UNet(unet_config(self.config))
        return diffusion_loss(
            lambda x, t: network.apply(
                {"params": params}, x, t, train=True, rngs={"dropout": dropout_key}
            ),
            x0,
            key=key,
            schedule=schedule_of(self.config),
            prediction=section.prediction,
            weighting=section.weighting,
            groups=self.groups(),
            t=t,
            noise=noise,
        )

    def groups(self) -> tuple[ChannelGroup, ...]:
        """Geometry and payload, each with its weight."""
        section = self.config.diffusion
        channels = GEOMETRY + self.config.decoder.channels
        return (
            ChannelGroup("geometry", 0, GEOMETRY, section.geometry_weight),
            ChannelGroup("payload", GEOMETRY, channels, section.payload_weight),
        )


def sample_heads(
    params: Any, *, key: Array, count: int, standard: Standard, valid: Array, config
) -> GaussianHeads:
    """Draws new heads with the configured sampler.

    Args:
      params: the U-Net's (averaged) parameters.
      key: of the noise.
      count: how many heads.
      standard: the map of the training states.
      valid: [g, g], UV cells that hold a Gaussian.
    """
    section = config.diffusion
    network = UNet(unet_config(config))
    side = state_side(config)
    x = sample(
        lambda x, t: network.apply({"params": params}, x, t),
        key=key,
        shape=(count, side, side, GEOMETRY + config.decoder.channels),
        schedule=schedule_of(config),
        prediction=section.prediction,
        sampler=section.sampler,
        steps=section.sample_steps,
        clip=section.clip,
        eta=section.eta,
    )
    return uv_state.unpack(standard.invert(x), valid=valid)
