"""The desk: what lies in the import folder is added by id, what cannot be added says why, what is archived leaves the menus."""

from __future__ import annotations

import io
import os
import re
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from engine import Auditor, BadInput, DataOrder, ModelOrder, StoreError, UnknownName, demo
from engine.service import computations, tasks
from engine.service.answers import Answers
from engine.service.registry import ImportFolder, ModelRegistry
from engine.store import Store, files
from tests import audits, stores


class Workers(audits.Inline):
    """Workers that note what fails, as the real ones do."""

    def submit(self, task, *, priority, doing):
        try:
            return super().submit(task, priority=priority, doing=doing)
        except (BadInput, UnknownName) as error:
            self.failures[task["key"]] = str(error)
            return True

    def is_unfinished(self, key):
        return key in self.failures


@pytest.fixture
def import_folder(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    shutil.copyfile(demo.weights(demo.MODELS[0]), folder / "net.safetensors")
    (folder / "names.txt").write_text("\n".join(demo.CLASSES) + "\n")
    found = audits.some_digits()
    np.savez(folder / "digits.npz", x=found.x, y=found.y)
    (folder / "notes.md").write_text("not offered")
    (folder / ".hidden.npz").write_bytes(b"x")
    (folder / "link.npz").symlink_to("/etc/hostname")
    return folder


@pytest.fixture
def model_registry(tmp_path, import_folder):
    store = Store(tmp_path / "store")
    return ModelRegistry(Answers(store, Workers(store.root)), ImportFolder(import_folder))


def entry(model_registry, name):
    return next(item.key for item in model_registry.entries() if item.name == name)


def order(model_registry, **changes):
    wanted = {"entry": entry(model_registry, "net.safetensors"), "name": "mine", "architecture": demo.ARCHITECTURE,
              "classes": entry(model_registry, "names.txt")}  # fmt: skip
    return ModelOrder(**{**wanted, **changes})


def test_only_plain_files_and_folders_of_known_kinds_are_offered(model_registry, import_folder):
    (import_folder / "pictures").mkdir()
    assert {entry.name: entry.kind for entry in model_registry.entries()} == {
        "digits.npz": "npz", "names.txt": "classes", "net.safetensors": "weights", "pictures": "folder"
    }  # fmt: skip


def test_a_model_is_added_by_its_id_and_stands_in_the_menus(model_registry):
    answer = model_registry.take_model(order(model_registry))
    assert answer.state == "ready"
    (card,) = model_registry.models()
    assert (card.name, card.architecture, card.classes) == ("mine", demo.ARCHITECTURE, demo.CLASSES)
    assert model_registry.take_model(order(model_registry)).value == answer.value


def test_a_data_set_lends_its_class_names_to_a_model(model_registry):
    data = DataOrder(
        entry(model_registry, "digits.npz"), "digits", classes=entry(model_registry, "names.txt"), epsilon="8/255"
    )
    assert model_registry.take_data(data).state == "ready"
    assert model_registry.datasets()[0].epsilon == "8/255"
    assert model_registry.take_model(order(model_registry, classes="data:digits")).state == "ready"
    assert model_registry.models()[0].classes == demo.CLASSES


def test_a_folder_of_folders_becomes_a_data_set(model_registry, import_folder):
    from PIL import Image

    for label in ("cat", "dog"):
        (import_folder / "pictures" / label).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), len(label), np.uint8)).save(import_folder / "pictures" / label / "a.png")
    assert model_registry.take_data(DataOrder(entry(model_registry, "pictures"), "pets")).state == "ready"
    assert model_registry.datasets()[0].classes == ("cat", "dog")


def tabled(import_folder) -> None:
    """A table of three pictures whose classes count from 1, as that of NIPS 2017 does."""
    from PIL import Image

    (import_folder / "images").mkdir()
    for shade, name in enumerate(("a", "b", "c")):
        Image.fromarray(np.full((8, 8, 3), 80 * shade, np.uint8)).save(import_folder / "images" / f"{name}.png")
    (import_folder / "images.csv").write_text("ImageId,TrueLabel\na,2\nb,1\nc,10\n")


