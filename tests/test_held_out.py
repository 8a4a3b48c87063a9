"""Weak maps tested causally: ranked on one half of a run's fooled images, patched in the other, with every n said."""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import parse_qsl

import numpy as np
import pytest

from dashboard.panels.held_out import model as tests_model
from dashboard.panels.held_out import view as held_out_view
from engine import Answer, BadInput, BadSetting, Scope
from engine.audit import endings, held_out, shards
from engine.store import Store
from tests import audits, planted_runs, stores
from tests.watched import Watched

PLAN = audits.PLAN.replace("count = 6\nblock = 2", "count = 20\nblock = 7")


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory) -> Store:
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("held-out") / "store")


@pytest.fixture(scope="module")
def run(store):
    """A real run: the attack is made again in the test and must fool the same images."""
    made, state, _ = audits.drive(store, audits.planned(store, PLAN))
    assert state.state == "finished"
    return made


@pytest.fixture(scope="module")
def auditor(store):
    return Watched(store)


def quiet(*_told) -> None:
    pass


def test_halves_share_no_image_and_together_are_all_fooled_ones(run, auditor):
    condition, halves = auditor.audits.halves(run.id, Scope())
    assert condition == "fgsm-linf:eps=24/255"
    fooled = np.flatnonzero(endings.of_run(run.place).is_fooled([1])[0])
    assert not set(halves.ranking) & set(halves.held_out)
    assert sorted((*halves.ranking, *halves.held_out)) == fooled.tolist()
    assert abs(len(halves.ranking) - len(halves.held_out)) <= 1
    many = held_out.Halves((), tuple(range(500)))
    assert len(many.tested) == held_out.MOST_TESTED
    assert (many.tested[0], many.tested[-1]) == (0, 499)


def test_the_ranking_sees_the_ranking_half_alone(run):
    asked = held_out.request(run.place, Scope(), 3)
    halves = held_out.halves(run.place, asked)
    names = [name for name, _ in run.manifest.model("candidate").sites]
    chosen = held_out.strongest(run.place, asked, halves.ranking, names[1:], quiet)
    condition = run.manifest.of("candidate")[1]
    rows = shards.joined(
        [shards.read(run.place.shard(condition.folder, block) / shards.ROWS) for block in range(run.manifest.blocks)]
    )
    own = [site[list(halves.ranking)].astype(float) for site in rows.flow[1:]]
    mean = np.concatenate([(np.abs(site) / np.abs(site).mean(axis=1, keepdims=True)).mean(axis=0) for site in own])
    places = [(name, k) for name, count in run.manifest.model("candidate").sites[1:] for k in range(count)]
    wanted = {places[k] for k in np.argsort(-mean)[:3]}
    assert {(site, k) for site, own in zip(chosen.sites, chosen.channels, strict=True) for k in own} == wanted
    with pytest.raises(BadSetting, match="got 100000"):
        held_out.strongest(run.place, dataclasses.replace(asked, count=100_000), halves.ranking, names, quiet)


def text(facts) -> str:
    return json.dumps(facts, ensure_ascii=False)


def test_a_button_tests_the_held_out_images_and_says_every_n(run, auditor):
    ask = {"run": run.id, "act": "look"}
    before = held_out_view.answer(auditor, ask)
    _, halves = auditor.audits.halves(run.id, Scope())
    assert f"ranked on n = {len(halves.ranking)} fooled images, held out n = {len(halves.held_out)}." in before["lead"]
    assert text(before).count("not tested yet") == len(tests_model.SIZES)
    facts = held_out_view.answer(auditor, {**ask, "act": "begin", "count": 8})
    assert facts["state"] == "ready"
    assert text(facts).count("not tested yet") == len(tests_model.SIZES) - 1
    found = auditor.audits.held_out(run.id, Scope(), 8, "look").value
    samples = run.manifest.images.samples
    assert found.test.samples == tuple(samples[k] for k in halves.tested), (
        "the run's own adversarial images are made again"
    )
    assert found.test.chosen.count == 8
    assert (found.ranked_on, found.held_out) == (len(halves.ranking), len(halves.held_out))
    row = tests_model.row(found)
    assert row.is_supported == found.test.is_supported
    assert row.n == str(len(halves.tested))
    matched = tests_model.decisive(found.test)
    assert f"{100 * matched.excess.value:+.1f}".replace("-", "−") in row.excess
    assert "Layer-matched random" in text(facts)
    query = dict(parse_qsl(tests_model.link(auditor.audits.view(run.id), Scope(), "fgsm-linf:eps=24/255", found.test)))
    assert query["patch"].startswith("map:")
    assert (query["model"], query["outcome"]) == ("digits-standard", "fooled")


def test_support_needs_the_paired_difference_above_zero(run, auditor):
    auditor.audits.held_out(run.id, Scope(), 8, "begin")
    found = auditor.audits.held_out(run.id, Scope(), 8, "look").value
    matched = tests_model.decisive(found.test)
    below = dataclasses.replace(matched, excess=dataclasses.replace(matched.excess, low=-0.01))
    test = dataclasses.replace(
        found.test, controls=tuple(below if one.name == matched.name else one for one in found.test.controls)
    )
    row = tests_model.row(dataclasses.replace(found, test=test))
    assert not row.is_supported
    assert row.verdict == "Not supported: any channels of these layers do the same"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": "99"}, "0 to 9, got 99"),
        ({"attacks": "0"}, "no attack"),
        ({"classes": "3"}, "takes at least 4"),
        ({"run": "0" * 32}, "No run"),
    ],
)
def test_what_cannot_be_tested_is_said(run, auditor, change, says):
    facts = held_out_view.answer(auditor, {"run": run.id, **change})
    assert says in facts["lead"]
    assert facts["body"] == []


def test_a_run_without_scores_or_end_cannot_be_tested(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    quiet_run, _, _ = audits.drive(store, audits.planned(store, audits.PLAN.replace('"gradient"', '"none"')))
    with pytest.raises(BadInput, match="of a run with a scoring method"):
        Watched(store).audits.halves(quiet_run.id, Scope())
    left, _, _ = audits.drive(store, audits.planned(store, PLAN), lambda _task: False)
    with pytest.raises(BadInput, match="not finished"):
        Watched(store).audits.halves(left.id, Scope())


def test_work_that_goes_on_can_be_stopped(run, auditor, monkeypatch):
    acts = []

    def known(_run, _scope, size, act):
        acts.append((size, act))
        return Answer("working", None, 1, 2, "Attacking") if size == 16 else None

    monkeypatch.setattr(auditor.audits, "held_out", known)
    facts = held_out_view.answer(auditor, {"run": run.id, "act": "stop", "count": 16})
    assert facts["state"] == "working"
    assert '"data-held-out": "stop"' in text(facts)
    assert acts == [(size, "stop" if size == 16 else "look") for size in tests_model.SIZES]


def test_a_planted_run_says_that_images_were_not_fooled_anew(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    made = planted_runs.finish(store)
    watched = Watched(store)
    facts = held_out_view.answer(watched, {"run": made.id, "act": "begin", "count": 4, "role": "baseline"})
    _, halves = watched.audits.halves(made.id, Scope("baseline"))
    found = watched.audits.held_out(made.id, Scope("baseline"), 4, "look").value
    missing = len(halves.tested) - len(found.test.labels)
    assert missing > 0
    assert f"{missing} of them were not fooled when they were attacked anew" in text(facts)
