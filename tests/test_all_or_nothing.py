"""Nothing of a data set is stored unless all of it was checked: whatever fails, and wherever, leaves no trace."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from PIL import Image

from engine import __main__ as command_line
from engine import demo
from engine.data import register, sources
from engine.errors import BadInput, EngineError
from engine.service import computations
from engine.service.registry import ImportFolder
from engine.store import Store, files
from engine.store import store as datasets
from engine.types.requests import DataOrder

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), dtype=np.uint8)
SOURCES = ("npz", "folder", "csv", "torchvision")


@pytest.fixture
def handed_in(tmp_path):
    """One folder with a source of every kind."""
    made = tmp_path / "inbox"
    for number, name in enumerate(("pets/cat/1.png", "pets/dog/2.png", "images/1.png", "images/2.png")):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[number]).save(made / name)
    np.savez(made / "set.npz", x=PIXELS, y=[0, 1, 0, 1])
    (made / "images.csv").write_text("file,label\n1,0\n2,1\n")
    (made / "names.txt").write_text("cat\ndog\n")
    for number, name in enumerate(("AD", "BE")):
        (made / "country211" / "test" / name).mkdir(parents=True)
        Image.fromarray(PIXELS[number]).save(made / "country211" / "test" / name / "1.png")
    return made


def options(kind, made):
    return {
        "npz": ["--npz", made / "set.npz"],
        "folder": ["--folder", made / "pets"],
        "csv": ["--csv", made / "images.csv", "--images", made / "images"],
        "torchvision": ["--torchvision", "Country211", "--root", made],
    }[kind]


def add(kind, made, store, *more, name="new"):
    return command_line.main(
        ["data", "add", "--store", str(store), "--name", name, *map(str, options(kind, made)), *more]
    )


def spoil(kind, made):
    """Make the last thing that is read unreadable."""
    if kind == "npz":
        np.savez(made / "set.npz", x=PIXELS, y=[0, 1, 0, -1])
    else:
        place = {"folder": "pets/dog/2.png", "csv": "images/2.png", "torchvision": "country211/test/BE/1.png"}[kind]
        (made / place).write_bytes(b"cut off")


def contents(root):
    """Every file and folder with its bytes and its time."""
    return {
        str(item.relative_to(root)): (item.stat().st_mtime_ns, item.read_bytes() if item.is_file() else None)
        for item in sorted(root.rglob("*"))
        if item.is_file() or not item.name.startswith(files.PREFIX)
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_can_be_added(handed_in, tmp_path, kind):
    assert add(kind, handed_in, tmp_path / "store") == 0
    assert Store(tmp_path / "store").data_card("new").count >= 2


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--classes", "one.txt"],
        ["--epsilon", "loud"],
        ["--size", "1"],
        ["--first-label", "1"],
        ["--classes", "gone.txt"],
    ],
)
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_refused_makes_no_store_and_one_line(handed_in, tmp_path, monkeypatch, capsys, kind, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("cat\n")
    if not more:
        spoil(kind, handed_in)
    assert add(kind, handed_in, tmp_path / "store", *more) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and told.err.startswith("error: ") and told.out == ""
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stage", ["image_hash", "_duplicates", "_counts"])
@pytest.mark.parametrize("kind", SOURCES)
def test_no_store_is_made_before_all_is_known_of_a_set(handed_in, tmp_path, monkeypatch, kind, stage):
    def broken(*_arguments):
        raise BadInput("spoilt")

    monkeypatch.setattr(register, stage, broken)
    assert add(kind, handed_in, tmp_path / "store") == 2
    assert not (tmp_path / "store").exists()


STAGES = {
    "reading": (sources, "labelled"),
    "hashing": (register, "image_hash"),
    "describing": (register, "_duplicates"),
    "guarding": (datasets, "image_hash"),
    "sealing": (files, "pack"),
    "making sure": (files, "_sync"),
    "putting in place": (files, "_rename_new"),
}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BadInput("spoilt"), MemoryError()])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", SOURCES)
def test_whatever_breaks_at_whatever_stage_leaves_a_store_as_it_was(
    handed_in, tmp_path, monkeypatch, kind, stage, error
):
    store = Store(tmp_path / "store")
    add("npz", handed_in, store.root, name="old")
    before = contents(store.root)

    def broken(*arguments, **more):
        raise error

    monkeypatch.setattr(*STAGES[stage], broken)
    if stage == "guarding":
        monkeypatch.setattr("engine.store.store.image_hash", broken)
    try:
        assert add(kind, handed_in, store.root) == 2
    except MemoryError:
        assert isinstance(error, MemoryError)
    monkeypatch.undo()
    after = contents(store.root)
    assert {name: value[1] for name, value in after.items()} == {name: value[1] for name, value in before.items()}
    assert [card.name for card in Store(store.root).datasets()] == ["old"]
    assert list(store.root.rglob(f"{files.PREFIX}*")) == []


@pytest.mark.parametrize("number", range(1, 10))
def test_a_disk_that_fails_at_any_file_leaves_nothing(handed_in, tmp_path, monkeypatch, number):
    store = Store(tmp_path / "store")
    before, sync, calls = contents(store.root), files._sync, []

    def fails_once(path):
        calls.append(path)
        if len(calls) == number:
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(files, "_sync", fails_once)
    code = add("npz", handed_in, store.root)
    # images, labels, hashes, names, card, their folder, the folder above: seven times the disk is asked.
    assert code == (2 if number <= 7 else 0) and len(calls) == min(number, 7)
    assert (contents(store.root).keys() == before.keys()) is (number <= 7)


def test_another_set_of_that_name_and_another_strength_are_refused_and_change_nothing(handed_in, tmp_path, capsys):
    store = tmp_path / "store"
    add("npz", handed_in, store)
    before = contents(store)
    assert add("folder", handed_in, store) == add("npz", handed_in, store, "--epsilon", "8/255") == 2
    assert "already holds another data set called 'new'" in capsys.readouterr().err
    assert contents(store) == before


KINDS = {"npz": "set.npz", "folder": "pets", "csv": "images.csv"}


def order(import_folder, kind, **changes):
    keys = {entry.name: entry.key for entry in import_folder.entries()}
    images = keys["images"] if kind == "csv" else None
    classes = keys.get(changes.pop("classes", ""))
    return DataOrder(keys[KINDS[kind]], changes.pop("name", "new"), classes=classes, images=images, **changes)


@pytest.mark.parametrize("fault", ["spoilt", "name", "epsilon", "size", "classes", "changed"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_from_the_import_folder_leaves_no_trace(handed_in, tmp_path, kind, fault):
    (handed_in / "one.txt").write_text("cat\n")
    changes = {
        "name": {"name": "../x"},
        "epsilon": {"epsilon": "loud"},
        "size": {"size": "1"},
        "classes": {"classes": "one.txt"},
    }
    import_folder, store = ImportFolder(handed_in), Store(tmp_path / "store")
    before = contents(store.root)
    if fault == "spoilt":
        spoil(kind, handed_in)
    task = import_folder.data(order(import_folder, kind, **changes.get(fault, {})))
    if fault == "changed":
        spoil(kind, handed_in)
    with pytest.raises(EngineError) as refused:
        computations.data(store, task)
    assert "\n" not in str(refused.value)
    assert contents(store.root) == before


def test_remarks_of_a_folder_reach_whoever_adds_it_from_the_import_folder(handed_in, tmp_path):
    (handed_in / "pets" / ".DS_Store").write_bytes(b"x")
    import_folder, store = ImportFolder(handed_in), Store(tmp_path / "store")
    notes = computations.data(store, import_folder.data(order(import_folder, "folder"))).notes
    assert notes[0] == "Hidden, or left by other programs, and so left out: 1 entry (.DS_Store)."
    assert json.loads(json.dumps(notes)) == list(store.data_card("new").warnings) and demo.CLASSES
