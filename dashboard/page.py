"""The page: one static skeleton of header and panels; callbacks only set properties."""

from __future__ import annotations

from typing import Final

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboard import ids, progress, protocol, theme
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, menu
from dashboard.panels import inputs
from dashboard.panels.audits import view as audits_view
from dashboard.panels.channel import view as channel_view
from dashboard.panels.layer import view as layer_view
from dashboard.panels.network import view as network_view
from dashboard.panels.patching import view as patching_view
from dashboard.panels.registry import view as registry_view

PANELS: Final = tuple(
    panel
    for view in (progress, network_view, layer_view, channel_view, patching_view, audits_view, registry_view)
    for panel in view.PANELS
)
"""Everything on the page that asks the server something of its own."""
FILTERS = (
    (ids.MODEL, "Model"),
    (ids.DATA, "Data"),
    (ids.LABEL, "Class"),
    (ids.ATTACK, "Attack"),
    (ids.EPSILON, "Epsilon ε"),
    (ids.OUTCOME, "Attack result"),
    (ids.SAMPLE, "Sample"),
    (ids.METHOD, "Attribution method"),
    (ids.SHARE, "Top-k per layer"),
)
"""Component id and label of every filter, in reading order; the id is the view field's name and `-select`."""


def layout(_auditor: Auditor) -> dmc.MantineProvider:
    """Return the skeleton; nothing of the store is in it, so one layout serves everyone."""
    main = html.Main(
        [
            html.Section(id=ids.EMPTY, className="panel empty", hidden=True, **aria(live="polite")),
            inputs.layout(),
            network_view.layout(),
            patching_view.layout(),
            html.Div([layer_view.layout(), channel_view.layout()], className="levels"),
            patching_view.choice_bar(),
            audits_view.layout(),
            registry_view.layout(),
        ],
        id=ids.MAIN,
        tabIndex=-1,
    )
    skip = html.A("Skip the filters", href=f"#{ids.MAIN}", className="skip")
    page = html.Div([skip, _stores(), protocol.stores(PANELS), header(), main], className="page")
    return dmc.MantineProvider(page, id=ids.PROVIDER, theme=theme.PROVIDER, forceColorScheme="light")


def register(app: Dash, auditor: Auditor) -> None:
    """Register every callback of the page on `app`."""
    _reduce(app)
    network_view.register(app, auditor)
    layer_view.register(app, auditor)
    channel_view.register(app, auditor)
    for panel in PANELS:
        protocol.connect(app, auditor, panel)


def _stores() -> html.Div:
    return html.Div([dcc.Store(id=name) for name in (ids.VIEW, ids.PICK, ids.ARRIVAL)])


def _reduce(app: Dash) -> None:
    """Merge the link, the filters and what was picked into the view, and the view into the link."""
    app.clientside_callback(
        ClientsideFunction("view", "reduce"),
        Output(ids.VIEW, "data"),
        Input(ids.ARRIVAL, "data"),
        Input(ids.PICK, "data"),
        Input(ids.DETAIL, "value"),
        Input(ids.THEME, "checked"),
        State(ids.VIEW, "data"),
    )


def header() -> html.Header:
    """Return the header."""
    return html.Header([_brand(), _filters(), _status(), html.Div(id=ids.NOTICES, className="notices", role="note")])


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
    return html.Section([menu(*filter) for filter in FILTERS], className="filters", **aria(label="Filters"))


def _status() -> html.Div:
    bar = html.Div(id=ids.PROGRESS, className="progress", role="progressbar", **aria(label="Progress of the work"))
    line = html.P("Opening …", id=ids.STATUS, className="status", role="status", **aria(live="polite"))
    retry = html.Button("Try again", id=ids.RETRY, className="plain-button", hidden=True)
    return html.Div([line, retry, bar], className="status-row")
