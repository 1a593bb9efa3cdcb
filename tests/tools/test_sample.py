"""The sampling command: seeds in, pictures, videos and meshes out, mistakes in one sentence."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from scipy.interpolate import interp1d

from headjax.geometry import cameras, orbits, rays
from headjax.io.images import read_image
from headjax.tools import sample
from headjax.tools.sampling import pictures
from headjax.tools.sampling.heads import Picture
from headjax.tools.sampling.request import parse, parse_seeds

trimesh = pytest.importorskip("trimesh", reason="the mesh extra is not installed")
pytest.importorskip("skimage", reason="the mesh extra is not installed")

SIZE = 24
# Half axes of the mean head; the first style number scales them.
AXES = np.array([0.16, 0.24, 0.2])


class Balls:
    """Ellipsoids that are red on their left side and blue on their right, green towards the crown.

    Rendered by the exact intersection with the pixels' rays; only what `Heads` promises is used.
    """

    kind, z_dim, box, pivot, radius = "eg3d", 512, 1.0, None, 2.7

    def __init__(self, weights, *, noise, neural_resolution, sample_multiplier):
        self.size = neural_resolution or SIZE
        self.fields = 0

    def styles(self, z, label, *, psi, cutoff):
        assert z.shape == (1, 512) and z.dtype == np.float32 and label.shape == (1, 25)
        return (psi * z[:, :3])[:, None].repeat(14, axis=1)

    def planes(self, ws):
        self.fields += 1
        return AXES * (1 + 0.1 * np.tanh(ws[0, 0]))

    def picture(self, ws, planes, *, label):
        camera = cameras.camera_from_label(label[0].astype(np.float64))
        origins, directions = (x / planes for x in rays.pixel_rays(camera, resolution=self.size))
        a, b, c = (
            (u * v).sum(-1)
            for u, v in ((directions, directions), (origins, directions), (origins, origins))
        )
        inside = b**2 - a * (c - 1) > 0
        depth = (-b - np.sqrt(np.maximum(b**2 - a * (c - 1), 0))) / a
        points = (origins + depth[:, None] * directions) * planes
        image = np.where(inside[:, None], 2 * self.paint(points) - 1, 1.0)
        shape = (self.size, self.size)
        return Picture(
            image=image.reshape(*shape, 3).astype(np.float32),
            depth=depth.reshape(shape).astype(np.float32),
            inside=inside.reshape(shape),
        )

    def density(self, planes, *, points):
        return (10 + 200 * (1 - np.linalg.norm(points / planes, axis=-1))).astype(np.float32)

    def colors(self, ws, planes, *, points):
        return self.paint(points)

    @staticmethod
    def paint(points):
        x, y = points[:, 0], points[:, 1]
        return np.stack([0.5 + x, 0.5 + y, 0.5 - x], axis=-1).clip(0, 1).astype(np.float32)


def call(tmp_path, *arguments, load=Balls):
    fixed = ["--weights=balls.safetensors", f"--outdir={tmp_path / 'out'}"]
    return sample.main([*fixed, *arguments], load=load)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_a_seed_gives_its_official_latent():
    z = pictures.latent(0, 512)
    assert z.shape == (1, 512) and z.dtype == np.float32
    np.testing.assert_allclose(z[0, :3], [1.7640524, 0.4001572, 0.978738], rtol=1e-6)


def test_a_list_of_seeds_reads_as_in_eg3d():
    assert parse_seeds("0,1,4-6") == (0, 1, 4, 5, 6)
    assert parse_seeds("7") == (7,) and parse_seeds("3-3,0") == (3, 0)


def test_a_picture_has_three_views_from_the_left_to_the_right(tmp_path, capsys):
    assert call(tmp_path, "--seeds=3,5", "--depth") == 0
    assert files(tmp_path) == [
        f"seed000{seed}{ending}.png" for seed in (3, 5) for ending in ("", "_depth")
    ]
    assert capsys.readouterr().out.count("3 views of 24 x 24") == 4
    strip = read_image(tmp_path / "out" / "seed0003.png").astype(int)
    assert strip.shape == (SIZE, 3 * SIZE, 3)
    redness = [(v[..., 0] - v[..., 2]).mean() for v in np.split(strip, 3, axis=1)]
    # Yaw 0.4 stands at +x, on the subject's left, which is red; in front both sides are equal.
    assert redness[0] > 3 and redness[2] < -3 and abs(redness[1]) < 1
    # In front, the subject's left is on the right of the picture.
    front = strip[:, SIZE : 2 * SIZE]
    assert (front[:, -8:, 0] - front[:, -8:, 2]).sum() > 0


def test_truncation_draws_heads_towards_the_average(tmp_path):
    assert call(tmp_path / "a", "--seeds=1,2", "--trunc=0") == 0
    first, second = (read_image(tmp_path / "a/out" / f"seed000{k}.png") for k in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert call(tmp_path / "b", "--seeds=1", "--trunc=1") == 0
    assert (read_image(tmp_path / "b/out/seed0001.png") != first).any()


def test_whole_heads_are_seen_from_five_sides_around_the_origin(tmp_path):
    assert call(tmp_path, "--seeds=1", "--orbit=head") == 0
    strip = read_image(tmp_path / "out" / "seed0001.png").astype(int)
    assert strip.shape == (SIZE, 5 * SIZE, 3)
    views = np.split(strip, 5, axis=1)
    right = [(view[:, -8:, 0] - view[:, -8:, 2]).sum() for view in views]
    # From behind the left side is on the left; on the way the cameras see the right, blue one.
    assert right[0] > 0 > right[4] and views[2][..., 0].mean() < views[2][..., 2].mean() - 3


def test_panohead_and_stored_cameras_choose_the_path_and_pivot():
    request = parse(["--weights=w", "--seeds=0", "--outdir=o"])
    heads = Balls("w", noise="const", neural_resolution=None, sample_multiplier=1.0)
    assert pictures.stand_of(request, heads) == pictures.Stand("face", (0.0, 0.0, 0.2), 2.7)
    heads.pivot = (0.0, 0.0, -0.06)
    assert pictures.stand_of(request, heads).pivot == (0.0, 0.0, -0.06)
    heads.kind = "panohead"
    assert pictures.stand_of(request, heads) == pictures.Stand("head", (0.0, 0.0, 0.0), 2.7)
    given = parse(["--weights=w", "--seeds=0", "--outdir=o", "--orbit=face", "--pivot=0,0.1,0"])
    assert pictures.stand_of(given, heads) == pictures.Stand("face", (0.0, 0.1, 0.0), 2.7)


def test_the_spline_is_eg3ds_and_passes_the_keyframes():
    keys = np.random.default_rng(0).normal(size=(3, 14, 4)).astype(np.float32)
    spline = pictures.keyframe_spline(keys)
    for time in range(3):
        np.testing.assert_allclose(spline(time), keys[time], atol=1e-5)
    np.testing.assert_allclose(spline(2.999), keys[0], atol=0.05)
    theirs = interp1d(np.arange(-6, 9), np.tile(keys, (5, 1, 1)), kind="cubic", axis=0)
    for time in (0.3, 1.7, 2.5):
        np.testing.assert_allclose(spline(time), theirs(time), atol=1e-5)
    alone = pictures.keyframe_spline(keys[:1])
    np.testing.assert_allclose(alone(0.4), keys[0], atol=1e-5)


def decoded(path, width, height):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def test_a_grid_video_interpolates_and_shows_every_cell(tmp_path):
    arguments = ["--seeds=0-7", "--grid=2x2", "--video", "--frames=4", "--nopictures"]
    assert call(tmp_path, *arguments) == 0
    assert files(tmp_path) == ["grid.png", "interpolation.mp4"]
    frames = decoded(tmp_path / "out/interpolation.mp4", 2 * SIZE, 2 * SIZE)
    assert len(frames) == 8  # four frames a keyframe, two keyframes a cell
    for frame in frames:
        for row in np.split(frame, 2):
            for cell in np.split(row, 2, axis=1):
                assert cell[SIZE // 2, SIZE // 2].min() < 200 < cell[0, 0].min()


def test_cells_take_their_seeds_in_eg3ds_order():
    request = parse(["--weights=w", "--outdir=o", "--seeds=0-7", "--grid=2x2", "--video"])
    assert pictures.keyframe_seeds(request) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    few = parse(
        ["--weights=w", "--outdir=o", "--seeds=0,1,2", "--grid=2x1", "--num-keyframes=2", "--video"]
    )
    assert pictures.keyframe_seeds(few) == [[[0, 1], [2, 0]]]


def test_one_head_turns_without_drawing_its_field_again(tmp_path):
    made = []

    def load(*args, **options):
        made.append(Balls(*args, **options))
        return made[0]

    arguments = ["--seeds=1,2", "--video", "--nointerpolate", "--frames=3", "--nopictures"]
    assert call(tmp_path, *arguments, load=load) == 0
    assert files(tmp_path) == ["seed0001.mp4", "seed0002.mp4"]
    assert len(decoded(tmp_path / "out/seed0002.mp4", SIZE, SIZE)) == 3
    assert made[0].fields == 2


def ellipsoid_distance(vertices):
    """|p/a| − 1 times the least half axis: at most the distance from the ellipsoid of seed 4."""
    axes = AXES * (1 + 0.1 * np.tanh(0.7 * pictures.latent(4, 512)[0, :3]))
    return (np.linalg.norm(vertices / axes, axis=1) - 1) * axes.max()


@pytest.mark.parametrize(
    ("form", "more"),
    [("ply", []), ("obj", []), ("glb", []), ("obj", ["--texture"]), ("glb", ["--texture"])],
)
def test_a_shape_is_closed_outward_in_world_axes_and_coloured(tmp_path, form, more):
    arguments = ["--seeds=4", "--trunc=0.7", "--shapes", "--shape-res=48", "--nopictures"]
    assert call(tmp_path, *arguments, f"--shape-format={form}", *more) == 0
    path = tmp_path / "out" / f"seed0004.{form}"
    mesh = trimesh.load(path, force="mesh", process=False)
    assert np.abs(ellipsoid_distance(mesh.vertices)).max() < 1 / 47
    uv = getattr(mesh.visual, "uv", None)
    if more:
        material = mesh.visual.material
        picture = material.image if form == "obj" else material.baseColorTexture
        texture = np.asarray(picture.convert("RGB")) / 255
        size = len(texture)
        texels = np.round([(1 - uv[:, 1]) * size - 0.5, uv[:, 0] * size - 0.5]).astype(int)
        seen = texture[tuple(texels)]
    elif form == "glb":
        seen = linear_colors(path)
    else:
        seen = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    np.testing.assert_allclose(seen, Balls.paint(mesh.vertices), atol=0.01)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    # The crown is up and the ears are at the sides, as AXES has them.
    size = np.ptp(mesh.vertices, axis=0)
    assert size[1] > size[2] > size[0]


def linear_colors(path):
    """COLOR_0 of a GLB, turned from linear light back to what is displayed."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    accessor = document["accessors"][attributes["COLOR_0"]]
    start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    linear = np.frombuffer(data, "<f4", count=3 * accessor["count"], offset=start).reshape(-1, 3)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_the_border_is_cut_as_in_eg3d(tmp_path):
    class Column(Balls):
        def density(self, planes, *, points):
            return 100.0 - 500 * np.linalg.norm(points[:, [0, 2]], axis=-1)

    arguments = ["--seeds=4", "--shapes", "--shape-res=64", "--nopictures"]
    assert call(tmp_path, *arguments, load=Column) == 0
    mesh = trimesh.load(tmp_path / "out/seed0004.ply", process=False)
    kept = 0.5 - int(30 * 64 / 256) / 63
    np.testing.assert_allclose(np.abs(mesh.vertices[:, 1]).max(), kept, atol=0.06 / 63)
    assert mesh.is_watertight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=1,x"], "--seeds=1,x is no list of seeds"),
        (["--seeds=5-2"], "the lesser first"),
        (["--seeds=0-99999999"], "at most 100000"),
        (["--seeds=1", "--grid=3"], "--grid=3 should be columns x rows"),
        (["--seeds=0-7", "--grid=3x3", "--video"], "a multiple of 9 seeds, not 8"),
        (["--seeds=1", "--pivot=0,0"], "--pivot=0,0 should be three numbers"),
        (["--seeds=1", "--texture"], "add --shapes"),
        (["--seeds=1", "--shapes", "--texture"], "PLY holds no texture"),
        (["--seeds=1", "--nopictures"], "nothing is asked for"),
        (["--seeds=1", "--shape-format=mrc"], "shape_format"),
        (["--seeds=1", "--noise-mode=random"], "noise_mode"),
        (["--seeds=1", "--shapes", "True"], "unexpected argument 'True'"),
        (["--seeds=1", "--trnc=0.7"], "trnc"),
        (["--seeds=1", "--shape-level=500", "--shapes", "--shape-res=16"], "never passes"),
    ],
)
def test_mistakes_end_with_code_2_and_one_sentence(tmp_path, capsys, arguments, message):
    assert call(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["weights", "seeds", "outdir"])
