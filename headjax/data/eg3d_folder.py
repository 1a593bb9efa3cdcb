"""Data sets in EG3D's and PanoHead's format: a folder or zip of square images and dataset.json.

Images lie anywhere below the root and are taken in the order of their names; dataset.json at the
root holds {"labels": [[name, 25 numbers], …]}, numbers or numeric strings, for these names and
perhaps more. Masks and depth maps, if any, lie in folders or zips of their own under the same names
but for the ending.
"""

import os
import posixpath
from collections.abc import Sequence

import numpy as np

from headjax.data import depth_files
from headjax.data.labels import MAX_JSON_BYTES, camera_labels, parse_labels
from headjax.data.plain_png import decode_plain, grey_or_rgb
from headjax.data.stores import Store, open_store
from headjax.errors import UserError
from headjax.geometry.cameras import mirror_label
from headjax.io.images import MAX_BYTES, decode_image

LABELS = "dataset.json"
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")

_OTHER_IMAGES = (".bmp", ".gif", ".tif", ".tiff", ".exr", ".hdr", ".avif", ".heic", ".jp2")
_SHOWN = 5

Record = dict[str, np.ndarray]


class Eg3dDataset:
    """Images with cameras, and masks and depth where given, by index.

    A record has image [h, h, 3] uint8 (one-channel images as grey), camera [25] float32 unless
    `use_labels` is False, and if there are such archives mask [h, h, 1] uint8 and depth [h, h, 1]
    float32 along the ray, 0 where the mask is 0.

    Attributes:
        fields: names of the records' fields.
        names: of the images, sorted; index i is image i mod len(names).
        resolution: the images' side.
        cameras: [n, 25] float32 labels of `names`, or None.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        masks: str | os.PathLike | None = None,
        depths: str | os.PathLike | None = None,
        use_labels: bool = True,
        mirror: bool = False,
        depth_scale: float = depth_files.PNG_SCALE,
    ):
        """Opens the data set, reads its labels and its first image.

        Args:
            path: folder or zip of images.
            masks: folder or zip of grey images, 255 inside; same names as the images.
            depths: folder or zip of .npy (float32) or 16-bit PNG depth maps; see `depth_files`.
            use_labels: False reads images without cameras.
            mirror: append every image flipped left to right, with its camera mirrored.
            depth_scale: world units of one step of a 16-bit depth PNG.

        Raises:
            UserError: no images, a name or label that cannot be used, or a missing mask or depth.
        """
        self._images = open_store(path)
        self.names = _image_names(self._images)
        self._mirror, self._depth_scale = mirror, depth_scale
        self.cameras = _read_cameras(self._images, self.names) if use_labels else None
        self._masks = _partners(masks, self.names, extensions=IMAGE_EXTENSIONS, what="mask")
        self._depths = _partners(
            depths, self.names, extensions=depth_files.EXTENSIONS, what="depth map"
        )
        there = {"image": path, "camera": self.cameras, "mask": masks, "depth": depths}
        self.fields = tuple(name for name, value in there.items() if value is not None)
        self.resolution = 0
        self.resolution = self._image(0).shape[0]

    def __len__(self) -> int:
        return len(self.names) * (2 if self._mirror else 1)

    def __getitem__(self, index: int) -> Record:
        """The record.

        Raises:
            UserError: an image that cannot be read, or is not of the common square size.
        """
        return self.read(index, fields=self.fields)

    def read(self, index: int, *, fields: Sequence[str]) -> Record:
        """Some fields of the record; no other files are read than theirs.

        Raises:
            UserError: as for the whole record, or there is no such field.
        """
        turn, place = divmod(range(len(self))[index], len(self.names))
        for name in fields:
            if name not in self.fields:
                raise UserError(
                    f"{self._images.path}: records have no field {name!r}; they have "
                    f"{', '.join(self.fields)}"
                )
        read = {"image": self._image, "camera": self._camera, "mask": self._mask}
        record = {name: read[name](place) for name in fields if name in read}
        if "depth" in fields:
            record["depth"] = self._depth(place, record.get("mask"))
        record = {name: record[name] for name in fields}
        return _mirrored(record) if turn else record

    def check(self) -> None:
        """Reads every record once; raises `UserError` at the first that cannot be used."""
        for index in range(len(self.names)):
            self[index]

    def _camera(self, place: int) -> np.ndarray:
        return self.cameras[place]

    def _image(self, place: int) -> np.ndarray:
        pixels, _ = self._picture(self._images, self.names[place])
        return grey_or_rgb(pixels)

    def _mask(self, place: int) -> np.ndarray:
        store, names = self._masks
        mask, said = self._picture(store, names[place])
        if mask.ndim == 2:
            return mask[..., None]
        if (mask != mask[..., :1]).any():
            raise UserError(f"{said}: a colour image; a mask must be grey, 0 outside, 255 inside")
        return mask[..., :1]

    def _picture(self, store: Store, name: str) -> tuple[np.ndarray, str]:
        """The pixels, [h, h] grey or [h, h, 3], and what messages call the file."""
        said = f"{store.path}: {name}"
        data = store.read(name, max_bytes=MAX_BYTES)
        pixels = decode_plain(data)
        if pixels is None or pixels.dtype != np.uint8:
            pixels = decode_image(data, name=said)
        self._check_shape(pixels, said)
        return pixels, said

    def _depth(self, place: int, mask: np.ndarray | None) -> np.ndarray:
        store, names = self._depths
        said = f"{store.path}: {names[place]}"
        data = store.read(names[place], max_bytes=MAX_BYTES)
        depth = depth_files.decode_depth(data, name=said, png_scale=self._depth_scale)
        self._check_shape(depth, said)
        if mask is None and self._masks:
            mask = self._mask(place)
        return depth if mask is None else np.where(mask > 0, depth, np.float32(0))

    def _check_shape(self, image: np.ndarray, said: str) -> None:
        height, width = image.shape[:2]
        if height != width:
            raise UserError(f"{said}: is {width}×{height} pixels; images must be square")
        if self.resolution and height != self.resolution:
            raise UserError(
                f"{said}: is {width}×{height} pixels; the first image has {self.resolution}, and "
                "all must have the same size"
            )


def _image_names(store: Store) -> list[str]:
    """The images' names, less what file managers leave behind."""
    shown = [name for name in store.names if not _is_debris(name)]
    names = [name for name in shown if name.lower().endswith(IMAGE_EXTENSIONS)]
    other = [name for name in shown if name.lower().endswith(_OTHER_IMAGES)]
    if other:
        raise UserError(
            f"{store.path}: {other[0]} is of a format that is not read here; convert it to PNG, "
            "JPEG or WebP"
        )
    if not names:
        raise UserError(f"{store.path}: holds no images; PNG, JPEG or WebP files are needed")
    return names


