"""Depth maps in files: .npy of float32, or 16-bit grey PNG with a scale. EXR is not read."""

import functools
import io
import math
import struct

import numpy as np
from jaxtyping import Float
from numpy.lib import format as npy_format
from PIL import Image

from headjax.data.plain_png import decode_plain
from headjax.errors import UserError
from headjax.io.images import MAX_PIXELS

EXTENSIONS = (".npy", ".png")
# World units of one step of a 16-bit PNG: the head's own thousandths.
PNG_SCALE = 0.001

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")
_SHORT_HEADER = 512


def decode_depth(
    data: bytes, *, name: str, png_scale: float = PNG_SCALE
) -> Float[np.ndarray, "h w 1"]:
    """A depth map from a file's bytes: distance along the ray in world units, 0 for nothing.

    Args:
        data: of a .npy file with float32 [h, w] or [h, w, 1], or of a 16-bit grey PNG.
        name: what messages call the file; its ending tells the format.
        png_scale: world units of one step of a PNG's values.

    Raises:
        UserError: another format, dtype or shape, truncated, or with negative or NaN values.
    """
    if name.lower().endswith(".npy"):
        depth = _from_npy(data, name)
    elif name.lower().endswith(".png"):
        depth = _from_png(data, name) * np.float32(png_scale)
    else:
        raise UserError(f"{name}: depth is read from .npy (float32) or 16-bit .png files")
    if not (np.isfinite(depth).all() and (depth >= 0).all()):
        raise UserError(
            f"{name}: the depth has NaN, infinite or negative values; it must be a distance, or 0 "
            "where there is nothing"
        )
    return depth[..., None]


def _from_npy(data: bytes, name: str) -> Float[np.ndarray, "h w"]:
    """The array after its header, which is checked before any memory is taken."""
    try:
        shape, fortran, dtype, begin = _npy_header(data)
    except Exception as error:  # NumPy's header is Python source, and raises like a tokenizer.
        raise UserError(f"{name}: not a readable .npy file ({error})") from error
    sound = dtype.kind == "f" and dtype.itemsize == 4
    if not sound or len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
        raise UserError(
            f"{name}: holds {dtype} of shape {list(shape)}; depth is float32 [h, w] or [h, w, 1]"
        )
    rest = len(data) - begin
    if rest != 4 * math.prod(shape):
        raise UserError(f"{name}: has {rest} bytes of data for shape {list(shape)}; truncated?")
    values = np.frombuffer(data, dtype, offset=begin).reshape(shape, order="F" if fortran else "C")
    return values.reshape(shape[:2]).astype(np.float32)


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, dtype and where the values begin."""
    version, length = data[6:8], struct.unpack_from("<H", data, 8)[0]
    if version == b"\1\0" and length <= _SHORT_HEADER:
        return _parsed_header(data[: 10 + length])
    return _parsed_header.__wrapped__(data)


@functools.lru_cache(maxsize=32)
def _parsed_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Remembered: the files of a data set have one header, which Python's parser reads."""
    file = io.BytesIO(data)
    read = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }[npy_format.read_magic(file)]
    return *read(file), file.tell()


def _from_png(data: bytes, name: str) -> Float[np.ndarray, "h w"]:
    plain = decode_plain(data)
    if plain is not None and plain.dtype == np.uint16:
        return plain.astype(np.float32)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in _SIXTEEN_BIT:
                raise UserError(
                    f"{name}: a PNG of mode {image.mode}; depth must be 16-bit grey, or .npy"
                )
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name}: has more than {MAX_PIXELS:,} pixels")
            return np.asarray(image).astype(np.float32)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format stumbles over.
        raise UserError(f"{name}: the depth PNG is truncated or damaged ({error})") from error
