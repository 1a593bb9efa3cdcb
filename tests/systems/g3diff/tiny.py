"""Tiny heads for tests: coloured spheres, whose surfaces, depths and masks are exact."""

import functools

import jax.numpy as jnp
import numpy as np

from headjax.geometry.cameras import camera_from_label, label_from_camera, orbit
from headjax.geometry.rays import pixel_rays
from headjax.render.gaussian_field import GaussianHeads
from headjax.render.parts import PART_IDS
from headjax.systems.g3diff.autodecoder import Registration
from headjax.train import config as configs

GRID = 4


@functools.lru_cache
def load(preset="smoke", *overrides):
    """A preset's values, frozen, with overrides like `autodecoder.steps=3`."""
    return configs.load(f"g3diff:{preset}", overrides=[f"--config.{o}" for o in overrides]).values


def config(*overrides):
    """The smoke preset at its smallest."""
    return load("smoke", f"field.grid={GRID}", f"data.uv_size={GRID}", *overrides)


def radius_of(identity):
    return 0.16 + 0.02 * identity


def sphere_map(grid, *, radius):
    """Positions [g, g, 3] of a sphere's surface over the UV square."""
    theta = (np.arange(grid) + 0.5) / grid * np.pi
    phi = (np.arange(grid) + 0.5) / grid * 2 * np.pi - np.pi
    t, p = np.meshgrid(theta, phi, indexing="ij")
    unit = np.stack([np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)], axis=-1)
    return (radius * unit).astype(np.float32)


def valid_cells(grid):
    """One UV cell holds no Gaussian."""
    valid = np.ones((grid, grid), bool)
    valid[-1, -1] = False
    return valid


def registration(count, *, grid):
    """Spheres of different sizes."""
    valid = np.repeat(valid_cells(grid)[None], count, axis=0)
    codes = np.random.default_rng(1).standard_normal((count, 5)).astype(np.float32)
    surfaces = [sphere_map(grid, radius=radius_of(i)) for i in range(count)]
    return Registration(jnp.asarray(np.stack(surfaces)), jnp.asarray(valid), jnp.asarray(codes))


def view(identity, *, yaw=0.0, resolution=16):
    """One record: the sphere over white, coloured by its normals, with two dark eyes."""
    label = np.asarray(label_from_camera(orbit(np.float32(yaw))))
    origins, directions = (np.asarray(a) for a in pixel_rays(
        camera_from_label(label), resolution=resolution
    ))  # fmt: skip
    along = -np.sum(origins * directions, axis=-1)
    miss = np.sum(origins**2, axis=-1) - along**2
    hit = miss < radius_of(identity) ** 2
    depth = np.where(hit, along - np.sqrt(np.maximum(radius_of(identity) ** 2 - miss, 0)), 0)
    normal = (origins + depth[:, None] * directions) / radius_of(identity)
    color = np.where(hit[:, None], 0.5 + 0.4 * normal, 1.0)
    parts = np.where(hit, PART_IDS["skin"], PART_IDS["background"])
    eyes = hit & (normal[:, 2] > 0.7) & (np.abs(np.abs(normal[:, 0]) - 0.4) < 0.15)
    parts[eyes], color[eyes] = PART_IDS["l_eye"], 0.1
    square = (resolution, resolution)
    return {
        "image": np.round(255 * color).astype(np.uint8).reshape(*square, 3),
        "depth": depth.astype(np.float32).reshape(*square, 1),
        "mask": (255 * hit).astype(np.uint8).reshape(*square, 1),
        "parts": parts.astype(np.uint8).reshape(*square, 1),
        "camera": label.astype(np.float32),
        "identity": np.array(identity, np.int32),
        "uv_positions": sphere_map(GRID, radius=radius_of(identity)),
        "uv_valid": valid_cells(GRID),
    }


def views(identities, *, resolution=16):
    """A batch: one view of each identity, from all around."""
    records = [
        view(i, yaw=2.4 * n, resolution=resolution) for n, i in enumerate(identities)
    ]
    return {name: jnp.asarray(np.stack([r[name] for r in records])) for name in records[0]}


def heads(key_number=0, *, batch=2, grid=4, patch=2, channels=6):
    """Random heads inside the ranges that table 1's normalisers keep, one cell not valid."""
    rng = np.random.default_rng(key_number)

    def uniform(low, high, *shape):
        return jnp.asarray(rng.uniform(low, high, shape).astype(np.float32))

    valid = np.ones((batch, grid, grid), bool)
    valid[:, 1, 2] = False
    return GaussianHeads(
        centers=uniform(-0.6, 0.36, batch, grid, grid, 3),
        rpy=uniform(-3.1, 3.1, batch, grid, grid, 3),
        radii=uniform(0.0, 0.15, batch, grid, grid, 3),
        payload=uniform(-2.0, 2.0, batch, grid * patch, grid * patch, channels),
        valid=jnp.asarray(valid),
    )
