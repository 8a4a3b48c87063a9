"""Adversarial patches on the demo's digits: they fool where a patch of noise does not, and audits tell their area."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

from engine import images
from engine.attacks import gradient, runner
from engine.attribution import baselines, explain
from engine.audit import plan, report, results
from engine.errors import BadInput
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


def test_a_universal_patch_is_one_square_for_a_class_and_fools_where_noise_does_not(store):
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    runner.LEARNED.clear()
    spec, samples = catalogue.attack("universal-patch:eps=0.15,images=4"), dataset.keys
    result = explain.attacked(bundle, dataset, spec, samples, 0)
    noise = explain.attacked(bundle, dataset, catalogue.attack("noise-patch:eps=0.15"), samples, 0)
    by_status = [collections.Counter(outcome.status for outcome in one.outcomes)["fooled"] for one in (result, noise)]
    assert by_status[0] >= by_status[1] + 8, by_status
    assert len(runner.LEARNED) == len(
        {outcome.label for outcome in result.outcomes if outcome.before.label == outcome.label}
    )
    (square,) = [square for (_, _, label), square in runner.LEARNED.items() if label == result.outcomes[0].label]
    for row, outcome in enumerate(result.outcomes):
        if outcome.label == result.outcomes[0].label and outcome.status in ("fooled", "resisted"):
            windows = result.adversarial[row].unfold(1, square.shape[1], 1).unfold(2, square.shape[2], 1)
            apart = (windows - square[:, None, None]).abs().amax(dim=(0, 3, 4))
            assert float(apart.min()) < 1 / 510, "the patch stands somewhere on it, as it was learned"
    some = explain.attacked(bundle, dataset, spec, samples[3:5], 0)
    assert np.array_equal(some.stored, result.stored[3:5])


def test_a_universal_patch_without_other_images_is_refused(store):
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    pictures = baselines.load(bundle, dataset, dataset.keys[:1])
    spec, label = catalogue.attack("universal-patch"), torch.tensor(baselines.labels(bundle, dataset)[:1])
    with pytest.raises(BadInput, match="learns from other images of a class, and here there is no data set"):
        runner.run(bundle, pictures, label, spec, torch.arange(1), samples=("0",))


def test_an_audit_learns_a_universal_patch_whatever_its_blocks(store):
    text = 'model = "digits-standard"\ndata = "digits"\nmethod = "none"\nthreads = 1\n'
    text += 'attacks = ["universal-patch:eps=0.1,steps=5,images=2"]\n\n[images]\ncount = 10\n'
    run, state, _ = audits.drive(store, audits.planned(store, text))
    assert state.state == "finished", state.message
    told = report.text(run, state, results.read_summary(run.place, run.manifest))
    assert "10 % of the area" in told
    assert "noise-patch" in told


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
