"""Images in and out."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from headjax.errors import UserError
from headjax.io import images


def picture(height: int = 7, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG made by hand, for the sorts that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_byte_survives_the_way_to_floats_and_back():
    values = np.arange(256, dtype=np.uint8)
    floats = images.from_uint8(values)
    assert floats.dtype == np.float32 and floats.min() == -1 and floats.max() == 1
    np.testing.assert_array_equal(images.to_uint8(floats), values)


def test_floats_are_rounded_and_clipped():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)
    np.testing.assert_array_equal(images.to_uint8(values), [0, 0, 128, 255, 255])


def test_nan_is_never_saved_as_a_colour():
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(np.array([0.0, np.nan]))


@pytest.mark.parametrize("level", [0, 6])
def test_png_round_trips(tmp_path, level):
    path = tmp_path / "a.png"
    images.save_png(path, picture(), compress_level=level)
    np.testing.assert_array_equal(images.read_image(path), picture())
    images.save_png(path, images.from_uint8(picture()))
    np.testing.assert_array_equal(images.read_image(path), picture())


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 1)])
def test_one_channel_is_written_and_read_as_grey(tmp_path, shape):
    grey = picture()[..., 0].reshape(shape)
    images.save_png(tmp_path / "a.png", grey)
    got = images.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(got, np.repeat(grey.reshape(7, 9, 1), 3, axis=-1))


def test_transparent_images_are_laid_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [10, 20, 30, 255]
    got = images.decode_image(saved(Image.fromarray(rgba)), name="a")
    np.testing.assert_array_equal(got[0], [[10, 20, 30], [255, 255, 255]])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_jpeg_and_webp_are_read(kind):
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    got = images.decode_image(saved(Image.fromarray(smooth), kind, quality=95), name="a")
    np.testing.assert_allclose(got.astype(int), smooth, atol=4)


def test_a_photographs_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90° clockwise to show it upright.
    data = saved(Image.fromarray(picture(16, 32)), "JPEG", exif=exif)
    assert images.decode_image(data, name="a").shape == (32, 16, 3)


def test_one_bit_images_are_read_as_black_and_white():
    data = saved(Image.fromarray(np.array([[True, False]])))
    got = images.decode_image(data, name="a")
    np.testing.assert_array_equal(got[..., 0], [[255, 0]])


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
REFUSED = {
    "truncated png": (saved(NOISE)[:4000], "truncated"),
    "png without its end": (saved(NOISE)[:-12], "truncated"),
    "header only": (saved(NOISE)[:20], "not an image|truncated"),
    "truncated jpeg": (saved(NOISE, "JPEG")[:1500], "truncated"),
    "truncated webp": (saved(NOISE, "WEBP")[:900], "truncated|not an image"),
    "damaged png": (saved(NOISE)[:200] + b"\0" * 64 + saved(NOISE)[264:], "damaged"),
    "palette": (saved(NOISE.quantize(16)), "palette"),
    "cmyk": (saved(NOISE.convert("CMYK"), "JPEG"), "CMYK"),
    "16-bit grey": (saved(Image.fromarray(np.zeros((4, 4), np.uint16))), "8 bits"),
    "16-bit rgb": (png(1, 1, depth=16, kind=2, rows=b"\0" * 7), "8 bits"),
    "16-bit rgba": (png(1, 1, depth=16, kind=6, rows=b"\0" * 9), "8 bits"),
    "gif": (saved(NOISE, "GIF"), "not an image"),
    "tiff": (saved(NOISE, "TIFF"), "not an image"),
    "text": (b"this is no image", "not an image"),
    "empty": (b"", "empty"),
    "animation": (
        saved(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)]),
        "animation",
    ),
    "bomb": (png(20_000, 20_000, depth=8, kind=2, rows=b"\0" * 10), "pixels|too large"),
    "large": (png(9_000, 9_000, depth=8, kind=0, rows=b"\0" * 10), "pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_images_are_refused_in_one_sentence_naming_the_file(tmp_path, case):
    data, message = REFUSED[case]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        images.read_image(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text


def test_the_limit_of_pixels_can_be_set(tmp_path):
    images.save_png(tmp_path / "a.png", picture(10, 10))
    with pytest.raises(UserError, match="10×10"):
        images.read_image(tmp_path / "a.png", max_pixels=99)
    assert images.read_image(tmp_path / "a.png", max_pixels=100).shape == (10, 10, 3)


def test_huge_files_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    images.save_png(tmp_path / "a.png", picture(10, 10))
    with pytest.raises(UserError, match="MB"):
        images.read_image(tmp_path / "a.png")


def test_missing_files_and_folders_are_told(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            images.read_image(path)


def test_a_grid_places_images_in_rows_on_white():
    rows = [[np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -1.0)], [np.zeros((2, 2, 1), np.uint8)]]
    grid = images.image_grid(rows, gap=1)
    assert grid.shape == (9, 9, 3)
    np.testing.assert_array_equal(grid[:4, :4], 0)
    np.testing.assert_array_equal(grid[:4, 5:], 0)
    np.testing.assert_array_equal(grid[4], 255)
    np.testing.assert_array_equal(grid[6:8, 1:3], 0)
    assert grid[5:].sum() == 255 * 3 * (4 * 9 - 4)
