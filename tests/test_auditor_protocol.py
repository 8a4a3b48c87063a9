"""The dashboard's protocol of an auditor: the engine and the fake of the tests answer it in the same words."""

from __future__ import annotations

import inspect

import pytest

import engine
from dashboard import auditor
from engine.service import driver, registry
from tests import fakes

ANSWERERS = [
    (auditor.Auditor, engine.Auditor),
    (auditor.Auditor, fakes.FakeAuditor),
    (auditor.Registry, registry.ModelRegistry),
    (auditor.Registry, fakes.BareRegistry),
    (auditor.Runs, driver.Runs),
    (auditor.Runs, fakes.NoRuns),
]


def methods(protocol):
    return {name: one for name, one in vars(protocol).items() if inspect.isfunction(one) and not name.startswith("_")}


def shape(function):
    """Names, kinds and defaults of the parameters: what a caller can notice."""
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize(("protocol", "answerer"), ANSWERERS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_whoever_answers_takes_what_the_dashboard_hands_over(protocol, answerer):
    asked = methods(protocol)
    assert asked
    missing = [name for name in asked if not callable(getattr(answerer, name, None))]
    assert missing == []
    other = {
        name: shape(getattr(answerer, name)) for name in asked if shape(getattr(answerer, name)) != shape(asked[name])
    }
    assert other == {}


def test_the_fake_says_where_the_registry_and_the_runs_are():
    made = fakes.FakeAuditor()
    assert isinstance(made.model_registry, fakes.BareRegistry)
    assert isinstance(made.audits, fakes.NoRuns)