def test_what_is_needed_is_asked_for(name, capsys):
    arguments = {"weights": "w", "seeds": "0", "outdir": "o"}
    del arguments[name]
    assert sample.main([f"--{key}={value}" for key, value in arguments.items()]) == 2
    assert f"--{name} is missing" in capsys.readouterr().err


def test_results_are_replaced_only_when_asked_and_refused_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "seed0002.png"
    mine.write_text("mine")
    assert call(tmp_path, "--seeds=1,2") == 2
    assert "already there" in capsys.readouterr().err
    assert files(tmp_path) == ["seed0002.png"] and mine.read_text() == "mine"
    assert call(tmp_path, "--seeds=1,2", "--overwrite") == 0
    assert mine.read_bytes().startswith(b"\x89PNG")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_drawn(tmp_path, capsys):
    class Idle(Balls):
        def styles(self, *args, **options):
            raise AssertionError("drew a head")

    (tmp_path / "out").write_text("a file")
    assert call(tmp_path, "--seeds=1", load=Idle) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_eg3ds_names_of_flags_are_understood():
    request = parse(
        ["--network=w", "--seeds", "0-3", "--outdir=o", "--nrr=128", "--w-frames=7",
         "--trunc-cutoff=8", "--fov-deg=20", "--shape-format=.ply", "--sample_mult=2",
         "--shapes=true"]
    )  # fmt: skip
    assert str(request.weights) == "w" and request.seeds == (0, 1, 2, 3)
    assert (request.neural_resolution, request.frames, request.shapes) == (128, 7, True)
    assert (request.trunc_cutoff, request.fov_deg, request.shape_format) == (8, 20.0, "ply")
    assert pictures.video_focal(request) == orbits.focal_from_fov(20.0)
    assert request.sample_mult == 2.0


def test_help_names_every_flag(capsys):
    assert sample.main(["--help"]) == 0
    text = capsys.readouterr().out.replace("-", "_")
    for name in parse(["--weights=w", "--seeds=0", "--outdir=o"]).__dataclass_fields__:
        flag = f"__no{name}" if name in ("pictures", "interpolate") else f"__{name}"
        assert flag in text, name
