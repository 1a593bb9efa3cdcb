"""Archives that would harm are refused in one sentence; the others are read."""

import io
import stat
import struct
import warnings
import zipfile

import pytest

from headjax.errors import UserError
from headjax.io.zips import SafeZip, ZipLimits


def packed(path, members, *, method=zipfile.ZIP_STORED):
    """A zip with `members`, a list of (name or ZipInfo, bytes)."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of duplicates.
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "faces.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_members_are_read_by_name(path, method):
    packed(path, [("b/2.png", b"two" * 500), ("a.json", b"{}"), ("b/", b"")], method=method)
    with SafeZip(path) as archive:
        assert archive.names == ["a.json", "b/2.png"]
        assert "b/2.png" in archive and "b/" not in archive
        assert archive.read("b/2.png") == b"two" * 500


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../evil.png", "climbs out of the archive"),
        ("a/../../evil.png", "climbs out of the archive"),
        ("/etc/passwd", "is absolute"),
        ("C:/evil.png", "drive letter"),
        ("a\\b.png", "backslash"),
        ("a//b.png", "an empty part"),
        ("./b.png", "an empty part or '.'"),
        ("a\nb.png", "control characters"),
    ],
)
def test_names_that_leave_the_archive_are_refused(path, name, said):
    packed(path, [("ok.png", b"1"), (name, b"2")])
    with pytest.raises(UserError, match=said) as refused:
        SafeZip(path)
    assert "faces.zip" in str(refused.value) and repr(name) in str(refused.value)


def test_a_name_cut_by_a_null_byte_is_refused(path):
    packed(path, [("good.pngXevil", b"1")])
    path.write_bytes(path.read_bytes().replace(b"good.pngX", b"good.png\0"))
    with pytest.raises(UserError, match="control characters"):
        SafeZip(path)


@pytest.mark.parametrize("second", ["a/1.png", "A/1.PNG", "a/1.png/"])
def test_duplicate_names_are_refused_also_when_case_differs(path, second):
    packed(path, [("a/1.png", b"1"), (second, b"2")])
    with pytest.raises(UserError, match="'a/1.png' and .* are the same"):
        SafeZip(path)


def test_symbolic_links_are_refused(path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    packed(path, [(link, "/etc/passwd")])
    with pytest.raises(UserError, match="'link.png' is a symbolic link"):
        SafeZip(path)


def test_encrypted_members_are_refused(path):
    packed(path, [("a.png", b"1")])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="'a.png' is encrypted"):
        SafeZip(path)


def test_other_packing_methods_are_refused(path):
    packed(path, [("a.png", b"1" * 100)], method=zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="packed by a method that is not read"):
        SafeZip(path)


def test_a_bomb_is_refused_by_its_stated_size(path):
    packed(path, [("bomb.png", bytes(3 * 2**20))], method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="'bomb.png' unpacks to over 200 times"):
        SafeZip(path)


def test_a_bomb_that_lies_about_its_size_is_stopped_while_reading(path, monkeypatch):
    packed(path, [("bomb.png", bytes(3 * 2**20))], method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 3 * 2**20), struct.pack("<I", 1000)))
    with SafeZip(path) as archive, pytest.raises(UserError, match="'bomb.png'"):
        archive.read("bomb.png")
    # A reader that does not stop at the stated size meets the running count.
    with SafeZip(path) as archive:
        endless = io.BytesIO(bytes(3 * 2**20))
        monkeypatch.setattr(archive._archive, "open", lambda member: endless)
        with pytest.raises(UserError, match="unpacks to over 200 times"):
            archive.read("bomb.png")


def test_small_blank_members_may_pack_well(path):
    packed(path, [("white.png", b"\xff" * 2**20)], method=zipfile.ZIP_DEFLATED)
    with SafeZip(path) as archive:
        assert len(archive.read("white.png")) == 2**20


def test_members_that_overlap_are_refused(path):
    packed(path, [(f"{i}.png", b"x" * 1000) for i in range(3)])
    data = bytearray(path.read_bytes())
    position = 0
    for _ in range(3):  # Every index entry claims the whole file.
        position = data.index(b"PK\x01\x02", position) + 4
        struct.pack_into("<II", data, position + 16, 3000, 3000)
    path.write_bytes(data)
    with pytest.raises(UserError, match="its members overlap"):
        SafeZip(path)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ZipLimits(members=2), "holds 3 members; at most 2"),
        (ZipLimits(member_bytes=999), "more than the 999 bytes"),
        (ZipLimits(total_bytes=2999), "unpacks to 3,000 bytes"),
    ],
)
def test_limits_are_kept(path, limits, said):
    packed(path, [(f"{i}.png", b"x" * 1000) for i in range(3)])
    with pytest.raises(UserError, match=said):
        SafeZip(path, limits=limits)


def test_a_lower_limit_may_be_set_for_one_member(path):
    packed(path, [("dataset.json", b"x" * 1000)])
    with SafeZip(path) as archive, pytest.raises(UserError, match="more than the 10 bytes"):
        archive.read("dataset.json", max_bytes=10)


def test_what_is_no_archive_is_named(path):
    with pytest.raises(UserError, match="there is no such file"):
        SafeZip(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError, match="not a readable zip archive"):
        SafeZip(path)


def test_every_truncation_is_refused_in_one_sentence(path):
    packed(path, [("a.png", b"1" * 300), ("b.png", b"2" * 300)], method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError), SafeZip(path) as archive:
            archive.read("a.png")


def test_flipped_bytes_give_the_data_or_one_sentence(path):
    packed(path, [("a.png", bytes(range(256)))], method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x55
        path.write_bytes(flipped)
        try:
            with SafeZip(path) as archive:
                for name in archive.names:
                    assert archive.read(name) == bytes(range(256))
        except UserError:
            pass


def test_a_missing_member_is_named(path):
    packed(path, [("a.png", b"1")])
    with SafeZip(path) as archive, pytest.raises(UserError, match="holds no member 'b.png'"):
        archive.read("b.png")
