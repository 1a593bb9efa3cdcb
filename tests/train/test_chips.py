"""The table of accelerators: names, units, and figures that hang together."""

import dataclasses
import os
from types import SimpleNamespace

import pytest

from headjax.train.chips import CHIPS, GIB, chip_named, chip_of, peak_flops


def device(kind, coords=None, core=0, slice_index=0):
    fields = {"device_kind": kind}
    if coords is not None:
        fields |= {"coords": coords, "core_on_chip": core, "slice_index": slice_index}
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "v7x"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_device_kind_names_its_chip(kind, name):
    assert chip_of(kind) is CHIPS[name]
    assert chip_named(name) is CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "", "TPU v9", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"])
def test_an_unknown_kind_has_no_figures(kind):
    assert chip_of(kind) is None
    assert peak_flops([device(kind)]) is None


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'v9'.*v5e"):
        chip_named("v9")
    assert chip_named("Trillium") is CHIPS["v6e"]


def test_no_kind_stands_twice():
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_figures_are_in_flops_and_bytes(chip):
    assert 8e12 <= chip.bf16_flops <= 3e15
    assert 15e9 <= chip.hbm_bytes <= 200 * GIB
    assert chip.usable_bytes <= chip.hbm_bytes
    assert 3e11 <= chip.hbm_bandwidth <= 9e12
    # FLOP a byte at the ridge: what a program must reach to be bound by arithmetic.
    assert 20 < chip.bf16_flops / chip.hbm_bandwidth < 600
    assert chip.ici_bandwidth == chip.links * chip.link_bandwidth < chip.hbm_bandwidth
    assert (chip.links == 2 * chip.torus) == (chip.platform == "tpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        chip.links = 3


@pytest.mark.parametrize(
    ("name", "both_ways"), [("v5e", 400e9), ("v5p", 1200e9), ("v6e", 800e9), ("v7x", 1200e9)]
)
def test_links_add_up_to_the_published_sum_of_both_directions(name, both_ways):
    assert 2 * CHIPS[name].ici_bandwidth == both_ways


def test_cores_of_one_chip_share_its_peak():
    chip, split = CHIPS["v7x"], CHIPS["v4"]
    both = [device("TPU7x", (0, 0, 0), core) for core in (0, 1)]
    assert peak_flops(both) == chip.bf16_flops
    assert peak_flops(both[:1]) == chip.bf16_flops / 2
    assert peak_flops([device("TPU v4", (0, 0, 0))]) == split.bf16_flops
    assert peak_flops([device("TPU v4", (0, 0, 0), core) for core in (0, 1)]) == split.bf16_flops


def test_peaks_add_over_chips_and_slices():
    kind = "TPU v5 lite"
    chips = [device(kind, (x, 0, 0), slice_index=s) for x in range(4) for s in range(2)]
    assert peak_flops(chips) == 8 * CHIPS["v5e"].bf16_flops
    assert peak_flops([device("NVIDIA H200")] * 8) == 8 * CHIPS["h200"].bf16_flops


@pytest.mark.tpu_backend
@pytest.mark.parametrize(
    ("topology", "name", "chips"),
    [
        ("v4:2x2x1", "v4", 4),
        ("v5e:2x2", "v5e", 4),
        ("v5p:2x2x1", "v5p", 4),
        ("v6e:2x2", "v6e", 4),
        ("tpu7x:2x2x1", "v7x", 4),
    ],
)
def test_topologies_that_libtpu_knows_are_in_the_table(topology, name, chips):
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, comes with the extra 'tpu'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    assert chip_of(devices[0].device_kind) is CHIPS[name]
    assert peak_flops(devices) == pytest.approx(chips * CHIPS[name].bf16_flops)
