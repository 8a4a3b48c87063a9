"""Records survive the disk exactly, and a damaged one is never trusted."""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest

import engine
from engine import hashing, serialization
from engine.errors import StoreError
from engine.service.tasks import TASKS
from engine.statistics import Estimate
from engine.store import NotStored, Store
from engine.types.checks import AttackSanity, CheckResult, Conditions, Figure, Suspicion, ValidationReport
from engine.types.core import AttackResults, AttackResultsRequest, Datapath, ExplanationRequest, Outcome
from engine.types.faithfulness import ClassSimilarity, DatapathChecks, Faithfulness, Restoration
from engine.types.patching import Evaluation, EvaluationRequest, MapSet
from engine.types.requests import CorrectImages, Nothing, Pace, Taken
from engine.types.run_studies import HeldOutTest, LayerMatch, MapMatching, Rebuilt
from tests import fake_studies, fakes

KEY = hashing.content_key("one")
KINDS = {task.shelf: task.record for task in TASKS.values() if task.record is not Nothing}
AUDITOR = fakes.FakeAuditor()
REQUEST = ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), ("00000", "00004"))
RECORDS = {
    "taken": Taken("mine", ("The prefix 'module.' was taken off.",)),
    "pace": Pace(0.01, 0.003, 0.2),
    "intake": ValidationReport(
        "m",
        "ab",
        "d",
        9,
        (CheckResult("loads", "pass", "It loads."),),
        (Suspicion("Twice.", "Once.", *[Estimate(0.5, 0.0, 1.0, 9)] * 3),),
    ),
    "examination": fakes.explanation(REQUEST),
    "roster": AUDITOR.attack_results(
        AttackResultsRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), 3)
    ).value,
    "certificate": AUDITOR.faithfulness_checks(REQUEST).value,
    "gallery": AUDITOR.gallery("digits-standard", "digits").value,
    "synthesis": AUDITOR.feature_visualization("digits-standard", "digits", "layer3.1", 3).value,
    "responses": AUDITOR.responses("fake00001").value,
    "proof": AUDITOR.causal_test("fake00001", MapSet(("layer2.0",), ((1, 3),)), "restore").value,
    "group-proof": AUDITOR.causal_test("fake00001", MapSet(("layer2.0",), ((1, 3),)), "inject").value,
    "strongest": MapSet(("layer2.0",), ((1, 3),)),
    "evaluation": Evaluation(
        EvaluationRequest(engine.attack("pgd-linf"), 8, (engine.method("two-run"),)),
        "m",
        "d",
        8,
        4,
        13,
        348,
        (),
        (8,),
        (),
        1.5,
    ),
    "correct": CorrectImages(("00001",)),
    "smallest": fake_studies.smallest_sets(),
    "curve": fake_studies.restoration_curve(),
    "profile": fake_studies.site_profile(),
    "faithfulness-curve": fake_studies.faithfulness_study(),
    "localisation": fake_studies.localisation_study(),
    "defence": fake_studies.defence(),
    "rebuilt": Rebuilt(("cube-candidate-n.npy",)),
    "held-out-test": HeldOutTest(
        5, 4, AUDITOR.causal_test("fake00001", MapSet(("layer2.0",), ((1, 3),)), "restore").value
    ),
    "map-matching": MapMatching(
        (
            LayerMatch(
                "layer1.0",
                "layer1.0",
                (8, 8),
                np.array([1, 0, -1]),
                np.array([0.9, 0.2, np.nan]),
                0.55,
                0.5,
                0.1,
                0.0,
                0.3,
                0.5,
            ),
        ),
        4,
        4,
        20,
    ),
    "credibility": AttackSanity(
        (CheckResult("G4", "fail", "Zero gradients.", (Figure("images", 3.0),)),),
        64,
        "8/255",
        Conditions("model", ("fgsm-linf:eps=8/255",), ("torch 2.15.0",), 0, 64, "cpu", "float32", 2),
    ),
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def same(first: object, second: object) -> bool:
    """The slow comparison: plain values equal, arrays equal in bytes, type and shape."""
    one, two = serialization.flatten(first), serialization.flatten(second)
    pairs = [(one.arrays[name], two.arrays[name]) for name in one.arrays]
    are_equal = all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
    return one.value == two.value and set(one.arrays) == set(two.arrays) and are_equal


