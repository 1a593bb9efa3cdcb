"""`convert` writes exact weights or ends in one sentence, and runs nothing that is in the file."""

import json
import subprocess
import sys

import numpy as np
import pytest

from headjax.io.weight_files import read_weights
from headjax.nets import triplane_gan_weights
from headjax.tools import convert
from tests.io import hostile_networks as hostile
from tests.io import official_pickles as official
from tests.test_house import ROOT


def network_of(kind, which, *, change=None, **arguments):
    """(arrays, network)"""
    architecture = {**official.ARCHITECTURES[kind, which], **arguments}
    arrays = official.arrays_for(kind, which, official.ARCHITECTURES[kind, which])
    arrays = change(arrays) if change else arrays
    return arrays, official.network(arrays, architecture)


def convert_file(tmp_path, data, *arguments):
    """The exit code; `source.pkl` holds `data`."""
    source, output = tmp_path / "source.pkl", tmp_path / "out.safetensors"
    source.write_bytes(data)
    kind, *flags = arguments
    return convert.main([kind, str(source), str(output), *flags])


def refused(tmp_path, capsys, data, *arguments):
    """The sentence that a conversion ends in; nothing may have been written."""
    assert convert_file(tmp_path, data, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("headjax: ") and said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source.pkl"]
    return said.err


@pytest.mark.parametrize(("kind", "protocol"), [("eg3d", 3), ("panohead", 4)])
def test_each_network_is_converted_exactly(kind, protocol, tmp_path, capsys):
    made = {which: network_of(kind, which) for which in ("G_ema", "D")}
    nodes = {which: node for which, (_, node) in made.items()}
    data = official.network_file(nodes, protocol=protocol)
    for which, (arrays, _) in made.items():
        assert convert_file(tmp_path, data, kind, f"--which={which}", "--overwrite") == 0
        got = read_weights(tmp_path / "out.safetensors")
        assert (got.kind, got.which) == (kind, which) and len(got.source_sha256) == 64
        assert got.architecture == official.ARCHITECTURES[kind, which]
        assert set(got.tensors) == set(arrays)
        for name, values in arrays.items():
            assert got.tensors[name].shape == values.shape
            assert got.tensors[name].dtype == np.float32
            np.testing.assert_array_equal(got.tensors[name], values)
        said = capsys.readouterr().out
        assert f"{len(arrays)} tensors" in said and "unknown" not in said
        assert official.ARCHITECTURES[kind, which]["class_name"] in said


def test_g_ema_is_the_network_that_is_taken(tmp_path, capsys):
    arrays, node = network_of("eg3d", "G_ema")
    other = official.arrays_for("eg3d", "G_ema", official.ARCHITECTURES["eg3d", "G_ema"], seed=9)
    data = official.network_file({"G": node, "G_ema": node, "D": network_of("eg3d", "D")[1]})
    assert convert_file(tmp_path, data, "eg3d") == 0
    got = read_weights(tmp_path / "out.safetensors")
    name = "backbone.mapping.fc0.weight"
    assert got.which == "G_ema"
    np.testing.assert_array_equal(got.tensors[name], arrays[name])
    assert not np.array_equal(got.tensors[name], other[name])


@pytest.mark.parametrize("which", ["G_ema", "D"])
@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
def test_a_converted_network_is_one_that_headjax_runs(kind, which, tmp_path):
    arrays, node = network_of(kind, which)
    data = official.network_file({which: node})
    assert convert_file(tmp_path, data, kind, f"--which={which}") == 0
    config, variables = triplane_gan_weights.load(tmp_path / "out.safetensors")
    assert config.kind == kind
    if which == "G_ema":
        assert (config.z_dim, config.rendering.near) == (8, 2.25)
        weight = variables["params"]["decoder"]["net"]["0"]["bias"]
        np.testing.assert_array_equal(weight, arrays["decoder.net.0.bias"])
    else:
        assert config.resolution == 16
        weight = variables["params"]["b4"]["out"]["bias"]
        np.testing.assert_array_equal(weight, arrays["b4.out.bias"])


def test_half_precision_stays_and_the_training_buffer_is_kept(tmp_path):
    def change(arrays):
        name = "b16.conv0.weight"
        return {**arrays, name: arrays[name].astype(np.float16), "dataset_label_std": np.ones(25)}

    arrays, node = network_of("eg3d", "D", change=change)
    assert convert_file(tmp_path, official.network_file({"D": node}), "eg3d", "--which=D") == 0
    got = read_weights(tmp_path / "out.safetensors").tensors
    assert got["b16.conv0.weight"].dtype == np.float16
    np.testing.assert_array_equal(got["b16.conv0.weight"], arrays["b16.conv0.weight"])
    assert got["dataset_label_std"].shape == (25,)


@pytest.mark.parametrize(("given", "right"), [("eg3d", "panohead"), ("panohead", "eg3d")])
@pytest.mark.parametrize("which", ["G_ema", "D"])
def test_the_other_kind_is_named(given, right, which, tmp_path, capsys):
    data = official.network_file({which: network_of(right, which)[1]})
    said = refused(tmp_path, capsys, data, given, f"--which={which}")
    assert f"is a network of {right}, not of {given}; give {right}" in said


def without(name):
    return lambda arrays: {n: v for n, v in arrays.items() if n != name}


DAMAGES = {
    "missing": (without("b8.conv0.bias"), "it lacks 1 (b8.conv0.bias)"),
    "renamed": (
        lambda arrays: {n.replace("b8.skip", "b8.jump"): v for n, v in arrays.items()},
        "it lacks 2 (b8.skip.weight, b8.skip.resample_filter); it has unknown 2 (b8.jump.weight",
    ),
    "misshapen": (
        lambda arrays: {**arrays, "b4.out.bias": np.ones(3, np.float32)},
        "wrong shape 1 (b4.out.bias (3,) instead of (4,))",
    ),
    "not finite": (
        lambda arrays: {**arrays, "b4.out.bias": np.full(4, np.inf, np.float32)},
        "b4.out.bias holds numbers that are not finite",
    ),
    "whole numbers": (
        lambda arrays: {**arrays, "b4.out.bias": np.ones(4, np.int64)},
        "b4.out.bias holds no floating-point numbers",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_differs_from_the_architecture_is_named(what, tmp_path, capsys):
    change, message = DAMAGES[what]
    data = official.network_file({"D": network_of("eg3d", "D", change=change)[1]})
    assert message in refused(tmp_path, capsys, data, "eg3d", "--which=D")


def test_an_impossible_architecture_is_named(tmp_path, capsys):
    data = official.network_file({"D": network_of("eg3d", "D", img_resolution=17)[1]})
    said = refused(tmp_path, capsys, data, "eg3d", "--which=D")
    assert "img_resolution is 17, not a power of two" in said


def test_a_network_that_is_not_there_is_named(tmp_path, capsys):
    said = refused(tmp_path, capsys, hostile.good_file(), "eg3d")
    assert "holds no network G_ema, only D" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "three arguments are needed"),
        (["eg3d", "a.pkl"], "three arguments are needed"),
        (["stylegan", "a.pkl", "b.safetensors"], "kind 'stylegan' is unknown"),
        (["eg3d", "a.pkl", "b.npz"], "must end in .safetensors"),
        (["eg3d", "a.pkl", "b.safetensors", "--which=E"], "which"),
        (["eg3d", "a.pkl", "b.safetensors", "--frobnicate"], "frobnicate"),
        (["eg3d", "/nowhere/a.pkl", "b.safetensors"], "a.pkl cannot be read"),
    ],
)
def test_mistakes_on_the_command_line_are_named(arguments, message, capsys):
    assert convert.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_older_file_stays_unless_told(tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"old")
    assert convert_file(tmp_path, hostile.good_file(), "eg3d", "--which=D") == 2
    assert "already there" in capsys.readouterr().err and output.read_bytes() == b"old"
    assert convert_file(tmp_path, b"bad", "eg3d", "--which=D", "--overwrite") == 2
    assert output.read_bytes() == b"old"
    assert convert_file(tmp_path, hostile.good_file(), "eg3d", "--which=D", "--overwrite") == 0
    assert read_weights(output).kind == "eg3d"


