"""Weights of others: read by name, refused by name, and named where they are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from headjax.errors import UserError
from headjax.nets.perceptual import weights
from tests.nets.perceptual import states
from tests.parity_values import normal


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file in torchvision's form: the trunk, and the classifier that LPIPS does not use."""
    state = states.state_dict("lpips_alex") | {"classifier.1.bias": np.zeros(4096, np.float32)}
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


def test_lpips_loads_torchvisions_file_and_brings_its_own_heads(alexnet):
    network = weights.load_lpips(alexnet, trunk="alex")
    a, b = (jnp.asarray(image) for image in states.pictures())
    distance = jax.jit(lambda network, a, b: network(a, b))(network, a, b)
    assert states.relative_error(distance.total, states.golden()["lpips_alex"]) < 2e-4


def test_features_of_a_target_can_be_kept(alexnet):
    network = weights.load_lpips(alexnet, trunk="alex")
    a, b = (jnp.asarray(image) for image in states.pictures())

    @jax.jit
    def both_ways(network, a, b):
        kept = [network(image, method="features") for image in (a, b)]
        return network(*kept, method="between"), network(a, b)

    between, called = both_ways(network, a, b)
    np.testing.assert_allclose(between.total, called.total, rtol=1e-5)
    np.testing.assert_allclose(between.levels, called.levels, rtol=1e-5)


@pytest.mark.parametrize(
    ("trunk", "sums"),
    [
        ("alex", (2.34953, 16.14303, 39.26844, 27.19718, 20.31718)),
        ("vgg", (6.92599, 8.85833, 17.51501, 51.52132, 47.03485)),
    ],
)
def test_the_shipped_heads_are_lpips_0_1(trunk, sums):
    heads = weights.lpips_heads(trunk)
    got = [heads[f"lin{level}.model.1.weight"].sum() for level in range(5)]
    np.testing.assert_allclose(got, sums, atol=2e-5)


def test_another_networks_file_is_refused_by_the_names_in_it(alexnet):
    with pytest.raises(
        UserError, match=r"not the weights of torchvision's VGG-16: 22 missing .*, 6"
    ):
        weights.load_lpips(alexnet, trunk="vgg")
    with pytest.raises(
        UserError, match=r"not the weights of ArcFace IR-SE50: .* missing .* unknown"
    ):
        weights.load_arcface(alexnet)


def test_a_weight_of_another_shape_is_refused_by_name(alexnet, tmp_path):
    state = states.state_dict("lpips_alex")
    state["features.3.weight"] = state["features.3.weight"][:, :, :3, :3].copy()
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(state, path)
    with pytest.raises(UserError, match=r"features\.3\.weight has another shape"):
        weights.load_lpips(path, trunk="alex")


def test_a_file_that_is_not_safetensors_is_one_sentence(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        weights.load_lpips(path, trunk="alex")
    with pytest.raises(UserError, match="there is no such weights file"):
        weights.load_lpips(tmp_path / "none.safetensors", trunk="alex")


def test_a_flattened_pictures_matrix_reads_channels_last():
    matrix = normal("matrix", (5, 2 * 3 * 4))
    variables = weights.variables_from_state_dict(
        {"fc.weight": matrix, "fc.num_batches_tracked": np.zeros(())},
        flattened={"fc.weight": (2, 3, 4)},
    )
    picture = normal("picture", (2, 3, 4))
    product = picture.transpose(1, 2, 0).reshape(-1) @ variables["params"]["fc"]["weight"]
    np.testing.assert_allclose(product, matrix @ picture.reshape(-1), rtol=1e-5)
    assert set(variables) == {"params"}


@pytest.mark.parametrize("field", weights.ASSETS)
def test_weights_that_are_not_set_say_what_to_get_and_where(field):
    missing = weights.find(field, "")
    asset = weights.ASSETS[field]
    assert str(missing).startswith(f"n/a (needs {asset.file}")
    assert asset.where in str(missing) and f"--config.weights.{field}=PATH" in str(missing)
    with pytest.raises(UserError, match=f"the LPIPS loss needs {asset.file}"):
        weights.require(field, "", purpose="the LPIPS loss")


def test_a_path_without_a_file_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="there is no such file; needs model_ir_se50.pth"):
        weights.find("arcface", tmp_path / "nowhere.pth")
