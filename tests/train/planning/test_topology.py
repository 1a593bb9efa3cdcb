"""Topologies by name, and what links a group of devices has."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.train.planning import topology


@pytest.mark.parametrize(
    ("name", "chip", "chips", "of_libtpu"),
    [
        ("v5e:4x4", "v5e", 16, "v5e:4x4"),
        ("V5P:2x2x4", "v5p", 16, "v5p:2x2x4"),
        ("trillium:8x8", "v6e", 64, "v6e:8x8"),
        ("v7x:2x2x1", "v7x", 4, "tpu7x:2x2x1"),
        ("h100:8", "h100-sxm", 8, "h100-sxm:8"),
        ("t4:1", "t4", 1, "t4:1"),
    ],
)
def test_a_topology_is_a_chip_and_its_numbers(name, chip, chips, of_libtpu):
    where = topology.parse(name)
    assert (where.chip.name, where.chips, where.of_libtpu) == (chip, chips, of_libtpu)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "must be a chip and its numbers"),
        ("v5e:4by4", "must be a chip and its numbers"),
        ("v9:4x4", "the chip 'v9' is unknown; choose one of v4, v5e"),
        ("v5e:4x4x4", "v5e has 2 axes of chips"),
        ("v5p:4x4", "v5p has 3 axes of chips"),
        ("h100:2x4", "h100-sxm has 1 axis of chips, each at least 1; for example h100:8"),
        ("v5e:0x4", "each at least 1"),
    ],
)
def test_mistakes_in_a_topology_are_told(name, message):
    with pytest.raises(UserError, match=message):
        topology.parse(name)


def test_a_missing_compiler_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'headjax\[tpu\]'"):
        topology.tpu_devices(topology.parse("v5e:2x2"))


def test_too_few_simulated_devices_are_told_with_the_flag():
    with pytest.raises(UserError, match="--xla_force_host_platform_device_count=64"):
        topology.simulated_devices(topology.parse("h100:64"))


def block(*sizes):
    places = np.ndindex(*sizes, *(1,) * (3 - len(sizes)))
    return np.array([SimpleNamespace(coords=list(place)) for place in places])


@pytest.mark.parametrize(
    ("name", "group", "links"),
    [
        ("v5e:4x4", block(4, 4), 2),  # the corner of an open mesh
        ("v5e:4x4", block(1, 4), 1),  # an open line
        ("v5e:16x16", block(1, 16), 2),  # a closed ring
        ("v5p:2x2x4", block(2, 2, 4), 3),  # no whole cube: nothing is closed
        ("v5p:4x4x4", block(4, 4, 4), 6),
        ("v5e:16x16", block(16, 16), 4),
        ("v5e:16x16", block(4, 4), 2),  # a part of a ring is a line
        ("v5e:8x16", block(8, 16), 3),
        ("v5e:4x4", block(1, 1), 1),
    ],
)
def test_links_are_those_of_the_worst_placed_device(name, group, links):
    where = topology.parse(name)
    assert topology.link_bandwidth(where, group) == links * where.chip.link_bandwidth


def test_cards_of_one_host_have_all_their_links_and_beyond_it_nothing_is_known():
    eight, sixteen = topology.parse("h100:8"), topology.parse("h100:16")
    assert topology.link_bandwidth(eight, np.zeros(8)) == 18 * 25e9
    assert topology.link_bandwidth(sixteen, np.zeros(16)) is None