def test_help_is_shown(capsys):
    assert convert.main(["--help"]) == 0
    assert "--which" in capsys.readouterr().out


def test_the_terminal_obeys_nothing_from_a_file(tmp_path, capsys):
    name = "Evil\x1b[2J\x07"
    data = hostile.good_file(augment_pipe=official.New(official.Global("some\x1b]0;x", name)))
    assert convert_file(tmp_path, data, "eg3d", "--which=D") == 0
    said = capsys.readouterr().out
    assert "some?]0;x.Evil?[2J?" in said and "\x1b" not in said


def audited(which, step, folder):
    """name → [exit code, words, seconds, events, files beside the source]"""
    done = subprocess.run(
        [sys.executable, "-m", "tests.io.audited", which, str(step), str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["grown"] < 400 << 20
    assert report["results"]
    return report["results"]


def assert_inert(results):
    assert {name: events for name, (_, _, _, events, _) in results.items() if events} == {}
    assert max(seconds for _, _, seconds, _, _ in results.values()) < 10


def assert_refused(results):
    assert_inert(results)
    for name, (code, words, _, _, beside) in results.items():
        assert code == 2 and beside == [], name
        assert words.startswith("headjax: ") and words.count("\n") == 1, (name, words)
        assert "Traceback" not in words


def test_hostile_files_stay_inert_and_end_in_one_sentence(tmp_path):
    results = audited("corpus", 6, tmp_path)
    assert len(results) > 80
    assert_refused(results)


@pytest.mark.sweep
def test_every_hostile_file_stays_inert_and_ends_in_one_sentence(tmp_path):
    results = audited("corpus", 1, tmp_path)
    assert len(results) == len(hostile.corpus())
    assert_refused(results)


def test_files_cut_at_a_kilobyte_end_in_one_sentence(tmp_path):
    assert_refused(audited("truncated", 120, tmp_path))


@pytest.mark.sweep
def test_files_cut_at_every_kilobyte_end_in_one_sentence(tmp_path):
    results = audited("truncated", 1, tmp_path)
    assert len(results) > 2000
    assert_refused(results)


def assert_converted_or_refused(results):
    assert_inert(results)
    assert {code for code, *_ in results.values()} <= {0, 2}
    for code, words, _, _, beside in results.values():
        assert beside == ([] if code else ["output.safetensors"])
        assert "Traceback" not in words


def test_flipped_bytes_are_converted_or_refused(tmp_path):
    assert_converted_or_refused(audited("flipped", 20, tmp_path))


@pytest.mark.sweep
def test_many_flipped_bytes_are_converted_or_refused(tmp_path):
    assert_converted_or_refused(audited("flipped", 1, tmp_path))


def test_unknown_content_is_listed_and_left_inert(tmp_path):
    results = audited("inert", 1, tmp_path)
    assert_inert(results)
    for name, (code, words, _, _, beside) in results.items():
        assert code == 0 and beside == ["output.safetensors"]
        assert "left out as unknown, and not executed: 1\n" in words
        assert words.rstrip().endswith(name)
