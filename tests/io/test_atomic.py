"""Files are there whole or not at all."""

import errno
import os

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.io import atomic, images, video


def failing(number: int):
    def raises(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return raises


def test_bytes_arrive_and_replace_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    atomic.write_bytes(path, b"one")
    atomic.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_in_one_sentence_and_leaves_the_old_file(
    tmp_path, monkeypatch, number, call
):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(UserError, match="no room on the disk") as caught:
        atomic.write_bytes(path, b"new")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no room on the disk"):
        with atomic.replacing(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"the other half")
    assert os.listdir(tmp_path) == []


def test_images_and_videos_report_a_full_disk_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    frame = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="no room on the disk"):
        images.save_png(tmp_path / "a.png", frame)
    with pytest.raises(UserError, match="no room on the disk"):
        video.save_mp4(tmp_path / "a.mp4", [frame])
    assert os.listdir(tmp_path) == []


def test_any_other_failure_leaves_the_old_file_and_passes_through(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        atomic.write_bytes(tmp_path / "file" / "a.bin", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        atomic.write_bytes(tmp_path / "folder", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_mode_is_that_of_an_ordinary_file(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    atomic.write_bytes(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode
