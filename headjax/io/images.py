"""Images at the door: uint8 outside, float32 in [−1, 1] inside.

Alphabet: `image` [h, w, c] or [h, w], either uint8 or floats in [−1, 1]; c is 1 (grey), 3 (RGB)
or 4 (RGBA).
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from headjax.errors import UserError
from headjax.io import atomic

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256_000_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES = {"1": "L", "L": "L", "LA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
_REFUSED = {
    "P": "a palette image; convert it to plain RGB",
    "PA": "a palette image; convert it to plain RGB",
    "CMYK": "a CMYK image; convert it to RGB",
    "YCCK": "a CMYK image; convert it to RGB",
}


def to_uint8(image: Any) -> UInt8[np.ndarray, "*b"]:
    """Floats in [−1, 1] to 0..255, rounded and clipped (EG3D's 127.5 x + 128); uint8 passes."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if not np.all(np.isfinite(image)):
        raise ValueError("the image has NaN or infinite values; only finite ones can be saved")
    return np.clip(image.astype(np.float32) * 127.5 + 128, 0, 255).astype(np.uint8)


def from_uint8(image: UInt8[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """0..255 to float32 in [−1, 1], x / 127.5 − 1."""
    return image.astype(np.float32) / 127.5 - 1


def encode_png(image: Any, *, compress_level: int = 6) -> bytes:
    """The image as the bytes of a PNG file."""
    pixels = to_uint8(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"an image is [h, w] or [h, w, 1, 3 or 4], not {list(pixels.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def save_png(path: str | os.PathLike, image: Any, *, compress_level: int = 6) -> None:
    """Writes the image as a PNG, whole or not at all.

    Args:
        path: the file; missing parent folders are made.
        image: [h, w] or [h, w, c], uint8 or floats in [−1, 1].
        compress_level: 0 (none) to 9.
    """
    atomic.write_bytes(path, encode_png(image, compress_level=compress_level))


def image_grid(rows: Sequence[Sequence[Any]], *, gap: int = 2) -> UInt8[np.ndarray, "h w 3"]:
    """Images in rows on white, each centred in a cell of the largest image's size.

    Args:
        rows: of images, uint8 or floats in [−1, 1], grey or RGB; rows may differ in length.
        gap: white pixels between cells.
    """
    cells = [[_rgb(to_uint8(image)) for image in row] for row in rows]
    flat = [cell for row in cells for cell in row]
    height, width = (max((cell.shape[axis] for cell in flat), default=1) for axis in (0, 1))
    columns = max((len(row) for row in cells), default=1)
    shape = (len(cells) * (height + gap) - gap, columns * (width + gap) - gap, 3)
    out = np.full(shape, 255, dtype=np.uint8)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            h, w = cell.shape[:2]
            top = i * (height + gap) + (height - h) // 2
            left = j * (width + gap) + (width - w) // 2
            out[top : top + h, left : left + w] = cell
    return out


def enlarge(picture: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Repeats pixels, so that what was computed is what is seen."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def read_image(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as RGB.

    PNG, JPEG and WebP are read; one-channel images become grey RGB, transparent ones are laid on
    white, a photograph's EXIF orientation is applied.

    Raises:
        UserError: one sentence naming the file, if it is missing, too large, truncated, of another
            format, 16-bit, palette, CMYK or animated.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"{path}: the file has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB "
                "are read as an image"
            )
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise UserError(f"{path}: cannot be read ({reason}); give an image file") from error
    return decode_image(data, name=str(path), max_pixels=max_pixels)


def decode_image(
    data: bytes, *, name: str, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """As `read_image`, from bytes; `name` is what messages call the image."""
    if not data:
        raise UserError(f"{name}: the file is empty; give a PNG, JPEG or WebP image")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, data, name, max_pixels)
            image.load()
            image = ImageOps.exif_transpose(image)
            return _flatten(image.convert(_MODES[image.mode]))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{name}: the image is too large; at most {max_pixels:,} pixels are read"
        ) from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{name}: not an image that is read here; give PNG, JPEG or WebP") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format stumbles over.
        raise UserError(
            f"{name}: the image is truncated or damaged ({error}); copy or export it again"
        ) from error


def _check(image: Image.Image, data: bytes, name: str, max_pixels: int) -> None:
    """Refuses by the header alone, before any pixel is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"{name}: the image has {width}×{height} pixels; at most {max_pixels:,} are read"
        )
    if image.mode in _REFUSED:
        raise UserError(f"{name}: {_REFUSED[image.mode]}")
    sixteen = data.startswith(_PNG_SIGNATURE) and data[24] == 16
    if sixteen or image.mode not in _MODES:
        raise UserError(f"{name}: an image of more than 8 bits a channel; convert it to 8 bits")
    if image.format != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{name}: an animation of {image.n_frames} frames; give a still image")
    if data.startswith(_PNG_SIGNATURE) and b"IEND" not in data[-64:]:
        raise UserError(f"{name}: the image is truncated; copy or export it again")


def _flatten(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an L, RGB or RGBA image, on white."""
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _rgb(pixels: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