def test_every_kind_of_record_is_tried():
    assert set(RECORDS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_comes_back_exactly(store, kind):
    store.records.write(kind, KEY, RECORDS[kind])
    found = Store(store.root).records.read(kind, KEY, KINDS[kind])
    assert type(found) is KINDS[kind]
    assert same(found, RECORDS[kind])


def test_records_without_arrays_come_back_equal(store):
    found = Faithfulness(
        DatapathChecks(None, 0.1, 0.30000000000000004, random_weights_jaccard=0.0),
        DatapathChecks(),
        Restoration((4, 8), (0.5, 1.0), (0.0, 1 / 3), None),
        ClassSimilarity((0.1,), (0.2,), 8, None),
        ("clean",),
        ("The worker died.",),
    )
    store.records.write("certificate", KEY, found)
    assert store.records.read("certificate", KEY, Faithfulness) == found


def test_nested_tuples_of_mixed_types_keep_their_types(store):
    attack_results = RECORDS["roster"]
    store.records.write("roster", KEY, attack_results)
    outcome = store.records.read("roster", KEY, AttackResults).outcomes[0]
    assert outcome == attack_results.outcomes[0]
    assert type(outcome) is Outcome
    assert [type(value) for value in outcome.before.top[0]] == [int, float]


def test_arrays_that_come_back_cannot_be_changed(store):
    store.records.write("examination", KEY, RECORDS["examination"])
    found = store.records.read("examination", KEY, KINDS["examination"])
    for array in (found.clean.scores[0], found.images["clean"], found.connections[0].clean):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_rebuilt_record_freezes_the_arrays_it_is_given():
    flat = serialization.flatten(RECORDS["gallery"])
    arrays = {name: array.copy() for name, array in flat.arrays.items()}
    assert not serialization.rebuild(KINDS["gallery"], flat.value, arrays).labels.flags.writeable


def test_stored_results_are_readable_without_faultline(store):
    store.records.write("examination", KEY, RECORDS["examination"])
    folder = store.root / "records" / "examination" / KEY[:2] / KEY
    value = json.loads((folder / "record.json").read_text())["content"]["value"]
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert value["clean"]["scores"][3] == {"array": "clean/scores/003"}
        assert np.array_equal(arrays["clean/scores/003"], RECORDS["examination"].clean.scores[3])


@pytest.mark.parametrize("file", ["record.json", "arrays.npz"])
def test_a_flipped_byte_is_found_and_the_record_discarded(store, file):
    store.records.write("roster", KEY, RECORDS["roster"])
    store.records.write("examination", KEY, RECORDS["examination"])
    kind = "examination"
    path = store.root / "records" / kind / KEY[:2] / KEY / file
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), size=25).tolist()
    for place in [0, len(whole) - 1, *places]:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        store.records.write(kind, KEY, RECORDS[kind])
        path.write_bytes(bytes(flipped))
        try:
            found = store.records.read(kind, KEY, KINDS[kind])
        except NotStored:
            assert not store.records.has(kind, KEY)
        else:
            # A flip in the padding or in a date of the archive changes no value.
            assert same(found, RECORDS[kind])
    assert store.records.has("roster", KEY)


def test_a_flipped_byte_in_the_values_of_an_array_is_never_read(store):
    store.records.write("examination", KEY, RECORDS["examination"])
    path = store.root / "records" / "examination" / KEY[:2] / KEY / "arrays.npz"
    content = bytearray(path.read_bytes())
    values = RECORDS["examination"].clean.scores[2].tobytes()
    content[bytes(content).index(values) + 5] ^= 64
    path.write_bytes(bytes(content))
    with pytest.raises(NotStored, match="damaged"):
        store.records.read("examination", KEY, KINDS["examination"])


def test_swapped_archives_are_found(store):
    other = fakes.explanation(replace(REQUEST, samples=("00001", "00005")))
    second = hashing.content_key("two")
    store.records.write("examination", KEY, RECORDS["examination"])
    store.records.write("examination", second, other)
    here, there = (store.root / "records" / "examination" / key[:2] / key / "arrays.npz" for key in (KEY, second))
    here.write_bytes(there.read_bytes())
    with pytest.raises(NotStored):
        store.records.read("examination", KEY, KINDS["examination"])


