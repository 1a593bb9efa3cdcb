"""Videos."""

import os
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from headjax.errors import UserError
from headjax.io import video


def frames(count: int, height: int, width: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width] / max(height, width)
    return [
        (np.stack([x, y, np.full_like(x, t / count)], axis=-1) * 255).astype(np.uint8)
        for t in range(count)
    ]


def read(path) -> tuple[str, np.ndarray]:
    """What ffmpeg says of the stream, and the frames."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    stream = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    width, height = map(int, re.search(r" (\d+)x(\d+)[ ,]", stream).groups())
    return stream, np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_mp4_round_trips_and_odd_sizes_are_padded(tmp_path, size):
    path = tmp_path / "a.mp4"
    expected = frames(6, *size)
    video.save_mp4(path, expected, fps=12)
    stream, got = read(path)
    assert got.shape[:3] == (6, size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert "yuv420p" in stream and "12 fps" in stream
    np.testing.assert_allclose(
        got[:, : size[0], : size[1]].astype(float), np.stack(expected), atol=24
    )
    assert np.abs(got[:, : size[0], : size[1]].astype(float) - np.stack(expected)).mean() < 4
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_floats_and_generators_are_taken(tmp_path):
    video.save_mp4(tmp_path / "a.mp4", (np.full((16, 16, 3), v) for v in (-1.0, 1.0)), fps=10)
    _, got = read(tmp_path / "a.mp4")
    assert got[0].mean() < 10 and got[1].mean() > 245


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least one frame"):
        video.save_mp4(tmp_path / "a.mp4", [])


def test_a_failure_midway_leaves_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="differ in size"):
        video.save_mp4(path, [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)])
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.mp4"]


def test_what_ffmpeg_says_of_a_full_disk_reaches_the_user(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'writing: No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(UserError, match="no room on the disk"):
        video.save_mp4(tmp_path / "out" / "a.mp4", frames(3, 64, 64))
    assert os.listdir(tmp_path / "out") == []
