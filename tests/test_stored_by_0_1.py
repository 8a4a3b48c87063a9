"""A store that version 0.1 wrote opens, shows, resumes and verifies; what a later version wrote is told and never taken away."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from engine import hashing
from engine.__main__ import main
from engine.audit import manifest, results
from engine.audit.runs import AuditLog, Run
from engine.errors import StoreError
from engine.hashing import Schema
from engine.service import tasks
from engine.service.auditor import Auditor
from engine.store import NotStored, Store, files
from engine.store.files import Envelope
from engine.types.core import AttackResultsRequest, Explanation, ExplanationRequest, ModelCard
from engine.types.faithfulness import PARTS
from engine.types.patching import FooledRequest, GroupTestRequest, MapSet
from engine.types.requests import CausalTestRequest, FaithfulnessRequest

WRITTEN = Path(__file__).parent / "fixtures" / "store-0.1.tar.xz"
FINISHED, UNFINISHED = "1d3c347e2a9f4e27a825d29eca39a219", "4f3a82f2f62e25ebd02ab076f9bdff54"
MODEL, DATA, ATTACK = "digits-standard", "digits", "pgd-linf:eps=24/255,steps=10"
EXPLAINED = "13e69ecbc5dd631129242c41327c009e"
NEW_PARTS = {"localisation"}


class NoWorkers:
    """Takes no work: all that is asked has to lie in the store."""

    def submit(self, task, **_options):
        raise AssertionError(f"{task['kind']} was computed again")

    def progress(self, key):
        raise AssertionError(f"{key} is not in the store")

    def close(self):
        pass


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("0.1")
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def auditor(opened):
    return Auditor(Store(opened), NoWorkers())


@pytest.fixture
def own(opened, tmp_path):
    """A copy that a test may write to."""
    shutil.copytree(opened, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def samples(auditor):
    attack_results = auditor.attack_results(AttackResultsRequest(MODEL, DATA, ATTACK, 3)).value
    return tuple(outcome.sample for outcome in attack_results.with_status("fooled"))


@pytest.fixture(scope="module")
def pair(samples):
    return ExplanationRequest(model=MODEL, data=DATA, attack=ATTACK, samples=samples[:1])


@pytest.fixture(scope="module")
def group(samples):
    return FooledRequest(MODEL, DATA, ATTACK, samples[:6])


def test_models_and_data_are_listed(auditor):
    assert [card.name for card in auditor.models()] == ["digits-standard", "digits-robust"]
    assert [card.name for card in auditor.datasets()] == ["digits"]


def test_reports_of_both_models_are_there(auditor):
    with_data, without = auditor.validation(MODEL, DATA).value, auditor.validation("digits-robust").value
    assert with_data.with_outcome("fail") == without.with_outcome("fail") == ()
    assert (with_data.images, without.images) == (500, 0)


def test_an_explanation_is_found_by_its_request(auditor, pair, samples):
    assert len(samples) == 50
    explained = auditor.explanation(pair).value
    assert explained.key == EXPLAINED
    assert [len(scores) for scores in explained.clean.scores] == [1] * len(explained.sites)
    assert auditor.maps(explained.key, 0)[0].shape == (12, 32, 32)


def stored(opened, task, request):
    """What version 0.1 stored of a request, under the key that it had then."""
    store = Store(opened)
    return store.records.read(task.shelf, task.depends(task.shelf, store, request), task.record)


def test_all_parts_of_its_faithfulness_report_are_there(opened):
    for part in set(PARTS) - NEW_PARTS:
        assert stored(opened, tasks.FAITHFULNESS, FaithfulnessRequest(EXPLAINED, part)).done == (part,)


def test_what_is_measured_otherwise_now_is_asked_anew_and_the_old_answer_stays(auditor, opened):
    """Restoration without layer-matched maps must not be taken for one with them."""
    request = FaithfulnessRequest(EXPLAINED, "restoration")
    assert stored(opened, tasks.FAITHFULNESS, request).restoration.verdict(images=1) == "untested"
    with pytest.raises(AssertionError, match="computed again"):
        auditor.ask(tasks.FAITHFULNESS, request)


def test_an_explanation_of_a_group_by_another_method_is_there(auditor, samples):
    request = ExplanationRequest(
        model=MODEL, data=DATA, attack="fgsm-linf:eps=24/255", samples=samples[:3], method="gradient"
    )
    assert auditor.explanation(request).value.clean.method.name == "gradient"


def test_every_study_is_there(auditor, opened, pair, group):
    sites = auditor.explanation(pair).value.sites
    chosen = MapSet((sites[2].name, sites[4].name), ((0, 1, 2), (0, 3)))
    for study in (auditor.site_profile, auditor.defence):
        assert study(group).state == "ready"
    test = stored(opened, tasks.CAUSAL_TEST, CausalTestRequest(EXPLAINED, chosen, "restore"))
    assert (test.verdict, test.effect.n) == ("untested", 1), "the control that decides was another then"
    few = GroupTestRequest(group, MapSet((sites[2].name,), ((0, 1, 2),)), "inject")
    assert stored(opened, tasks.GROUP_TEST, few).samples
    assert stored(opened, tasks.SMALLEST, group).images
    assert stored(opened, tasks.CURVE, group).lines


def test_features_are_there(auditor, pair):
    layer = auditor.explanation(pair).value.sites[3].name
    assert auditor.gallery(MODEL, DATA).state == "ready"
    assert auditor.feature_visualization(MODEL, DATA, layer, 2).state == "ready"
    assert auditor.responses(EXPLAINED).state == "ready"


def test_both_runs_are_listed_and_shown(auditor):
    states = {card.run: (card.state.state, card.state.done) for card in auditor.audits.cards()}
    assert states == {FINISHED: ("finished", 14), UNFINISHED: ("cancelled", 3)}
    assert auditor.audits.view(FINISHED).summary.is_interim is False
    assert auditor.audits.view(UNFINISHED).summary.is_interim is True
    assert auditor.attack_sanity(FINISHED).state == "ready"


def test_the_log_is_read_and_gone_on_with(own):
    log = AuditLog(own)
    before = log.events()
    assert [item.event for item in before] == ["taken up", "finished", "taken up", "cancelled"]
    log.append(UNFINISHED, "taken up")
    assert log.events()[:4] == before


def test_every_record_of_the_store_is_read_by_a_schema_that_fits(auditor, opened):
    """No kind of record in the store is left out above."""
    kinds = {place.name for place in (opened / "records").iterdir()}
    assert kinds == {
        "certificate", "credibility", "curve", "defence", "examination", "gallery", "group-proof", "intake", "profile",
        "proof", "responses", "roster", "smallest", "synthesis",
    }  # fmt: skip


def same_libraries(root: Path) -> bool:
    """Whether numbers can be the same to the last bit: the fixture was made with certain versions of the libraries."""
    planned = Run.open(Store(root), FINISHED).manifest.versions
    return not manifest.difference(planned, manifest.installed())


@pytest.mark.cluster
@pytest.mark.slow
def test_the_finished_run_verifies(own, capsys):
    if not same_libraries(own):
        pytest.skip("made with other versions of torch, numpy or Python")
    assert main(["verify", FINISHED, "--store", str(own), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["damaged"] == []
    assert all(item["same_answer"] == item["same_pixels"] == item["images"] for item in told["replicated"])


@pytest.mark.cluster
@pytest.mark.slow
def test_the_unfinished_run_is_taken_up_and_keeps_what_was_done(own):
    if not same_libraries(own):
        pytest.skip("made with other versions of torch, numpy or Python")
    receipts = {path: path.read_bytes() for path in (own / "runs" / UNFINISHED).rglob("_receipt.json")}
    auditor = Auditor.open(own)
    try:
        auditor.audits.resume(UNFINISHED)
        until = time.monotonic() + 300
        while auditor.audits.view(UNFINISHED).card.state.state != "finished" and time.monotonic() < until:
            time.sleep(0.2)
        assert auditor.audits.view(UNFINISHED).card.state.state == "finished"
    finally:
        auditor.close()
    assert len(receipts) == 3
    assert {path: path.read_bytes() for path in receipts} == receipts


def _newer(path: Path, kind: type) -> None:
    """Put another schema in the place of a stored file's."""
    sealed = files.unpack(path.read_bytes(), kind.SCHEMA)
    text = files.pack(Envelope(Schema("written-later/7"), sealed.value, sealed.files, sealed.archives))
    path.write_bytes(text)


