"""Data intake: what is right is read whole, what is doubtful is refused in one line."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from engine.data import sources
from engine.errors import BadInput, UnknownName

COLOUR = np.random.default_rng(0).integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def archive(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def folder(tmp_path, layout):
    for name, picture in layout.items():
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return tmp_path / "set"


def test_an_npz_file_is_read_whole(tmp_path):
    found = sources.read_npz(archive(tmp_path, x=COLOUR, y=LABELS.astype("u1"), classes=np.array(["a", "b", "c"])))
    assert np.array_equal(found.x, COLOUR)
    assert found.y.dtype == np.int64 and found.y.tolist() == LABELS.tolist()
    assert found.classes == ("a", "b", "c")
    assert found.names[:2] == ("00000", "00001")
    assert not found.x.flags.writeable


def test_classes_that_are_not_named_are_numbered(tmp_path):
    assert sources.read_npz(archive(tmp_path, x=COLOUR, y=LABELS)).classes == ("0", "1", "2")


def test_a_list_of_classes_names_the_labels_of_an_npz_file(tmp_path):
    found = sources.read_npz(archive(tmp_path, x=COLOUR, y=LABELS))
    named = sources.with_classes(found, ["a", "b", "c", "d"])
    assert named.classes == ("a", "b", "c", "d")
    assert named.y is found.y and named.x is found.x
    with pytest.raises(BadInput, match="The data set has the label 2, but only 2 classes"):
        sources.with_classes(found, ["a", "b"])


def test_three_equal_channels_are_stored_as_one(tmp_path):
    grey = np.repeat(COLOUR[..., :1], 3, axis=3)
    assert np.array_equal(sources.read_npz(archive(tmp_path, x=grey, y=LABELS)).x, COLOUR[..., :1])


def test_one_coloured_pixel_keeps_three_channels(tmp_path):
    grey = np.repeat(COLOUR[..., :1], 3, axis=3)
    grey[5, 3, 4, 2] ^= 1
    assert sources.read_npz(archive(tmp_path, x=grey, y=LABELS)).x.shape == (6, 4, 5, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": LABELS}, "no array 'x'. It has: y"),
        ({"x": COLOUR}, "no array 'y'"),
        ({"x": COLOUR.astype("f4"), "y": LABELS}, "'x' in set.npz must be uint8"),
        ({"x": COLOUR[..., 0], "y": LABELS}, "'x' in set.npz must be uint8"),
        ({"x": COLOUR[..., :2], "y": LABELS}, "'x' in set.npz must be uint8"),
        ({"x": COLOUR[:0], "y": LABELS[:0]}, "not empty"),
        ({"x": COLOUR, "y": LABELS[:5]}, "6 whole numbers, one per image"),
        ({"x": COLOUR, "y": LABELS.astype("f8")}, "6 whole numbers"),
        ({"x": COLOUR, "y": LABELS - 1}, "between 0 and 99999, got -1"),
        ({"x": COLOUR, "y": LABELS + 100_000}, "got 100002"),
        ({"x": COLOUR, "y": LABELS, "classes": np.array(["a", "b"])}, "label 2, but only 2 classes"),
        ({"x": COLOUR, "y": LABELS, "classes": np.array([1, 2, 3])}, "must be a list of texts"),
        ({"x": COLOUR, "y": LABELS, "classes": np.array(["a", "", "c"])}, "Class 2 in set.npz"),
        ({"x": COLOUR, "y": LABELS, "classes": np.array(["a", "b\n", "c"])}, "Class 2 in set.npz"),
        ({"x": COLOUR, "y": LABELS, "classes": np.array(["a", "b", "c" * 201])}, "Class 3 in set.npz"),
    ],
)
def test_npz_files_that_cannot_be_meant_are_refused(tmp_path, arrays, message):
    with pytest.raises(BadInput, match=message) as caught:
        sources.read_npz(archive(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_python_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    with pytest.raises(BadInput, match="holds Python objects"):
        sources.read_npz(archive(tmp_path, x=np.array([Trap()], dtype=object), y=LABELS))


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(10**9, 224, 224, 3), (10**30, 10**30, 10**30, 3), (1000, 32, 32, 3)])
def test_a_header_that_declares_more_than_there_is_costs_no_memory(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        file.writestr("x.npy", header(shape) + b"\0" * 100)
    with pytest.raises(BadInput, match="declares"):
        sources.read_npz(tmp_path / "set.npz")


def test_an_array_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", COLOUR.nbytes - 1)
    with pytest.raises(BadInput, match=r"declares 360 bytes; at most 359"):
        sources.read_npz(archive(tmp_path, x=COLOUR, y=LABELS))


def test_pictures_over_the_limit_are_refused_after_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 100)
    path = folder(tmp_path, {"a/1.png": COLOUR[0], "a/2.png": COLOUR[1]})
    with pytest.raises(BadInput, match="2 pictures of 60 bytes are more than the 100"):
        sources.read_folder(path)


def test_a_negative_shape_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        file.writestr("x.npy", header((-1, 2, 2, 3)) + b"\0" * 12)
    with pytest.raises(BadInput):
        sources.read_npz(tmp_path / "set.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"^set\.npz cannot be read as an npz file: File is not a zip file\.$"):
        sources.read_npz(tmp_path / "set.npz")


def test_a_missing_archive_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.npz cannot be read"):
        sources.read_npz(tmp_path / "gone.npz")


def test_a_damaged_member_is_refused(tmp_path):
    file = archive(tmp_path, x=COLOUR, y=LABELS)
    content = bytearray(file.read_bytes())
    content[300] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"'x' in set\.npz cannot be read as an npy array: Bad CRC-32"):
        sources.read_npz(file)


def test_sorted_folder_names_are_the_classes(tmp_path):
    path = folder(tmp_path, {"dog/1.png": COLOUR[0], "cat/3.png": COLOUR[1], "cat/2.png": COLOUR[2]})
    found = sources.read_folder(path)
    assert found.classes == ("cat", "dog")
    assert found.y.tolist() == [0, 0, 1]
    assert found.names == ("2", "3", "1")
    assert np.array_equal(found.x, COLOUR[[2, 1, 0]])


def test_a_list_of_classes_gives_the_labels(tmp_path):
    path = folder(tmp_path, {"dog/1.png": COLOUR[0], "cat/3.png": COLOUR[1]})
    found = sources.read_folder(path, ["bird", "dog", "cat"])
    assert found.classes == ("bird", "dog", "cat")
    assert found.y.tolist() == [2, 1]
    with pytest.raises(UnknownName, match="No class is called 'cat'"):
        sources.read_folder(path, ["bird", "dog"])
    with pytest.raises(BadInput, match="'dog' stands twice"):
        sources.read_folder(path, ["dog", "dog", "cat"])


def test_files_of_one_stem_are_told_apart_by_their_folder(tmp_path):
    path = folder(tmp_path, {"dog/1.png": COLOUR[0], "cat/1.png": COLOUR[1]})
    assert sources.read_folder(path).names == ("cat/1.png", "dog/1.png")


def test_grey_pictures_are_stored_with_one_channel(tmp_path):
    assert sources.read_folder(folder(tmp_path, {"a/1.png": COLOUR[0, ..., 0]})).x.shape == (1, 4, 5, 1)


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    path = folder(tmp_path, {"a/1.png": COLOUR[0], "b/2.png": COLOUR[0, :3]})
    with pytest.raises(BadInput, match=r"b/2\.png has 5 x 3 pixels, the first picture has 5 x 4"):
        sources.read_folder(path)
    assert sources.read_folder(path, size=(3, 3)).x.shape == (2, 3, 3, 3)


def test_nothing_is_skipped(tmp_path):
    path = folder(tmp_path, {"a/1.png": COLOUR[0]})
    (path / "a" / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"notes\.txt is not a picture"):
        sources.read_folder(path)
    (path / "a" / "notes.txt").rename(path / "notes.txt")
    with pytest.raises(BadInput, match=r"notes\.txt lies beside the class folders"):
        sources.read_folder(path)


def test_links_in_a_folder_are_refused_wherever_they_lead(tmp_path):
    path = folder(tmp_path, {"a/1.png": COLOUR[0]})
    Image.fromarray(COLOUR[1]).save(tmp_path / "private.png")
    (path / "a" / "2.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(BadInput, match=r"^a/2\.png is a link; put what it leads to in its place\.$"):
        sources.read_folder(path)
    (path / "a" / "2.png").unlink()
    (path / "b").symlink_to(path / "a")
    with pytest.raises(BadInput, match=r"^set/b is a link"):
        sources.read_folder(path)


@pytest.mark.parametrize("name", ["x\ny\x1b[31m.png", os.fsdecode(b"\xff\xfe.png")])
def test_pictures_whose_names_cannot_be_shown_are_refused(tmp_path, name):
    path = folder(tmp_path, {"a/1.png": COLOUR[0]})
    (path / "a" / "1.png").rename(path / "a" / name)
    with pytest.raises(BadInput, match="of a picture has characters that cannot be shown") as refused:
        sources.read_folder(path)
    assert str(refused.value).isprintable()


def test_a_label_below_the_first_class_is_refused():
    with pytest.raises(BadInput, match=r"^STL10 has the label -1; every image must have one of its classes"):
        sources.labelled("STL10", COLOUR, LABELS - 1, ("a", "b", "c"), tuple("abcdef"))


@pytest.mark.parametrize(
    ("source", "size", "first", "reason"),
    [
        ("npz", (8, 8), 0, "--size is for picture files"),
        ("folder", None, 1, "--first-label is for npz files and tables"),
        ("torchvision", None, 1, "--first-label is for npz files and tables"),
        ("csv", None, 3, "--first-label must be 0 or 1, got 3"),
        ("npz", None, -(10**20), "--first-label must be 0 or 1"),
    ],
)
def test_options_that_a_source_would_ignore_are_refused(source, size, first, reason):
    sources.check_options("csv", (8, 8), 1)
    with pytest.raises(BadInput, match=reason):
        sources.check_options(source, size, first)


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        sources.read_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no class folders"):
        sources.read_folder(tmp_path / "empty")


def test_class_names_are_read_one_per_line(tmp_path):
    (tmp_path / "names.txt").write_bytes("﻿goldfish\r\n großer Panda \ncrane\ncrane\n\n".encode())
    assert sources.read_classes(tmp_path / "names.txt") == ("goldfish", "großer Panda", "crane", "crane")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a\n\nb\n", "Class 2"), (b"\xff\xfe\x00", "UTF-8"), (b"", "between 1 and"), (b"a\n\x1b[2J\n", "Class 2")],
)
def test_a_list_of_classes_with_a_doubtful_line_is_refused(tmp_path, content, message):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        sources.read_classes(tmp_path / "names.txt")
