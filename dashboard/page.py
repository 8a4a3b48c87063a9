"""The page: one static skeleton of header and panels; callbacks only set properties."""

from __future__ import annotations

from typing import Final

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from dashboard import guide, ids, progress, protocol, theme
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, icon, menu, save, term
from dashboard.panels import faithfulness, inputs
from dashboard.panels.audits import view as audits_view
from dashboard.panels.channel import view as channel_view
from dashboard.panels.confusion import view as confusion_view
from dashboard.panels.held_out import view as held_out_view
from dashboard.panels.images import view as images_view
from dashboard.panels.inside import river as inside_river
from dashboard.panels.inside import view as inside_view
from dashboard.panels.layer import view as layer_view
from dashboard.panels.network import verdict
from dashboard.panels.network import view as network_view
from dashboard.panels.patching import view as patching_view
from dashboard.panels.rebuild import view as rebuild_view
from dashboard.panels.registry import view as registry_view
from dashboard.panels.versus import view as versus_view

PANELS: Final = tuple(
    panel
    for view in (
        progress, network_view, layer_view, channel_view, patching_view, audits_view, inside_view, inside_river,
        confusion_view, held_out_view, versus_view, images_view, rebuild_view, registry_view,
    )
    for panel in view.PANELS
)  # fmt: skip
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
    parts = [*explain(), audits_view.layout(), registry_view.layout()]
    main = html.Main(parts, id=ids.MAIN, tabIndex=-1)
    skip = html.A("Skip the filters", href=f"#{ids.MAIN}", className="skip")
    page = html.Div([skip, _stores(), protocol.stores(PANELS), header(), main], className="page")
    return dmc.MantineProvider(page, id=ids.PROVIDER, theme=theme.PROVIDER, forceColorScheme="light")


def explain() -> list[Component]:
    """Return the parts of the first page, in the order in which they are read."""
    return [
        html.Section(id=ids.EMPTY, className="panel empty", hidden=True, **aria(live="polite")),
        inputs.layout(),
        verdict.bar(),
        network_view.layout(),
        _level_tabs(),
        layer_view.layout(),
        channel_view.layout(),
        _drawer(),
    ]


def _level_tabs() -> html.Div:
    """Return the tabs of the levels, which a narrow window shows one at a time."""
    tabs = [
        html.Button(text, className="tab", role="tab", **data(level=level), **aria(selected="false"), **term("levels"))
        for level, text in (("layer", "2 Layer"), ("neuron", "3 Neuron"), ("case", "Case"))
    ]
    return html.Div(tabs, className="level-tabs", role="tablist", **aria(label="Levels"))


def _drawer() -> html.Section:
    """Return the drawer at the foot: what is told of the whole view, one part at a time."""
    parts = (
        ("checks", "Faithfulness checks", faithfulness.layout()),
        ("test", "Causal test", patching_view.layout()),
        ("study", "Studies", patching_view.studies_part()),
        ("layers", "Exact numbers", network_view.table()),
        ("evidence", "Evidence", _evidence()),
    )
    tabs = [
        html.Button(
            title, className="plain-button", **data(drawer=name), **aria(expanded="false"), **term(f"drawer-{name}")
        )
        for name, title, _ in parts
    ]
    bodies: list[Component] = [
        html.Div(
            [body] if name == "evidence" else [save(name), body], className="drawer-part", **data(drawer_part=name)
        )
        for name, _, body in parts
    ]
    bar = html.Div([html.Div(tabs, className="drawer-tabs"), patching_view.sizes()], className="drawer-bar")
    return html.Section(
        [patching_view.choice_bar(), html.Div(bodies, className="drawer-body panel"), bar],
        id=ids.DRAWER,
        className="drawer",
        **aria(label="Checks, causal tests and studies"),
    )


def _evidence() -> html.Section:
    """Return what the shown evidence was made from, to be copied into a report; assets/view.js fills it."""
    copy = html.Button(
        [icon("copy"), html.Span("Copy")], id=ids.COPY_EVIDENCE, className="plain-button", **term("copy-evidence")
    )
    return html.Section(
        [
            html.Div([html.H2("Evidence"), copy], className="panel-heading"),
            html.Dl(id=ids.EVIDENCE, className="evidence"),
        ],
        **aria(label="Evidence"),
    )


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
    lost = html.Div(id=ids.CONNECTION, className="connection", hidden=True, role="alert")
    notices = html.Div(id=ids.NOTICES, className="notices", role="note")
    line = html.P(id=ids.PRINT_LINE, className="print-line")
    return html.Header([_brand(), line, _filters(), lost, notices])


def _brand() -> html.Div:
    name = html.Div(
        [html.H1("Faultline"), html.Span("where an attack takes hold", className="tagline")], className="brand"
    )
    tabs = html.Nav(
        [
            html.Button(text, className="tab", **data(page_tab=page), **term(f"page-{page}"))
            for page, text in (("explain", "Explain"), ("audits", "Audits"), ("models", "Models and data"))
        ],
        **aria(label="Pages"),
    )
    return html.Div([name, tabs, _status(), *_tools()], className="brand-row")


def _tools() -> list[Component]:
    dark = dmc.Switch(id=ids.THEME, label=icon("theme"), size="xs", checked=False, **aria(label="Dark colours"))
    words = html.A([icon("help"), "Help"], href=guide.PATH, target="_blank", className="plain-button", **term("help"))
    return [
        html.Button([icon("copy"), html.Span("Copy link")], id=ids.COPY, className="plain-button", **term("copy-link")),
        html.Button([icon("tour"), "Tour"], id=ids.TOUR, className="plain-button", **term("tour")),
        words,
        html.Div(dark, className="theme", **term("theme")),
    ]


def _filters() -> html.Section:
    return html.Section([menu(*filter) for filter in FILTERS], className="filters", **aria(label="Filters"))


def _status() -> html.Div:
    bar = html.Div(id=ids.PROGRESS, className="progress", role="progressbar", **aria(label="Progress of the work"))
    line = html.P("Opening …", id=ids.STATUS, className="status", role="status", **aria(live="polite"))
    left = html.Span(id=ids.REMAINING, className="status")
    retry = html.Button("Try again", id=ids.RETRY, className="plain-button", hidden=True, **term("retry"))
    cancel = html.Button("Cancel", id=ids.CANCEL, className="plain-button", hidden=True, **term("cancel"))
    return html.Div([line, left, retry, cancel, bar], className="status-row")