@pytest.mark.parametrize("file", ["record.json", "arrays.npz"])
def test_a_missing_file_discards_the_record(store, file):
    store.records.write("examination", KEY, RECORDS["examination"])
    (store.root / "records" / "examination" / KEY[:2] / KEY / file).unlink()
    with pytest.raises(NotStored):
        store.records.read("examination", KEY, KINDS["examination"])
    assert not store.records.has("examination", KEY)


def test_a_record_of_another_format_is_kept_and_the_message_says_what_to_do(store, monkeypatch):
    monkeypatch.setattr("engine.store.files.FORMAT", 99)
    store.records.write("roster", KEY, RECORDS["roster"])
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"format 99.*open the store with the version that wrote it"):
        store.records.read("roster", KEY, AttackResults)
    assert store.records.has("roster", KEY)


def test_extra_archives_are_read_member_by_member(store):
    maps = {f"{site:03d}/clean": np.full((2, 3, 3), site, dtype=np.float16) for site in range(3)}
    store.records.write("roster", KEY, RECORDS["roster"], extras={"maps": maps})
    (found,) = store.records.read_extra("roster", KEY, "maps", ("001/clean",), KINDS["roster"])
    assert found.dtype == np.float16
    assert np.array_equal(found, maps["001/clean"])
    with pytest.raises(NotStored):
        store.records.read_extra("roster", KEY, "maps", ("009/clean",), KINDS["roster"])


def test_nothing_in_the_store_can_hold_an_object():
    smuggled = Datapath(engine.method("mask"), 0, "zero", (np.array([object()]),), (), (), None, True)
    with pytest.raises(StoreError, match="scores/000"):
        serialization.flatten(smuggled)


def test_a_pickled_array_in_an_archive_is_not_opened(store):
    store.records.write("examination", KEY, RECORDS["examination"])
    folder = store.root / "records" / "examination" / KEY[:2] / KEY
    np.savez(folder / "arrays.npz", **{"clean/scores/000": np.array([{"a": 1}], dtype=object)})
    with zipfile.ZipFile(folder / "arrays.npz") as archive:
        assert "clean/scores/000.npy" in archive.namelist()
    with pytest.raises(NotStored):
        store.records.read("examination", KEY, KINDS["examination"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named_and_not_stored(store, value):
    with pytest.raises(StoreError, match="clean/swap"):
        store.records.write("certificate", KEY, Faithfulness(clean=DatapathChecks(swap=value)))
    assert not store.records.has("certificate", KEY)


def test_a_field_added_later_takes_its_default_and_an_unknown_one_is_named():
    value = serialization.flatten(AttackResultsRequest("m", "d", engine.attack("fgsm-linf"), 1, seed=7)).value
    del value["seed"]
    assert serialization.rebuild(AttackResultsRequest, value).seed == 0
    with pytest.raises(StoreError, match="lacks the field 'label'"):
        serialization.rebuild(AttackResultsRequest, {"model": "m", "data": "d", "attack": "fgsm-linf"})
    with pytest.raises(StoreError, match="no field called 'path'"):
        serialization.rebuild(AttackResultsRequest, {**value, "path": "/etc/passwd"})


WRONG = [("label", "1"), ("label", True), ("label", 1.5), ("model", 3), ("model", None), ("seed", [1])]
WRONG += [("attack", "pgdd"), ("attack", "pgd-linf:eps=9"), ("attack", 8)]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_a_value_of_the_wrong_type_is_refused(name, wrong):
    value = serialization.flatten(AttackResultsRequest("m", "d", engine.attack("fgsm-linf"), 1)).value
    with pytest.raises(StoreError, match=name):
        serialization.rebuild(AttackResultsRequest, {**value, name: wrong})


def test_a_literal_outside_its_list_is_refused():
    value = serialization.flatten(RECORDS["roster"].outcomes[0]).value
    assert serialization.rebuild(Outcome, value) == RECORDS["roster"].outcomes[0]
    with pytest.raises(StoreError, match="status"):
        serialization.rebuild(Outcome, {**value, "status": "great"})


def test_the_bytes_of_a_record_are_those_of_its_arrays():
    gallery = RECORDS["gallery"]
    arrays = [gallery.labels] + [
        one for f in fields(gallery) if f.name not in ("samples", "labels") for one in getattr(gallery, f.name)
    ]
    assert serialization.size(gallery) == sum(array.nbytes for array in arrays)
