"""Data sets named by a table or by torchvision: read whole from this machine, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import struct

import numpy as np
import pytest
from PIL import Image

from engine import __main__ as command_line
from engine.data import csv_table, register, sources
from engine.data.csv_table import Columns
from engine.errors import BadInput, UnknownName
from engine.store.store import Store

PIXELS = np.random.default_rng(0).integers(0, 256, size=(4, 6, 5, 3), dtype=np.uint8)
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    (made / "deep").mkdir(parents=True)
    for name, picture in zip(("one.png", "two.png", "three.png", "deep/four.png"), PIXELS, strict=True):
        Image.fromarray(picture).save(made / name)
    return made


def table(tmp_path, text):
    (tmp_path / "table.csv").write_text(text)
    return tmp_path / "table.csv"


def test_the_layout_of_the_competition_is_read_with_labels_from_one(tmp_path, folder):
    path = table(tmp_path, "ImageId,URL,TrueLabel,TargetClass\none,x,2,3\nthree,x,1,1\n")
    found = csv_table.read(path, folder, Columns(first_label=1), CLASSES)
    assert found.y.tolist() == [1, 0] and found.names == ("one", "three") and found.classes == CLASSES
    assert np.array_equal(found.x, PIXELS[[0, 2]])


def test_names_of_classes_serve_as_labels_and_columns_may_be_named(tmp_path, folder):
    path = table(tmp_path, 'what,who\ncat,deep/four.png\n"ant",one.png\n')
    found = csv_table.read(path, folder, Columns("who", "what"), None)
    assert (found.y.tolist(), found.classes) == ([1, 0], ("ant", "cat"))
    assert csv_table.read(path, folder, Columns("who", "what"), CLASSES).y.tolist() == [2, 0]


def test_pictures_are_fitted_to_one_size(tmp_path, folder):
    found = csv_table.read(table(tmp_path, "file,label\none,0\n"), folder, Columns(), None, size=(4, 4))
    assert found.x.shape == (1, 4, 4, 3) and found.classes == ("0",)


def test_the_hash_of_a_picture_is_checked(tmp_path, folder):
    wanted = hashlib.sha256((folder / "one.png").read_bytes()).hexdigest()
    assert len(csv_table.read(table(tmp_path, f"file,label,sha256\none,0,{wanted}\n"), folder, Columns(), None).y) == 1
    with pytest.raises(BadInput, match=r"two\.png is not the picture whose sha256 stands in line 2 of table\.csv"):
        csv_table.read(table(tmp_path, f"file,label,sha256\ntwo,0,{wanted}\n"), folder, Columns(), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must have a line of column names"),
        ("file,label\n", "1 to 1,000,000 lines below it"),
        (
            "name,label\none,0\n",
            "none of the columns file, filename, image, path, ImageId; name one. It has: name, label",
        ),
        ("file,kind\none,0\n", "none of the columns class_index, label"),
        ("file,label\none,0,more\n", "Line 2 of table.csv has more cells"),
        ("file,label\nfive,0\n", "Line 2 of table.csv names 'five', and pictures holds no picture of that name"),
        ("file,label\n,0\n", "Line 2 of table.csv names no picture"),
        ("file,label\none,0\none.png,1\n", "table.csv names one.png 2 times"),
        ("file,label\none,dog\n", "No class is called 'dog'"),
        ("file,label\none,3\n", "has the label 3, but only 3 classes"),
        ("file,label\none,99999999\n", "at most 100000 are read"),
        ('file,label\n"one,0\n', "cannot be read as a CSV table"),
        (
            "file,label\none,0\ntwo,-1\n",
            "Line 3 of table.csv has the label '-1'; labels must all be whole numbers from 0",
        ),
        ("file,label\none,10.0\ntwo,2.0\n", "Line 2 of table.csv has the label '10.0'"),
        ("file,label\none,10\ntwo,nan\n", "Line 3 of table.csv has the label 'nan'"),
        ("file,label\none,cat\ntwo,1\n", "Line 3 of table.csv has the label '1'"),
        ("file,label\none,cat\ntwo,nan\n", "Line 3 of table.csv has the label 'nan'"),
        ("file,label\none,\u0663\n", "Line 2 of table.csv has the label '\u0663'"),
        ("file,label,label\none,1,0\n", "table.csv has 2 columns called 'label'"),
        ("file,label\n\n\none,0\nzzz,1\n", "Line 5 of table.csv names 'zzz'"),
        ('file,label,note\none,0,"a\nb\nc"\nzzz,1,x\n', "Line 5 of table.csv names 'zzz'"),
        ("file,label\nloop,0\n", "holds no picture of that name"),
        ("file,label\n../table.csv,0\n", "holds no picture of that name"),
        ("file,label\n/etc/hostname,0\n", "holds no picture of that name"),
        ("file,label\nlink,0\n", "holds no picture of that name"),
        ("file,label\n" + "x" * 300 + ",0\n", "holds no picture of that name"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_in_one_line(tmp_path, folder, text, reason):
    (tmp_path / "secret.png").write_bytes((folder / "one.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(BadInput) as refused:
        csv_table.read(table(tmp_path, text), folder, Columns(), CLASSES)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_names_that_look_like_numbers_may_be_labels_where_a_list_has_them(tmp_path, folder):
    path = table(tmp_path, "file,label\none,7.5\ntwo,bee\n")
    assert csv_table.read(path, folder, Columns(), ("bee", "7.5")).y.tolist() == [1, 0]


@pytest.fixture
def patient():
    """Whoever works for more than five seconds is stopped by an error."""

    def wake(*_):
        raise TimeoutError

    # Time of the processor alone: how busy the machine is must not decide.
    before = signal.signal(signal.SIGVTALRM, wake)
    signal.setitimer(signal.ITIMER_VIRTUAL, 5)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.usefixtures("patient")
def test_many_class_names_take_no_longer_each(tmp_path, folder):
    names = [f"c{index}" for index in range(60_000)]
    path = table(tmp_path, "file,label\n" + "".join(f"gone,{name}\n" for name in names))
    with pytest.raises(BadInput, match="holds no picture of that name"):
        csv_table.read(path, folder, Columns(), None)
    assert sources.indices(names, names)["c59999"] == 59_999
    images = np.zeros((30_000, 1, 1, 1), np.uint8)
    added(tmp_path, images, np.arange(30_000), names[:30_000])
    labels = Store(tmp_path / "store").dataset("set").labels_for_classes(tuple(reversed(names)))
    assert labels[:2].tolist() == [59_999, 59_998]


def test_labels_below_the_declared_first_one_are_refused(tmp_path, folder):
    with pytest.raises(BadInput, match=r"table\.csv has the label 0, but counts classes from 1"):
        csv_table.read(table(tmp_path, "file,label\none,0\n"), folder, Columns(first_label=1), None)


def test_labels_of_an_npz_may_count_from_one(tmp_path):
    np.savez(tmp_path / "set.npz", x=PIXELS, y=np.array([1, 2, 3, 1]))
    found = sources.read_npz(tmp_path / "set.npz", first_label=1)
    assert found.y.tolist() == [0, 1, 2, 0] and found.classes == ("0", "1", "2")
    np.savez(tmp_path / "set.npz", x=PIXELS, y=np.array([1, 2, 0, 1]))
    with pytest.raises(BadInput, match=r"Labels in set\.npz must lie between 1 and 100000, got 0"):
        sources.read_npz(tmp_path / "set.npz", first_label=1)


def added(tmp_path, x, y, classes):
    found = sources.labelled("a test", x, np.asarray(y), classes, tuple(f"n{k}" for k in range(len(y))))
    return register.add(Store(tmp_path / "store"), "set", found, source="npz")


def test_images_that_stand_twice_are_told(tmp_path):
    x = np.concatenate([PIXELS, PIXELS[:2], PIXELS[:1]])
    card = added(tmp_path, x, [0, 1, 2, 0, 0, 2, 0], CLASSES)
    assert (
        card.warnings[0] == "3 images are the same as another one (first: n0 and n4); 1 of them with different labels."
    )
    assert Store(tmp_path / "store").data_card("set").warnings == card.warnings


def test_classes_with_few_or_no_images_are_told(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, size=(340, 2, 2, 1), dtype=np.uint8)
    card = added(tmp_path, x, [0] * 330 + [1] * 10, CLASSES)
    assert card.warnings[-3:] == (
        "1 of 3 classes have no image.",
        "1 of 3 classes have fewer than 30 images; their rates are never ranked.",
        "Classes are uneven: from 10 to 330 images.",
    )


def test_every_image_has_a_hash_of_its_own_in_the_store(tmp_path):
    added(tmp_path, PIXELS, [0, 1, 2, 0], CLASSES)
    dataset = Store(tmp_path / "store").dataset("set")
    assert len(set(dataset.image_hashes(dataset.keys))) == 4


def idx(path, array):
    """Write the format of MNIST's files: a number for type and axes, the sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(struct.pack(">I", side) for side in array.shape)
    path.write_bytes(struct.pack(">I", 0x800 + array.ndim) + sizes + array.astype(np.uint8).tobytes())


