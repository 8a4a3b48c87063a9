"""The network level: the river of both datapaths, its headline, its certificate and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from plotly.graph_objects import Figure

from dashboard import ids
from dashboard.figures import beside, sprites
from dashboard.figures import river as river_figure
from dashboard.state import ViewState
from dashboard.viewmodels import certificate as certificate_view
from dashboard.viewmodels import curves, groups, headline, inputs, river, sites
from dashboard.views import certificate, proof
from dashboard.views.aria import aria
from dashboard.views.header import menu
from engine import (
    BadInput,
    Certificates,
    Comparison,
    Examination,
    ExaminationRequest,
    StoreError,
    WorkFailed,
    compare,
    rebuild,
)

if TYPE_CHECKING:
    from engine import Auditor

CONFIG: Any = {"displaylogo": False, "scrollZoom": True, "displayModeBar": False, "responsive": True}


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """What one ask of the network level comes to."""

    view: ViewState
    examination: Examination
    comparison: Comparison
    certificates: Certificates
    river: river.River
    rival: Shown | None = None
    """The same images under another attack, drawn beside."""


def layout() -> html.Section:
    """Return the panel."""
    return html.Section(
        [_heading(), html.Div(_body(), id=ids.NETWORK_BODY)],
        id=ids.NETWORK,
        className="panel network",
        **aria(labelledby="network-title"),
    )


def register(app: Dash, auditor: Auditor) -> None:
    """Draw the river and tell its facts whenever the network's ask changes."""

    @app.callback(
        Output(ids.RIVER, "figure"),
        Output(ids.FACTS, "data"),
        Input(ids.NETWORK_ASK, "data"),
        prevent_initial_call=True,
    )
    def show_network(ask: dict[str, Any] | None) -> tuple[Figure, dict[str, Any] | None]:
        if ask is None:
            return river_figure.empty(), None
        shown = read(ask, auditor)
        return draw(shown), facts(shown)

    @app.callback(
        Output(ids.DOWNLOAD, "data"),
        Input(ids.EXPORT, "n_clicks"),
        State(ids.NETWORK_ASK, "data"),
        prevent_initial_call=True,
    )
    def export(_clicks: int | None, ask: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if ask is None else file(read(ask, auditor))

    _connect(app)


def read(ask: dict[str, Any], auditor: Auditor) -> Shown:
    """Return the records of an ask; raises BadInput for one that is malformed, WorkFailed for one not examined."""
    shown = _examined(ask.get("request"), ViewState.from_dict(ask), auditor)
    if shown.view.versus in (groups.CLASS, groups.NOISE):
        return replace(shown, rival=_group(shown))
    if ask.get("rival") is None:
        return shown
    return replace(shown, rival=_examined(ask["rival"], shown.view, auditor))


def _group(shown: Shown) -> Shown | None:
    """Return the group of the same examination that is drawn beside; None until its datapath is known."""
    examination, classes = shown.examination, shown.certificates.classes
    if shown.view.versus == groups.NOISE:
        return _drawn(groups.against_noise(examination), shown.view, shown.certificates)
    if classes is None or headline.keeps_class(examination):
        return None
    return _drawn(groups.against_class(examination, classes), shown.view, shown.certificates)


def _examined(stored: Any, view: ViewState, auditor: Auditor) -> Shown:
    request = _request(stored)
    answer = auditor.examination(request)
    if answer.value is None:
        raise WorkFailed(answer.message or "The examination is not there yet; the page asks for it again.")
    return _drawn(answer.value, view, auditor.certificates(request).value or Certificates())


def _drawn(examination: Examination, view: ViewState, certificates: Certificates) -> Shown:
    comparison = compare(examination, view.share)
    drawn = river.build(examination, comparison, view.detail, frozenset((view.folded or "").split(",")))
    return Shown(view, examination, comparison, certificates, drawn)


def draw(shown: Shown) -> Figure:
    """Return the river with its curves."""
    figure = river_figure.draw(_drawing(shown), theme=shown.view.theme)
    return beside.add(figure, _rival(shown, shown.rival), theme=shown.view.theme) if shown.rival else figure


def _rival(shown: Shown, rival: Shown) -> river_figure.Drawing:
    """Return what is drawn beside; a group is named as one, and has no attack flow of its own."""
    name = headline.group(shown.view.versus, shown.examination)
    found = _drawing(rival)
    if name is None:
        return found
    lines = replace(found.curves, flow=(None,) * len(found.curves.flow))
    into = shown.examination.classes[rival.examination.clean.target]
    return replace(found, attack=name, curves=lines, answers=(into, found.answers[1]))


def _drawing(shown: Shown) -> river_figure.Drawing:
    examination, classes = shown.examination, shown.examination.classes
    return river_figure.Drawing(
        shown.river,
        curves.build(examination, shown.comparison, shown.river, shown.certificates.kinship),
        certified=frozenset(shown.certificates.done),
        answers=(classes[examination.clean.target], classes[examination.adversarial.target]),
        attack=headline.attack(examination),
    )


def facts(shown: Shown) -> dict[str, Any]:
    """Return all that stands around the river, as plain values."""
    examination, comparison, certificates = shown.examination, shown.comparison, shown.certificates
    images = examination.images
    clauses = (
        *headline.build(examination, comparison, certificates),
        *certificate_view.against(examination, certificates),
    )
    factor = sprites.amplification(images["clean"][0], images["adversarial"][0])
    return {
        "key": examination.key,
        "headline": [asdict(clause) for clause in clauses],
        "summary": sites.summary(examination, comparison),
        "beside": _beside(shown),
        "note": river_note(shown.river, certificates),
        "card": asdict(certificate_view.build(examination, certificates)),
        "inputs": asdict(inputs.build(examination, factor)),
        "sites": [asdict(row) for row in sites.build(examination, comparison)],
    }


def _beside(shown: Shown) -> str:
    name = headline.group(shown.view.versus, shown.examination)
    if name is None:
        return headline.beside(shown.rival.examination, shown.rival.comparison) if shown.rival else ""
    if shown.rival is None:
        return f"Beside, {name}: not yet compared, or the attack kept the class."
    return headline.beside_group(name, shown.rival.comparison)


def river_note(drawn: river.River, certificates: Certificates) -> str:
    """Return what the reader must know of the drawing itself: what is not exact, hidden or provisional."""
    limit = f"{100 * river.HIDDEN_BELOW:g} %"
    hidden = f"{drawn.hidden} weak connections (under {limit}) are not drawn." if drawn.hidden else ""
    sides = " and ".join(side for side in ("clean", "adversarial") if side not in certificates.done)
    open_ = f"Hatched bars are provisional: the certificate of the {sides} datapath is not in." if sides else ""
    return " ".join(filter(None, (_inexact(drawn), hidden, open_)))


def _inexact(drawn: river.River) -> str:
    """Return how many of the bands are not exact, and why; empty where all are."""
    inexact = [band for band in drawn.bands if band.inexact]
    if not inexact:
        return ""
    are = "connection is" if len(inexact) == 1 else "connections are"
    count = f"{len(inexact)} of {len(drawn.bands)} {are} not exact (dotted outlines)"
    reasons = list(dict.fromkeys(reason for band in inexact for reason in band.inexact))
    why = reasons[0] if len(reasons) == 1 else f"for example, {reasons[0]}; point at one to read why"
    return f"{count}: {why}."


def file(shown: Shown) -> dict[str, Any]:
    """Return the site table as a file for download."""
    rows = sites.build(shown.examination, shown.comparison)
    return dcc.send_string(sites.to_csv(rows), f"faultline-{shown.examination.key[:16]}-sites.csv", type="text/csv")


def _request(stored: Any) -> ExaminationRequest:
    try:
        return rebuild(ExaminationRequest, stored)
    except StoreError as error:
        raise BadInput("The page asked with a request of another version; reload it.") from error


def _connect(app: Dash) -> None:
    """Everything that needs no server: picking by click, the texts and tables.

    Dash tells callbacks without outputs apart by their inputs alone, so no two of these may have the same inputs.
    """
    app.clientside_callback(ClientsideFunction("facts", "draw"), Input(ids.FACTS, "data"), prevent_initial_call=True)
    app.clientside_callback(
        ClientsideFunction("river", "pick"),
        Input(ids.RIVER, "clickData"),
        Input(ids.RIVER, "clickAnnotationData"),
        prevent_initial_call=True,
    )


def _heading() -> html.Div:
    detail = dmc.SegmentedControl(
        id=ids.DETAIL,
        size="xs",
        value="blocks",
        data=[{"value": "blocks", "label": "Blocks"}, {"value": "sites", "label": "Every site"}],
        **aria(label="Detail of the network"),
    )
    return html.Div(
        [
            html.H2([html.Span("1", className="number"), "Network"], id="network-title"),
            html.Div(detail, className="detail"),
            proof.choosing(),
            _legend(),
            html.Div([menu(ids.VERSUS, "Beside"), menu(ids.LAYER, "Layer")], className="layer-pick"),
        ],
        className="panel-heading",
    )


def _legend() -> html.Ul:
    entries = (("adversarial", "adversarial only"), ("shared", "shared"), ("clean", "clean only"))
    return html.Ul(
        [html.Li([html.Span(className=f"swatch {name}"), text]) for name, text in entries],
        className="legend",
        **aria(label="Bars from top to bottom"),
    )


def _body() -> list[Any]:
    graph = dcc.Graph(id=ids.RIVER, figure=river_figure.empty(), config=CONFIG, style={"height": river_figure.HEIGHT})
    return [
        dcc.Store(id=ids.FACTS),
        html.P(id=ids.HEADLINE, className="headline", **aria(live="polite")),
        html.P(id=ids.BESIDE, className="beside", **aria(live="polite")),
        html.P(id=ids.RIVER_SUMMARY, className="sr-only"),
        html.Div(graph, className="river-frame", **aria(describedby=ids.RIVER_SUMMARY)),
        html.P(id=ids.RIVER_NOTE, className="note"),
        certificate.layout(),
        html.Details([html.Summary("Exact numbers of every site"), _table()], className="twin"),
    ]


def _table() -> html.Div:
    button = html.Button("Download CSV", id=ids.EXPORT, className="plain-button")
    return html.Div([button, dcc.Download(id=ids.DOWNLOAD), html.Div(id=ids.SITES, className="table-scroll")])
