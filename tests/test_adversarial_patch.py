"""Adversarial patches on the demo's digits: they fool where a patch of noise does not, and audits tell their area."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import images
from engine.attacks import gradient, runner
from engine.audit import plan, report, results
from engine.models import register
from engine.specs import catalogue
from tests import audits

AUDIT = """
model = "digits-standard"
data = "digits"
method = "none"
attacks = ["patch:eps=0.05,restarts=2", "fgsm-linf:eps=24/255"]
threads = 1

[images]
count = 10

[curve]
attack = "patch:restarts=2"
epsilons = ["1/64", "0.1"]

[[thresholds]]
name = "withstands a patch"
condition = "patch:eps=0.05,restarts=2"
at_least = 0.1
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return audits.fill(tmp_path_factory.mktemp("patch") / "store")


@pytest.fixture(scope="module")
def fooled(store):
    """How many of 20 digits an attack fools, by its id."""
    digits = audits.some_digits()
    pictures = torch.from_numpy(images.to_float(np.moveaxis(digits.x, 3, 1)[::2].copy()))
    labels, seeds = torch.tensor(digits.y[::2], dtype=torch.int64), torch.arange(20) * 7919
    bundle = register.bundle(store, "digits-standard")

    def count(identifier: str) -> int:
        spec = catalogue.attack(identifier)
        found = runner.run(bundle, pictures, labels, spec, seeds, samples=tuple(map(str, range(20))))
        return sum(outcome.status == "fooled" for outcome in found.outcomes)

    return count


def test_a_patch_fools_where_a_patch_of_noise_of_its_area_does_not(fooled, monkeypatch):
    noise = fooled("noise-patch:eps=0.05")
    assert fooled("patch:eps=0.05,restarts=4") >= noise + 5
    monkeypatch.setattr(gradient.SignAscent, "advance", lambda _self, _images, change, momentum, _: (change, momentum))
    assert fooled("patch:eps=0.05,restarts=4") < noise + 5, "without climbing it is a few patches of noise"


def test_more_places_fool_no_fewer(fooled):
    counts = [fooled(f"patch:eps=1/32,restarts={restarts}") for restarts in (1, 4)]
    assert counts == sorted(counts)


def test_a_plan_takes_the_control_of_the_same_area_along(store):
    found = plan.understood(plan.parse(AUDIT, "plan.toml"), store)
    assert [control.text for control in found.controls if control.norm.name == "area"] == ["noise-patch:eps=0.05"]
    assert {control.epsilon_text for control in found.controls if control.norm.name != "area"} == {"24/255"}


def test_an_audit_over_growing_areas_tells_them_as_such(store):
    run, state, _ = audits.drive(store, audits.planned(store, AUDIT))
    assert state.state == "finished", state.message
    summary = results.read_summary(run.place, run.manifest)
    told = report.text(run, state, summary)
    for share in ("5 % of the area", "1.562 % of the area", "10 % of the area"):
        assert share in told
    (model,) = summary.models
    areas = [point for point in report._model(model)["curve"] if point["attack"].startswith("patch")]
    assert [point["strength"] for point in areas] == ["1.562 % of the area", "5 % of the area", "10 % of the area"]
    rates = [point["robust_accuracy"] for point in areas]
    assert rates[0] >= rates[-1]
