"""Prepares a multi-view data set once, whole or not at all, and recognises it later."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import headjax
from headjax.data.config import HeadViewsConfig, record_counts
from headjax.data.spool import NO_ROOM, ProgressCallback
from headjax.errors import UserError
from headjax.render.parts import PART_NAMES

MANIFEST = "manifest.json"
SCHEMA = 2  # 1 held PNGs and zlib'd arrays.

_KIND = "headjax.head_views"
_NO_ROOM_WORDS = ("no space left", "file too large", "quota exceeded", "resource_exhausted")
# Fields that older manifests lack, and what was done before there was a choice.
_LATER_FIELDS = {"max_yaw": 180.0}
# The files' own compression leaves at least this share of the decoded bytes.
_PACKED_SHARE = 0.1


@dataclass(frozen=True)
class Prepared:
    """A finished data set.

    Attributes:
        folder: where it lies.
        config: what it holds.
        records: their number by split.
        reused: whether it was there already.
    """

    folder: Path
    config: HeadViewsConfig
    records: dict[str, int]
    reused: bool


def prepare(
    config: HeadViewsConfig,
    data_dir: str | Path,
    *,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Prepared:
    """Makes the data set in `data_dir`, or finds it there.

    It is made in `<data_dir>.partial` and renamed when it is complete; what an earlier run left
    unfinished is discarded. Processes that prepare in the same parent folder take turns.

    Args:
        config: what to render.
        data_dir: a folder that is new, empty, or holds this very data set.
        workers: rendering processes; by default HEADJAX_WORKERS or one a core. The result does not
            depend on it.
        progress: called after every few views.

    Raises:
        UserError: the folder holds something else, or there is no room on the disk.
    """
    folder = Path(data_dir).absolute()
    with _no_room_is_a_user_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.parent):
            if _is_occupied(folder):
                return _reuse(config, folder)
            partial = folder.with_name(folder.name + ".partial")
            try:
                shutil.rmtree(partial, ignore_errors=True)
                _check_room(config, folder)
                manifest = _build(config, partial, workers=workers, progress=progress)
                os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return Prepared(folder=folder, config=config, records=manifest["records"], reused=False)


def read_manifest(data_dir: str | Path) -> dict:
    """What a finished data set says about itself.

    Raises:
        UserError: there is none in this folder, or another version of headjax must read it.
    """
    path = Path(data_dir) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        kind, schema = manifest["kind"], manifest["schema"]
    except FileNotFoundError:
        raise UserError(
            f"{data_dir} holds no prepared data set; choose the folder that was given as data_dir, "
            "or a new one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is not a readable manifest; delete the folder to have it prepared again"
        ) from None
    if kind != _KIND or schema != SCHEMA:
        raise UserError(
            f"{data_dir} holds a data set of kind {kind!r}, schema {schema}; this headjax reads "
            f"{_KIND!r}, schema {SCHEMA}: delete the folder to have it prepared again"
        )
    return manifest


def _is_occupied(folder: Path) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"data_dir {folder} is a file; it must be a folder")
    return any(folder.iterdir())


def _reuse(config: HeadViewsConfig, folder: Path) -> Prepared:
    """The data set in `folder`, if it is the one that `config` describes."""
    manifest = read_manifest(folder)
    there, wanted = _identity(manifest), _identity(_manifest(config))
    different = [
        f"{name}: {there.get(name)!r} there, {wanted.get(name)!r} wanted"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if different:
        raise UserError(
            f"{folder} holds a data set made with other settings ({'; '.join(different)}); "
            "choose another data_dir or delete it"
        )
    return Prepared(folder=folder, config=config, records=manifest["records"], reused=True)


def _identity(manifest: dict) -> dict:
    """The manifest's entries that tell one data set from another."""
    fields = _LATER_FIELDS | manifest["config"]
    fields = {name: value for name, value in fields.items() if name != "ict_folder"}
    return {**fields, "headjax version": manifest["headjax"], "ict files": manifest["ict_files"]}


def _manifest(config: HeadViewsConfig) -> dict:
    return {
        "kind": _KIND,
        "schema": SCHEMA,
        "headjax": headjax.__version__,
        "config": config.to_dict(),
        "ict_files": _fingerprint(config.ict_folder) if config.source == "ict" else "",
        "records": record_counts(config),
        "part_names": list(PART_NAMES),
    }


def _fingerprint(folder: str) -> str:
    """A digest of the names and sizes of a folder's OBJ files: it may move, but not change."""
    files = sorted((path.name, path.stat().st_size) for path in Path(folder).glob("*.obj"))
    if not files:
        raise UserError(f"{folder} holds no OBJ file; ict_folder must be ICT-FaceKit's folder")
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _build(
    config: HeadViewsConfig, folder: Path, *, workers: int | None, progress: ProgressCallback | None
) -> dict:
    """Renders and writes the data set into `folder`, verified, manifest last."""
    from headjax.data.builders import BUILDERS

    manifest = _manifest(config)
    builder = BUILDERS[config.source](
        views=config, workers=workers, progress=progress, data_dir=str(folder)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TFDS warns of its own deprecated calls.
        builder.download_and_prepare(download_dir=str(folder / "downloads"))
    shutil.rmtree(folder / "downloads", ignore_errors=True)
    manifest["builder"] = str(Path(builder.data_dir).relative_to(folder))
    _verify(folder, manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in folder.rglob("*"):
        _sync(path)
    return manifest


def _sync(path: Path) -> None:
    """Flushes a file or folder to the disk, so that the renamed folder is whole after a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(folder: Path, manifest: dict) -> None:
    """Reads the ends of every split back: a full disk need not have raised."""
    from headjax.data.records import RecordSource

    for split, count in manifest["records"].items():
        if not count:
            continue
        try:
            source = RecordSource(folder, manifest, split=split, cache=False)
            complete = len(source) == count and {source[0]["view"].size, source[-1]["view"].size}
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise OSError(NO_ROOM[0], f"split {split} cannot be read back: {error}") from error
        if not complete:
            raise OSError(NO_ROOM[0], f"split {split} is incomplete")


@contextlib.contextmanager
def _one_at_a_time(parent: Path) -> Iterator[None]:
    """Holds the parent folder's advisory lock, where the file system has one."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_room(config: HeadViewsConfig, folder: Path) -> None:
    from headjax.data.builders import record_bytes

    needed = int(sum(record_counts(config).values()) * record_bytes(config) * _PACKED_SHARE)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise UserError(
            f"no room on the disk for {folder}: at least {needed / 2**20:,.0f} MiB are needed, "
            f"{free / 2**20:,.0f} MiB are free"
        )


@contextlib.contextmanager
def _no_room_is_a_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in NO_ROOM or any(word in str(error).lower() for word in _NO_ROOM_WORDS):
            raise UserError(
                f"no room on the disk for {folder}; free some space or choose another data_dir"
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(f"data_dir {folder} is not writable; choose another one") from error
        raise
