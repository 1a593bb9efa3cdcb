"""Files that are there whole or not at all.

Everything is written beside its place under a temporary name, flushed to the disk and renamed,
which replaces an older file in one step. A failure leaves the older file and no debris.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from headjax.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all; missing parent folders are made.

    Raises:
        UserError: no room on the disk, or the place cannot be written to.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, with its ending, that takes its place when the block ends.

    The block must create the file and close it. If it raises, the temporary file is removed and
    whatever was at `path` stays.

    Raises:
        UserError: no room on the disk, or the place cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        with telling_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, path)
            _sync(path.parent, os.O_RDONLY)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def telling_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's refusals to write into one sentence about `path`.

    Raises:
        UserError: for a full disk or quota, missing permission, or an impossible place. Other
            errors pass through.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(
                f"{path}: no room on the disk; free some space or write to another place"
            ) from error
        if error.errno in _NOT_ALLOWED or isinstance(error, FileExistsError | FileNotFoundError):
            reason = os.strerror(error.errno or 0).lower()
            raise UserError(
                f"{path}: cannot be written ({reason}); choose a place that can"
            ) from error
        raise


def _sync(path: Path, flags: int) -> None:
    """Flushes a file or folder to the disk; folders where the system allows it."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
