"""Validation reports that were made already are read without making any, and say nothing of right answers where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from engine.checks import attacks
from engine.checks.attacks import Look
from engine.models import architectures
from engine.service import tasks, worker
from engine.service.answers import Answers
from engine.service.registry import ImportFolder, ModelRegistry
from engine.types.requests import Place
from tests import audits, stores


def test_the_architectures_that_the_form_suggests_are_those_that_can_be_loaded(store):
    found = ModelRegistry(Answers(store, audits.Inline(store.root)), ImportFolder(None)).architectures()
    assert set(found) <= set(architectures.names())
    assert set(architectures.ARCHITECTURES) <= set(found)
    assert {"resnet50", "mobilenet_v2"} <= set(found)
    assert "vit_b_16" not in found


@pytest.fixture
def store(small_demo_store, tmp_path):
    return stores.copied(small_demo_store, tmp_path / "store")


@pytest.mark.parametrize(("useless", "outcome"), [(0, "pass"), (2, "fail")])
def test_on_noise_no_image_is_called_right(useless, outcome):
    look = Look(10, np.ones(6, dtype=bool), np.arange(6) < useless, 0.0, 0, True, False, False)
    found = attacks.without_attacks(look)[-1]
    assert found.outcome == outcome
    assert found.sentence == f"On {useless} of 6 images the gradient of the answer is zero everywhere or not finite."


def test_reports_that_were_made_are_read_and_none_is_made_for_it(store):
    model_registry = ModelRegistry(Answers(store, audits.Inline(store.root)), ImportFolder(None))
    assert model_registry.reports("digits-robust", ["digits"]) == ()
    place = Place("digits-robust", "digits")
    worker.perform(tasks.order(tasks.VALIDATION, tasks.VALIDATION.key(store, place), place), str(store.root))
    (report,) = model_registry.reports("digits-robust", ["digits"])
    assert (report.model, report.data) == ("digits-robust", "digits")
    assert model_registry.reports("digits-robust", []) == ()
    assert model_registry.reports("digits-standard", ["digits"]) == ()
