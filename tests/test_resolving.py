"""One step on the page resolves an explanation once, however many panels show it."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

import pytest

from dashboard import auditor as auditors
from dashboard import progress
from dashboard.panels.channel import view as channel_view
from dashboard.panels.layer import view as layer_view
from dashboard.panels.network import view as network_view
from tests import fakes


class Counting(fakes.FakeAuditor):
    """Counts what takes a request apart; its faithfulness checks are complete where `is_done`."""

    def __init__(self, is_done=True):
        self.counts, self.is_done, self.cards = Counter(), is_done, fakes.MODELS

    def models(self):
        return self.cards

    def explanation(self, request):
        self.counts["examination"] += 1
        return super().explanation(request)

    def faithfulness_checks(self, request):
        self.counts["certificates"] += 1
        found = super().faithfulness_checks(request)
        return dataclasses.replace(found, state="ready") if self.is_done else found


def step(auditor, **changes):
    """What the page asks when its view changes."""
    work = progress.look({"sample": "00004", "label": "4", **changes}, auditor)
    ask = {**work.view, "key": work.key, "request": work.request, "arrived": list(work.arrived)}
    network_view.read(ask, auditor)
    layer_view.answer(auditor, ask)
    channel_view.answer(auditor, ask)
    channel_view.facts(auditor, ask)
    return work


def test_a_new_view_resolves_its_explanation_once():
    behind = Counting()
    assert step(auditors.remembering(behind)).key == "fake00004"
    assert behind.counts == {"examination": 1, "certificates": 1}


def test_a_click_within_a_view_resolves_nothing_again():
    behind = Counting()
    auditor = auditors.remembering(behind)
    step(auditor)
    for layer in ("layer1.0", "layer2.1", "layer1.0"):
        step(auditor, layer=layer)
    assert behind.counts == {"examination": 1, "certificates": 1}


def test_faithfulness_that_still_grow_are_asked_for_once_a_step(monkeypatch):
    behind = Counting(is_done=False)
    auditor, now = auditors.remembering(behind), time.monotonic()
    monkeypatch.setattr(auditors.time, "monotonic", lambda: now)
    step(auditor)
    assert behind.counts["certificates"] == 1
    monkeypatch.setattr(auditors.time, "monotonic", lambda: now + 2 * auditors.FRESH)
    step(auditor)
    assert behind.counts == {"examination": 1, "certificates": 2}


def test_another_view_is_resolved_anew():
    behind = Counting()
    auditor = auditors.remembering(behind)
    step(auditor)
    assert step(auditor, sample="00024").key == "fake00024"
    assert behind.counts == {"examination": 2, "certificates": 2}


def test_a_model_that_was_exchanged_is_resolved_anew():
    behind = Counting()
    auditor = auditors.remembering(behind)
    step(auditor)
    behind.cards = tuple(dataclasses.replace(card, content_hash="another") for card in fakes.MODELS)
    step(auditor)
    assert behind.counts["examination"] == 2


@pytest.mark.parametrize("name", ["attacks", "explained", "model_registry", "close"])
def test_everything_else_is_asked_of_the_auditor_behind(name):
    behind = Counting()
    assert getattr(auditors.remembering(behind), name) == getattr(behind, name)
