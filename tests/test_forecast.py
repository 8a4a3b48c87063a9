"""What a run will cost is told before it starts, and is what its conditions cost one by one."""

from __future__ import annotations

import dataclasses
import json

import pytest

from engine import __main__ as command_line
from engine.audit import compute, manifest, report, tiers
from engine.specs import catalogue, methods
from engine.specs.threat_model import Attack
from engine.types.requests import Pace
from tests import audits, stores

PLAN = audits.PLAN.replace('attacks = ["fgsm-linf:eps=24/255"]', 'tier = "standard"\nepsilon = "24/255"')
PACE = Pace(0.01, 0.004, 0.1)


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("forecast") / "store")


@pytest.fixture(scope="module")
def planned(store):
    return audits.planned(store, PLAN)


def seconds(attack: Attack) -> float:
    cost = tiers.cost(attack, 10)
    return cost.passes * PACE.pass_seconds + cost.forwards * PACE.forward_seconds


def test_an_estimate_is_the_sum_over_attacks_from_few_cascade_to_many(planned):
    found = report.forecast(planned, {"candidate": PACE})
    plan = planned.plan
    every = PACE.forward_seconds + sum(seconds(attack) for attack in plan.attacks)
    after, explained = sum(seconds(item) for item in plan.in_cascade), PACE.explain_seconds
    scored = 1 + len(plan.attacks)
    for share, passes, total in (
        (0.02, found.passes_low, found.seconds_low),
        (0.5, found.passes_high, found.seconds_high),
    ):
        own = every + share * after
        assert passes == pytest.approx(own / PACE.pass_seconds)
        assert total == pytest.approx(6 * (own + explained * (scored + share * len(plan.in_cascade))))


def test_a_baseline_costs_its_own_pace_and_a_curve_is_not_explained(store):
    text = audits.PLAN.replace('data = "digits"', 'baseline = "digits-robust"\ndata = "digits"')
    alone, both = (audits.planned(store, item) for item in (audits.PLAN, text))
    slow = dataclasses.replace(PACE, pass_seconds=0.02, forward_seconds=0.008, explain_seconds=0.2)
    one = report.forecast(alone, {"candidate": PACE}).seconds_low
    assert report.forecast(both, {"candidate": PACE, "baseline": slow}).seconds_low == pytest.approx(3 * one)
    curve = audits.planned(store, audits.PLAN + '[curve]\nattack = "fgsm-linf"\nepsilons = ["2/255"]\n')
    more = report.forecast(curve, {"candidate": PACE}).seconds_low - one
    assert more == pytest.approx(6 * seconds(catalogue.attack("fgsm-linf:eps=2/255")))


def test_without_a_method_only_attacks_cost(store):
    text = PLAN.replace('method = "gradient"', 'method = "none"')
    found = report.forecast(audits.planned(store, text), {"candidate": PACE})
    assert found.seconds_low == pytest.approx(6 * found.passes_low * PACE.pass_seconds)


@pytest.mark.parametrize(
    ("length", "words"), [(3.4, "3 s"), (119, "119 s"), (130, "2 min"), (725, "12 min"), (7300, "2 h 2 min")]
)
def test_a_length_of_time_is_told_as_exactly_as_it_is_known(length, words):
    assert report.about(length) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (740, 1500, "12 to 25 min"),
        (50, 125, "50 s to 2 min"),
        (3000, 4000, "50 min to 1 h 7 min"),
        (725, 730, "12 min"),
    ],
)
def test_an_estimate_is_one_line(low, high, words):
    found = report.Forecast(1000, 51.2, 93.4, low, high, 30)
    line = f"standard: 1,000 images, 51 to 93 passes per image, about {words} on one worker; its page's checks take another 30 s"
    assert report.forecast_text("standard", found) == line


def test_the_measured_pace_explains_only_where_a_method_does(store):
    bundle, dataset = audits.bundle(store.root, "digits-standard"), store.dataset("digits")
    plain = compute.measure_pace(bundle, dataset, methods.NO_METHOD, 1)
    scored = compute.measure_pace(bundle, dataset, methods.method("gradient"), 1)
    assert 0 < plain.forward_seconds < plain.pass_seconds < 1
    assert (plain.explain_seconds, scored.explain_seconds > 0) == (0, True)


@pytest.mark.cluster
@pytest.mark.slow
def test_estimate_says_what_it_costs_and_begins_no_run(store, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN)
    command = ["audit", str(tmp_path / "plan.toml"), "--store", str(store.root), "--estimate"]
    assert command_line.main(command) == 0
    line = capsys.readouterr().out
    assert line.startswith("standard: 6 images, ") and " passes per image, about " in line and line.count("\n") == 1
    assert command_line.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == manifest.run_id(manifest.text(audits.planned(store, PLAN)))
    assert 0 < told["passes_low"] < told["passes_high"]
    assert 0 < told["seconds_low"] < told["seconds_high"]
    assert not (store.root / "runs").exists()
