"""Fingerprints: one number for one array, wherever and however it lies; another for any other."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train import fingerprint

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "float8_e4m3fn")


def values(dtype, *shape, seed=0):
    drawn = np.random.default_rng(seed).normal(scale=20.0, size=shape)
    return jnp.asarray(drawn > 0 if dtype == "bool" else drawn).astype(dtype)


def reference(array):
    """The definition, an element at a time in Python's integers."""
    raw = np.asarray(array).reshape(-1)
    bits = raw.view(f"<u{min(raw.dtype.itemsize, 4)}").tolist()
    first = second = 0
    for i, b in enumerate(bits):
        h = (b + (i + 1) * 0x9E3779B1) % 2**32
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        h ^= h >> 16
        first, second = first + h, second + h * (2 * i + 1)
    return f"{first % 2**32:08x}{second % 2**32:08x}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_hosts_and_devices_find_what_the_definition_says(dtype):
    leaves = [values(dtype, 5, 7, 3), values(dtype, 1), values(dtype)]
    expected = [reference(leaf) for leaf in leaves]
    assert fingerprint.of_hosts(leaves).text() == expected
    assert fingerprint.of_devices(leaves).text() == expected
    assert fingerprint.fingerprints(leaves).text() == expected


def test_elements_of_eight_bytes_count_as_two():
    with jax.enable_x64(True):
        leaves = [jnp.arange(-5, 6, dtype=jnp.int64) << 33, jnp.linspace(0, 1, 7)]
        assert leaves[1].dtype == jnp.float64
        expected = [reference(leaf) for leaf in leaves]
        assert fingerprint.of_hosts(leaves).text() == expected
        assert fingerprint.of_devices(leaves).text() == expected


def test_keys_count_by_their_data():
    keys = jax.random.split(jax.random.key(3), 4)
    assert fingerprint.fingerprints(keys).text() == [reference(jax.random.key_data(keys))]


def test_large_arrays_are_the_sum_of_their_blocks(monkeypatch):
    array = values("float32", 10, 11)
    monkeypatch.setattr(fingerprint, "_BLOCK", 7)
    assert fingerprint.of_hosts([array]).text() == [reference(array)]


def test_every_flipped_bit_exchange_and_zeroed_block_changes_it():
    array = np.asarray(values("float32", 4, 6))
    spoilt = []
    for position in range(array.size):
        for bit in range(32):
            flipped = array.copy()
            flipped.reshape(-1).view(np.uint32)[position] ^= np.uint32(1 << bit)
            spoilt.append(flipped)
    for i in range(array.size):
        for j in range(i):
            exchanged = array.copy().reshape(-1)
            exchanged[[i, j]] = exchanged[[j, i]]
            spoilt.append(exchanged.reshape(array.shape))
        zeroed = array.copy().reshape(-1)
        zeroed[i:] = 0
        spoilt.append(zeroed.reshape(array.shape))
    spoilt += [array.reshape(6, 4).T.reshape(4, 6), array[::-1], array[:, ::-1], -array]
    prints = fingerprint.of_hosts([jnp.asarray(a) for a in [array, *spoilt]]).text()
    # Each is told apart by the first word alone, and so by both.
    assert len({text[:8] for text in prints}) == len(prints)


def test_values_of_few_kinds_are_told_apart_where_they_are_exchanged():
    # Ones among zeros: the sum of the bits is the same wherever they stand.
    arrays = [jnp.zeros(500).at[place].set(1.0) for place in range(500)]
    assert len(set(fingerprint.of_hosts(arrays).text())) == 500


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_is_found_in_its_leaf(dtype, bad):
    leaves = [values(dtype, 3, 3), values(dtype, 40).at[39].set(bad), jnp.arange(3)]
    for prints in (fingerprint.of_hosts(leaves), fingerprint.of_devices(leaves)):
        np.testing.assert_array_equal(prints.finite, [True, False, True])


def test_what_has_no_fingerprint_is_refused():
    with pytest.raises(TypeError, match="no fingerprint of complex64"):
        fingerprint.fingerprints(jnp.ones(3, jnp.complex64))


def assert_shardings_agree():
    """On eight devices: every mesh, layout and way of computing finds the same."""
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    assert jax.device_count() == 8
    array = values("bfloat16", 8, 4, 6).at[7, 3, 5].set(jnp.nan)
    keys = jax.random.split(jax.random.key(0), 8)
    expected = [reference(array), reference(jax.random.key_data(keys))]
    cases = (((8, 1), P("data")), ((2, 4), P(("data", "fsdp"))), ((2, 4), P(None, "fsdp")),
             ((4, 2), P("data", None, "fsdp")), ((1, 2), P("fsdp")), ((2, 4), P()))  # fmt: skip
    for shape, spec in cases:
        mesh = jax.make_mesh(
            shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2,
            devices=jax.devices()[: shape[0] * shape[1]],
        )  # fmt: skip
        leaves = [
            jax.device_put(array, NamedSharding(mesh, spec)),
            jax.random.key_data(jax.device_put(keys, NamedSharding(mesh, P("data")))),
        ]
        for prints in (fingerprint.of_hosts(leaves), fingerprint.of_devices(leaves)):
            assert prints.text() == expected, (shape, spec)
            np.testing.assert_array_equal(prints.finite, [False, True])


def test_every_sharding_has_the_same_fingerprint():
    call = "import tests.train.test_fingerprint as t; t.assert_shardings_agree()"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", call], check=True, env=os.environ | flags,
        cwd=Path(__file__).parents[2], timeout=300,
    )  # fmt: skip
