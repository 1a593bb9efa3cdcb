"""Work that is divided among devices gives what it gives on one."""

import pytest

from headjax.render.devices import dividing
from tests.processes import assert_all_succeed, run_processes

ALL = ("data", "fsdp", "model")


@pytest.mark.parametrize("count, axes", [
    (16, ("data", "fsdp", "model")), (8, ("data", "fsdp")), (4, ("fsdp",)), (6, ("data",)), (5, ()),
])  # fmt: skip
def test_things_are_split_over_as_many_devices_as_divide_them(count, axes):
    mesh = {"data": 2, "fsdp": 4, "model": 2}
    assert dividing(mesh, count, among=ALL) == axes


def test_axes_of_one_device_are_left_out():
    assert dividing({"data": 1, "fsdp": 4}, 8, among=ALL) == ("fsdp",)


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from headjax.render import devices
from headjax.train.mesh import MeshOptions, make_mesh

devices.LARGE = 256
rng = np.random.default_rng(0)

def marched(shared, heads, rays):
    table, atlas = heads
    seen = jnp.einsum("brd,bhwd->brhw", rays, atlas).mean((-2, -1))
    return jnp.sin(seen * shared) + jnp.einsum("brd,bd->br", rays, table)

def loss(inputs):
    shared, heads, rays = inputs
    return jnp.mean(devices.split(marched, shared, heads=heads, rays=rays) ** 2)

for count, lengths in [(8, 6), (3, 16), (2, 12), (4, 8), (3, 5)]:
    inputs = jax.tree.map(jnp.asarray, (np.float32(1.5),
        (rng.standard_normal((count, 5), np.float32),
         rng.standard_normal((count, 16, 8, 5), np.float32)),
        rng.standard_normal((count, lengths, 5), np.float32)))
    alone = jax.jit(jax.value_and_grad(loss))(inputs)
    for options in (MeshOptions("dp"), MeshOptions("fsdp"), MeshOptions("fsdp", fsdp=4),
                    MeshOptions("fsdp_tp")):
        with jax.set_mesh(make_mesh(options)):
            divided = jax.jit(jax.value_and_grad(loss))(inputs)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(divided)):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-7, err_msg=f"{count} {options}")

matrix = jnp.asarray(rng.standard_normal((5, 16 * 8 * 5), np.float32))

def decoded(matrix, codes):
    decode = lambda z: jnp.tanh(z @ matrix).reshape(-1, 16, 8, 5)
    return jnp.sum(devices.spread(decode, codes) * jnp.arange(8.0)[:, None])

for count in (3, 6, 8, 15, 30):
    codes = jnp.asarray(rng.standard_normal((count, 5), np.float32))
    alone = jax.jit(jax.value_and_grad(decoded, argnums=(0, 1)))(matrix, codes)
    for options in (MeshOptions("dp"), MeshOptions("fsdp"), MeshOptions("fsdp", fsdp=4)):
        with jax.set_mesh(make_mesh(options)):
            divided = jax.jit(jax.value_and_grad(decoded, argnums=(0, 1)))(matrix, codes)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(divided)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"{count} {options}")

with jax.set_mesh(make_mesh(MeshOptions("fsdp"))):
    text = jax.jit(jax.grad(loss)).lower(jax.tree.map(jnp.asarray, (np.float32(1.5),
        (np.ones((3, 5), np.float32), np.ones((3, 16, 8, 5), np.float32)),
        np.ones((3, 16, 5), np.float32)))).as_text()
assert "all_gather" in text and "reduce_scatter" in text
"""


def test_heads_rays_and_decoding_on_eight_devices_give_what_one_device_gives():
    assert_all_succeed(run_processes(PROGRAM, count=1, devices_each=8, timeout=600))
