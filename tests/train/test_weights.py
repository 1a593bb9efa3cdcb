import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from headjax.errors import UserError
from headjax.train import weights


def test_weights_come_back_with_their_metadata(tmp_path):
    tree = {"net": {"kernel": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)}}
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, tree, metadata={"config_hash": "abc"})
    loaded, notes = weights.load_weights(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, tree)
    assert loaded["net"]["half"].dtype == jnp.bfloat16
    assert notes == {"config_hash": "abc", "schema_version": weights.SCHEMA_VERSION}
    first = path.read_bytes()
    weights.save_weights(path, tree, metadata={"config_hash": "abc"})
    assert path.read_bytes() == first


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "cut", "foreign"])
def test_bad_weights_files_are_refused_in_a_sentence(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    if damage == "text":
        path.write_text("hello, I am no weights file at all")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        weights.save_weights(path, {"a": jnp.ones(100)}, metadata={})
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "foreign":
        safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, path)
    with pytest.raises(UserError, match="w.safetensors"):
        weights.load_weights(path)
