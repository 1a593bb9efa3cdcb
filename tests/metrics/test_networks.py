"""Networks over many pictures: batches do not show in the result."""

import hashlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from headjax.metrics import networks
from headjax.nets.perceptual.weights import Missing, Network
from tests.nets.perceptual import states


def eight_bit(images):
    return np.clip((images + 1) * 127.5, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    safetensors.numpy.save_file(states.state_dict("lpips_alex"), path)
    return {"alex": str(path)}


def test_a_last_batch_that_is_not_full_changes_nothing(paths):
    network = networks.load("alex", paths)
    a, b = (np.concatenate([eight_bit(i)] * 2)[:3] for i in states.pictures())
    distances = networks.lpips_distances(network, a, b, batch=2)
    assert distances.shape == (3,)
    signed = (jnp.asarray(i, jnp.float32) / 127.5 - 1 for i in (a, b))
    direct = jax.jit(lambda network, a, b: network(a, b).total)(network, *signed)
    np.testing.assert_allclose(distances, direct, rtol=1e-5)


@pytest.mark.parametrize("field", ["inception", "arcface", "vgg"])
def test_a_network_without_weights_is_missing_and_not_another(paths, field):
    assert isinstance(networks.load(field, paths), Missing)


def test_the_digest_is_that_of_the_file(paths, tmp_path):
    data = Path(paths["alex"]).read_bytes()
    assert networks.digest(paths["alex"]) == hashlib.sha256(data).hexdigest()


class Corners(nn.Module):
    """In ArcFace's place: the mean of the face's upper and of its lower half."""

    @nn.compact
    def __call__(self, faces):
        halves = faces.reshape(len(faces), 2, -1, 3)
        return halves.mean(axis=2).reshape(len(faces), 6)


def test_a_face_network_sees_the_crop_in_minus_one_to_one():
    images = np.full((3, 512, 512, 3), 255, np.uint8)
    images[:, 70:446, 64:440] = 0
    images[1, 70:258] = 255  # the upper half of the crop
    seen = networks.face_embeddings(Network(Corners(), {}), images, batch=2)
    wanted = np.array([[-1] * 6, [1, 1, 1, -1, -1, -1], [-1] * 6])
    np.testing.assert_allclose(seen, wanted, atol=1e-5)
