"""The common PNG, decoded without the uncommon's cost: most of a 64² picture's time is looking.

Plain is what data sets hold: 8-bit grey or RGB or 16-bit grey, not interlaced, with no chunk that
changes the pixels. Pillow's own decoder does the work and gives the same pixels; whatever is not
plain, or not sound, is None here and left to the careful reader, with its messages.
"""

import struct
import zlib

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from headjax.io.images import MAX_PIXELS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBBBBBI")
_CHUNK = struct.Struct(">I4s")
_SIDE = 2**16
# Pillow's mode and the file's form by (bits, colour type).
_FORMS = {(8, 0): ("L", "L"), (8, 2): ("RGB", "RGB"), (16, 0): ("I;16", "I;16B")}
_HARMLESS = (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"tIME")


def decode_plain(data: bytes, *, max_pixels: int = MAX_PIXELS) -> UInt[np.ndarray, "h w *c"] | None:
    """The pixels of a plain, sound PNG: [h, w, 3] or [h, w] uint8, or [h, w] uint16; else None."""
    if len(data) < _HEADER.size:
        return None
    signature, length, kind, width, height, bits, color, *rest, check = _HEADER.unpack_from(data)
    form = _FORMS.get((bits, color))
    if (signature, length, kind, rest) != (_SIGNATURE, 13, b"IHDR", [0, 0, 0]) or form is None:
        return None
    if zlib.crc32(data[12:29]) != check or not 0 < width * height <= max_pixels:
        return None
    packed = _packed_pixels(data)
    if packed is None or max(width, height) >= _SIDE:
        return None
    mode, stored = form
    try:
        image = Image.frombytes(mode, (width, height), packed, "zip", stored)
    except (ValueError, OSError):
        return None
    return np.array(image)


def _packed_pixels(data: bytes) -> bytes | None:
    """The contents of the IDAT chunks, if they follow each other and all else is harmless."""
    place, pieces, ended = _HEADER.size, [], False
    while place + 12 <= len(data):
        length, kind = _CHUNK.unpack_from(data, place)
        end = place + 12 + length
        if kind == b"IEND":
            return b"".join(pieces) if end == len(data) and pieces else None
        if kind == b"IDAT" and not ended:
            pieces.append(data[place + 8 : end - 4])
        elif kind not in _HARMLESS:
            return None
        ended, place = bool(pieces) and kind != b"IDAT", end
    return None


def grey_or_rgb(pixels: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of RGB or grey pixels."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