def test_a_table_of_pictures_is_added_with_their_folder_and_its_first_label(model_registry, import_folder):
    tabled(import_folder)
    keys = {"images": entry(model_registry, "images"), "classes": entry(model_registry, "names.txt")}
    found = model_registry.take_data(DataOrder(entry(model_registry, "images.csv"), "nips", first_label=1, **keys))
    assert found.state == "ready", found.message
    assert model_registry.datasets()[0].count == 3
    store = Store(import_folder.parent / "store")
    assert store.dataset("nips").labels.tolist() == [1, 0, 9]
    assert store.dataset("nips").images(("00002",))[0, 0, 0, 0] == 160
    wrong = model_registry.take_data(DataOrder(entry(model_registry, "images.csv"), "zero", **keys))
    assert wrong.state == "failed"
    assert "10" in wrong.message


def test_a_table_without_its_folder_is_refused(model_registry, import_folder):
    tabled(import_folder)
    with pytest.raises(BadInput, match="needs the folder"):
        model_registry.take_data(DataOrder(entry(model_registry, "images.csv"), "nips"))
    with pytest.raises(BadInput, match="what is needed is folder"):
        model_registry.take_data(
            DataOrder(entry(model_registry, "images.csv"), "nips", images=entry(model_registry, "digits.npz"))
        )


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"architecture": "nothing"}, "nothing"), ({"name": "../x"}, "cannot name"), ({"mean": "a,b"}, "--mean"),
     ({"channels": "xyz"}, "--channels"), ({"classes": "data:gone"}, "gone")],
)  # fmt: skip
def test_an_order_that_cannot_be_done_says_why_and_stores_nothing(model_registry, changes, text):
    answer = model_registry.take_model(order(model_registry, **changes))
    assert answer.state == "failed"
    assert text in answer.message
    assert model_registry.models() == ()


def test_a_failed_order_can_be_given_again_once_the_cause_is_gone(model_registry):
    again = order(model_registry, classes="data:digits")
    assert model_registry.take_model(again).state == "failed"
    model_registry.take_data(
        DataOrder(entry(model_registry, "digits.npz"), "digits", classes=entry(model_registry, "names.txt"))
    )
    model_registry.forget(again)
    assert model_registry.take_model(again).state == "ready"


def test_an_id_that_is_not_there_or_is_of_another_kind_is_refused(model_registry):
    with pytest.raises(UnknownName):
        model_registry.take_model(order(model_registry, entry="../../etc/passwd"))
    with pytest.raises(BadInput, match="is npz; what is needed is weights"):
        model_registry.take_model(order(model_registry, entry=entry(model_registry, "digits.npz")))


def test_a_file_that_changed_since_it_was_shown_is_no_longer_that_entry(model_registry, import_folder):
    old = order(model_registry)
    (import_folder / "net.safetensors").write_bytes(b"something else")
    with pytest.raises(UnknownName):
        model_registry.take_model(old)
    answer = model_registry.take_model(order(model_registry))
    assert answer.state == "failed"
    assert model_registry.models() == ()


