"""A pair of a large network is shown before its noise control is there, and nothing is said that only that can tell."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import engine
from dashboard import progress
from dashboard.links import ViewState
from dashboard.panels import faithfulness, network
from dashboard.panels.network import view
from engine import Answer, Faithfulness, compare
from engine.attribution import explain
from engine.attribution.comparison import NOISE, kept_by
from engine.models import register
from engine.service import tasks
from engine.service.auditor import Auditor
from engine.store import NotStored
from engine.types.core import ExplanationRequest
from engine.types.patching import MapSet
from tests import fakes, stores
from tests.fakes import FakeAuditor
from tests.test_auditor import PatientJobs

PAIR = ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=10"), ("00003",))
GROUP = replace(PAIR, samples=("00003", "00013", "00023"))


def early(whole):
    """An explanation as it is before its noise control is there."""
    none = tuple(site[:0] for site in whole.noise_flow)
    return replace(whole, noise=replace(whole.noise, scores=none), noise_flow=none)


def explained(store, request, published):
    bundle, dataset = register.bundle(store, request.model), store.dataset(request.data)
    return explain.explain(bundle, dataset, request, lambda *_: None, lambda *both: published.append(both))


@pytest.fixture(params=[PAIR, GROUP], ids=["pair", "group"])
def both(demo_store, request, monkeypatch):
    """What is shown early, and the whole."""
    monkeypatch.setattr(explain, "FEW_AT_ONCE", 10**6)
    published = []
    whole, maps = explained(demo_store, request.param, published)
    [(first, first_maps)] = published
    assert first_maps.keys() == maps.keys()
    return first, whole


def test_what_is_shown_early_is_what_the_whole_says_without_its_noise_control(both):
    first, whole = both
    assert not first.has_noise_control
    assert whole.has_noise_control
    for name in ("clean", "adversarial"):
        for a, b in zip(getattr(first, name).scores, getattr(whole, name).scores, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(first.flow, whole.flow, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.passes < whole.passes
    assert first.outcomes == whole.outcomes


def test_in_one_piece_or_in_two_an_explanation_is_the_same(demo_store, both):
    _, whole = both
    at_once, _ = explain.explain(
        register.bundle(demo_store, whole.request.model), demo_store.dataset("digits"), whole.request, lambda *_: None
    )
    assert at_once.passes == whole.passes
    for name in ("flow", "noise_flow"):
        for a, b in zip(getattr(at_once, name), getattr(whole, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(at_once.noise.scores, whole.noise.scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_on_small_pictures_is_shown_in_one_piece(demo_store):
    published = []
    explained(demo_store, PAIR, published)
    assert published == []


def test_without_a_noise_control_nothing_diverges_and_no_floor_is_told(both):
    first, whole = both
    compared, known = compare(first, 0.2), compare(whole, 0.2)
    assert compared.diverges_at is compared.diverges_from is compared.divergence_span is None
    assert all(np.isnan([site.floor_low, site.floor_high, site.flow_floor]).all() for site in compared.sites)
    assert all(site.p_value is None and site.noise_also == () for site in compared.sites)
    assert [site.distance for site in compared.sites] == [site.distance for site in known.sites]
    assert [site.flow for site in compared.sites] == [site.flow for site in known.sites]
    assert not np.any(kept_by(first, 0.2, 3, None) & NOISE)


def test_the_page_says_that_the_noise_control_is_missing_and_sends_plain_json():
    first = early(fakes.explanation(PAIR))
    shown = view.read({"request": engine.flatten(PAIR).value}, Early(first))
    facts = json.loads(json.dumps(view.facts(shown), allow_nan=False))
    assert "noise control is still being computed" in facts["note"]
    assert "noise control is still being computed" in facts["summary"]
    assert {row["floor_low"] for row in facts["sites"]} == {row["flow_floor"] for row in facts["sites"]} == {None}
    clause = faithfulness.headline(first, compare(first, 0.2), Faithfulness())[1]
    assert (clause.state, clause.is_known) == ("open", False)
    assert "not known yet" in clause.text
    view.draw(shown)


def test_noise_cannot_be_drawn_beside_before_it_is_there():
    first = early(fakes.explanation(PAIR))
    ask = {"request": engine.flatten(PAIR).value, "versus": network.model.NOISE}
    shown = view.read(ask, Early(first))
    assert shown.rival is None
    assert "not available yet" in view.facts(shown)["beside"]


class Early(FakeAuditor):
    """Has a pair without its noise control, and goes on."""

    def __init__(self, first):
        self.first = first

    def explanation(self, _request):
        return Answer("working", self.first, 3, 6, "Noise control")

    def faithfulness_checks(self, _request):
        return Answer("working", None, 3, 6, "Noise control")


def test_the_work_goes_on_while_the_pair_is_shown_and_its_arrival_is_news():
    first = early(fakes.explanation(PAIR))
    work = progress.look({}, Early(first))
    assert (work.stage, work.key) == ("noise control", first.key)
    assert work.progress.is_working
    assert work.progress.text == "Noise control … 3 of 6"
    assert work.arrived == ()
    assert "noise control" in progress.look({}, FakeAuditor()).arrived
    assert ViewState.from_dict(work.view).layer is not None


def test_the_attack_beside_is_drawn_once_it_is_whole():
    class Slow(FakeAuditor):
        def explanation(self, request):
            done = super().explanation(request)
            return replace(done, state="working") if "8/255" in request.attack.text else done

    assert progress.look({"versus": "pgd-linf@8/255"}, Slow()).rival is None


def test_an_answer_that_is_shown_early_is_kept_apart_and_goes_when_the_whole_is_there(demo_store, tmp_path):
    store = stores.copied(demo_store, tmp_path / "store")
    jobs = PatientJobs(store.root)
    auditor = Auditor(store, jobs)
    assert auditor.explanation(PAIR).value is None
    key = tasks.EXPLANATION.key(store, PAIR)
    first, whole = (replace(one, key=key) for one in (early(fakes.explanation(PAIR)), fakes.explanation(PAIR)))
    maps = {"maps": {"000/clean": np.ones((2, 3, 3), np.float16), "000/adversarial": np.zeros((2, 3, 3), np.float16)}}
    store.records.write(tasks.EXPLANATION.early, key, first, extras=maps)
    answer = auditor.explanation(PAIR)
    assert (answer.state, answer.value.has_noise_control) == ("working", False)
    assert not auditor.explained(key).has_noise_control
    assert auditor.maps(key, 0)[0].shape == (2, 3, 3)
    assert auditor.faithfulness_checks(PAIR).value is None
    assert (
        auditor.responses(key).state
        == auditor.causal_test(key, MapSet(("stem",), ((0,),)), "restore").state
        == "working"
    )
    store.records.write(tasks.EXPLANATION.shelf, key, whole, extras=maps)
    store.records.remove(tasks.EXPLANATION.early, key)
    answer = auditor.explanation(PAIR)
    assert (answer.state, answer.value.has_noise_control) == ("ready", True)
    assert auditor.explained(key).has_noise_control
    with pytest.raises(NotStored):
        store.records.read(tasks.EXPLANATION.early, key, type(whole))
