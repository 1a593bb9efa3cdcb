"""Named files of a data set: a folder, or a zip archive whose plainly stored members are quick."""

import os
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from headjax.errors import UserError
from headjax.io.images import MAX_BYTES
from headjax.io.zips import SafeZip

# A member's own header: signature, …, flags, …, lengths of its name and of its extra field.
_HEADER = struct.Struct("<4s2xH18xHH")
_SIGNATURE = b"PK\x03\x04"
_UTF8 = 0x800
_EXTRA = 64  # Bytes read beyond a member, for its extra field.


@runtime_checkable
class Store(Protocol):
    """Named files: a folder or a zip."""

    path: Path
    names: list[str]

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes: ...


class FolderStore:
    """The files below a folder by their relative names, sorted."""

    def __init__(self, path: Path):
        self.path = path
        names: list[str] = []
        for folder, _, files in os.walk(path):
            inside = PurePosixPath(Path(folder).relative_to(path))
            names += [str(inside / file) for file in files]
        self.names = sorted(names)

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The file's bytes."""
        path, most = self.path / name, max_bytes or MAX_BYTES
        try:
            size = path.stat().st_size
            if size > most:
                raise UserError(f"{path}: has {size:,} bytes; at most {most:,} are read")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error


class ZipStore(SafeZip):
    """A checked zip archive; a stored member is one read at its place in the file.

    The index is read once. Threads do not wait for each other, as they do in `zipfile`. Members
    that are packed, and any that is not what the index says, go the slow way with its messages.
    """

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The member's bytes; see `SafeZip.read`."""
        member = self._members.get(name)
        most = min(max_bytes or self._limits.member_bytes, self._limits.member_bytes)
        if member is not None and member.file_size <= most:
            data = self._stored(member)
            if data is not None:
                return data
        return super().read(name, max_bytes=max_bytes)

    def _stored(self, member: zipfile.ZipInfo) -> bytes | None:
        """The bytes of a sound member that is stored as it is, otherwise None."""
        size = member.file_size
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != size:
            return None
        if not hasattr(os, "pread"):
            return None
        name = member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")
        length = _HEADER.size + len(name) + size
        try:
            file = self._archive.fp.fileno()
            piece = os.pread(file, length + _EXTRA, member.header_offset)
            signature, _, name_length, extra = _HEADER.unpack_from(piece)
            if extra > _EXTRA:
                piece = os.pread(file, length + extra, member.header_offset)
        except (OSError, AttributeError, struct.error):  # Closed, or cut off.
            return None
        begin = _HEADER.size + name_length + extra
        data = piece[begin : begin + size]
        sound = (signature, name_length) == (_SIGNATURE, len(name))
        sound = sound and piece[_HEADER.size : _HEADER.size + name_length] == name
        return data if sound and len(data) == size and zlib.crc32(data) == member.CRC else None


def open_store(path: str | os.PathLike) -> Store:
    """The folder or zip archive at `path`.

    Raises:
        UserError: there is neither.
    """
    path = Path(path)
    if path.is_dir():
        return FolderStore(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such folder or zip archive")
    return ZipStore(path)