def pets(import_folder):
    from PIL import Image

    for shade, name in enumerate(("a/1.png", "b/1.png")):
        (import_folder / "pets" / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(import_folder / "pets" / name)
    return import_folder / "pets"


def test_a_folder_in_which_something_changed_is_another_entry(model_registry, import_folder):
    folder = pets(import_folder)
    first = DataOrder(entry(model_registry, "pets"), "pets")
    assert model_registry.take_data(first).state == "ready"
    shutil.copyfile(folder / "a" / "1.png", folder / "a" / "2.png")
    with pytest.raises(UnknownName):
        model_registry.take_data(first)
    again = model_registry.take_data(DataOrder(entry(model_registry, "pets"), "pets"))
    assert again.state == "failed"
    assert "already holds another data set called 'pets'" in again.message
    before = entry(model_registry, "pets")
    (folder / "a" / "2.png").write_bytes(b"written over")
    assert entry(model_registry, "pets") != before


def test_a_link_in_a_folder_never_leads_out_of_the_import_folder(model_registry, import_folder):
    folder = pets(import_folder)
    (import_folder.parent / "private.png").write_bytes((folder / "a" / "1.png").read_bytes())
    (folder / "b" / "2.png").symlink_to(import_folder.parent / "private.png")
    answer = model_registry.take_data(DataOrder(entry(model_registry, "pets"), "pets"))
    assert answer.state == "failed"
    assert "b/2.png is a link" in answer.message
    assert model_registry.datasets() == ()


@pytest.mark.parametrize("name", ["net.safetensors", "names.txt"])
def test_what_was_put_in_an_entrys_place_before_the_worker_came_is_not_added(model_registry, import_folder, name):
    task = ImportFolder(import_folder).model(order(model_registry))
    (import_folder / name).rename(import_folder.parent / name)
    (import_folder / name).symlink_to(import_folder.parent / name)
    with pytest.raises(BadInput, match=f"^{name} changed since it was chosen; choose it again"):
        computations.model(Store(import_folder.parent / "store"), task)
    assert model_registry.models() == ()


@pytest.mark.parametrize("name", ["images", "images.csv"])
def test_a_table_or_its_pictures_that_changed_before_the_worker_came_are_not_added(model_registry, import_folder, name):
    tabled(import_folder)
    task = ImportFolder(import_folder).data(
        DataOrder(entry(model_registry, "images.csv"), "nips", images=entry(model_registry, "images"))
    )
    (import_folder / name).rename(import_folder.parent / name)
    (import_folder / name).symlink_to(import_folder.parent / name)
    with pytest.raises(BadInput, match=f"^{name} changed since it was chosen; choose it again"):
        computations.data(Store(import_folder.parent / "store"), task)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"size": "32"}, "--size is for picture files"), ({"first_label": 10**20}, "must be 0 or 1")],
)
def test_what_an_npz_file_would_ignore_is_refused(model_registry, changes, reason):
    answer = model_registry.take_data(DataOrder(entry(model_registry, "digits.npz"), "digits", **changes))
    assert answer.state == "failed"
    assert reason in answer.message


@pytest.mark.parametrize("name", ["a\nb.npz", os.fsdecode(b"\xff.npz")])
def test_names_that_cannot_be_shown_are_not_offered(model_registry, import_folder, name):
    before = model_registry.entries()
    shutil.copyfile(import_folder / "digits.npz", import_folder / name)
    assert model_registry.entries() == before


def test_what_is_archived_leaves_the_menus_and_comes_back_unchanged(model_registry):
    model_registry.take_model(order(model_registry))
    before = model_registry.models()
    model_registry.archive("models", "mine")
    assert model_registry.models() == ()
    assert model_registry.models(archived=True) == before
    model_registry.archive("models", "mine", archived=False)
    assert model_registry.models() == before
    with pytest.raises(UnknownName):
        model_registry.archive("data", "nothing")


