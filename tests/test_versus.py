"""Candidate against baseline inside a run: sides counted again the slow way, layers by name or depth, and maps matched."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch

from dashboard import app
from dashboard.auth import Login
from dashboard.panels.versus import model as models
from dashboard.panels.versus import view as versus_view
from dashboard.settings import Settings
from engine import Answer, BadInput, Scope, UnknownName
from engine.audit import frames, versus
from engine.features import matching
from engine.service import tasks
from engine.types.run_studies import MatchRequest
from tests import audits, planted_runs, stores
from tests.test_confusion import scattered
from tests.watched import Watched


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("versus") / "store")


@pytest.fixture(scope="module")
def run(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted_runs, "made_up", scattered)
        return planted_runs.finish(store)


@pytest.fixture(scope="module")
def auditor(store):
    return Watched(store)


@pytest.mark.parametrize("labels", [(), (3, 8)])
@pytest.mark.parametrize("attacks", [(), (1,)])
def test_sides_are_what_a_slow_count_finds(store, run, auditor, attacks, labels):
    found = auditor.audits.versus(run.id, Scope(attacks=attacks, classes=labels))
    names = [one.name for one in run.manifest.of("candidate") if one.kind == "attack"]
    chosen = names[:1] if attacks else names
    table = frames.images(store, run.id)
    table = table[table["condition"].isin(chosen) & table["true_class"].isin([str(k) for k in labels or range(10)])]
    sides = {}
    for (role, sample), own in table.groupby(["role", "sample"]):
        judged = own["in_budget"] & (own["status"] != "failed")
        right = judged & (own["after"] == own["true_class"]) & (own["before"] == own["true_class"])
        fooled = (judged & (own["status"] == "fooled")).any()
        sides.setdefault(sample, {})[role] = "fooled" if fooled else "right" if right.all() else "neither"
    pairs = [(one["candidate"], one["baseline"]) for one in sides.values()]
    counted = [found.both_fooled, found.candidate_only, found.baseline_only, found.both_right]
    wanted = [("fooled", "fooled"), ("fooled", "right"), ("right", "fooled"), ("right", "right")]
    assert counted == [pairs.count(pair) for pair in wanted]
    assert found.left_out == len(pairs) - sum(counted)
    assert {one.sample for one in found.changed} == {
        sample for sample, one in sides.items() if {one["candidate"], one["baseline"]} == {"fooled", "right"}
    }


def test_layers_stand_beside_each_other_by_name_or_by_depth(run, auditor):
    found = auditor.audits.versus(run.id, Scope())
    own, other = auditor.audits.inside(run.id, Scope()), auditor.audits.inside(run.id, Scope("baseline"))
    assert [(one.layer, one.other) for one in found.layers] == [(one.layer, one.layer) for one in own.layers]
    assert [one.share for one in found.layers] == [one.flow for one in own.layers]
    assert [one.other_share for one in found.layers] == [one.flow for one in other.layers]
    assert found.paired_by == "name"
    candidate, baseline = run.manifest.models
    shorter = dataclasses.replace(baseline, architecture="other", sites=baseline.sites[:3])
    manifest = dataclasses.replace(run.manifest, models=(candidate, shorter))
    assert versus.paired_by(manifest) == "depth"
    pairs = versus.layer_pairs(manifest)
    assert (pairs[0][1], pairs[-1][1]) == (baseline.sites[0][0], baseline.sites[2][0])
    assert pairs[len(pairs) // 2][1] == baseline.sites[1][0]
    told = models.described(auditor.audits.view(run.id), dataclasses.replace(found, paired_by="depth"))
    assert "Nothing more is claimed" in told.layers_note


def test_a_run_of_one_model_has_no_such_part(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    single = planted_runs.finish(store, planted_runs.PLAN.replace('\nbaseline = "digits-robust"', ""))
    assert versus_view.answer(Watched(store), {"run": single.id})[0]["state"] == "one model"
    with pytest.raises(BadInput, match="one model"):
        Watched(store).audits.versus(single.id, Scope())


def text(facts) -> str:
    return json.dumps(facts, ensure_ascii=False)


def test_what_is_drawn_is_what_the_run_says(run, auditor):
    found = auditor.audits.versus(run.id, Scope())
    facts, figure = versus_view.answer(auditor, {"run": run.id})
    assert [list(trace.y) for trace in figure.data] == [
        [one.share for one in found.layers], [one.other_share for one in found.layers]
    ]  # fmt: skip
    assert f"n = {found.n} images" in facts["lead"]
    assert "exact McNemar p" in text(facts)
    assert f"{found.left_out} images are left out" in text(facts)
    first = found.changed[0]
    query = dict(parse_qsl(models.link(auditor.audits.view(run.id), first)))
    fooled_in = {"candidate only": "digits-standard", "baseline only": "digits-robust"}[first.side]
    assert (query["model"], query["sample"]) == (fooled_in, first.sample)
    assert "does not exist" not in text(facts)
    fewer = auditor.audits.versus(run.id, Scope(), 1)
    assert len(fewer.changed) <= 2
    assert fewer.baseline_only == found.baseline_only
    broken, _ = versus_view.answer(auditor, {"run": run.id, "classes": "99"})
    assert "0 to 9, got 99" in broken["lead"]


def test_a_damaged_cube_takes_the_layers_alone(run, store, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    (own.root / "runs" / run.id / "result" / "cube-baseline-sums.npy").write_bytes(b"")
    facts, figure = versus_view.answer(Watched(own), {"run": run.id})
    assert "cube-baseline-sums.npy" in text(facts)
    assert "Fooled in both" in text(facts)
    assert not figure.data


@pytest.fixture(scope="module")
def bundles(store):
    return audits.bundle(store.root, "digits-standard"), audits.bundle(store.root, "digits-robust")


def quiet(*_told) -> None:
    pass


def test_a_network_finds_itself_whatever_the_order_of_its_maps(store, bundles, monkeypatch):
    dataset, own = store.dataset("digits"), bundles[0]
    layer = own.sites[2].name
    request = MatchRequest("digits-standard", "digits-standard", "digits", dataset.keys[:12], ((layer, layer),))
    shuffled = np.random.default_rng(3).permutation(own.sites[2].channels)
    whole, calls = matching._positions, []

    def second_in_another_order(maps, grid):
        calls.append(1)
        positions = whole(maps, grid)
        return positions[shuffled] if len(calls) % 2 == 0 else positions

    monkeypatch.setattr(matching, "_positions", second_in_another_order)
    (found,) = matching.match((own, own), dataset, request, quiet).layers
    varies = found.correlations > 0
    assert varies.sum() >= own.sites[2].channels - 2, "a map that never answers has no partner to be told by"
    assert np.array_equal(shuffled[found.partners][varies], np.arange(len(shuffled))[varies])
    assert found.correlations[varies] == pytest.approx(1.0)
    assert found.median > found.random_median_highest


def test_correlations_are_those_of_numpy(store, bundles):
    first, second = np.random.default_rng(0).normal(size=(2, 5, 300))
    second[2] = 0.0
    sums = matching._Sums(5, 5)
    sums.add(first[:, :100], second[:, :100])
    sums.add(first[:, 100:], second[:, 100:])
    with np.errstate(invalid="ignore"):
        wanted = np.nan_to_num(np.corrcoef(first, second)[:5, 5:])
    assert sums.correlations() == pytest.approx(wanted, abs=1e-12)
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 8, 8)
    assert matching._positions(maps, (2, 2))[0, 0] == pytest.approx(float(maps[0, 0, :4, :4].mean()))


def test_too_few_images_and_a_wrong_layer_are_named(store, bundles):
    dataset = store.dataset("digits")
    layer = bundles[0].sites[0].name
    request = MatchRequest("digits-standard", "digits-robust", "digits", dataset.keys[:2], ((layer, layer),))
    with pytest.raises(BadInput, match="at least 4 images"):
        matching.match(bundles, dataset, request, quiet)
    with pytest.raises(UnknownName, match="layer"):
        matching.match(
            bundles, dataset, dataclasses.replace(request, samples=dataset.keys[:6], layers=(("x", layer),)), quiet
        )


def test_a_button_begins_the_matching_and_its_result_is_kept(run, auditor, store):
    idle = versus_view.matching(auditor, {"run": run.id, "act": "look"})
    assert idle["state"] == "idle"
    assert '"data-matching": "begin"' in text(idle)
    found = versus_view.matching(auditor, {"run": run.id, "act": "begin"})
    assert found["state"] == "ready"
    request = versus.match_request(run.place)
    assert tasks.MATCHING.key(store, request) != tasks.MATCHING.key(
        store, dataclasses.replace(request, samples=request.samples[1:])
    )
    record = auditor.audits.matching(run.id, "look").value
    assert (record.matched_on, record.judged_on) == (20, 20)
    for one in record.layers:
        partners = one.partners[one.partners >= 0]
        assert len(set(partners.tolist())) == len(partners), "one to one"
        assert str(one.layer) in text(found)
    assert "Partner in the baseline" in text(found)
    assert versus_view.matching(auditor, {"run": run.id})["state"] == "ready"


def test_work_that_goes_on_can_be_stopped_and_work_that_failed_tried_again(run, auditor, monkeypatch):
    acts = []
    answers = {"look": Answer("working", None, 2, 9, "Matching"), "stop": Answer("failed", message="It was stopped.")}
    monkeypatch.setattr(auditor.audits, "matching", lambda _run, act: acts.append(act) or answers[act])
    going = versus_view.matching(auditor, {"run": run.id, "act": "look"})
    assert (going["state"], "(2 of 9)" in text(going), '"data-matching": "stop"' in text(going)) == (
        "working",
        True,
        True,
    )
    ended = versus_view.matching(auditor, {"run": run.id, "act": "stop"})
    assert "It was stopped." in text(ended)
    assert '"data-matching": "begin"' in text(ended)
    assert acts == ["look", "stop"]


def test_a_model_that_is_gone_is_named(run, auditor, monkeypatch):
    def gone(_run, _act):
        raise UnknownName("model", "digits-robust", ["digits-standard"])

    monkeypatch.setattr(auditor.audits, "matching", gone)
    assert "digits-robust" in text(versus_view.matching(auditor, {"run": run.id}))


def test_every_table_is_a_file(run, auditor, tmp_path):
    settings = Settings(tmp_path / "login-store")
    client = app.create_app(auditor, settings).server.test_client()
    login = Login.open(settings.store)
    client.set_cookie(login.cookie_name, login.new_cookie(), domain="localhost")
    found = auditor.audits.versus(run.id, Scope(classes=(3, 8)))
    for name in models.TABLES:
        heads, table = models.TABLES[name](auditor.audits.view(run.id), found)
        read = list(csv.reader(io.StringIO(client.get(f"/audits/{run.id}/{name}.csv?classes=3,8").text)))
        assert read[0] == list(heads)
        assert read[1:] == [["" if cell is None else str(cell) for cell in row] for row in table]
    auditor.audits.matching(run.id, "begin")
    maps = list(csv.reader(io.StringIO(client.get(f"/audits/{run.id}/{models.MATCHES}.csv").text)))
    assert len(maps) - 1 == sum(one.matched for one in auditor.audits.matching(run.id, "look").value.layers)
