"""The store: whole or not at all, never overwritten silently, never reached outside its folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import hashing
from engine.errors import BadInput, EngineError, StoreError, UnknownName
from engine.store import Dataset, NotStored, Store, files
from engine.types.core import DatasetCard, ModelCard
from engine.types.faithfulness import Faithfulness
from tests import fakes

CLASSES = ("cat", "dog", "owl")
MODEL = replace(fakes.MODELS[0], name="one", classes=CLASSES)
KEY = hashing.content_key("one")
LABELS = np.array([2, 0, 0, 1, 2], dtype=np.int64)
IMAGES = np.random.default_rng(0).integers(0, 255, size=(5, 4, 6, 3), dtype=np.uint8)
NAMES = ("e.png", "d.png", "ü.png", "b.png", "a.png")
CARD = DatasetCard("pets", hashing.array_hash(IMAGES), 5, CLASSES, (2, 1, 2), 3, (4, 6), "npz", "2026-11-22")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def filled(store):
    store.add_model(MODEL, b"weights")
    store.add_data(CARD, IMAGES, LABELS, NAMES)
    return store


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_new_store_is_private_and_can_be_opened_again(tmp_path):
    root = tmp_path / "a" / "b"
    Store(root)
    Store(root)
    assert root.stat().st_mode & 0o777 == 0o700


def test_an_empty_folder_becomes_a_store_and_is_made_private(tmp_path):
    tmp_path.chmod(0o755)
    Store(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(StoreError, match="other files"):
        Store(tmp_path)
    assert entries(tmp_path) == {"thesis.txt"}


def test_a_worker_never_makes_a_store_of_its_own(tmp_path):
    with pytest.raises(StoreError, match="no Faultline store"):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Store(tmp_path / "file")


def test_a_store_of_another_format_is_refused_with_what_to_do(store):
    (store.root / "faultline.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match=r"format 99.*name a new folder"):
        Store(store.root)


def test_a_damaged_marker_is_refused(store):
    (store.root / "faultline.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Store(store.root)


def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/place")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StoreError, match="permission is denied") as caught:
        Store(tmp_path / "store")
    assert "/secret" not in str(caught.value)


def test_a_read_only_store_is_refused(store, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="cannot be written"):
        Store(store.root)


def test_what_was_added_is_listed_by_name(filled):
    filled.add_model(replace(MODEL, name="another"), b"weights")
    again = Store(filled.root)
    assert [card.name for card in again.models()] == ["another", "one"]
    assert again.models()[1] == MODEL
    assert again.datasets() == (CARD,)
    assert again.weights("one").read_bytes() == b"weights"


def test_weights_are_copied_from_a_file(store, tmp_path):
    (tmp_path / "w").write_bytes(b"from a file")
    store.add_model(MODEL, tmp_path / "w")
    assert store.weights("one").read_bytes() == b"from a file"


def test_unknown_names_are_answered_with_the_known_ones(filled):
    with pytest.raises(UnknownName, match=r"No model is called 'ona'.* mean 'one'"):
        filled.model_card("ona")
    with pytest.raises(UnknownName, match="Known: pets"):
        filled.data_card("../models/one")
    with pytest.raises(UnknownName):
        filled.weights("two")
    with pytest.raises(UnknownName):
        filled.dataset("")


def test_adding_the_same_again_changes_nothing(filled):
    before = (filled.root / "models" / "one" / "card.json").read_bytes()
    filled.add_model(replace(MODEL, added="2030-01-01"), b"weights")
    filled.add_data(replace(CARD, added="2030-01-01"), IMAGES, LABELS, NAMES)
    assert (filled.root / "models" / "one" / "card.json").read_bytes() == before


@pytest.mark.parametrize("change", [{"content_hash": "other"}, {"classes": ("cat", "owl", "dog")}, {"mean": (0.4,)}])
def test_another_model_of_the_same_name_is_refused(filled, change):
    with pytest.raises(BadInput, match="already holds another model called 'one'; choose another name"):
        filled.add_model(replace(MODEL, **change), b"other")
    assert filled.weights("one").read_bytes() == b"weights"


def test_another_data_set_of_the_same_name_is_refused(filled):
    with pytest.raises(BadInput, match="already holds another data set"):
        filled.add_data(replace(CARD, content_hash="other"), IMAGES + 1, LABELS, NAMES)
    assert np.array_equal(filled.dataset("pets").images(("00000",))[0], IMAGES[0])


WRONG_DATA = [
    (IMAGES.astype(np.float32), LABELS, NAMES),
    (IMAGES[:, :, :, :1], LABELS, NAMES),
    (IMAGES[:4], LABELS, NAMES),
    (IMAGES, LABELS[:4], NAMES),
    (IMAGES, LABELS.astype(float), NAMES),
    (IMAGES, LABELS + 1, NAMES),
    (IMAGES, LABELS - 1, NAMES),
    (IMAGES, LABELS[::-1].clip(1), NAMES),
    (IMAGES, LABELS, NAMES[:4]),
]


@pytest.mark.parametrize("wrong", WRONG_DATA)
def test_data_that_does_not_fit_its_card_is_refused(store, wrong):
    with pytest.raises(BadInput):
        store.add_data(CARD, *wrong)
    assert store.datasets() == ()


def test_a_data_set_gives_back_images_labels_and_names(filled):
    dataset = Store(filled.root).dataset("pets")
    assert isinstance(dataset, Dataset)
    assert dataset.keys == ("00000", "00001", "00002", "00003", "00004")
    assert np.array_equal(dataset.images(("00003", "00000")), IMAGES[[3, 0]])
    assert np.array_equal(dataset.labels, LABELS)
    assert dataset.names == NAMES
    assert dataset.keys_of(0) == ("00001", "00002")
    assert not dataset.images(("00001",)).flags.writeable
    assert not dataset.labels.flags.writeable


def test_images_are_memory_mapped_not_loaded(filled):
    dataset = filled.dataset("pets")
    dataset.images(("00001",))
    assert isinstance(dataset._pixels, np.memmap)


@pytest.mark.parametrize("sample", ["00005", "5", "-0001", "000001", "٠٠٠٠١", "", "x", 1, None, "1e3", " 0001"])
def test_an_unknown_sample_is_refused(filled, sample):
    with pytest.raises(UnknownName, match="00000 to 00004"):
        filled.dataset("pets").images((sample,))


def test_labels_are_matched_to_a_model_by_class_name(filled):
    model = replace(MODEL, classes=("owl", "eel", "dog", "cat"))
    assert filled.dataset("pets").labels_for(model).tolist() == [0, 3, 3, 2, 0]
    assert filled.dataset("pets").labels_for(MODEL).tolist() == LABELS.tolist()


def test_a_class_the_model_does_not_know_is_refused_in_one_line(filled):
    with pytest.raises(BadInput, match=r"^Class 'owl' of data set 'pets' .*$") as caught:
        filled.dataset("pets").labels_for(replace(MODEL, classes=("cat", "dog")))
    assert "\n" not in str(caught.value)


def test_a_class_name_the_model_has_twice_is_refused(filled):
    with pytest.raises(BadInput, match="twice"):
        filled.dataset("pets").labels_for(replace(MODEL, classes=("cat", "dog", "owl", "owl")))


def test_a_class_without_images_need_not_be_known_to_the_model(store):
    card = replace(CARD, classes=(*CLASSES, "yak"), class_counts=(2, 1, 2, 0))
    store.add_data(card, IMAGES, LABELS, NAMES)
    assert store.dataset("pets").labels_for(replace(MODEL, classes=CLASSES)).tolist() == LABELS.tolist()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_changed_image_is_found_when_it_is_read_and_the_others_still_serve(filled):
    path = filled.root / "data" / "pets" / "images.npy"
    flip(path, path.stat().st_size - 1)
    dataset = Store(filled.root).dataset("pets")
    assert np.array_equal(dataset.images(("00003",))[0], IMAGES[3])
    with pytest.raises(StoreError, match="Image 00004 of data set 'pets' changed"):
        dataset.images(("00004",))


@pytest.mark.parametrize("file", ["labels.npy", "names.json", "hashes.npy", "card.json"])
def test_a_changed_file_of_a_data_set_is_found(filled, file):
    path = filled.root / "data" / "pets" / file
    flip(path, path.stat().st_size - 5)
    with pytest.raises(StoreError, match="differs from what was added"):
        Store(filled.root).dataset("pets")


def test_changed_weights_are_found(filled):
    flip(filled.root / "models" / "one" / "weights.safetensors", 0)
    with pytest.raises(StoreError, match=r"weights.safetensors of 'one' differs"):
        filled.weights("one")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "...", ".hidden", "-x", "_x", "a/b", "a\\b", "a\0", "a\n", "a" * 65, "é", None, 3]
)
def test_a_bad_name_is_refused(store, name):
    with pytest.raises(BadInput):
        store.add_model(replace(MODEL, name=name), b"w")
    assert store.models() == ()


TRAVERSAL = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["..", ".", "/", "\\", "%2e", "%252e", ";", "C:", "\0", "a", "models", "~", "..\\", "//", "\n", "．", " "]
        ),
        max_size=8,
    ).map("".join),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(name=TRAVERSAL)
def test_no_name_reaches_outside_the_store(filled, name):
    outside = filled.root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "card.json").touch()
    beside = entries(filled.root.parent) - {f"store/{entry}" for entry in entries(filled.root)}
    for attempt in (
        lambda: filled.model_card(name),
        lambda: filled.weights(name),
        lambda: filled.dataset(name),
        lambda: filled.records.read("certificate", name, Faithfulness),
        lambda: filled.records.read(name, KEY, Faithfulness),
        lambda: filled.records.write("certificate", name, Faithfulness()),
    ):
        with pytest.raises(EngineError):
            attempt()
    if not files.is_name(name):
        with pytest.raises(EngineError):
            filled.add_model(replace(MODEL, name=name), b"w")
    assert entries(filled.root.parent) - {f"store/{entry}" for entry in entries(filled.root)} == beside


@given(st.text(max_size=70))
def test_a_name_is_one_plain_part_of_a_path(name):
    if files.is_name(name):
        assert Path(name).name == name
        assert name.isascii()


FULL = OSError(errno.ENOSPC, "No space left on device", "/secret/place")


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_full_disk_leaves_nothing_half_written(filled, monkeypatch, call, fails_at):
    real, calls = getattr(os, call), []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == fails_at:
            raise FULL
        return real(*arguments, **options)

    (filled.root / "records" / "certificate" / KEY[:2]).mkdir(parents=True)
    before = entries(filled.root)
    monkeypatch.setattr(os, call, full)
    try:
        filled.records.write("certificate", KEY, Faithfulness())
    except StoreError as error:
        assert "no space is left" in str(error)
        assert "/secret" not in str(error)
    else:
        assert len(calls) < fails_at
    monkeypatch.undo()
    new = entries(filled.root) - before
    if new:
        assert filled.records.read("certificate", KEY, Faithfulness) == Faithfulness()
    else:
        assert not filled.records.has("certificate", KEY)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_every_refusal_of_the_disk_is_one_clear_line(filled, monkeypatch, number):
    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number), "/secret/place")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StoreError) as caught:
        filled.add_model(replace(MODEL, name="new"), b"w")
    assert "/secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [card.name for card in filled.models()] == ["one"]


def test_files_reach_the_disk_before_their_name_does(filled, monkeypatch):
    order = []
    real_sync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(Path(f"/proc/self/fd/{fd}").resolve()), real_sync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b, **_: (order.append("rename"), real_rename(a, b)))
    filled.records.write("certificate", KEY, Faithfulness())
    moved = order.index("rename")
    assert {path.name for path in order[:moved]} >= {"record.json", "arrays.npz"}
    assert order[-1] == filled.root / "records" / "certificate" / KEY[:2]


def test_a_result_found_again_stays_as_it_is(filled):
    filled.records.write("certificate", KEY, Faithfulness(done=("clean",)))
    filled.records.write("certificate", KEY, Faithfulness(done=("weights",)))
    assert filled.records.read("certificate", KEY, Faithfulness).done == ("clean",)


def test_many_writers_of_one_result_agree(filled):
    def write() -> None:
        filled.records.write("certificate", KEY, Faithfulness(done=("clean",)))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filled.records.read("certificate", KEY, Faithfulness).done == ("clean",)
    assert not [name for name in entries(filled.root) if files.PREFIX in name]


def test_what_is_not_stored_is_said_so(filled):
    with pytest.raises(NotStored):
        filled.records.read("certificate", KEY, Faithfulness)


@pytest.mark.cluster
def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_are_not(filled):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent = filled.root / "models"
    for process in (dead.pid, os.getpid()):
        (parent / f"{files.PREFIX}{files.HOST}-{process}-abcd").mkdir()
    elsewhere, ancient = parent / f"{files.PREFIX}elsewhere-1-abcd", parent / f"{files.PREFIX}elsewhere-2-abcd"
    elsewhere.mkdir()
    ancient.mkdir()
    long_ago = time.time() - files.STRAY_AFTER - 5
    os.utime(ancient, (long_ago, long_ago))
    filled.sweep()
    left = {path.name for path in parent.glob(f"{files.PREFIX}*")}
    assert left == {f"{files.PREFIX}{files.HOST}-{os.getpid()}-abcd", elsewhere.name}
    assert [card.name for card in filled.models()] == ["one"]


WRITER = """
import sys
from engine.types.faithfulness import Faithfulness
from engine.store import Store
from engine import hashing
store = Store(sys.argv[1])
for n in range(100_000):
    store.records.write("certificate", hashing.content_key(n), Faithfulness(done=("clean",) * 500))
"""


@pytest.mark.cluster
def test_a_writer_killed_at_any_moment_leaves_only_whole_results(tmp_path):
    root = tmp_path / "store"
    for attempt in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root)])
        deadline = time.monotonic() + 20
        while len(list(root.glob("records/certificate/*/[!.]*"))) < 20 * (attempt + 1) and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.kill()
        writer.wait()
        store = Store(root)
        store.sweep()
        written = [path.name for path in root.glob("records/certificate/*/*")]
        assert len(written) >= 20 * (attempt + 1)
        for key in written:
            assert len(store.records.read("certificate", key, Faithfulness).done) == 500
        assert not [name for name in entries(root) if files.PREFIX in name]


def test_cards_are_read_again_when_another_process_changed_them(filled):
    assert filled.models() == (MODEL,)
    other = Store(filled.root)
    other.add_model(replace(MODEL, name="two"), b"w")
    assert [card.name for card in filled.models()] == ["one", "two"]
    assert isinstance(filled.model_card("two"), ModelCard)
