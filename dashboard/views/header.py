"""The header: name, filters, the counts that always stand there, and the line that says what is being done."""

from __future__ import annotations

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, State, html

from dashboard import ids
from dashboard.views.aria import aria

FILTERS = (
    ("model", ids.MODEL, "Model"),
    ("data", ids.DATA, "Data"),
    ("label", ids.LABEL, "Class"),
    ("attack", ids.ATTACK, "Attack"),
    ("epsilon", ids.EPSILON, "Strength ε"),
    ("outcome", ids.OUTCOME, "Outcome"),
    ("sample", ids.SAMPLE, "Sample"),
    ("method", ids.METHOD, "Scored by"),
    ("share", ids.SHARE, "Kept per layer"),
)
"""View field, component id and label of every filter, in reading order."""
MENUS = (*FILTERS, ("layer", ids.LAYER, "Layer"))
"""Every control whose options and value the work sets; the layer's stands in the network panel."""


def layout() -> html.Header:
    """Return the header."""
    return html.Header([_brand(), _filters(), _status(), html.Div(id=ids.NOTICES, className="notices", role="note")])


def select(name: str, label: str) -> dmc.Select:
    """Return a menu; its options and value come with the work."""
    return dmc.Select(
        id=name,
        label=label,
        size="xs",
        data=[],
        searchable=True,
        allowDeselect=False,
        maxDropdownHeight=320,
        comboboxProps={"withinPortal": True, "width": "max-content", "position": "bottom-start"},
        nothingFoundMessage="Nothing of that name",
    )


def register(app: Dash) -> None:
    """Let every answer on the work set what differs: menus, status line, clock, and what the three levels are asked.

    One callback without outputs: each output of a callback costs the browser milliseconds, also one that stays as it is.
    """
    app.clientside_callback(
        ClientsideFunction("view", "follow"),
        Input(ids.WORK, "data"),
        State(ids.VIEW, "data"),
        *(State(name, "value") for _, name, _ in MENUS),
        prevent_initial_call=True,
    )


def _brand() -> html.Div:
    name = html.Div(
        [html.H1("Faultline"), html.Span("where an attack takes hold", className="tagline")], className="brand"
    )
    theme = dmc.Switch(id=ids.THEME, label="Dark", size="xs", checked=False)
    return html.Div([name, html.P(id=ids.COUNTS, className="counts"), theme], className="brand-row")


def _filters() -> html.Section:
    menus = [html.Div(select(name, label), className=f"filter filter-{field}") for field, name, label in FILTERS]
    return html.Section(menus, className="filters", **aria(label="Filters"))


def _status() -> html.Div:
    bar = html.Div(id=ids.PROGRESS, className="progress", role="progressbar", **aria(label="Progress of the work"))
    line = html.P("Opening …", id=ids.STATUS, className="status", role="status", **aria(live="polite"))
    retry = html.Button("Try again", id=ids.RETRY, className="plain-button", hidden=True)
    return html.Div([line, retry, bar], className="status-row")
