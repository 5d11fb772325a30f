"""Pictures come in file order, prepared as the manifest of a network says, and whatever is wrong with them is named."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks.pixels import Preprocessing
from tensorpress.pytorch.pictures import Pictures, open_pictures, prepare, read_labels, split

AS_IT_IS = Preprocessing((0.0,) * 3, (1.0,) * 3, 0, 0)


@pytest.fixture
def folder(tmp_path):  # type: ignore[no-untyped-def]
    """Four pictures that differ in kind, a file that is none, and labels."""
    place = tmp_path / "pictures"
    place.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(place / "b.PNG")
    Image.fromarray(pixels[:, :, 0]).save(place / "a.bmp")
    Image.fromarray(pixels).quantize(16).save(place / "d.png")
    Image.fromarray(pixels).save(place / "c.JPEG")
    Image.fromarray(pixels).save(place / "._c.png")
    (place / "notes.txt").write_text("none")
    (tmp_path / "labels.csv").write_text("file,class_index\nb.PNG,1\na.bmp,0\nc.JPEG,2\nd.png,3\nelsewhere.png,9\n")
    return place


@pytest.fixture
def archive(tmp_path):  # type: ignore[no-untyped-def]
    images = np.random.default_rng(2).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(6, dtype=np.uint8))
    return tmp_path / "set.npz"


def test_a_folder_is_read_in_file_order_with_its_labels(folder) -> None:  # type: ignore[no-untyped-def]
    pictures = open_pictures(folder, folder.parent / "labels.csv")
    assert pictures.names == ("a.bmp", "b.PNG", "c.JPEG", "d.png") and pictures.labels == (0, 1, 2, 3)
    assert [p.pixels.shape for p in pictures] == [(12, 20, 3)] * 4 and all(p.pixels.dtype == np.uint8 for p in pictures)
    grey = pictures[0].pixels
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])
    assert np.array_equal(pictures[1].pixels, np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8))
    pictures.check()
    pictures.check_labels(4)
    assert open_pictures(folder).labels == (None,) * 4


def test_limit_skip_slices_and_split(archive) -> None:  # type: ignore[no-untyped-def]
    pictures = open_pictures(archive, skip=1, limit=4)
    assert pictures.labels == (1, 2, 3, 4) and pictures[-1].label == 4 and pictures.names[0] == "image 1"
    calibration, evaluation = split(pictures, 3)
    assert (calibration.labels, evaluation.labels) == ((1, 2, 3), (4,))
    assert np.array_equal(evaluation[0].pixels, np.load(archive)["images"][4])
    with pytest.raises(IndexError):
        evaluation[1]
    for count in (0, 4, 64, -1):
        with pytest.raises(InputError, match=f"{count} of 4 pictures"):
            split(pictures, count)


def test_pixels_handed_out_do_not_write_back(archive) -> None:  # type: ignore[no-untyped-def]
    pictures = open_pictures(archive)
    before = pictures[0].pixels.copy()
    pictures[0].pixels[:] = 0
    assert np.array_equal(pictures[0].pixels, before)


def test_mean_and_deviation(archive) -> None:  # type: ignore[no-untyped-def]
    x = open_pictures(archive).tensor(2, Preprocessing((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), 0, 0))
    want = (np.load(archive)["images"][2].astype(np.float64) / 255 - [0.5, 0.25, 0]) / [0.5, 0.25, 2]
    assert x.shape == (1, 3, 8, 8) and x.dtype == torch.float32 and x.is_contiguous()
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), want, atol=1e-6)


@pytest.mark.parametrize(
    "height, width, size", [(300, 451, (256, 384)), (451, 300, (384, 256)), (300, 300, (256, 256)), (256, 300, (256, 300))]
)
def test_resize_is_of_the_shorter_side_and_floors_the_longer(height, width, size) -> None:  # type: ignore[no-untyped-def]
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    x = prepare(pixels, Preprocessing((0.0,) * 3, (1.0,) * 3, 256, 0))
    assert x.shape == (1, 3, *size)
    want = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.array_equal((x[0] * 255).round().byte().permute(1, 2, 0).numpy(), want)


def test_crop_is_centred_with_half_pixels_to_even() -> None:
    pixels = np.zeros((9, 11, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(9)[:, None], np.arange(11)
    x = (prepare(pixels, Preprocessing((0.0,) * 3, (1.0,) * 3, 0, 6)) * 255).round()  # 1.5 rows above, 2.5 columns before
    assert x[0, 0, :, 0].tolist() == [2, 3, 4, 5, 6, 7] and x[0, 1, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_grey_archives_become_rgb(tmp_path) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "g.npz", images=np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1))
    pictures = open_pictures(tmp_path / "g.npz")
    assert pictures[1].pixels.shape == (4, 4, 3) and pictures[1].label is None
    assert (pictures[1].pixels[:, :, 1] == np.arange(16, 32).reshape(4, 4)).all()


# --- what can be wrong -------------------------------------------------------------------------------------------------


def test_places_without_pictures(tmp_path, folder, archive) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, reason in [
        ({"path": tmp_path / "absent"}, "absent: no such folder"),
        ({"path": tmp_path / "absent.npz"}, "absent.npz: no such file"),
        ({"path": empty}, "empty: no picture"),
        ({"path": folder / "b.PNG"}, "neither a folder of pictures nor an .npz"),
        ({"path": folder, "skip": 4}, "no picture is left of 4"),
        ({"path": folder, "limit": 0}, "limit is 0"),
        ({"path": folder, "skip": -1}, "skip is -1"),
        ({"path": archive, "labels": tmp_path / "labels.csv"}, "belongs to a folder"),
        ({"path": folder, "labels": tmp_path / "absent.csv"}, "absent.csv: not a readable file of labels"),
    ]:
        with pytest.raises(InputError, match=reason):
            open_pictures(**arguments)


def test_a_file_that_does_not_decode_is_named_when_read(folder) -> None:  # type: ignore[no-untyped-def]
    data = (folder / "b.PNG").read_bytes()
    (folder / "b.PNG").write_bytes(data[: len(data) // 2])
    (folder / "d.png").write_text("no picture at all")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "e.png")
    pictures = open_pictures(folder)
    assert len(pictures) == 5  # none is skipped
    pictures[0]
    with pytest.raises(InputError, match=r"b\.PNG: does not decode: OSError"):
        pictures.tensor(1, AS_IT_IS)
    with pytest.raises(InputError, match=r"e\.png: has pixels of mode 'I;16'"):
        pictures[4]
    with pytest.raises(InputError, match=r"b\.PNG: does not decode.* \(3 of 5 pictures do not decode\)"):
        pictures.check()


def test_no_other_decoder_sees_a_file_whatever_it_is_called(folder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A file's name is not its format: PIL would hand PostScript to another program."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was asked for"))
    (folder / "b.PNG").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "c.JPEG", "TIFF")
    for number in (1, 2):
        with pytest.raises(InputError, match="does not decode: UnidentifiedImageError"):
            open_pictures(folder)[number]


def test_a_small_file_of_a_huge_picture_is_refused(folder) -> None:  # type: ignore[no-untyped-def]
    data = bytearray((folder / "b.PNG").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / "b.PNG").write_bytes(data)
    with pytest.raises(InputError, match="DecompressionBombError"):
        open_pictures(folder)[1]


def test_a_small_archive_of_huge_arrays_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bomb.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 31,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out, out.open("images.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(64):
            member.write(bytes(1 << 20))
    data = path.read_bytes()
    assert len(data) < 1 << 17
    at = data.index(b"PK\x01\x02") + 24  # the size that the archive declares
    path.write_bytes(data[:at] + (0xFFFF_FFF0).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(InputError, match=r"bomb\.npz: .* unpacks to 4,294,967,280 bytes, over the limit of 1,073,741,824"):
        open_pictures(path)


def test_a_picture_smaller_than_the_crop_is_named(folder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"a\.bmp is 20 x 12, smaller than the crop of 16"):
        open_pictures(folder).tensor(0, Preprocessing(resize=0, crop=16))


def test_labels_missing_and_out_of_range(folder) -> None:  # type: ignore[no-untyped-def]
    labels = folder.parent / "labels.csv"
    with pytest.raises(InputError, match=r"label 2 of c\.JPEG is out of range: the network has 2 classes \(2 of 4 labels"):
        open_pictures(folder, labels).check_labels(2)
    labels.write_text("file,class_index\na.bmp,0\nb.PNG,1\n")
    pictures = open_pictures(folder, labels)
    pictures[:2].check_labels(2)
    with pytest.raises(InputError, match=r"2 of 4 pictures have no label, the first is c\.JPEG"):
        pictures.check_labels(2)
    with pytest.raises(InputError, match="4 of 4 pictures have no label"):
        open_pictures(folder).check_labels(2)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "line 1 is ''"),
        ("a.png,0\n", "line 1 is 'a.png,0', not the header"),
        ("file,class_index\na.png,0\nb.png\n", "line 3 has 1 fields"),
        ("file,class_index\na.png,0,1\n", "line 2 has 3 fields"),
        ("file,class_index\na.png,cat\n", "line 2: class index 'cat'"),
        ("file,class_index\na.png,-1\n", "line 2: class index '-1'"),
        ("file,class_index\na.png,1.0\n", "line 2: class index '1.0'"),
        ("file,class_index\na.png,1\n\na.png,2\n", "line 4: a.png already has the class index 1"),
        (b"file,class_index\n\xff\xfe,1\n", "UnicodeDecodeError"),
    ],
)
def test_malformed_labels_name_the_line(tmp_path, text, reason) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=reason) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_labels_with_a_byte_order_mark_and_windows_line_ends(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "labels.csv"
    path.write_bytes('\ufefffile,class_index\r\n"a, b.png",7\r\n'.encode())
    assert read_labels(path) == {"a, b.png": 7}


IMAGES = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "arrays, reason",
    [
        ({"pictures": IMAGES}, r"no array 'images' \(it has pictures\)"),
        ({"images": IMAGES.astype(np.float32)}, "'images' is float32"),
        ({"images": IMAGES[0]}, r"'images' is uint8 \[4, 4, 3\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"\[3, 3, 4, 4\], not uint8"),
        ({"images": IMAGES[:0]}, r"\[0, 4, 4, 3\], not"),
        ({"images": IMAGES, "labels": np.zeros(2, np.uint8)}, r"'labels' is uint8 \[2\]"),
        ({"images": IMAGES, "labels": np.zeros(3)}, "'labels' is float64"),
        ({"images": np.array([{}] * 3)}, "not a readable npz"),
    ],
)
def test_archives_of_another_layout(tmp_path, arrays, reason) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=reason) as caught:
        open_pictures(tmp_path / "x.npz")
    assert "x.npz: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_negative_label_and_a_cut_archive(tmp_path, archive) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "n.npz", images=IMAGES, labels=np.array([0, -1, 1]))
    with pytest.raises(InputError, match="label -1 of image 1 is out of range"):
        open_pictures(tmp_path / "n.npz").check_labels(10)
    data = archive.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 1):
        archive.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"set\.npz: not "):
            open_pictures(archive)


def test_pictures_is_the_type_of_slices(archive) -> None:  # type: ignore[no-untyped-def]
    assert isinstance(open_pictures(archive)[::2], Pictures) and open_pictures(archive)[::2].labels == (0, 2, 4)
