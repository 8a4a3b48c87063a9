"""The desk: what lies in the inbox is added by id, what cannot be added says why, what is retired leaves the menus."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from engine import Auditor, BadInput, DataOrder, ModelOrder, StoreError, UnknownName, demo
from engine.service import computations
from engine.service.answers import Answers
from engine.service.registry import Desk, Inbox
from engine.store import Store
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
def inbox(tmp_path):
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
def desk(tmp_path, inbox):
    store = Store(tmp_path / "store")
    return Desk(Answers(store, Workers(store.root)), Inbox(inbox))


def entry(desk, name):
    return next(one.key for one in desk.entries() if one.name == name)


def order(desk, **changes):
    wanted = {"entry": entry(desk, "net.safetensors"), "name": "mine", "architecture": demo.ARCHITECTURE,
              "classes": entry(desk, "names.txt")}  # fmt: skip
    return ModelOrder(**{**wanted, **changes})


def test_only_plain_files_and_folders_of_known_kinds_are_offered(desk, inbox):
    (inbox / "pictures").mkdir()
    assert {one.name: one.kind for one in desk.entries()} == {
        "digits.npz": "npz", "names.txt": "classes", "net.safetensors": "weights", "pictures": "folder"
    }  # fmt: skip


def test_a_model_is_added_by_its_id_and_stands_in_the_menus(desk):
    answer = desk.take_model(order(desk))
    assert answer.state == "ready"
    (card,) = desk.models()
    assert (card.name, card.architecture, card.classes) == ("mine", demo.ARCHITECTURE, demo.CLASSES)
    assert desk.take_model(order(desk)).value == answer.value


def test_a_data_set_lends_its_class_names_to_a_model(desk):
    data = DataOrder(entry(desk, "digits.npz"), "digits", classes=entry(desk, "names.txt"), epsilon="8/255")
    assert desk.take_data(data).state == "ready"
    assert desk.datasets()[0].epsilon == "8/255"
    assert desk.take_model(order(desk, classes="data:digits")).state == "ready"
    assert desk.models()[0].classes == demo.CLASSES


def test_a_folder_of_folders_becomes_a_data_set(desk, inbox):
    from PIL import Image

    for label in ("cat", "dog"):
        (inbox / "pictures" / label).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), len(label), np.uint8)).save(inbox / "pictures" / label / "a.png")
    assert desk.take_data(DataOrder(entry(desk, "pictures"), "pets")).state == "ready"
    assert desk.datasets()[0].classes == ("cat", "dog")


def tabled(inbox) -> None:
    """A table of three pictures whose classes count from 1, as that of NIPS 2017 does."""
    from PIL import Image

    (inbox / "images").mkdir()
    for shade, name in enumerate(("a", "b", "c")):
        Image.fromarray(np.full((8, 8, 3), 80 * shade, np.uint8)).save(inbox / "images" / f"{name}.png")
    (inbox / "images.csv").write_text("ImageId,TrueLabel\na,2\nb,1\nc,10\n")


def test_a_table_of_pictures_is_added_with_their_folder_and_its_first_label(desk, inbox):
    tabled(inbox)
    keys = {"images": entry(desk, "images"), "classes": entry(desk, "names.txt")}
    found = desk.take_data(DataOrder(entry(desk, "images.csv"), "nips", first_label=1, **keys))
    assert found.state == "ready", found.message
    assert desk.datasets()[0].count == 3
    store = Store(inbox.parent / "store")
    assert store.dataset("nips").labels.tolist() == [1, 0, 9]
    assert store.dataset("nips").images(("00002",))[0, 0, 0, 0] == 160
    wrong = desk.take_data(DataOrder(entry(desk, "images.csv"), "zero", **keys))
    assert wrong.state == "failed"
    assert "10" in wrong.message


def test_a_table_without_its_folder_is_refused(desk, inbox):
    tabled(inbox)
    with pytest.raises(BadInput, match="needs the folder"):
        desk.take_data(DataOrder(entry(desk, "images.csv"), "nips"))
    with pytest.raises(BadInput, match="what is needed is folder"):
        desk.take_data(DataOrder(entry(desk, "images.csv"), "nips", images=entry(desk, "digits.npz")))


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"architecture": "nothing"}, "nothing"), ({"name": "../x"}, "cannot name"), ({"mean": "a,b"}, "--mean"),
     ({"channels": "xyz"}, "--channels"), ({"classes": "data:gone"}, "gone")],
)  # fmt: skip
def test_an_order_that_cannot_be_done_says_why_and_stores_nothing(desk, changes, text):
    answer = desk.take_model(order(desk, **changes))
    assert answer.state == "failed"
    assert text in answer.message
    assert desk.models() == ()


def test_a_failed_order_can_be_given_again_once_the_cause_is_gone(desk):
    again = order(desk, classes="data:digits")
    assert desk.take_model(again).state == "failed"
    desk.take_data(DataOrder(entry(desk, "digits.npz"), "digits", classes=entry(desk, "names.txt")))
    desk.forget(again)
    assert desk.take_model(again).state == "ready"


def test_an_id_that_is_not_there_or_is_of_another_kind_is_refused(desk):
    with pytest.raises(UnknownName):
        desk.take_model(order(desk, entry="../../etc/passwd"))
    with pytest.raises(BadInput, match="is npz; what is needed is weights"):
        desk.take_model(order(desk, entry=entry(desk, "digits.npz")))


def test_a_file_that_changed_since_it_was_shown_is_no_longer_that_entry(desk, inbox):
    old = order(desk)
    (inbox / "net.safetensors").write_bytes(b"something else")
    with pytest.raises(UnknownName):
        desk.take_model(old)
    answer = desk.take_model(order(desk))
    assert answer.state == "failed"
    assert desk.models() == ()


def pets(inbox):
    from PIL import Image

    for shade, name in enumerate(("a/1.png", "b/1.png")):
        (inbox / "pets" / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(inbox / "pets" / name)
    return inbox / "pets"


def test_a_folder_in_which_something_changed_is_another_entry(desk, inbox):
    folder = pets(inbox)
    first = DataOrder(entry(desk, "pets"), "pets")
    assert desk.take_data(first).state == "ready"
    shutil.copyfile(folder / "a" / "1.png", folder / "a" / "2.png")
    with pytest.raises(UnknownName):
        desk.take_data(first)
    again = desk.take_data(DataOrder(entry(desk, "pets"), "pets"))
    assert again.state == "failed"
    assert "already holds another data set called 'pets'" in again.message
    before = entry(desk, "pets")
    (folder / "a" / "2.png").write_bytes(b"written over")
    assert entry(desk, "pets") != before


def test_a_link_in_a_folder_never_leads_out_of_the_inbox(desk, inbox):
    folder = pets(inbox)
    (inbox.parent / "private.png").write_bytes((folder / "a" / "1.png").read_bytes())
    (folder / "b" / "2.png").symlink_to(inbox.parent / "private.png")
    answer = desk.take_data(DataOrder(entry(desk, "pets"), "pets"))
    assert answer.state == "failed"
    assert "b/2.png is a link" in answer.message
    assert desk.datasets() == ()


@pytest.mark.parametrize("name", ["net.safetensors", "names.txt"])
def test_what_was_put_in_an_entrys_place_before_the_worker_came_is_not_added(desk, inbox, name):
    task = Inbox(inbox).model(order(desk))
    (inbox / name).rename(inbox.parent / name)
    (inbox / name).symlink_to(inbox.parent / name)
    with pytest.raises(BadInput, match=f"^{name} changed since it was chosen; choose it again"):
        computations.model(Store(inbox.parent / "store"), task)
    assert desk.models() == ()


@pytest.mark.parametrize("name", ["images", "images.csv"])
def test_a_table_or_its_pictures_that_changed_before_the_worker_came_are_not_added(desk, inbox, name):
    tabled(inbox)
    task = Inbox(inbox).data(DataOrder(entry(desk, "images.csv"), "nips", images=entry(desk, "images")))
    (inbox / name).rename(inbox.parent / name)
    (inbox / name).symlink_to(inbox.parent / name)
    with pytest.raises(BadInput, match=f"^{name} changed since it was chosen; choose it again"):
        computations.data(Store(inbox.parent / "store"), task)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"size": "32"}, "--size is for picture files"), ({"first_label": 10**20}, "must be 0 or 1")],
)
def test_what_an_npz_file_would_ignore_is_refused(desk, changes, reason):
    answer = desk.take_data(DataOrder(entry(desk, "digits.npz"), "digits", **changes))
    assert answer.state == "failed"
    assert reason in answer.message


@pytest.mark.parametrize("name", ["a\nb.npz", os.fsdecode(b"\xff.npz")])
def test_names_that_cannot_be_shown_are_not_offered(desk, inbox, name):
    before = desk.entries()
    shutil.copyfile(inbox / "digits.npz", inbox / name)
    assert desk.entries() == before


def test_what_is_retired_leaves_the_menus_and_comes_back_unchanged(desk):
    desk.take_model(order(desk))
    before = desk.models()
    desk.retire("models", "mine")
    assert desk.models() == ()
    assert desk.models(retired=True) == before
    desk.retire("models", "mine", retired=False)
    assert desk.models() == before
    with pytest.raises(UnknownName):
        desk.retire("data", "nothing")


def test_a_store_whose_models_are_all_retired_does_not_get_the_demo(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    for name in demo.MODELS:
        store.retire("models", name, retired=True)
    store.retire("data", "digits", retired=True)
    auditor = Auditor(store, Workers(store.root))
    assert auditor.models() == ()
    assert auditor.install_demo().state == "ready"


def test_without_an_inbox_there_is_nothing_to_add(tmp_path):
    store = Store(tmp_path / "store")
    desk = Desk(Answers(store, Workers(store.root)), Inbox(None))
    assert not desk.has_inbox
    assert desk.entries() == ()
    with pytest.raises(StoreError, match="not a folder"):
        Inbox(tmp_path / "gone")


def test_the_weights_in_the_store_are_those_of_the_inbox(desk, inbox):
    desk.take_model(order(desk))
    stored, given = (load_file(path) for path in (desk._store.weights("mine"), inbox / "net.safetensors"))
    assert stored.keys() == given.keys()
    assert all((stored[name] == given[name]).all() for name in given)
