import jax
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.train.mesh import MeshOptions, abstract_mesh, make_mesh, mesh_shape


@pytest.mark.parametrize("count", [1, 2, 6, 8, 12, 256])
@pytest.mark.parametrize("options", [
    MeshOptions("dp"), MeshOptions("fsdp"), MeshOptions("fsdp", fsdp=16), MeshOptions("fsdp_tp"),
    MeshOptions("fsdp_tp", fsdp=4, model=3),
])  # fmt: skip
def test_every_layout_uses_every_device_within_its_limits(options, count):
    data, fsdp, model = mesh_shape(options, count)
    assert data * fsdp * model == count
    assert fsdp <= (options.fsdp or count)
    assert model <= (options.model or 2)


def test_presets_lay_out_eight_devices_as_their_names_say():
    assert mesh_shape(MeshOptions("dp"), 8) == (8, 1, 1)
    assert mesh_shape(MeshOptions("fsdp"), 8) == (1, 8, 1)
    assert mesh_shape(MeshOptions("fsdp_tp"), 8) == (1, 4, 2)
    assert mesh_shape(MeshOptions("fsdp", fsdp=16), 256) == (16, 16, 1)


def test_only_data_crosses_slices():
    data, fsdp, model = mesh_shape(MeshOptions("fsdp_tp", slices=4), 32)
    assert (data, fsdp, model) == (4, 4, 2)
    with pytest.raises(UserError, match="slices=3 does not divide the 8 devices"):
        mesh_shape(MeshOptions(slices=3), 8)


class Chip:
    """What `mesh_utils` asks of a device of a multi-slice TPU."""

    platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

    def __init__(self, number):
        self.id, self.slice_index, self.process_index = number, number // 4, number // 4
        self.coords = (number % 4 // 2, number % 2, 0)

    def __repr__(self):
        return f"chip {self.id}"


def test_devices_of_a_slice_stay_together_along_fsdp():
    chips = [Chip(number) for number in range(8)]
    mesh = make_mesh(MeshOptions("fsdp", slices=2), chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert mesh.devices.shape == (2, 4, 1)
    np.testing.assert_array_equal(slices[:, :, 0], [[0] * 4, [1] * 4])
    assert len({chip.id for chip in mesh.devices.flat}) == 8


@pytest.mark.parametrize("wrong, sentence", [
    (dict(preset="ddp"), "mesh.preset='ddp' is none of dp, fsdp, fsdp_tp"),
    (dict(fsdp=-1), "mesh.fsdp=-1"),
    (dict(slices=0), "mesh.slices=0"),
])  # fmt: skip
def test_a_layout_that_makes_no_sense_is_refused(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        MeshOptions(**wrong)


def test_the_default_mesh_has_all_devices_and_only_auto_axes():
    mesh = make_mesh()
    assert mesh.size == len(jax.devices())
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert abstract_mesh(MeshOptions("fsdp"), 512).size == 512
