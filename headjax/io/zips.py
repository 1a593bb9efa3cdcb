"""Zip archives read with suspicion: members one at a time, never extracted.

The index is checked when the archive is opened; every member is read in pieces against a running
count of bytes, because the sizes that an archive states about itself may lie.
"""

import functools
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from headjax.errors import UserError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_PIECE = 2**20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ZipLimits:
    """What an archive may hold.

    Attributes:
        members: files and folders in the index.
        member_bytes: one member, unpacked.
        total_bytes: all members, unpacked.
        ratio: unpacked over packed size of a member larger than `ratio_free_bytes`; blank images
            that were saved without compression legitimately exceed it while they are small.
        ratio_free_bytes: see `ratio`.
    """

    members: int = 2_000_000
    member_bytes: int = 2**28
    total_bytes: int = 2**42
    ratio: int = 200
    ratio_free_bytes: int = 2**20


class SafeZip:
    """A zip archive whose index has been checked; reads members by name.

    Attributes:
        path: of the archive.
        names: the files in it, sorted; folders are left out.
    """

    def __init__(self, path: str | os.PathLike, *, limits: ZipLimits | None = None):
        """Opens the archive and checks its index.

        Raises:
            UserError: not a zip archive, or a member with an absolute, climbing, duplicate or
                otherwise dangerous name, a link, encrypted, or beyond the limits.
        """
        self.path, self._limits = Path(path), limits or ZipLimits()
        try:
            self._archive = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file; give a zip archive") from None
        except (*_DAMAGED, ValueError) as error:
            raise UserError(
                f"{path}: not a readable zip archive ({error}); copy or pack it again"
            ) from error
        try:
            self._members = _checked_index(self.path, self._archive, self._limits)
        except BaseException:
            self._archive.close()
            raise
        self.names = sorted(self._members)

    def __reduce__(self) -> tuple:
        """Another process opens and checks the archive anew."""
        return functools.partial(type(self), limits=self._limits), (self.path,)

    def __enter__(self) -> "SafeZip":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The member's bytes.

        Args:
            name: one of `names`.
            max_bytes: a limit below the archive's own.

        Raises:
            UserError: there is no such member, it is damaged, or it is larger than it may be.
        """
        if name not in self._members:
            raise UserError(f"{self.path}: holds no member {name!r}")
        member = self._members[name]
        most = min(max_bytes or self._limits.member_bytes, self._limits.member_bytes)
        allowed = max(self._limits.ratio * member.compress_size, self._limits.ratio_free_bytes)
        pieces, size = [], 0
        try:
            with self._archive.open(member) as file:
                while piece := file.read(_PIECE):
                    size += len(piece)
                    _check_size(self.path, name, size, most=most, allowed=allowed)
                    pieces.append(piece)
        except _DAMAGED as error:
            raise UserError(
                f"{self.path}: member {name!r} is damaged ({error}); copy or pack the archive again"
            ) from error
        return b"".join(pieces)


def _check_size(path: Path, name: str, size: int, *, most: int, allowed: int) -> None:
    if size > most:
        raise UserError(
            f"{path}: member {name!r} unpacks to more than the {most:,} bytes that are allowed"
        )
    if size > allowed:
        raise UserError(
            f"{path}: member {name!r} unpacks to over 200 times its packed size, like a zip bomb; "
            "pack the archive again without compression"
        )


def _checked_index(
    path: Path, archive: zipfile.ZipFile, limits: ZipLimits
) -> dict[str, zipfile.ZipInfo]:
    """The files by name, after all checks that the index allows."""
    entries = archive.infolist()
    if len(entries) > limits.members:
        raise UserError(
            f"{path}: holds {len(entries):,} members; at most {limits.members:,} are read"
        )
    seen: dict[str, str] = {}
    for entry in entries:
        _check_entry(path, entry, limits)
        key = unicodedata.normalize("NFC", entry.filename.rstrip("/")).casefold()
        if key in seen:
            raise UserError(
                f"{path}: the member names {seen[key]!r} and {entry.filename!r} are the same, or "
                "differ in case only; every name may occur once"
            )
        seen[key] = entry.filename
    _check_totals(path, entries, limits)
    return {entry.filename: entry for entry in entries if not entry.is_dir()}


def _check_entry(path: Path, entry: zipfile.ZipInfo, limits: ZipLimits) -> None:
    name = entry.orig_filename
    if reason := _bad_name(name):
        raise UserError(
            f"{path}: the member name {name!r} {reason}; names must be relative paths inside the "
            "archive"
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError(f"{path}: member {name!r} is a symbolic link; pack the file itself")
    if entry.flag_bits & _ENCRYPTED:
        raise UserError(f"{path}: member {name!r} is encrypted; pack it without a password")
    if entry.compress_type not in _METHODS:
        raise UserError(
            f"{path}: member {name!r} is packed by a method that is not read here; store or "
            "deflate it"
        )
    allowed = max(limits.ratio * entry.compress_size, limits.ratio_free_bytes)
    _check_size(path, name, entry.file_size, most=limits.member_bytes, allowed=allowed)


def _bad_name(name: str) -> str | None:
    """What is wrong with a member's name, if anything."""
    if not name or any(ord(letter) < 32 for letter in name):
        return "is empty or has control characters"
    if "\\" in name:
        return "has a backslash"
    if name.startswith("/"):
        return "is absolute"
    if re.match(r"[A-Za-z]:", name):
        return "begins with a drive letter"
    if ".." in name.split("/"):
        return "climbs out of the archive by '..'"
    if any(part in ("", ".") for part in name.rstrip("/").split("/")):
        return "has an empty part or '.'"
    return None


def _check_totals(path: Path, entries: list[zipfile.ZipInfo], limits: ZipLimits) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > limits.total_bytes:
        raise UserError(
            f"{path}: unpacks to {total:,} bytes; at most {limits.total_bytes:,} are read"
        )
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise UserError(
            f"{path}: its members overlap, like those of a zip bomb; pack the archive again"
        )