def test_a_store_whose_models_are_all_archived_does_not_get_the_demo(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    for name in demo.MODELS:
        store.archive("models", name, archived=True)
    store.archive("data", "digits", archived=True)
    auditor = Auditor(store, Workers(store.root))
    assert auditor.models() == ()
    assert auditor.install_demo().state == "ready"


def test_without_an_import_folder_there_is_nothing_to_add(tmp_path):
    store = Store(tmp_path / "store")
    model_registry = ModelRegistry(Answers(store, Workers(store.root)), ImportFolder(None))
    assert not model_registry.has_import_folder
    assert model_registry.entries() == ()
    with pytest.raises(StoreError, match="not a folder"):
        ImportFolder(tmp_path / "gone")


def test_the_weights_in_the_store_are_those_of_the_import_folder(model_registry, import_folder):
    model_registry.take_model(order(model_registry))
    stored, given = (
        load_file(path) for path in (model_registry._store.weights("mine"), import_folder / "net.safetensors")
    )
    assert stored.keys() == given.keys()
    assert all((stored[name] == given[name]).all() for name in given)


class Dripping(io.BytesIO):
    """A connection that hands over little at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7))


def lying(import_folder):
    return sorted(path.name for path in import_folder.iterdir())


def test_a_file_that_was_sent_lies_in_the_import_folder_and_is_offered(model_registry, import_folder):
    content = b"zero\none\n" * 9
    entry = model_registry.receive("../My names (2).txt", Dripping(content + b"of the next request"), len(content))
    assert (entry.name, entry.kind, entry.bytes) == ("My-names-2-.txt", "classes", len(content))
    assert (import_folder / entry.name).read_bytes() == content
    assert entry in model_registry.entries()


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("net.onnx", 3, "cannot be added"), ("net", 3, "cannot be added"), ("", 3, "cannot be added"),
        (".hidden.npz", 3, "hidden"), ("a" * 130 + ".pt", 3, "longer than 120"), ("names.txt", 3, "already"),
        ("more.txt", 0, "1 to 4,194,304 are taken"), ("more.txt", 4 * 2**20 + 1, "1 to 4,194,304 are taken"),
        ("net.pt", 4 * 2**30 + 1, "are taken"), ("more.txt", 9, "6 bytes too early"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_in_is_refused_and_leaves_nothing(model_registry, import_folder, name, size, text):
    before = lying(import_folder)
    with pytest.raises(BadInput, match=re.escape(text)):
        model_registry.receive(name, io.BytesIO(b"abc"), size)
    assert lying(import_folder) == before


def test_a_connection_that_breaks_leaves_nothing(model_registry, import_folder):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError(104, "reset")

    before = lying(import_folder)
    with pytest.raises(StoreError, match="taking in a file"):
        model_registry.receive("more.txt", Broken(), 5)
    assert lying(import_folder) == before


def test_a_full_disk_is_said_before_anything_is_written(model_registry, import_folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(BadInput, match="no room"):
        model_registry.receive("more.txt", io.BytesIO(b"abc"), 3)
    assert "more.txt" not in lying(import_folder)


@pytest.mark.parametrize("is_set", [True, False])
def test_an_administrator_may_switch_it_off(tmp_path, import_folder, is_set):
    folder = ImportFolder(import_folder, takes_uploads=False) if is_set else ImportFolder(None)
    assert not folder.takes_uploads
    with pytest.raises(BadInput, match="takes no files"):
        folder.receive("more.txt", io.BytesIO(b"abc"), 3)


def test_what_is_added_says_where_it_came_from_and_under_which_licence(model_registry):
    model_registry.take_data(
        DataOrder(
            entry(model_registry, "digits.npz"),
            "digits",
            classes=entry(model_registry, "names.txt"),
            licence="CC BY 4.0",
        )
    )
    model_registry.take_model(order(model_registry, licence="MIT"))
    (data,), (model,) = model_registry.datasets(), model_registry.models()
    assert (data.source, data.licence, model.source, model.licence) == ("npz", "CC BY 4.0", "net.safetensors", "MIT")
    bare = replace(model, source="", licence="")
    assert tasks.model_key(model) == tasks.model_key(bare), "neither changes what a result depends on"


def test_a_file_that_came_in_meanwhile_is_never_replaced(model_registry, import_folder):
    class Racing(io.BytesIO):
        def read(self, size=-1):
            (import_folder / "more.txt").write_text("first")
            return super().read(size)

    with pytest.raises(BadInput, match="already"):
        model_registry.receive("more.txt", Racing(b"abc"), 3)
    assert (import_folder / "more.txt").read_text() == "first"
    assert not [name for name in lying(import_folder) if name.startswith(".tmp")]


def test_only_what_a_dead_server_left_of_a_file_is_swept(model_registry, import_folder):
    dead = import_folder / f"{files.PREFIX}{files.HOST}-{2**22 + 1}-0123abcd.part"
    own = [
        f".tmp-{files.HOST}-{os.getpid()}-0123abcd.part",
        ".tmp-notes",
        ".tmp-x.part",
        f".tmp-other-{2**22 + 1}-0123abcd.part",
    ]
    for path in (dead, *(import_folder / name for name in own)):
        path.write_text("x")
        os.utime(path, (0, 0))
    model_registry.receive("more.txt", io.BytesIO(b"abc"), 3)
    assert not dead.exists()
    assert set(own) <= set(lying(import_folder))
