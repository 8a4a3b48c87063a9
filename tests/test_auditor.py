"""The facade: it answers at once, asks a worker for what is missing, and refuses what makes no sense before that."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import hashing, serialization
from engine.errors import BadInput, BadSetting, EngineError, UnknownName
from engine.jobs import Jobs, Notes, Progress
from engine.jobs import worker as errand
from engine.service import tasks, worker
from engine.service.answers import A_MOMENT, MEMORY, Recent
from engine.service.auditor import Auditor
from engine.store import Store
from engine.store.files import NotStored
from engine.types import faithfulness
from engine.types.core import Answer, AttackResults, AttackResultsRequest, Explanation, ExplanationRequest
from engine.types.faithfulness import PARTS, ClassSimilarity, DatapathChecks, Faithfulness, Restoration
from engine.types.requests import FaithfulnessRequest
from tests import fake_work, fakes

PAIR = ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=8/255,steps=10"), ("00003",))
CLASS = AttackResultsRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=8/255,steps=10"), 3)


class PatientJobs:
    """Jobs that do nothing until told to, then do it in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.waiting: dict[str, dict[str, Any]] = {}
        self.submitted: list[str] = []
        self.is_instant = False
        self.waited = 0.0

    def submit(self, task: dict[str, Any], *, priority: str, doing: str) -> bool:
        assert priority
        assert doing
        if task["key"] in self.waiting or self.progress(task["key"]).state == "failed":
            return False
        self.waiting[task["key"]] = task
        self.submitted.append(task["kind"])
        return True

    def wait(self, _key: str, seconds: float) -> None:
        self.waited += seconds
        if self.is_instant:
            self.work()

    def progress(self, key: str) -> Progress:
        if key in self.waiting:
            return Progress("working", 1, 3, "Working on it")
        if self.is_unfinished(key):
            return Progress("failed", message=Notes(self.root).read(key).message)
        return Progress("unknown")

    def is_unfinished(self, key: str) -> bool:
        return (self.root / "work" / f"{key}.json").exists()

    def forgive(self, key: str) -> None:
        Notes(self.root).clear(key)

    def work(self, most: int = 100) -> None:
        """Do what waits, at most so many pieces."""
        for key in list(self.waiting)[:most]:
            errand.run(fake_work.perform, self.waiting[key], str(self.root))
            del self.waiting[key]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_network_is_kept() -> None:
    fake_work.LOADED.clear()


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store(tmp_path / "store")
    fake_work.add_all(made)
    return made


@pytest.fixture
def jobs(store) -> PatientJobs:
    return PatientJobs(store.root)


@pytest.fixture
def auditor(store, jobs) -> Auditor:
    return Auditor(store, jobs)


def calls(store: Store) -> list[str]:
    path = store.root / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_it_has_exactly_what_the_made_up_auditor_has():
    for name, function in inspect.getmembers(fakes.FakeAuditor, inspect.isfunction):
        if not name.startswith("_"):
            wanted, found = inspect.signature(function), inspect.signature(getattr(Auditor, name))
            assert list(wanted.parameters) == list(found.parameters), name


