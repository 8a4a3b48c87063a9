"""Folders as people have them: what other programs left there is no class and no picture, turned pictures are counted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine import images
from engine.data import csv_table, register, sources, torchvision_sets
from engine.data.csv_table import Columns
from engine.errors import BadInput
from engine.service.registry import ImportFolder
from engine.store import Store

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 6, 3), dtype=np.uint8)
FOLDERS = (
    ".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "lost+found", "#recycle", "$RECYCLE.BIN", "System Volume Information",
    ".Trash-1000", "__pycache__", ".AppleDouble", ".thumbnails",
)  # fmt: skip
FILES = (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", "Desktop.ini", ".directory", "ehthumbs.db", "Icon\r")


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/3.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[number]).save(tmp_path / "set" / name)
    return tmp_path / "set"


def left(place, name):
    """A folder with a picture in it, or a file of rubbish, as other programs leave them."""
    if name in FOLDERS:
        (place / name).mkdir()
        Image.fromarray(PIXELS[5]).save(place / name / "1.png")
    else:
        (place / name).write_bytes(b"\0\5\x16\7rubbish")


@pytest.mark.parametrize("place", [".", "cat"])
@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_what_other_programs_leave_is_left_out_and_told_wherever_it_lies(folder, place, name):
    left(folder / place, name)
    found = sources.read_folder(folder)
    assert (found.classes, found.names, found.y.tolist()) == (("cat", "dog"), ("1", "2", "3"), [0, 0, 1])
    (told,) = found.remarks
    shown = name.replace("\r", r"\r")
    assert told.startswith("Hidden, or left by other programs, and so left out: 1 entry (") and shown in told
    assert told.isprintable()


def test_everything_left_out_is_counted_in_one_sentence_that_the_store_keeps(folder, tmp_path):
    for name in (*FOLDERS, *FILES):
        left(folder, name)
    card = register.add(Store(tmp_path / "store"), "pets", sources.read_folder(folder), source="folder")
    assert card.warnings[0].startswith(
        f"Hidden, or left by other programs, and so left out: {len(FOLDERS + FILES)} entries ("
    )
    assert ", …)." in card.warnings[0]


def test_a_hidden_link_is_not_followed_and_does_not_matter(folder, tmp_path):
    (folder / ".link").symlink_to(tmp_path)
    assert sources.read_folder(folder).classes == ("cat", "dog")


@pytest.mark.parametrize("classes", [None, ("ant", "cat", "dog")])
def test_class_folders_without_a_picture_are_left_out_and_told(folder, classes):
    (folder / "ant").mkdir()
    (folder / "bee").mkdir()
    left(folder / "bee", ".DS_Store")
    found = sources.read_folder(folder, classes)
    assert found.classes == (classes or ("cat", "dog"))
    assert found.remarks[-1] == "2 class folders without a picture left out: ant, bee."
    assert [found.classes[label] for label in found.y] == ["cat", "cat", "dog"]


def test_a_folder_of_nothing_but_leftovers_is_refused(tmp_path):
    (tmp_path / "set" / "cat").mkdir(parents=True)
    left(tmp_path / "set" / "cat", ".DS_Store")
    with pytest.raises(BadInput, match="set holds no class folder with a picture in it"):
        sources.read_folder(tmp_path / "set")
    (tmp_path / "set" / "cat" / ".DS_Store").unlink()
    (tmp_path / "set" / "cat").rmdir()
    left(tmp_path / "set", "__MACOSX")
    with pytest.raises(BadInput, match="holds no class folders"):
        sources.read_folder(tmp_path / "set")


@pytest.mark.parametrize("name", ["cats", "db", "recycle", "found", "a.DS_Store"])
def test_names_that_only_remind_of_it_are_not_left_out(name):
    assert not sources.is_left_over(name)


def test_the_import_folder_offers_nothing_that_was_left_there_and_knows_a_folder_by_its_pictures(folder):
    import_folder = ImportFolder(folder.parent)
    (before,) = import_folder.entries()
    assert import_folder.left_out() == ""
    for name in (*FOLDERS, *FILES):
        left(folder.parent, name)
        left(folder, name)
    assert import_folder.left_out().startswith(
        f"Hidden, or left by other programs, and so left out: {len(FOLDERS + FILES)} entries ("
    )
    assert import_folder.left_out().isprintable() and ImportFolder(None).left_out() == ""
    (after,) = import_folder.entries()
    assert after == before and after.name == "set"
    Image.fromarray(PIXELS[4]).save(folder / "cat" / "4.png")
    assert import_folder.entries()[0].key != before.key


def noted(path, orientation, **options):
    note = Image.Exif()
    note[images.ORIENTATION] = orientation
    Image.fromarray(PIXELS[5]).save(path, exif=note, **options)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    ("orientation", "is_turned"), [(1, False), (0, False), (9, False), (2, True), (6, True), (8, True)]
)
def test_a_picture_with_a_note_to_turn_it_is_known_and_taken_as_it_lies(tmp_path, suffix, orientation, is_turned):
    noted(tmp_path / f"a.{suffix}", orientation)
    Image.fromarray(PIXELS[5]).save(tmp_path / f"plain.{suffix}")
    found = images.read(tmp_path / f"a.{suffix}")
    assert found.is_turned is is_turned
    assert np.array_equal(found.pixels, images.decode(tmp_path / f"plain.{suffix}"))
    assert not images.read(tmp_path / f"plain.{suffix}").is_turned


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("note", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_damaged_note_is_no_reason_to_refuse_a_picture(tmp_path, suffix, note):
    Image.fromarray(PIXELS[5]).save(tmp_path / f"a.{suffix}", exif=note)
    found = images.read(tmp_path / f"a.{suffix}")
    assert found.pixels.shape == (8, 6, 3) and not found.is_turned


def test_turned_pictures_are_counted_in_one_sentence(folder, tmp_path):
    assert sources.read_folder(folder).remarks == ()
    noted(folder / "dog" / "4.jpg", 6)
    (told,) = sources.read_folder(folder).remarks
    assert told.startswith(
        "1 picture has a camera's note to turn it (EXIF orientation; first: dog/4.jpg); it is taken as"
    )
    noted(folder / "dog" / "5.jpg", 3)
    (told,) = sources.read_folder(folder).remarks
    assert told.startswith(
        "2 pictures have a camera's note to turn them (EXIF orientation; first: dog/4.jpg); they are taken as"
    )
    (tmp_path / "table.csv").write_text("file,label\n4,0\n5,0\n3,0\n")
    assert csv_table.read(tmp_path / "table.csv", folder / "dog", Columns(), None).remarks == (told,)


def test_turned_pictures_and_leftovers_of_torchvisions_sets_are_seen_too(tmp_path):
    for name in ("AD", "BE"):
        (tmp_path / "country211" / "test" / name).mkdir(parents=True)
        noted(tmp_path / "country211" / "test" / name / "1.jpg", 6)
    found = torchvision_sets.read("Country211", tmp_path)
    assert found.classes == ("AD", "BE") and found.remarks[0].startswith("2 pictures have a camera's note")
    left(tmp_path / "country211" / "test", ".ipynb_checkpoints")
    with pytest.raises(BadInput, match=r"Among the class folders of Country211 lies '\.ipynb_checkpoints'"):
        torchvision_sets.read("Country211", tmp_path)
