"""The header: name, filters, the counts that always stand there, and the line that says what is being done."""

from __future__ import annotations

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, State, html

from dashboard import ids
from dashboard.views.aria import aria, data

FILTERS = (
    (ids.MODEL, "Model"),
    (ids.DATA, "Data"),
    (ids.LABEL, "Class"),
    (ids.ATTACK, "Attack"),
    (ids.EPSILON, "Strength ε"),
    (ids.OUTCOME, "Outcome"),
    (ids.SAMPLE, "Sample"),
    (ids.METHOD, "Scored by"),
    (ids.SHARE, "Kept per layer"),
)
"""Component id and label of every filter, in reading order; the id is the view field's name and `-select`."""


def layout() -> html.Header:
    """Return the header."""
    return html.Header([_brand(), _filters(), _status(), html.Div(id=ids.NOTICES, className="notices", role="note")])


def menu(name: str, label: str) -> html.Label:
    """Return a native menu; assets/menus.js fills it with each answer on the work and tells what was chosen."""
    return html.Label([html.Span(label), html.Select(id=name, className="menu")], className="filter")


def register(app: Dash) -> None:
    """Let every answer on the work set what differs: menus, status line, clock, and what the three levels are asked.

    One callback without outputs: each output of a callback costs the browser milliseconds, also one that stays as it is.
    """
    app.clientside_callback(
        ClientsideFunction("view", "follow"),
        Input(ids.WORK, "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )


def _brand() -> html.Div:
    name = html.Div(
        [html.H1("Faultline"), html.Span("where an attack takes hold", className="tagline")], className="brand"
    )
    tabs = html.Nav(
        [
            html.Button(text, className="tab", **data(page_tab=page))
            for page, text in (("explain", "Explain"), ("audits", "Audits"), ("models", "Models and data"))
        ],
        **aria(label="Pages"),
    )
    theme = dmc.Switch(id=ids.THEME, label="Dark", size="xs", checked=False)
    return html.Div([name, tabs, html.P(id=ids.COUNTS, className="counts"), theme], className="brand-row")


def _filters() -> html.Section:
    return html.Section([menu(*one) for one in FILTERS], className="filters", **aria(label="Filters"))


def _status() -> html.Div:
    bar = html.Div(id=ids.PROGRESS, className="progress", role="progressbar", **aria(label="Progress of the work"))
    line = html.P("Opening …", id=ids.STATUS, className="status", role="status", **aria(live="polite"))
    retry = html.Button("Try again", id=ids.RETRY, className="plain-button", hidden=True)
    return html.Div([line, retry, bar], className="status-row")