@pytest.mark.cluster
def test_importing_the_engine_loads_neither_torch_nor_dask():
    program = (
        "import sys, engine, engine.service.worker, engine.jobs, engine.store;"
        "print([n for n in ('torch', 'distributed', 'dask', 'dash', 'plotly') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_menus_need_no_worker(auditor, jobs):
    assert [card.name for card in auditor.models()] == ["digits-robust", "digits-standard"]
    assert [card.name for card in auditor.datasets()] == ["digits"]
    assert "pgd-linf" in [card.name for card in auditor.attacks()]
    assert auditor.methods()[0] == "two-run"
    assert not jobs.submitted


def test_what_is_missing_is_handed_in_once_and_ready_when_it_is_done(auditor, jobs, store):
    first, second = auditor.explanation(PAIR), auditor.explanation(PAIR)
    assert first == second == Answer("working", None, 1, 3, "Working on it")
    assert jobs.submitted == ["examination"]
    jobs.work()
    answer = auditor.explanation(PAIR)
    assert answer.state == "ready"
    assert answer.value.request == PAIR
    assert calls(store) == ["bundle digits-standard", "examine bundle of digits-standard 00003"]


def test_quick_work_needs_no_poll_and_only_new_work_is_waited_for(auditor, jobs):
    auditor.explanation(PAIR)
    assert jobs.waited == A_MOMENT <= 0.15
    auditor.explanation(PAIR)
    assert jobs.waited == A_MOMENT
    jobs.is_instant = True
    assert auditor.attack_results(CLASS).state == "ready"


def test_a_result_outlives_the_process(auditor, jobs, store):
    auditor.attack_results(CLASS)
    jobs.work()
    again = PatientJobs(store.root)
    assert isinstance(Auditor(Store(store.root), again).attack_results(CLASS).value, AttackResults)
    assert not again.submitted


def test_an_explanation_is_found_by_its_key(auditor, jobs):
    auditor.explanation(PAIR)
    jobs.work()
    found = auditor.explanation(PAIR).value
    assert auditor.explained(found.key).key == found.key
    assert len(found.key) == 32


@pytest.mark.parametrize("key", ["", "0" * 32, "../../models", "fake", None])
def test_an_unknown_key_is_refused(auditor, key):
    with pytest.raises(UnknownName):
        auditor.explained(key)
    with pytest.raises(UnknownName):
        auditor.maps(key, 0)


def test_maps_are_read_by_site(auditor, jobs):
    auditor.explanation(PAIR)
    jobs.work()
    key = auditor.explanation(PAIR).value.key
    clean, adversarial = auditor.maps(key, 5)
    assert clean.dtype == adversarial.dtype == np.float32
    assert np.array_equal(clean, fake_work.maps_of(5, "clean"))
    assert np.array_equal(adversarial, fake_work.maps_of(5, "adversarial"))
    assert not clean.flags.writeable
    for site in (-1, len(fakes.SITES)):
        with pytest.raises(UnknownName):
            auditor.maps(key, site)


def test_pictures_are_the_stored_images(auditor, store):
    assert np.array_equal(auditor.pictures("digits", ("00007",)), store.dataset("digits").images(("00007",)))
    with pytest.raises(UnknownName):
        auditor.pictures("digits", ("00040",))
    with pytest.raises(UnknownName):
        auditor.pictures("faces", ("00001",))


BAD = [
    {"model": "digits-standart"},
    {"model": "../models/digits-standard"},
    {"data": "faces"},
    {"seed": -1},
    {"seed": 2**31},
    {"seed": 1.5},
]


@pytest.mark.parametrize("change", [*BAD, {"label": 10}, {"label": -1}, {"label": "3"}, {"label": True}])
def test_a_bad_attack_results_is_refused_before_any_work(auditor, jobs, change):
    with pytest.raises(BadInput):
        auditor.attack_results(replace(CLASS, **change))
    assert not jobs.submitted


SAMPLES = [(), ("00040",), ("3",), ("00003", "00003"), ("00003", "00004"), tuple(f"{k:05d}" for k in range(3, 40, 2))]


@pytest.mark.parametrize("change", [*BAD, *({"samples": samples} for samples in SAMPLES)])
def test_a_bad_explanation_is_refused_before_any_work(auditor, jobs, change):
    for ask in (auditor.explanation, auditor.faithfulness_checks):
        with pytest.raises(BadInput):
            ask(replace(PAIR, **change))
    assert not jobs.submitted


def test_a_group_of_one_class_is_accepted(auditor):
    assert auditor.explanation(replace(PAIR, samples=("00003", "00013", "00023"))).state == "working"


def test_a_data_set_of_other_classes_is_refused_at_once(auditor, store, jobs):
    store.add_model(replace(fakes.MODELS[0], name="letters", classes=tuple("abcdefghij")), b"w")
    for ask, request in ((auditor.attack_results, CLASS), (auditor.explanation, PAIR)):
        with pytest.raises(BadInput, match="Class '0'"):
            ask(replace(request, model="letters"))
    assert not jobs.submitted


@pytest.mark.parametrize(
    ("name", "epsilon"), [("pgdd", "8/255"), ("pgd-linf", "9"), ("pgd-linf", "x"), ("pgd-linf", "1/0")]
)
def test_a_bad_attack_is_refused(name, epsilon):
    with pytest.raises(EngineError):
        engine.attack_at(name, epsilon)
    with pytest.raises((UnknownName, BadSetting)):
        engine.attack_at(name, epsilon)


def test_a_bare_attack_and_its_spelled_out_defaults_share_one_result(auditor, jobs):
    auditor.explanation(replace(PAIR, attack=engine.attack("pgd-linf")))
    auditor.explanation(replace(PAIR, attack=engine.attack_at("pgd-linf", "8/255")))
    assert jobs.submitted == ["examination"]


def test_every_input_of_a_result_is_in_its_key(auditor, store):
    def key(request: ExplanationRequest) -> str:
        return tasks.EXPLANATION.key(store, request)

    other_model = replace(fakes.MODELS[0], name="other", content_hash="other")
    other_mean = replace(fakes.MODELS[0], name="mean", mean=(0.4,))
    for card in (other_model, other_mean):
        store.add_model(card, b"w")
    requests = [
        PAIR,
        replace(PAIR, model="other"),
        replace(PAIR, model="mean"),
        replace(PAIR, samples=("00013",)),
        replace(PAIR, method=engine.method("random")),
        replace(PAIR, seed=1),
        replace(PAIR, attack=engine.attack("fgsm-linf")),
    ]
    assert len({key(request) for request in requests}) == len(requests)
    assert tasks.model_key(other_model) == tasks.model_key(replace(other_model, added="2031-01-01"))
    data = fakes.DATA[0]
    changes = ({"content_hash": "other"}, {"classes": fakes.CLASSES[::-1]}, {"size": (16, 64)})
    assert all(tasks.data_key(replace(data, **change)) != tasks.data_key(data) for change in changes)
    assert tasks.data_key(data) == tasks.data_key(replace(data, added="2031-01-01", epsilon="1/255"))


def test_a_model_or_data_set_replaced_under_its_name_has_other_results(store, tmp_path):
    def key(held: Store) -> str:
        return tasks.EXPLANATION.key(held, PAIR)

    other = Store(tmp_path / "other")
    other.add_model(replace(fakes.MODELS[0], content_hash="retrained"), b"w")
    fake_work.add_data(other)
    another = Store(tmp_path / "another")
    another.add_model(fakes.MODELS[0], b"w")
    fake_work.add_data(another, content_hash="relabelled")
    same = Store(tmp_path / "same")
    fake_work.add_all(same)
    assert key(same) == key(store)
    assert len({key(store), key(other), key(another)}) == 3


def test_results_of_another_version_are_not_mixed_in(auditor, jobs, monkeypatch):
    auditor.explanation(PAIR)
    jobs.work()
    monkeypatch.setattr(hashing, "FORMAT", 99)
    assert auditor.explanation(PAIR).state == "working"


def test_failed_work_says_why_and_can_be_asked_again(auditor, jobs, store):
    (store.root / "refuse").touch()
    auditor.explanation(PAIR)
    jobs.work()
    assert auditor.explanation(PAIR) == Answer("failed", message="This network cannot be traced.")
    assert auditor.faithfulness_checks(PAIR) == Answer("failed", message="This network cannot be traced.")
    (store.root / "refuse").unlink()
    auditor.retry(PAIR)
    assert auditor.explanation(PAIR).state == "working"
    jobs.work()
    assert auditor.explanation(PAIR).state == "ready"


def test_faithfulness_wait_for_the_explanation_and_arrive_part_by_part(auditor, jobs, store):
    assert auditor.faithfulness_checks(PAIR) == Answer("working", None, 1, 3, "Working on it")
    assert jobs.submitted == ["examination"]
    jobs.work()
    first = auditor.faithfulness_checks(PAIR)
    assert (first.state, first.value, first.done, first.total) == ("working", Faithfulness(), 0, len(PARTS))
    assert jobs.submitted == ["examination", *["certificate"] * len(PARTS)]
    jobs.work(most=2)
    second = auditor.faithfulness_checks(PAIR)
    assert (second.state, second.done, second.value.done) == ("working", 2, PARTS[:2])
    assert second.value.clean == DatapathChecks(carries_at=8)
    jobs.work()
    last = auditor.faithfulness_checks(PAIR)
    assert (last.state, last.value.done, last.value.failed) == ("ready", PARTS, ())
    assert last.value.clean == DatapathChecks(carries_at=8, random_weights_jaccard=0.1)
    assert calls(store).count("bundle digits-standard") == 1, "the worker keeps the network"


def test_what_is_stored_is_told_without_handing_work_in(auditor, jobs):
    assert not auditor.is_stored(CLASS) and not auditor.is_stored(PAIR)
    assert jobs.submitted == []
    auditor.attack_results(CLASS)
    auditor.explanation(PAIR)
    jobs.work()
    assert auditor.is_stored(CLASS)
    # An explanation without its checks is none yet.
    assert not auditor.is_stored(PAIR)
    auditor.faithfulness_checks(PAIR)
    jobs.work()
    assert auditor.is_stored(PAIR)


def test_a_failed_part_is_listed_and_does_not_hide_the_others(auditor, jobs, store):
    (store.root / "no kinship").touch()
    auditor.explanation(PAIR)
    jobs.work()
    auditor.faithfulness_checks(PAIR)
    jobs.work()
    answer = auditor.faithfulness_checks(PAIR)
    assert answer.state == "ready"
    assert answer.value.failed == ("The data set has too few classes.",)
    assert answer.value.done == tuple(part for part in PARTS if part != "kinship")
    (store.root / "no kinship").unlink()
    auditor.retry(PAIR)
    auditor.faithfulness_checks(PAIR)
    jobs.work()
    assert auditor.faithfulness_checks(PAIR).value.done == PARTS


def test_parts_merge_field_by_field():
    restoration = Restoration((4,), (1.0,), (0.0,), 4)
    class_similarity = ClassSimilarity((0.1,), (0.2,), 8, None)
    partials = [
        Faithfulness(restoration=restoration, done=("restoration",)),
        Faithfulness(clean=DatapathChecks(swap=0.0, carries_at=4), done=("clean",)),
        Faithfulness(
            clean=DatapathChecks(seed_jaccard=0.5), adversarial=DatapathChecks(seed_jaccard=0.25), done=("stability",)
        ),
        Faithfulness(class_similarity=class_similarity, failed=("no",)),
    ]
    merged = faithfulness.merge(partials)
    assert merged == Faithfulness(
        DatapathChecks(carries_at=4, swap=0.0, seed_jaccard=0.5),
        DatapathChecks(seed_jaccard=0.25),
        restoration,
        class_similarity,
        ("clean", "restoration", "stability"),
        ("no",),
    )
    assert faithfulness.merge([]) == Faithfulness()


def test_a_gallery_is_built_once_per_model_and_data_set(auditor, jobs, store):
    auditor.gallery("digits-standard", "digits")
    jobs.work()
    assert auditor.gallery("digits-standard", "digits").state == "ready"
    assert auditor.gallery("digits-robust", "digits").state == "working"
    with pytest.raises(UnknownName):
        auditor.gallery("digits-standard", "faces")
    assert calls(store).count("gallery") == 1


def test_a_damaged_result_is_computed_again(auditor, jobs, store):
    auditor.explanation(PAIR)
    jobs.work()
    (path,) = store.root.glob("records/examination/*/*/arrays.npz")
    path.write_bytes(path.read_bytes()[:-100])
    fresh = Auditor(store, jobs)
    assert fresh.explanation(PAIR).state == "working"
    jobs.work()
    assert fresh.explanation(PAIR).state == "ready"


def test_the_demo_is_added_to_an_empty_store_only(tmp_path, auditor, jobs):
    assert auditor.install_demo() == Answer("ready", auditor.models())
    assert not jobs.submitted
    empty = Store(tmp_path / "empty")
    waiting = PatientJobs(empty.root)
    newcomer = Auditor(empty, waiting)
    assert newcomer.install_demo().state == "working"
    assert newcomer.install_demo().state == "working"
    assert waiting.submitted == ["demo"]
    waiting.work()
    answer = newcomer.install_demo()
    assert answer.state == "ready"
    assert [card.name for card in answer.value] == ["digits-robust", "digits-standard"]


@pytest.mark.cluster
def test_a_half_added_demo_is_gone_on_with(tmp_path):
    store = Store(tmp_path / "store")
    store.add_model(fakes.MODELS[0], b"weights")
    root = store.root
    jobs = Jobs(root, fake_work.perform)
    auditor = Auditor(store, jobs)
    assert auditor.install_demo().state == "ready", "a model somebody added is no half-added demo"
    key = hashing.content_key("demo", hashing.FORMAT)
    notes = Notes(root)
    notes.write(key, replace(errand.Note("working"), starts=1))
    assert auditor.install_demo().state == "working"
    until(lambda: auditor.install_demo().state == "ready")
    assert len(auditor.models()) == 2
    auditor.close()


def until(condition: Callable[[], bool], seconds: float = 25) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never became true"
        time.sleep(0.02)


@pytest.mark.cluster
def test_the_whole_way_through_a_real_worker(tmp_path):
    root = tmp_path / "store"
    fake_work.add_all(Store(root))
    first = Auditor(Store(root), Jobs(root, fake_work.perform))
    second = Auditor(Store(root), Jobs(root, fake_work.perform))
    started = time.monotonic()
    assert first.explanation(PAIR).state == "working"
    assert time.monotonic() - started < 1.0, "starting a worker must not block the page"
    until(lambda: second.explanation(PAIR).state == "ready")
    until(lambda: first.faithfulness_checks(PAIR).state == "ready")
    assert first.attack_results(CLASS).state in ("ready", "working")
    until(lambda: second.attack_results(CLASS).state == "ready")
    assert calls(Store(root)).count("examine bundle of digits-standard 00003") == 1
    second.close()
    first.close()


def test_open_makes_a_store_and_refuses_an_unsafe_scheduler(tmp_path):
    auditor = Auditor.open(tmp_path / "store")
    assert auditor.models() == ()
    auditor.close()
    with pytest.raises(BadInput, match="TLS"):
        Auditor.open(tmp_path / "store", scheduler="tcp://127.0.0.1:8786")
    Auditor.open(tmp_path / "store", scheduler="tcp://127.0.0.1:8786", allow_plain=True).close()


GOOD = tasks.order(tasks.ATTACK_RESULTS, hashing.content_key("k"), CLASS)
MALFORMED = [
    {},
    {**GOOD, "kind": "shell"},
    {**GOOD, "kind": "__import__"},
    {**GOOD, "format": 0},
    {**GOOD, "code": "print(1)"},
    {**GOOD, "request": {**GOOD["request"], "path": "/etc/passwd"}},
    {**GOOD, "request": {**GOOD["request"], "label": "3"}},
    {**GOOD, "request": None},
    {**GOOD, "request": {}},
    {
        **tasks.order(tasks.FAITHFULNESS, hashing.content_key("k"), FaithfulnessRequest("0" * 32, "clean")),
        "request": {"part": "x"},
    },
    tasks.order(tasks.FAITHFULNESS, hashing.content_key("k"), FaithfulnessRequest("0" * 32, "everything")),
]


@pytest.mark.parametrize("task", MALFORMED)
def test_a_malformed_task_is_refused_by_the_worker(store, task):
    with pytest.raises(BadInput):
        fake_work.perform(task, str(store.root))
    assert not calls(store)


def test_a_task_is_plain_json():
    import json

    assert json.loads(json.dumps(GOOD)) == GOOD
    assert serialization.rebuild(AttackResultsRequest, GOOD["request"]) == CLASS


def test_a_worker_that_does_not_see_the_store_says_so(tmp_path):
    with pytest.raises(engine.StoreError, match="no Faultline store"):
        fake_work.perform(GOOD, str(tmp_path))


def test_a_worker_keeps_the_networks_it_used_last(store):
    names = [f"model-{k}" for k in range(worker.MOST + 1)]
    for name in names:
        store.add_model(replace(fakes.MODELS[0], name=name), b"w")
    for step, name in enumerate([*names[:4], names[0], names[4], names[0], names[1]]):
        task = tasks.order(tasks.ATTACK_RESULTS, hashing.content_key(step), replace(CLASS, model=name))
        fake_work.perform(task, str(store.root))
    found = [call.removeprefix("bundle ") for call in calls(store) if call.startswith("bundle")]
    assert found == [*names, names[1]], "the one not used for longest had to go"


def test_loading_is_reported_only_when_it_happens(store, monkeypatch):
    heard = []
    monkeypatch.setattr(Notes, "reporter", lambda *_: lambda done, total, message: heard.append(message))
    for step in range(2):
        fake_work.perform(tasks.order(tasks.ATTACK_RESULTS, hashing.content_key(step), CLASS), str(store.root))
    assert heard == ["Loading 'digits-standard'", "Attacking", "Attacking"]


def test_records_read_lately_are_kept_within_a_budget():
    records = [fakes.explanation(replace(PAIR, samples=(f"{k:05d}",))) for k in range(4)]
    size = serialization.size(records[0])
    recent = Recent(int(2.5 * size))
    for k, record in enumerate(records[:3]):
        recent.put("examination", str(k), record)
    assert recent.get("examination", "0", Explanation) is None
    assert recent.get("examination", "1", Explanation) is records[1]
    recent.put("examination", "3", records[3])
    assert recent.get("examination", "2", Explanation) is None
    assert recent.get("examination", "1", Explanation) is records[1]
    tiny = Recent(1)
    tiny.put("examination", "0", records[0])
    assert tiny.get("examination", "0", Explanation) is records[0]
    assert MEMORY <= 128 * 2**20


def test_requests_for_one_record_at_once_read_it_once():
    recent, fetched, gate = Recent(2**20), [], threading.Barrier(8)

    def fetch():
        fetched.append(1)
        time.sleep(0.05)
        return fakes.explanation(PAIR)

    def ask(_):
        gate.wait()
        return recent.read("examination", "0", Explanation, fetch)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len(fetched) == 1
    assert all(item is found[0] for item in found)


def test_what_could_not_be_read_is_tried_again():
    recent = Recent(2**20)

    def missing() -> Explanation:
        raise NotStored("nothing there")

    for _ in range(2):
        with pytest.raises(NotStored):
            recent.read("examination", "0", Explanation, missing)
    assert recent.read("examination", "0", Explanation, lambda: fakes.explanation(PAIR)).sites
