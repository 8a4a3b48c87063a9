"""Panels: one way to ask and to answer, for all of them."""

from __future__ import annotations

import dash
import plotly.graph_objects as go
import pytest
from dash import dcc, html

from dashboard import page, protocol
from tests import fakes

ASK = {
    "key": "fake00004",
    "layer": "layer3.1",
    "share": 0.1,
    "request": {"model": "digits-standard", "data": "digits", "attack": "pgd-linf:eps=0.05", "samples": ["00004"]},
    "t": 7,
}


def asked(panel, ask, auditor=None):
    """What a panel that is connected to an application answers to the browser."""
    app = dash.Dash(__name__)
    graphs = [dcc.Graph(id=panel.graph)] if panel.graph else []
    app.layout = html.Div([protocol.stores([panel]), *graphs])
    protocol.connect(app, auditor or fakes.FakeAuditor(), panel)
    parts = [(panel.facts, "data"), *([(panel.graph, "figure")] if panel.graph else [])]
    names = [f"{name}.{part}" for name, part in parts]
    outputs = [{"id": name, "property": part} for name, part in parts]
    body = {
        "output": f"..{'...'.join(names)}.." if len(names) > 1 else names[0],
        "outputs": outputs if len(names) > 1 else outputs[0],
        "inputs": [{"id": panel.ask, "property": "data", "value": ask}],
        "changedPropIds": [f"{panel.ask}.data"],
    }
    return app.server.test_client().post("/_dash-update-component", json=body).get_json()["response"]


def named(name):
    return next(panel for panel in page.PANELS if panel.name == name)


def test_an_answer_names_its_panel_and_what_was_asked():
    facts = asked(named("layer"), ASK)["layer-facts"]["data"]
    assert facts["title"] == "layer3.1 · 48 feature maps · 8 × 8"
    assert (facts["panel"], facts["asked"], facts["after"]) == ("layer", ASK, None)


def test_a_plot_is_set_with_the_answer():
    answer = asked(protocol.Panel("a", lambda auditor, ask: ({"ask": dict(ask)}, go.Figure()), "plot"), None)
    assert answer["a-facts"]["data"]["ask"] == {}
    assert answer["plot"]["figure"]["data"] == []


@pytest.mark.parametrize(
    ("facts", "after"),
    [
        ({"again": True}, 700),
        ({"state": "working"}, 700),
        ({"again": False}, 9000),
        ({"state": "ready"}, 9000),
        ({}, 9000),
    ],
)
def test_what_is_still_being_made_is_asked_for_again_sooner(facts, after):
    panel = protocol.Panel("a", lambda _auditor, _ask: (facts, None), again=700, resting=9000)
    assert asked(panel, {})["a-facts"]["data"]["after"] == after


def test_every_panel_has_a_name_and_a_plot_of_its_own():
    names = [panel.name for panel in page.PANELS]
    graphs = [panel.graph for panel in page.PANELS if panel.graph]
    assert len(set(names)) == len(names)
    assert len(set(graphs)) == len(graphs)


@pytest.mark.parametrize(
    "panel", [item for item in page.PANELS if item.name != "audit-start"], ids=lambda panel: panel.name
)
def test_every_panel_answers_to_nothing_asked(panel):
    facts, figure = panel.answer(fakes.FakeAuditor(), {})
    assert isinstance(facts, dict)
    assert (figure is not None) == (panel.graph is not None)
