"""Folders and zips in EG3D's format, good and bad."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from headjax.data import Eg3dDataset, FieldSource, batches
from headjax.errors import UserError
from headjax.geometry.cameras import label_from_camera, orbit

SIDE = 8
NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.jpg"]


def picture(seed, *, size=(SIDE, SIDE), mode="RGB", kind="png"):
    """An image file's bytes."""
    shape = (size[1], size[0], 3) if mode in ("RGB", "CMYK", "P") else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode in ("CMYK", "P"):
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, compress_level=0)
    return buffer.getvalue()


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def camera(index):
    return np.asarray(label_from_camera(orbit(0.3 * index, 0.1))).tolist()


def files_of_a_set():
    """The files of a sound data set by name."""
    images = {name: picture(i, kind="jpeg" if "jpg" in name else "png") for i, name in
              enumerate(NAMES)}  # fmt: skip
    labels = [[name, camera(i)] for i, name in enumerate(NAMES)]
    return images | {"dataset.json": json.dumps({"labels": labels}).encode()}


def labelled(label):
    """A sound data set whose second image has this label."""
    files = files_of_a_set()
    content = json.loads(files["dataset.json"])
    content["labels"][1][1] = label
    return files | {"dataset.json": json.dumps(content).encode()}


def write(place, files):
    """The files as a folder, or as a stored or deflated zip, by the name's ending."""
    if place.suffix == ".zip":
        method = zipfile.ZIP_DEFLATED if "deflated" in place.stem else zipfile.ZIP_STORED
        with zipfile.ZipFile(place, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return place
    place.mkdir()
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


@pytest.fixture(params=["folder", "stored.zip", "deflated.zip"])
def place(request, tmp_path):
    return tmp_path / request.param


def test_images_and_cameras_come_in_the_order_of_their_names(place):
    files = files_of_a_set()
    dataset = Eg3dDataset(write(place, dict(reversed(files.items()))))
    assert len(dataset) == 3 and dataset.names == NAMES and dataset.resolution == SIDE
    for index, name in enumerate(NAMES):
        record = dataset[index]
        assert set(record) == {"image", "camera"}
        np.testing.assert_array_equal(record["image"], pixels_of(files[name]))
        np.testing.assert_array_equal(record["camera"], np.float32(camera(index)))


def test_numbers_may_be_strings(place):
    files = labelled([str(number) for number in camera(1)])
    np.testing.assert_array_equal(
        Eg3dDataset(write(place, files))[1]["camera"], np.float32(camera(1))
    )


def test_labels_may_cover_more_names_than_there_are_images(tmp_path):
    files = files_of_a_set()
    del files[NAMES[0]]
    assert len(Eg3dDataset(write(tmp_path / "set", files))) == 2


def test_null_labels_are_refused_only_where_cameras_are_needed(place):
    path = write(place, files_of_a_set() | {"dataset.json": b'{"labels": null}'})
    with pytest.raises(UserError, match="labels is null, but cameras are needed"):
        Eg3dDataset(path)
    assert set(Eg3dDataset(path, use_labels=False)[0]) == {"image"}


def test_a_missing_dataset_json_is_refused_only_where_cameras_are_needed(place):
    files = files_of_a_set()
    del files["dataset.json"]
    path = write(place, files)
    with pytest.raises(UserError, match="has no dataset.json"):
        Eg3dDataset(path)
    assert len(Eg3dDataset(path, use_labels=False)) == 3


def test_one_channel_images_are_read_as_grey(place):
    files = files_of_a_set() | {NAMES[0]: picture(9, mode="L")}
    image = Eg3dDataset(write(place, files))[0]["image"]
    expected = np.repeat(pixels_of(files[NAMES[0]])[..., None], 3, axis=-1)
    np.testing.assert_array_equal(image, expected)


def test_what_file_managers_leave_behind_is_no_image(place):
    files = files_of_a_set() | {"__MACOSX/._img.png": b"junk", ".DS_Store": b"junk"}
    assert Eg3dDataset(write(place, files)).names == NAMES


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claim(shape):
    """A .npy file that promises more than it holds."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def png16(array):
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint16)).save(buffer, "png")
    return buffer.getvalue()


def mask_of(index):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[index : index + 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "png")
    return mask, buffer.getvalue()


@pytest.fixture
def with_masks_and_depths(place, tmp_path):
    """A data set whose depth is 2.5 everywhere, as .npy and, in thousandths, as PNG."""
    path = write(place, files_of_a_set())
    stems = [name.rsplit(".", 1)[0] for name in NAMES]
    masks = {f"{stem}.png": mask_of(i)[1] for i, stem in enumerate(stems)}
    depth = np.full((SIDE, SIDE), 2.5, np.float32)
    depths = {f"{stems[0]}.npy": npy(depth), f"{stems[1]}.npy": npy(depth[..., None])}
    depths[f"{stems[2]}.png"] = png16(depth * 1000)
    masks_path = write(place.with_name("masks-" + place.name), masks)
    return path, masks_path, write(place.with_name("depths-" + place.name), depths)


def test_masks_and_depth_maps_lie_beside_the_images(with_masks_and_depths):
    path, masks, depths = with_masks_and_depths
    dataset = Eg3dDataset(path, masks=masks, depths=depths)
    for index in range(3):
        record, mask = dataset[index], mask_of(index)[0]
        np.testing.assert_array_equal(record["mask"][..., 0], mask)
        expected = np.where(mask > 0, np.float32(2.5), 0)
        np.testing.assert_allclose(record["depth"][..., 0], expected, rtol=1e-6)
        assert record["depth"].dtype == np.float32
    unmasked = Eg3dDataset(path, depths=depths, depth_scale=0.01)
    np.testing.assert_allclose(unmasked[2]["depth"], 25.0, rtol=1e-6)


def test_the_mirror_option_appends_flipped_records(with_masks_and_depths):
    path, masks, depths = with_masks_and_depths
    dataset = Eg3dDataset(path, masks=masks, depths=depths, mirror=True)
    assert len(dataset) == 6
    for index in range(3):
        plain, mirrored = dataset[index], dataset[index + 3]
        for name in ("image", "mask", "depth"):
            np.testing.assert_array_equal(mirrored[name], plain[name][:, ::-1])
        expected = np.asarray(label_from_camera(orbit(-0.3 * index, 0.1)))
        np.testing.assert_allclose(mirrored["camera"], expected, atol=1e-6)


def test_it_can_be_batched(with_masks_and_depths):
    path, masks, _ = with_masks_and_depths
    batch = next(batches(Eg3dDataset(path, masks=masks), batch_size=2, seed=0))
    assert batch["image"].shape == (2, SIDE, SIDE, 3) and batch["mask"].shape == (2, SIDE, SIDE, 1)


FIELDS = ("image", "camera", "mask", "depth")


@pytest.mark.parametrize("mirror", [False, True])
def test_fields_are_read_alone_and_are_those_of_the_record(with_masks_and_depths, mirror):
    path, masks, depths = with_masks_and_depths
    dataset = Eg3dDataset(path, masks=masks, depths=depths, mirror=mirror)
    assert isinstance(dataset, FieldSource) and dataset.fields == FIELDS
    for index in range(len(dataset)):
        record = dataset[index]
        for fields in (("depth",), ("mask", "depth"), ("camera",), ("depth", "image")):
            some = dataset.read(index, fields=fields)
            assert tuple(some) == fields
            for name, value in some.items():
                np.testing.assert_array_equal(value, record[name])
    with pytest.raises(UserError, match="no field 'parts'; they have image, camera, mask, depth"):
        dataset.read(0, fields=("parts",))


def test_a_field_that_is_not_asked_for_is_not_read(place):
    path = write(place, files_of_a_set() | {NAMES[1]: b"junk"})
    dataset = Eg3dDataset(path)
    np.testing.assert_array_equal(
        dataset.read(1, fields=("camera",))["camera"], np.float32(camera(1))
    )
    with pytest.raises(UserError, match="not an image"):
        dataset.read(1, fields=("image",))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_record_ends_the_batches_with_its_file_and_name(place, threads):
    dataset = Eg3dDataset(write(place, files_of_a_set() | {NAMES[1]: BAD_IMAGES["truncated"][0]}))
    iterator = batches(dataset, batch_size=3, seed=0, threads=threads, prefetch=2)
    with pytest.raises(UserError, match="truncated") as refused:
        next(iterator)
    assert f"{place.name}: {NAMES[1]}" in str(refused.value)


def test_a_sound_set_passes_the_check(with_masks_and_depths):
    path, masks, depths = with_masks_and_depths
    Eg3dDataset(path, masks=masks, depths=depths).check()


def spoiled(numbers, changes):
    numbers = list(numbers)
    for index, value in changes.items():
        numbers[index] = value
    return numbers


BAD_LABELS = {
    "24 numbers": (camera(1)[:24], "has 24 numbers instead of 25"),
    "NaN": (spoiled(camera(1), {3: float("nan")}), "NaN, infinite or huge"),
    "NaN as a string": (spoiled(camera(1), {3: "nan"}), "NaN, infinite or huge"),
    "infinite": (spoiled(camera(1), {3: 1e400}), "NaN, infinite or huge"),
    "a word": (spoiled(camera(1), {3: "left"}), "something that is no number"),
    "an underscore": (spoiled(camera(1), {3: "1_0"}), "something that is no number"),
    "a truth value": (spoiled(camera(1), {3: True}), "something that is no number"),
    "nested": ([camera(1)], "has 1 numbers"),
    "a class": (3, "a class number, not a camera"),
    "null": (None, "not a list of numbers"),
    "sheared": (spoiled(camera(1), {1: 0.5}), "its rotation is none"),
    "left-handed": (spoiled(camera(0), {0: -1.0}), "its rotation is none"),
    "zeros": ([0.0] * 25, "its rotation is none"),
    "bottom row": (spoiled(camera(1), {12: 1.0}), "bottom row is not 0 0 0 1"),
    "focal length": (spoiled(camera(1), {16: -4.26}), "a focal length is not positive"),
    "intrinsics": (spoiled(camera(1), {24: 0.0}), "bottom row is not 0 0 1"),
    "pixels": (spoiled(camera(1), {18: 256.0}), "principal point is outside the image"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_a_bad_label_is_refused_with_file_and_image(tmp_path, case):
    label, said = BAD_LABELS[case]
    path = write(tmp_path / "set.zip", labelled(label))
    with pytest.raises(UserError, match=said) as refused:
        Eg3dDataset(path)
    assert "set.zip: dataset.json: 1 of 3 camera labels" in str(refused.value)
    assert NAMES[1] in str(refused.value)


def test_a_missing_label_is_refused(place):
    files = files_of_a_set()
    content = json.loads(files["dataset.json"])
    del content["labels"][2]
    path = write(place, files | {"dataset.json": json.dumps(content).encode()})
    with pytest.raises(UserError, match=r"00001/img00001000.jpg: has no label"):
        Eg3dDataset(path)


def test_only_the_first_five_bad_labels_are_listed(tmp_path):
    names = [f"{i}.png" for i in range(8)]
    files = {name: picture(0) for name in names}
    files["dataset.json"] = json.dumps({"labels": [[name, [1.0]] for name in names]}).encode()
    with pytest.raises(UserError, match=r"8 of 8 .*4.png: has 1 numbers .*; and 3 more") as refused:
        Eg3dDataset(write(tmp_path / "set", files))
    assert "5.png" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", 'has no "labels"'),
        (b'{"labels": 3}', "must be null or a list"),
        (b'{"labels": [["a.png"]]}', r"entry 0 of the labels is not \[name, numbers\]"),
        (b'{"labels": [["a.png", []], ["a.png", []]]}', "'a.png' has two labels"),
    ],
)
def test_a_dataset_json_of_another_form_is_refused(tmp_path, text, said):
    path = write(tmp_path / "set", files_of_a_set() | {"dataset.json": text})
    with pytest.raises(UserError, match=said):
        Eg3dDataset(path)


BAD_IMAGES = {
    "truncated": (picture(1)[:150], "truncated"),
    "empty": (b"", "the file is empty"),
    "16-bit": (picture(1, mode="I;16"), "more than 8 bits"),
    "palette": (picture(1, mode="P"), "palette"),
    "CMYK": (picture(1, mode="CMYK", kind="jpeg"), "CMYK"),
    "non-square": (picture(1, size=(8, 6)), "is 8×6 pixels; images must be square"),
    "other size": (picture(1, size=(16, 16)), "16×16 pixels; the first image has 8"),
    "text": (b"hello", "not an image"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_refused_with_file_and_member(place, case):
    data, said = BAD_IMAGES[case]
    dataset = Eg3dDataset(write(place, files_of_a_set() | {NAMES[1]: data}))
    dataset[0]
    for read in (lambda: dataset[1], dataset.check):
        with pytest.raises(UserError, match=said) as refused:
            read()
        assert place.name in str(refused.value) and NAMES[1] in str(refused.value)


def test_a_bad_first_image_is_refused_at_once(place):
    path = write(place, files_of_a_set() | {NAMES[0]: picture(1, size=(8, 6))})
    with pytest.raises(UserError, match="images must be square"):
        Eg3dDataset(path)


@pytest.mark.parametrize("files", [{}, {"dataset.json": b'{"labels": []}'}, {"a.txt": b"x"}])
def test_a_set_without_images_is_refused(place, files):
    with pytest.raises(UserError, match="holds no images"):
        Eg3dDataset(write(place, files))


def test_images_of_other_formats_are_refused(tmp_path):
    path = write(tmp_path / "set", files_of_a_set() | {"b.tiff": b""})
    with pytest.raises(UserError, match="b.tiff is of a format that is not read"):
        Eg3dDataset(path)


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder or zip"):
        Eg3dDataset(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "00000/img00000000.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_dangerous_names_is_refused(tmp_path, name):
    path = write(tmp_path / "set.zip", files_of_a_set())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, picture(0))
    with pytest.raises(UserError, match="set.zip: the member name"):
        Eg3dDataset(path)


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "deflated.zip"
    write(path, files_of_a_set() | {"bomb.png": bytes(3 * 2**20)})
    with pytest.raises(UserError, match="'bomb.png' unpacks to over 200 times"):
        Eg3dDataset(path)


def test_missing_masks_are_named(place, with_masks_and_depths):
    path, _, depths = with_masks_and_depths
    few = write(place.with_name("few-" + place.name), {"00000/img00000001.png": mask_of(0)[1]})
    with pytest.raises(UserError, match="has no mask for 2 of 3 images .*img00000000.png"):
        Eg3dDataset(path, masks=few)


BAD_DEPTHS = {
    "8-bit PNG": ("png", picture(0, mode="L"), "mode L; depth must be 16-bit grey"),
    "truncated PNG": ("png", png16(np.arange(64).reshape(8, 8) ** 2)[:70], "truncated or damaged"),
    "float64": ("npy", npy(np.ones((8, 8))), r"holds float64 of shape \[8, 8\]"),
    "three channels": ("npy", npy(np.ones((8, 8, 3), np.float32)), r"of shape \[8, 8, 3\]"),
    "objects": ("npy", npy(np.array([[{}]], dtype=object)), "holds object"),
    "NaN": ("npy", npy(np.full((8, 8), np.nan, np.float32)), "NaN, infinite or negative"),
    "negative": ("npy", npy(np.full((8, 8), -1, np.float32)), "NaN, infinite or negative"),
    "truncated": ("npy", npy(np.ones((8, 8), np.float32))[:-4], "truncated"),
    "no header": ("npy", b"hello", "not a readable .npy file"),
    "damaged header": ("npy", npy(np.ones((8, 8), np.float32))[:30] + b"(", "not a readable .npy"),
    "huge claim": ("npy", claim((2**40, 2**20)), "truncated"),
    "other size": ("npy", npy(np.ones((4, 4), np.float32)), "4×4 pixels; the first image has 8"),
}


@pytest.mark.parametrize("case", BAD_DEPTHS)
def test_a_bad_depth_map_is_refused_with_file_and_member(tmp_path, case):
    ending, data, said = BAD_DEPTHS[case]
    path = write(tmp_path / "set", files_of_a_set())
    sound = npy(np.ones((8, 8), np.float32))
    files = {name.rsplit(".", 1)[0] + ".npy": sound for name in NAMES[1:]}
    files[NAMES[0].replace("png", ending)] = data
    dataset = Eg3dDataset(path, depths=write(tmp_path / "depths.zip", files))
    with pytest.raises(UserError, match=said) as refused:
        dataset[0]
    assert f"depths.zip: 00000/img00000000.{ending}" in str(refused.value)