def mnist(root):
    for part in ("train", "t10k"):
        idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", PIXELS[:, :, :, 0].repeat(5, axis=1)[:, :28])
        idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", np.array([3, 0, 2, 1]))
    return root


def test_a_data_set_of_torchvision_is_read_by_name_and_never_fetched(tmp_path, capsys):
    root, store = mnist(tmp_path / "sets"), tmp_path / "store"
    options = ["data", "add", "--store", str(store), "--name", "mnist", "--torchvision", "MNIST", "--root", str(root)]
    assert command_line.main(options) == 0
    assert "Added mnist: 4 images of 28 x 5 pixels, 10 classes" in capsys.readouterr().out
    dataset = Store(store).dataset("mnist")
    assert dataset.labels.tolist() == [3, 0, 2, 1] and dataset.card.source == "torchvision MNIST test"
    assert dataset.names[1] == "test-00001"


@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [
        ("FashionMNIST", "test", r"sets does not hold all of FashionMNIST's test images"),
        ("MNIST", "valid", r"No split of MNIST is called 'valid'"),
        ("FakeData", "test", r"No data set of torchvision is called 'FakeData'"),
        ("ImageFolder", "test", r"No data set of torchvision is called 'ImageFolder'"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(tmp_path, name, split, reason):
    from engine.data import torchvision_sets

    with pytest.raises(BadInput, match=reason) as refused:
        torchvision_sets.read(name, mnist(tmp_path / "sets"), split)
    assert "\n" not in str(refused.value)


def told(name, root, **options):
    from engine.data import torchvision_sets

    with pytest.raises(BadInput) as refused:
        torchvision_sets.read(name, root, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_damaged_files_of_torchvisions_sets_are_refused_in_one_line(tmp_path):
    raw = mnist(tmp_path / "sets") / "MNIST" / "raw"
    idx(raw / "t10k-labels-idx1-ubyte", np.array([3, 0]))
    assert told("MNIST", tmp_path / "sets").startswith("Image 2 of MNIST cannot be read as a picture with a label: ")
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08")
    assert told("MNIST", tmp_path / "sets").startswith("sets does not hold all of MNIST's test images (")


def food(root):
    """Two pictures in the layout of Food101, and no others."""
    (root / "food-101" / "meta").mkdir(parents=True)
    (root / "food-101" / "images" / "pie").mkdir(parents=True)
    for name, pixels in (("1", PIXELS[0]), ("2", PIXELS[1])):
        Image.fromarray(pixels).save(root / "food-101" / "images" / "pie" / f"{name}.jpg")
    (root / "food-101" / "meta" / "test.json").write_text(json.dumps({"pie": ["pie/1", "pie/2"]}))
    return root / "food-101"


def test_damaged_pictures_of_torchvisions_sets_are_named(tmp_path):
    from engine.data import torchvision_sets

    folder = food(tmp_path)
    assert torchvision_sets.read("Food101", tmp_path).x.shape == PIXELS[:2].shape
    picture = folder / "images" / "pie" / "2.jpg"
    picture.write_bytes(b"P6 9000 9000 255 ")
    assert "Image 1 of Food101 cannot be read as a picture with a label: Image size (81000000 pixels)" in told(
        "Food101", tmp_path
    )
    picture.write_bytes(b"no picture")
    assert told("Food101", tmp_path).startswith("Image 1 of Food101 cannot be read")
    (folder / "meta" / "test.json").write_text("[]")
    assert told("Food101", tmp_path).startswith("test_damaged_pictures")


def test_a_forged_pickle_of_cifar_is_never_opened(tmp_path):
    from engine.data import torchvision_sets

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("test_batch", "batches.meta", *(f"data_batch_{k}" for k in range(1, 6))):
        (batches / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match="does not hold all of CIFAR10's test images"):
        torchvision_sets.read("CIFAR10", tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--csv", "table.csv"], "--images must name a folder, got nothing"),
        (["--torchvision", "MNIST", "--root", "gone"], "--root must name a folder, got gone"),
    ],
)
def test_the_command_says_which_option_is_missing(tmp_path, capsys, options, reason):
    assert command_line.main(["data", "add", "--store", str(tmp_path / "store"), "--name", "x", *options]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--npz", "set.npz", "--size", "32"], "--size is for picture files"),
        (["--folder", "set", "--first-label", "1"], "--first-label is for npz files"),
        (["--torchvision", "", "--root", "."], "No data set of torchvision is called ''"),
        (["--name", "../x", "--npz", "set.npz"], "cannot name"),
    ],
)
def test_what_is_refused_at_the_command_leaves_no_store(tmp_path, capsys, options, reason):
    assert command_line.main(["data", "add", "--store", str(tmp_path / "store"), "--name", "x", *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_unknown_columns_are_named(tmp_path, folder):
    with pytest.raises(UnknownName, match=r"No column of table\.csv is called 'lable'\. Did you mean 'label'"):
        csv_table.read(table(tmp_path, "file,label\none,0\n"), folder, Columns(label="lable"), None)
