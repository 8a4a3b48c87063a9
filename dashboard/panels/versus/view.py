"""The part of a run's page that lays its two models beside each other."""

from __future__ import annotations

from typing import Final, cast

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.panels.inside import model as insides
from dashboard.panels.versus import figure as figures
from dashboard.panels.versus import model as models
from dashboard.panels.versus.model import Described, SideRow
from dashboard.wording import awaited
from engine import Act, Answer, EngineError, MapMatching, RunView, Scope

FIELDS: Final = ("attacks", "classes")
NOTHING: Final[protocol.Facts] = {
    "state": "nothing",
    "lead": "",
    "line": "",
    "sides": [],
    "layers": [],
    "has_layers": False,
}
ACTS: Final = ("look", "begin", "stop")
TERMS: Final = {"begin": "matching-begin", "stop": "matching-stop"}
MATCH = "Match the feature maps of both models"
ABOUT = (
    "Matching runs both models on clean images of the run, without attack; it takes seconds on small networks and minutes on large "
    "ones, and what it finds is kept."
)


def layout() -> html.Section:
    """Return the skeleton; assets/against.js fills it while a run of two models is shown."""
    graph = dcc.Graph(
        id=ids.AGAINST_CHART, figure=figures.draw(None, None, "light"), config={"displayModeBar": False, "responsive": True},
        style={"height": figures.HEIGHT},
    )  # fmt: skip
    heading = [html.H3("Candidate against baseline, inside", id="against-heading"), markup.save("against")]
    return html.Section(
        [
            html.Div(heading, className="panel-heading"),
            html.P(id=ids.AGAINST_LEAD, role="status"),
            html.Div(id=ids.AGAINST_SIDES),
            html.Div([html.H4("Layers beside each other"), graph], id=ids.AGAINST_PART, **term("versus-layers")),
            html.Div(id=ids.AGAINST_LAYERS),
            html.H4("Feature maps matched by how they answer"),
            html.Div(id=ids.MATCHING, **aria(live="polite")),
        ],
        id=ids.AGAINST,
        className="inside",
        hidden=True,
        **aria(labelledby="against-heading"),
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> tuple[protocol.Facts, go.Figure]:
    """Return both models of a run beside each other as plain values, and their layers as a figure."""
    theme, run = "dark" if stored.get("theme") == "dark" else "light", str(stored.get("run") or "")
    try:
        view = auditor.audits.view(run)
        if len(view.manifest.models) < 2:
            return {**NOTHING, "state": "one model"}, figures.draw(None, None, theme)
        versus = auditor.audits.versus(
            run, insides.scope({name: stored.get(name) for name in FIELDS}), models.MOST_EXAMPLES
        )
    except EngineError as error:
        return {**NOTHING, "lead": str(error)}, figures.draw(None, None, theme)
    told, query = models.described(view, versus), protocol.query(stored, FIELDS)
    facts = {
        "state": "ready",
        "lead": told.lead,
        "line": f"run {view.card.name} ({view.card.run[:12]}), {told.lead}",
        "sides": markup.pieces(_sides(view, told, query)),
        "layers": markup.pieces(_layers(view, told, query)),
        "has_layers": bool(versus.layers),
        "again": versus.is_interim,
    }
    return facts, figures.draw(view, versus if versus.layers else None, theme)


def _sides(view: RunView, told: Described, query: str) -> list[Component]:
    heads = ("Images", "Count", "Share (Clopper-Pearson, 95 %)", "0 to 100 %", "Examples")
    rows = [html.Tr([html.Th(side.name, scope="row"), *_cells(side)]) for side in told.sides]
    table = html.Table([markup.head(heads), html.Tbody(rows)]) if rows else None
    notes = html.P(
        [*(f"{note} " for note in told.notes), _file(view.card.run, "versus-images", query)], className="note"
    )
    return [*([html.Div(table, **term("versus-sides"))] if table else []), notes]


def _cells(side: SideRow) -> list[Component]:
    links: list[str | Component] = []
    for name, query in side.examples:
        links += [html.A(name, href=f"/?{query}") if query else name, " "]
    return [
        html.Td(side.images), html.Td(side.share), html.Td(markup.interval(side.low, side.value, side.high)),
        html.Td(links),
    ]  # fmt: skip


def _layers(view: RunView, told: Described, query: str) -> list[Component]:
    if not told.layers:
        return [html.P(told.layers_note, className="note")]
    heads = ("Layer", "Conductance share", "Layer of the baseline", "Its conductance share", "Difference, points")
    rows = [html.Tr([html.Th(one[0], scope="row"), *map(html.Td, one[1:])]) for one in told.layers]
    table = html.Div(html.Table([markup.head(heads), html.Tbody(rows)]), className="table-scroll", tabIndex=0, role="region",
                     **aria(label="Layers beside each other, as a table"))  # fmt: skip
    folded = html.Details([html.Summary("As a table", **term("versus-layers")), table], className="twin")
    return [html.P([told.layers_note, _file(view.card.run, "versus-layers", query)], className="note"), folded]


def matching(auditor: Auditor, stored: protocol.Ask) -> protocol.Facts:
    """Return how the feature maps of both models match, or what can be done about that; begins and stops the work."""
    run, act = str(stored.get("run") or ""), stored.get("act")
    try:
        found = auditor.audits.matching(run, cast(Act, act if act in ACTS else "look"))
        if found is None:
            return {"state": "idle", "body": markup.pieces([_button("begin", MATCH), html.P(ABOUT, className="note")])}
        if found.value is None:
            return {"state": found.state, "body": markup.pieces(_awaited(found))}
        return {"state": "ready", "body": markup.pieces(_matched(auditor, run, found.value))}
    except EngineError as error:
        return {"state": "nothing", "body": markup.pieces(html.P(str(error), className="nothing"))}


def _awaited(found: Answer[MapMatching]) -> list[Component]:
    told = html.P(awaited(found, doing="Matching feature maps", failed="The matching failed"), role="status")
    return [told, _button("stop", "Cancel") if found.state == "working" else _button("begin", "Try again")]


def _button(act: str, text: str) -> html.Button:
    return html.Button(text, className="plain-button", **data(matching=act), **term(TERMS[act]))


def _matched(auditor: Auditor, run: str, found: MapMatching) -> list[Component]:
    heads = (
        "Layer",
        "Layer of the baseline",
        "Maps matched",
        "Median r",
        "r above 0.5",
        "Random: median r",
        "Random: above 0.5",
    )
    rows = [
        html.Tr([html.Th(row.name, scope="row"), *map(html.Td, row.cells)], className="worst" if row.is_above else "")
        for row in models.match_rows(found)
    ]
    table = html.Div(html.Table([markup.head(heads), html.Tbody(rows)]), className="table-scroll", tabIndex=0, role="region",
                     **aria(label="How feature maps match, layer by layer"), **term("matching"))  # fmt: skip
    note = html.P([models.match_lead(found), _file(run, models.MATCHES, "")], className="note")
    return [note, table, *_partners(auditor, run, found)]


def _partners(auditor: Auditor, run: str, found: MapMatching) -> list[Component]:
    try:
        rows = models.partners(found, auditor.audits.inside(run, Scope()))
    except EngineError:
        return []
    heads = ("Feature map", "Partner in the baseline", "Correlation r")
    body = [html.Tr([html.Th(row[0], scope="row"), *map(html.Td, row[1:])]) for row in rows]
    table = html.Table([markup.head(heads), html.Tbody(body)])
    summary = html.Summary("Partners of the channels that carry most of the attack", **term("partner"))
    return [html.Details([summary, table], className="twin")]


def _file(run: str, name: str, query: str) -> Component:
    href = f"/audits/{run}/{name}.csv{query}"
    return html.A("CSV", href=href, className="file", download="", **aria(label=f"{name} as CSV"), **term("csv"))


PANELS: Final = (
    protocol.Panel("against", answer, ids.AGAINST_CHART, again=5000),
    protocol.plain("matching", matching),
)