def test_an_explanation_of_a_newer_version_is_told_and_kept(own):
    path = own / "records" / "examination" / EXPLAINED[:2] / EXPLAINED / "record.json"
    _newer(path, Explanation)
    before = path.read_bytes()
    store = Store(own)
    with pytest.raises(
        StoreError, match=r"This holds 'written-later/7', .* 'explanation/1'.* Nothing was changed"
    ) as told:
        store.records.read("examination", EXPLAINED, Explanation)
    assert not isinstance(told.value, NotStored)
    with pytest.raises(StoreError, match="written-later/7"):
        store.records.read_extra("examination", EXPLAINED, "maps", ("000/clean",), Explanation)
    with pytest.raises(StoreError, match="written-later/7"):
        Auditor(store, NoWorkers()).explained(EXPLAINED)
    assert path.read_bytes() == before


def test_a_card_of_a_newer_version_is_told_and_kept(own):
    path = own / "models" / MODEL / "card.json"
    _newer(path, ModelCard)
    with pytest.raises(StoreError, match="written-later/7"):
        Store(own).model_card(MODEL)
    assert path.is_file()


def test_shards_of_a_newer_version_stop_the_run_and_are_kept(own):
    from engine.audit.shards import Receipt

    run = Run.open(Store(own), UNFINISHED)
    path = next((own / "runs" / UNFINISHED).rglob("_receipt.json"))
    _newer(path, Receipt)
    before = path.read_bytes()
    state = run.drive(NoWorkers(), lambda *_: {}, lambda _state: None)
    assert state.state == "interrupted" and "written-later/7" in state.message
    assert path.read_bytes() == before


def test_a_seal_of_a_newer_version_is_told_and_kept(own):
    run = Run.open(Store(own), FINISHED)
    _newer(run.place.result / results.SEAL, results.Seal)
    with pytest.raises(StoreError, match="written-later/7"):
        results.read_seal(run.place)


def test_a_key_that_needs_no_class_name_is_the_one_of_before(auditor, pair):
    """Fixed by hand: these are the names of folders in stores of version 0.1."""
    assert hashing.FORMAT == 3
    assert auditor.explanation(pair).value.key == EXPLAINED
