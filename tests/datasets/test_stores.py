"""Members read by their place in the file are those that the careful reader reads."""

import io
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from headjax.data.plain_png import decode_plain, grey_or_rgb
from headjax.data.stores import ZipStore
from headjax.errors import UserError
from headjax.io.images import decode_image
from headjax.io.zips import SafeZip

MEMBERS = {f"{i:03}/größe {i}.bin": random.Random(i).randbytes(37 * i) for i in range(30)}


def packed(path, members, *, method=zipfile.ZIP_STORED, extra=b""):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.extra = method, extra
            archive.writestr(info, data)
    return path


@pytest.fixture(params=["stored", "deflated", "extra", "long extra", "prefixed"])
def path(request, tmp_path):
    method = zipfile.ZIP_DEFLATED if request.param == "deflated" else zipfile.ZIP_STORED
    extra = {"extra": b"\xfe\xca\x04\0head", "long extra": b"\xfe\xca\xa0\0" + bytes(160)}
    path = packed(tmp_path / "set.zip", MEMBERS, method=method, extra=extra.get(request.param, b""))
    if request.param == "prefixed":
        path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    return path


def test_members_are_those_of_the_careful_reader(path):
    with ZipStore(path) as quick, SafeZip(path) as careful:
        assert quick.names == careful.names == sorted(MEMBERS)
        for name, data in MEMBERS.items():
            assert quick.read(name) == careful.read(name) == data


def test_threads_read_at_once(path):
    names = sorted(MEMBERS) * 20
    with ZipStore(path) as store, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, names)) == [MEMBERS[name] for name in names]


def test_stored_members_are_read_without_the_careful_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(SafeZip, "read", lambda *_, **__: pytest.fail("the slow way"))
    with ZipStore(packed(tmp_path / "set.zip", MEMBERS)) as store:
        assert {name: store.read(name) for name in store.names} == MEMBERS


def test_limits_and_missing_members_are_refused_as_ever(path):
    name = "020/größe 20.bin"
    with ZipStore(path) as store:
        assert len(store.read(name, max_bytes=740)) == 740
        with pytest.raises(UserError, match="unpacks to more than the 739 bytes"):
            store.read(name, max_bytes=739)
        with pytest.raises(UserError, match="holds no member 'other'"):
            store.read("other")


def changed(data, old, new, *, nth=0):
    place = -1
    for _ in range(nth + 1):
        place = data.index(old, place + 1)
    return data[:place] + new + data[place + len(old) :]


DAMAGE = {
    "a bit": lambda data: changed(data, MEMBERS["020/größe 20.bin"][:8], b"\0" * 8),
    "its header": lambda data: changed(data, b"020/gr", b"021/gr"),
    "its signature": lambda data: changed(data, b"PK\x03\x04", b"PK\x03\x05", nth=20),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path, case):
    path = packed(tmp_path / "set.zip", MEMBERS)
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    with ZipStore(path) as store:
        with pytest.raises(UserError, match="member '020/größe 20.bin' is damaged"):
            store.read("020/größe 20.bin")
        assert store.read("019/größe 19.bin") == MEMBERS["019/größe 19.bin"]


def test_an_archive_that_is_cut_while_open_is_named(tmp_path):
    path = packed(tmp_path / "set.zip", MEMBERS)
    with ZipStore(path) as store:
        with open(path, "r+b") as file:
            file.truncate(1000)
        with pytest.raises(UserError, match="set.zip: member '020/.* is damaged"):
            store.read("020/größe 20.bin")


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


SMOOTH = np.add.outer(np.arange(40), 3 * np.arange(40)).astype(np.uint8)
PLAIN = {
    "noise": png(noise(9, 7, 3)),
    "smooth": png(np.stack([SMOOTH, SMOOTH.T, SMOOTH // 2], axis=-1)),
    "grey": png(noise(8, 8)),
    "unpacked": png(noise(9, 7, 3), compress_level=0),
    "large": png(noise(300, 300, 3)),
    "resolution": png(noise(8, 8, 3), dpi=(72, 72)),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_pngs_have_the_careful_readers_pixels(case):
    pixels = decode_plain(PLAIN[case])
    np.testing.assert_array_equal(grey_or_rgb(pixels), decode_image(PLAIN[case], name=case))
    assert pixels.flags.writeable


def test_sixteen_bits_are_pillows():
    depth = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    np.testing.assert_array_equal(decode_plain(png(depth)), depth)


def test_what_is_not_plain_is_left_to_the_careful_reader():
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = io.BytesIO()
    Image.fromarray(noise(8, 8, 3)).save(jpeg, "jpeg")
    others = {
        "transparent": png(noise(8, 8, 4)),
        "turned": png(noise(8, 6, 3), exif=turned),
        "a transparent colour": png(noise(8, 8, 3), transparency=(1, 2, 3)),
        "JPEG": jpeg.getvalue(),
        "truncated": PLAIN["smooth"][:-20],
        "empty": b"",
    }
    for case, data in others.items():
        assert decode_plain(data) is None, case
    assert decode_plain(PLAIN["grey"], max_pixels=63) is None


def test_damage_is_never_taken_for_a_picture():
    rng = random.Random(0)
    for _ in range(600):
        data = bytearray(rng.choice([PLAIN["noise"], PLAIN["smooth"], PLAIN["unpacked"]]))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        pixels = decode_plain(bytes(data))
        if pixels is not None:
            np.testing.assert_array_equal(pixels, decode_image(bytes(data), name="damaged"))


def test_a_header_that_promises_much_takes_no_memory():
    header = b"IHDR" + (2**31 - 1).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = PLAIN["noise"]
    bomb = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    assert decode_plain(bomb) is None
