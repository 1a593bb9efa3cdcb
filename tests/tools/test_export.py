"""The export command: a head in, a mesh file out, mistakes in one sentence."""

import numpy as np
import pytest

import headjax
from headjax.errors import UserError
from headjax.tools import export

trimesh = pytest.importorskip("trimesh", reason="the mesh extra is not installed")
pytest.importorskip("skimage", reason="the mesh extra is not installed")


class BallModel:
    """A model whose heads are red balls."""

    def head(self, name):
        if name != "sample:0":
            raise UserError(f"there is no head {name!r}")
        return 0.15

    def query(self, head, points):
        density = np.clip(30 + 1200 * (head - np.linalg.norm(points, axis=-1)), 0, 180)
        return density, np.tile([0.8, 0.1, 0.1], (len(points), 1))


@pytest.fixture
def workdir(monkeypatch):
    monkeypatch.setattr(headjax, "load", lambda workdir: BallModel())
    return "somewhere"


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_a_head_becomes_a_closed_coloured_mesh(workdir, tmp_path, capsys, suffix):
    output = tmp_path / f"head.{suffix}"
    arguments = [f"--workdir={workdir}", "--head=sample:0", f"--output={output}", "--resolution=32"]
    assert export.main(arguments) == 0
    assert "triangles" in capsys.readouterr().out
    # Colours in GLB are the mesh writer's matter, tested there.
    mesh = trimesh.load(output, force="mesh", process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.volume, 4 / 3 * np.pi * 0.15**3, rtol=0.03)
    if suffix != "glb":
        color = np.asarray(mesh.visual.vertex_colors)[:, :3]
        assert (color[:, 0] > color[:, 1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=w"], "--output is missing"),
        (["--workdir=w", "--output=a.stl"], "must end in .ply, .obj, .glb"),
        (["--workdir=w", "--output=a.ply", "--resolution=1"], "--resolution"),
        (["--workdir=w", "--output=a.ply", "--resolutoin=64"], "resolutoin"),
        (["--workdir=w", "--output=a.ply", "more"], "unexpected argument 'more'"),
        (["--workdir=w", "--output=a.ply", "--head=train:9"], "no head 'train:9'"),
        (["--workdir=w", "--output=a.ply", "--level=1e9"], "never passes the level"),
    ],
)
def test_mistakes_end_with_code_2_and_write_nothing(
    workdir, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert (
        export.main([*arguments, *(["--resolution=16"] if "--level=1e9" in arguments else [])]) == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_when_asked(workdir, tmp_path, capsys):
    output = tmp_path / "head.ply"
    output.write_text("mine")
    arguments = ["--workdir=w", f"--output={output}", "--resolution=16"]
    assert export.main(arguments) == 2 and output.read_text() == "mine"
    assert "already there" in capsys.readouterr().err
    assert export.main([*arguments, "--overwrite"]) == 0
    assert output.read_bytes().startswith(b"ply")


def test_help_names_every_flag(capsys):
    assert export.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("workdir", "head", "output", "resolution", "level", "half_size", "overwrite"):
        assert f"--{name}" in text