def _is_debris(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _read_cameras(store: Store, names: list[str]) -> np.ndarray:
    if LABELS not in store.names:
        raise UserError(
            f"{store.path}: has no {LABELS}, which gives the cameras; add it, or read the images "
            "without cameras (use_labels=False)"
        )
    said = f"{store.path}: {LABELS}"
    labels = parse_labels(store.read(LABELS, max_bytes=MAX_JSON_BYTES), name=said)
    if labels is None:
        raise UserError(
            f"{said}: labels is null, but cameras are needed; add them, or read the images without "
            "cameras (use_labels=False)"
        )
    return camera_labels(labels, names, name=said)


def _partners(
    path: str | os.PathLike | None, names: list[str], *, extensions: tuple[str, ...], what: str
) -> tuple[Store, list[str]] | None:
    """The archive of masks or depth maps, and its file of every image."""
    if path is None:
        return None
    store = open_store(path)
    files = {
        _stem(name): name
        for name in store.names
        if name.lower().endswith(extensions) and not _is_debris(name)
    }
    missing = [name for name in names if _stem(name) not in files]
    if missing:
        more = ", …" if len(missing) > _SHOWN else ""
        raise UserError(
            f"{store.path}: has no {what} for {len(missing)} of {len(names)} images "
            f"({', '.join(missing[:_SHOWN])}{more}); every image needs one of the same name, "
            f"ending in {' or '.join(extensions)}"
        )
    return store, [files[_stem(name)] for name in names]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _mirrored(record: Record) -> Record:
    """The record of the head mirrored left to right."""
    flipped = {
        name: np.ascontiguousarray(value[:, ::-1])
        for name, value in record.items()
        if name != "camera"
    }
    if "camera" in record:
        flipped["camera"] = mirror_label(record["camera"])
    return flipped
