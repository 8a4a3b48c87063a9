"""The part of a run's page that shows into which classes images were fooled, and the accuracy of the same images by strength."""

from __future__ import annotations

from typing import Final

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, term
from dashboard.panels.audits import curve as curves
from dashboard.panels.audits import model as audits
from dashboard.panels.confusion import model as confusions
from dashboard.panels.confusion.model import Described, FlowRow, Matrix, PointRow
from dashboard.panels.inside import model as insides
from engine import Confusion, EngineError, RunView

FIELDS: Final = ("role", "attacks", "classes")
"""Fields of the view that choose what is shown; they are those of Inside the model."""
NOTHING: Final[protocol.Facts] = {"state": "nothing", "line": "", "flows": [], "curve": [], "has_curve": False}


def layout() -> html.Section:
    """Return the skeleton; assets/confusion.js fills it while a run is shown."""
    graph = dcc.Graph(
        id=ids.CONFUSION_CURVE, figure=curves.draw((), "light"), config={"displayModeBar": False, "responsive": True},
        style={"height": curves.HEIGHT},
    )  # fmt: skip
    heading = [html.H3("Fooled into which class", id="confusion-heading"), markup.save("confusion")]
    curve = [html.H4("Accuracy as epsilon grows, of the chosen attacks and classes"), graph]
    return html.Section(
        [
            html.Div(heading, className="panel-heading"),
            html.P(id=ids.CONFUSION_LEAD, role="status"),
            html.Div(id=ids.CONFUSION_FLOWS),
            html.Div(curve, id=ids.CONFUSION_CURVE_PART, hidden=True, **term("confusion-curve")),
            html.Div(id=ids.CONFUSION_CURVE_NOTE),
        ],
        id=ids.CONFUSION,
        className="inside",
        hidden=True,
        **aria(labelledby="confusion-heading"),
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> tuple[protocol.Facts, go.Figure]:
    """Return the flows of the part of a run that is asked for as plain values, and its curve as a figure."""
    theme, run = "dark" if stored.get("theme") == "dark" else "light", str(stored.get("run") or "")
    try:
        confusion = auditor.audits.confusion(run, insides.scope(stored), confusions.MOST_FLOWS)
        view = auditor.audits.view(run)
    except EngineError as error:
        return {**NOTHING, "lead": str(error)}, curves.draw((), theme)
    told, query = confusions.described(view, confusion), protocol.query(stored, FIELDS)
    facts = {
        "state": "ready",
        "lead": told.lead,
        "line": f"run {view.card.name} ({view.card.run[:12]}), {told.lead}",
        "flows": markup.pieces(_flows(view, told, query)) if told.flows else [],
        "curve": markup.pieces(_curve(view, confusion, told, query)),
        "has_curve": bool(confusion.curve),
        "again": confusion.is_interim,
    }
    return facts, curves.draw(confusions.swept(view, confusion), theme)


def _flows(view: RunView, told: Described, query: str) -> list[Component]:
    heads = ("True → fooled into", "Images", "Of the class (Clopper-Pearson, 95 %)", "0 to 100 %", "Of n", "")
    table = html.Table([markup.head(heads), html.Tbody(list(map(_flow, told.flows)))])
    frame = html.Div(table, className="table-scroll", tabIndex=0, role="region", **aria(label="From class into class"))
    notes = html.P([*(f"{note} " for note in told.notes), _file(view, "confusion", query)], className="note")
    if told.matrix is None:
        return [frame, notes]
    folded = html.Details([html.Summary("As a table, with intervals", **term("confusion")), frame], className="twin")
    return [_matrix(told.matrix), notes, folded]


def _matrix(matrix: Matrix) -> Component:
    heads = [html.Th("True class ↓ into →", scope="col"), html.Th("n", scope="col")]
    heads += [html.Th(name, scope="col") for name in matrix.columns]
    rows = [
        html.Tr([html.Th(name, scope="row"), html.Td(n, className="count"), *map(_cell, cells)])
        for name, n, cells in matrix.rows
    ]
    caption = html.Caption("Share of each true class fooled into each other class, in per cent", className="sr-only")
    table = html.Table([caption, html.Thead(html.Tr(heads)), html.Tbody(rows)], className="heat-map confusion-matrix")
    label = aria(label="Share of each true class (rows) fooled into each other class (columns), in per cent")
    return html.Div(table, className="heat-frame", tabIndex=0, role="region", **label, **term("confusion"))


def _cell(flow: FlowRow | None) -> Component:
    if flow is None:
        return html.Td("", className="muted")
    shown: str | Component = f"{100 * flow.value:.0f}"
    if flow.link:
        shown = html.A(shown, href=f"/?{flow.link}", **aria(label=f"Explain {flow.told}"))
    return html.Td(shown, className=f"heat-{flow.step}{' few' if flow.has_few else ''}", title=flow.told)


def _flow(flow: FlowRow) -> Component:
    link = html.A("Explain", href=f"/?{flow.link}", **aria(label=f"Explain {flow.name}")) if flow.link else ""
    bar = markup.interval(flow.low, flow.value, flow.high)
    cells = [html.Td(one) for one in (flow.images, flow.share, bar, flow.n)]
    return html.Tr(
        [html.Th(flow.name, scope="row"), *cells, html.Td(link, className="act")],
        className="few" if flow.has_few else "",
    )


def _curve(view: RunView, confusion: Confusion, told: Described, query: str) -> list[Component]:
    if not confusion.curve:
        return [html.P(told.curve, className="note")]
    heads = ("Attack", "Epsilon ε", "Right after it (Clopper-Pearson, 95 %)", "0 to 100 %", "Images")
    table = html.Table([markup.head(heads), html.Tbody(list(map(_point, told.points)))])
    folded = html.Details([html.Summary("As a table", **term("confusion-curve")), table], className="twin")
    return [html.P([told.curve, _file(view, "confusion-curve", query)], className="note"), folded]


def _point(point: PointRow) -> Component:
    bar = markup.interval(point.low, point.value, point.high)
    cells = [html.Td(one) for one in (point.strength, point.accuracy, bar, point.n)]
    has_few = int(point.n.replace(",", "")) < audits.FEW
    return html.Tr([html.Th(point.family, scope="row"), *cells], className="few" if has_few else "")


def _file(view: RunView, name: str, query: str) -> Component:
    href = f"/audits/{view.card.run}/{name}.csv{query}"
    return html.A("CSV", href=href, className="file", download="", **aria(label=f"{name} as CSV"), **term("csv"))


PANELS: Final = (protocol.Panel("confusion", answer, ids.CONFUSION_CURVE, again=5000),)
