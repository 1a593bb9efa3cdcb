import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from headjax.nets.activations import AxisRules, constrain
from headjax.train import sharding
from headjax.train.mesh import MeshOptions, abstract_mesh

FSDP = abstract_mesh(MeshOptions("fsdp"), 8)
SPLIT = abstract_mesh(MeshOptions("fsdp_tp"), 8)  # fsdp 4, model 2


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def spec(name, *sizes, mesh=FSDP, rules=()):
    return sharding.specs({name: shape(*sizes)}, mesh, rules=rules)[name]


def test_the_largest_axis_that_divides_is_split_and_the_last_of_equal_ones():
    assert spec("table", 64, 512) == P(None, "fsdp")
    assert spec("table", 512, 512) == P(None, "fsdp")
    assert spec("table", 512, 33) == P("fsdp")
    assert spec("table", 513, 33) == P()


def test_small_arrays_and_scalars_are_not_worth_a_collective():
    assert spec("bias", 64) == P()
    assert spec("bias", sharding.LEAST) == P("fsdp")
    assert spec("step") == P()


def test_kernels_are_split_by_output_channel_along_model():
    assert spec("conv/kernel", 3, 3, 64, 128, mesh=SPLIT) == P(None, None, "fsdp", "model")
    assert spec("dense/weight", 64, 33, mesh=SPLIT) == P("fsdp")
    assert spec("conv/kernel", 3, 3, 64, 128, mesh=FSDP) == P(None, None, None, "fsdp")


def test_tables_are_split_by_whole_rows_where_these_divide():
    rules = (("^tables/", "rows"),)
    tree = {"tables": {"z": shape(24, 512), "odd": shape(10, 512)}, "w": shape(24, 512)}
    found = sharding.specs(tree, FSDP, rules=rules)
    assert found == {"tables": {"z": P(("fsdp",)), "odd": P(None, "fsdp")}, "w": P(None, "fsdp")}
    assert sharding.specs(tree, SPLIT, rules=rules)["tables"]["z"] == P(("fsdp", "model"))


def test_the_first_rule_that_matches_decides():
    rules = (("kernel", "whole"), ("conv/kernel", "rows"))
    assert spec("conv/kernel", 64, 64, rules=rules) == P()


def test_without_the_fsdp_axis_everything_is_whole():
    mesh = abstract_mesh(MeshOptions("dp"), 8)
    tree = {"kernel": shape(3, 3, 64, 64), "table": shape(512, 64)}
    assert sharding.specs(tree, mesh) == {"kernel": P(), "table": P()}


def test_an_activations_batch_takes_the_axes_that_divide_it():
    mesh = {"data": 2, "fsdp": 4, "model": 1}
    assert AxisRules().spec(mesh, batch=16) == P(("data", "fsdp"))
    assert AxisRules().spec(mesh, batch=12) == P(("fsdp",))
    assert AxisRules().spec(mesh, batch=6) == P(("data",))
    assert AxisRules().spec(mesh, batch=5) == P(None)
    assert AxisRules().spec(mesh, heads=5) == P(("data", "fsdp"))


def test_two_axes_of_an_activation_cannot_share_one_of_the_mesh():
    with pytest.raises(ValueError, match="batch, heads would share the mesh axis 'data'"):
        AxisRules().spec({"data": 2, "fsdp": 1, "model": 1}, batch=4, heads=4)


def test_a_misspelt_axis_is_an_error():
    with pytest.raises(AttributeError, match="bacth"):
        AxisRules().spec({"data": 2}, bacth=4)


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((4, 3))
    assert constrain(x, "batch") is x


def test_under_a_mesh_the_named_axes_reach_the_program():
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32)
    with jax.sharding.use_abstract_mesh(FSDP):
        text = jax.jit(lambda x: constrain(2 * x, "batch")).lower(x).as_text()
    assert "sharding_constraint" in text and '{"fsdp"}' in text
