"""Workloads are the stages that train: same states, same batches, at the size of a pod too."""

import jax
import numpy as np
import pytest

from headjax.systems.g3diff import autodecoder, diffusion, pipeline, workloads
from headjax.train import workload
from headjax.train.mesh import MeshOptions, abstract_mesh
from tests.systems.g3diff import tiny

PAPER = tiny.load("paper")


def form(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype).name), tree)


def by_name(config):
    return {stage.name: stage for stage in workloads.workloads(config)}


def test_the_autodecoder_s_state_is_the_one_that_trains():
    config = tiny.config()
    registration = tiny.registration(config.data.train_identities, grid=tiny.GRID)
    trained = autodecoder.init_state(
        jax.random.key(0), registration, config=config, steps=config.autodecoder.steps
    )
    planned = jax.eval_shape(by_name(config)["autodecoder"].init, jax.random.key(0))
    assert form(planned) == form(trained)


def test_the_autodecoder_s_batch_is_what_the_data_set_gives():
    config = tiny.config()
    views = tiny.views(range(config.autodecoder.batch_identities), resolution=32)
    planned = by_name(config)["autodecoder"].batch
    assert form(planned) == form(views)
    assert set(planned) == set(pipeline._VIEW_FIELDS)


def test_the_diffusion_s_batch_is_a_state_of_the_network_s_channels():
    config = tiny.config()
    stage = by_name(config)["diffusion"]
    side, channels = diffusion.state_side(config), diffusion.unet_config(config).channels
    assert stage.batch["state"].shape == (config.diffusion.batch_size, side, side, channels)


def test_the_paper_s_batches_are_96_images_and_30_patches_of_36_squared_rays():
    stages = by_name(PAPER)
    assert (stages["diffusion"].examples, stages["diffusion"].steps) == (96, 500_000)
    assert (stages["autodecoder"].examples, stages["autodecoder"].steps) == (30 * 36**2, 250_000)
    assert stages["diffusion"].notes["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["diffusion", "autodecoder"])
def test_the_paper_s_update_lowers_for_512_devices(name):
    """8 share a copy of the state, 64 copies: the program of a pod, without one."""
    mesh = abstract_mesh(MeshOptions(**PAPER.mesh), 512)
    assert dict(mesh.shape) == {"data": 64, "fsdp": 8, "model": 1}
    changes = {"diffusion": "diffusion.batch_size=3072",
               "autodecoder": "autodecoder.batch_identities=960"}  # fmt: skip
    stage = by_name(tiny.load("paper", changes[name]))[name]
    text = workload.lower(stage, mesh).as_text()
    assert "num_partitions = 512" in text
