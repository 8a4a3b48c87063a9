"""The L1 attack on the demo's digits: it fools where noise of the same length does not, and audits tell its length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import images
from engine.attacks import gradient, runner
from engine.audit import report, results
from engine.models import register
from engine.specs import catalogue
from tests import audits

AUDIT = """
model = "digits-standard"
data = "digits"
method = "none"
attacks = ["pgd-l1:eps=12,steps=5"]
threads = 1

[images]
count = 10

[curve]
attack = "pgd-l1:steps=5"
epsilons = ["1", "4"]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return audits.fill(tmp_path_factory.mktemp("l1") / "store")


def test_it_fools_where_noise_of_its_length_does_not(store, monkeypatch):
    digits = audits.some_digits()
    pictures = torch.from_numpy(images.to_float(np.moveaxis(digits.x, 3, 1)[::2].copy()))
    labels, seeds = torch.tensor(digits.y[::2], dtype=torch.int64), torch.arange(20) * 7919
    bundle = register.bundle(store, "digits-standard")

    def fooled(identifier: str) -> int:
        spec = catalogue.attack(identifier)
        found = runner.run(bundle, pictures, labels, spec, seeds, samples=tuple(map(str, range(20))))
        assert all(outcome.l1 <= spec.budget + 1e-9 for outcome in found.outcomes)
        return sum(outcome.status == "fooled" for outcome in found.outcomes)

    noise = fooled("noise-sparse:eps=12")
    assert fooled("pgd-l1:eps=12") >= noise + 14
    monkeypatch.setattr(
        gradient.SparseAscent, "advance", lambda _self, _images, change, momentum, _: (change, momentum)
    )
    assert not fooled("pgd-l1:eps=12"), "its start alone is noise"


def test_an_audit_tells_its_length_and_runs_noise_of_the_same(store):
    run, state, _ = audits.drive(store, audits.planned(store, AUDIT))
    assert state.state == "finished", state.message
    summary = results.read_summary(run.place, run.manifest)
    told = report.text(run, state, summary)
    assert "pgd-l1:eps=12,steps=5" in told and "noise-sparse:eps=12" in told
    (model,) = summary.models
    curve = [point for point in report._model(model)["curve"] if point["attack"].startswith("pgd-l1")]
    assert [point["strength"] for point in curve] == ["1", "4", "12"]
    rates = [point["robust_accuracy"] for point in curve]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]
