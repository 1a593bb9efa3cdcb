"""The table of names and shapes is that of the public networks."""

import json
import math
from pathlib import Path

import pytest

from headjax.errors import UserError
from headjax.io.network_names import check, expected, kind_of
from tests.io.official_pickles import BUFFERS

DATA = Path(__file__).resolve().parents[1] / "data"
RENDERING = {"superresolution_module": "training.superresolution.SuperresolutionHybrid8XDC"}
TRIGRID = {
    **RENDERING,
    "triplane_size": 256, "triplane_depth": 3, "use_torgb_raw": True, "use_background": True,
}  # fmt: skip
GENERATOR = {
    "z_dim": 512, "c_dim": 25, "w_dim": 512, "img_resolution": 512, "img_channels": 3,
    "channel_base": 32768, "channel_max": 512, "mapping_kwargs": {"num_layers": 2},
}  # fmt: skip
DISCRIMINATOR = {
    "c_dim": 25, "img_resolution": 512, "img_channels": 3, "channel_base": 32768,
    "channel_max": 512, "cmap_dim": None, "class_name": "DualDiscriminator",
}  # fmt: skip
MASKED = {**DISCRIMINATOR, "seg_channels": 1, "class_name": "training.x.MaskDualDiscriminatorV2"}
# kind, which, arguments, tensors, parameters, elements in buffers
PUBLIC = [
    ("eg3d", "generator", {**GENERATOR, "rendering_kwargs": RENDERING}, 176, 30_662_136, 831_024),
    ("eg3d", "discriminator", DISCRIMINATOR, 92, 31_359_744, 496),
    ("panohead", "generator", {**GENERATOR, "rendering_kwargs": TRIGRID}, 295, 53_741_548, 874_963),
    ("panohead", "discriminator", MASKED, 92, 31_359_808, 496),
]


def which_of(name: str) -> str:
    return "D" if name == "discriminator" else "G"


@pytest.mark.parametrize(("kind", "name", "arguments", "tensors", "parameters", "buffers"), PUBLIC)
def test_names_shapes_and_order_are_those_of_the_public_networks(
    kind, name, arguments, tensors, parameters, buffers
):
    got = expected(kind, which_of(name), architecture=arguments)
    public = json.loads((DATA / f"{kind}_manifest.json").read_text())[name]
    public = {name: tuple(shape) for name, shape in public}
    filters = {name for name in got if name.endswith("resample_filter")}
    assert {n: s for n, s in got.items() if n not in filters} == public
    assert {got[name] for name in filters} == {(4, 4)}
    of_buffers = [name for name in got if name.endswith(BUFFERS)]
    assert [n for n in got if n not in of_buffers] == [n for n in public if n not in of_buffers]
    assert len(got) == tensors
    assert sum(math.prod(got[n]) for n in got if n not in of_buffers) == parameters
    assert sum(math.prod(got[n]) for n in of_buffers) == buffers


@pytest.mark.parametrize(("kind", "name", "arguments"), [case[:3] for case in PUBLIC])
def test_the_kind_is_told_from_the_arguments(kind, name, arguments):
    assert kind_of(arguments) == kind


@pytest.mark.parametrize(
    ("name", "blocks", "with_filter"),
    [
        ("SuperresolutionHybrid8X", ((128, 256), (64, 512)), True),
        ("SuperresolutionHybrid4X", ((128, 128), (64, 256)), True),
        ("SuperresolutionHybrid2X", ((128, 64), (64, 128)), True),
    ],
)
def test_each_super_resolution_has_its_sizes(name, blocks, with_filter):
    rendering = {"superresolution_module": f"training.superresolution.{name}"}
    got = expected("eg3d", "G", architecture={**GENERATOR, "rendering_kwargs": rendering})
    inputs = 32
    for index, (channels, resolution) in enumerate(blocks):
        block = f"superresolution.block{index}"
        assert got[f"{block}.conv0.weight"] == (channels, inputs, 3, 3)
        assert got[f"{block}.conv1.noise_const"] == (resolution, resolution)
        assert got[f"{block}.torgb.weight"] == (3, channels, 1, 1)
        inputs = channels
    assert ("superresolution.resample_filter" in got) == with_filter


def test_panohead_without_its_additions_has_none():
    rendering = {**TRIGRID, "use_torgb_raw": False, "use_background": False, "triplane_depth": 1}
    got = expected("panohead", "G", architecture={**GENERATOR, "rendering_kwargs": rendering})
    parts = {name.split(".")[0] for name in got}
    assert parts == {"backbone", "superresolution", "decoder", "t_mapping"}
    assert got["backbone.synthesis.b256.torgb.weight"] == (96, 128, 1, 1)


def test_an_unconditional_network_has_no_labels():
    got = expected("eg3d", "D", architecture={**DISCRIMINATOR, "c_dim": 0})
    assert not [name for name in got if name.startswith("mapping")]
    assert got["b4.out.weight"] == (1, 512)


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("G", {"z_dim": None}, "argument z_dim is None, not a whole number from 0"),
        ("G", {"z_dim": True}, "argument z_dim is True"),
        ("G", {"z_dim": -1}, "argument z_dim is -1"),
        ("G", {"w_dim": 1 << 40}, "argument w_dim is 1099511627776"),
        ("G", {"channel_max": 2.5}, "argument channel_max is 2.5"),
        ("G", {"mapping_kwargs": [1]}, "argument mapping_kwargs is no dictionary"),
        ("G", {"mapping_kwargs": {"num_layers": 10**9}}, "mapping_kwargs.num_layers is 1000000000"),
        ("G", {"rendering_kwargs": {}}, "super-resolution is ''; known are Superresolution"),
        ("D", {"class_name": "SingleDiscriminator"}, "is 'SingleDiscriminator'; known is Dual"),
        ("D", {"img_resolution": 500}, "500, not a power of two from 8 to 4096"),
        ("D", {"img_resolution": 1 << 30}, "img_resolution is 1073741824"),
    ],
)
def test_impossible_arguments_are_named(which, change, message):
    base = {**GENERATOR, "rendering_kwargs": RENDERING} if which == "G" else DISCRIMINATOR
    with pytest.raises(UserError, match=message):
        expected("eg3d", which, architecture={**base, **change})


def test_missing_unknown_and_misshapen_tensors_are_named():
    wanted = {"a": (1,), "b": (2, 3), "c": ()}
    check({**wanted, "dataset_label_std": (25,)}, wanted)
    with pytest.raises(UserError) as caught:
        check({"a": (2,), "b": (2, 3), "d": (1,)}, wanted)
    assert str(caught.value) == (
        "its tensors are not those of its architecture: it lacks 1 (c); it has unknown 1 (d); "
        "wrong shape 1 (a (2,) instead of (1,))"
    )
