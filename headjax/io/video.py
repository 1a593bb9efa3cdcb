"""Videos, through the ffmpeg that imageio-ffmpeg brings."""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from headjax.errors import UserError
from headjax.io import atomic
from headjax.io.images import to_uint8


def save_mp4(path: str | os.PathLike, frames: Iterable[Any], *, fps: float | int = 24.0) -> None:
    """Writes frames as an H.264 video that every player and browser shows, whole or not at all.

    Args:
        path: the file, ending in .mp4; missing parent folders are made.
        frames: [h, w, 3] each, all of one size, uint8 or floats in [−1, 1]. Odd heights and widths
            are padded by repeating the last row or column, since H.264's 4:2:0 needs even ones.
        fps: frames per second.

    Raises:
        UserError: no frames, no room on the disk, or ffmpeg failed.
    """
    pixels = (_even(to_uint8(frame)) for frame in frames)
    first = next(pixels, None)
    if first is None:
        raise UserError(f"{path}: a video needs at least one frame")
    with atomic.replacing(path) as temporary:
        _encode(temporary, first, pixels, fps, shown=path)


def _encode(
    temporary: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float | int, *, shown: Any
) -> None:
    height, width = first.shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    codec = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-i", "-", "-an"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, *codec, "-f", "mp4", str(temporary)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            _feed(process, first, rest)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        log.seek(0)
        message = log.read().decode("utf-8", "replace").strip()
    if process.returncode == 0:
        return
    if "No space left" in message or "quota exceeded" in message:
        raise UserError(f"{shown}: no room on the disk; free some space or write to another place")
    last = message.splitlines()[-1] if message else f"exit code {process.returncode}"
    raise UserError(f"{shown}: ffmpeg could not write the video ({last})")


def _feed(process: subprocess.Popen, first: np.ndarray, rest: Iterator[np.ndarray]) -> None:
    """Pipes the frames in and waits; stops early if ffmpeg does, whose exit code then tells."""
    pipe = process.stdin
    try:
        with pipe:
            pipe.write(first.tobytes())
            for frame in rest:
                if frame.shape != first.shape:
                    raise ValueError(f"frames differ in size: {first.shape} and {frame.shape}")
                pipe.write(frame.tobytes())
    except BrokenPipeError:
        pass
    process.wait()


def _even(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
