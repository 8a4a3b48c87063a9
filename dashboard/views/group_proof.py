"""The second half of the proof panel: what all fooled images of the class say together, made on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from dashboard import ids
from dashboard.figures import group_proof as figure
from dashboard.viewmodels import asks, group_proof, wording
from dashboard.views import plain, tables
from dashboard.views.aria import aria, data
from engine import BadInput, EngineError, Examination, FooledRequest, RosterRequest

Ask = Mapping[str, Any] | None
MOST_IMAGES = 64
"""Images of a class that a group is made of, at most: the first ones."""
HOW = "Over all fooled images of this class, each with its own clean values: made on request, kept in the store."


def layout() -> html.Div:
    """Return the part's skeleton; assets/proof.js asks and fills."""
    buttons = [
        html.Button(title, className="plain-button", **data(study=name), **aria(pressed="false"))
        for name, title in group_proof.STUDIES.items()
    ]
    graph = dcc.Graph(
        id=ids.STUDY_FIGURE,
        figure=figure.empty("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": figure.HEIGHT},
    )
    return html.Div(
        [
            dcc.Store(id=ids.STUDY_ASK),
            dcc.Store(id=ids.STUDY_FACTS),
            html.Div(
                [html.Span("All fooled images of the class:", className="control-label"), *buttons],
                className="prove-row",
            ),
            html.P(HOW, className="fine-print"),
            html.Div(id=ids.STUDY, **aria(live="polite")),
            html.Div(graph, id=ids.STUDY_PLOT, hidden=True),
            html.Div(id=ids.STUDY_TABLES),
        ],
        className="group-proof",
    )


def register(app: Dash, auditor: Any) -> None:
    """Connect the part."""

    @app.callback(
        Output(ids.STUDY_FACTS, "data"),
        Output(ids.STUDY_FIGURE, "figure"),
        Input(ids.STUDY_ASK, "data"),
        prevent_initial_call=True,
    )
    def show_study(stored: Ask) -> tuple[dict[str, Any], go.Figure]:
        return answer(auditor, stored)

    app.clientside_callback(
        ClientsideFunction("proof", "study"), Input(ids.STUDY_FACTS, "data"), prevent_initial_call=True
    )


def answer(auditor: Any, stored: Ask) -> tuple[dict[str, Any], go.Figure]:
    """Return a study as plain values and its plot, or why there is none; `again` while it is being made."""
    ask = stored or {}
    theme = "dark" if ask.get("theme") == "dark" else "light"
    facts = {"for": [ask.get("key"), ask.get("study"), ask.get("theme")], "again": False, "plot": False, "tables": []}
    try:
        found = _makers(auditor)[_study(ask)]
        made = found[0](_request(auditor, auditor.examined(asks.key(ask))))
    except EngineError as error:
        return {**facts, "text": plain.pieces(html.P(str(error), className="nothing"))}, figure.empty(theme)
    if made.value is None:
        text = wording.awaited(made, doing="Putting maps back", failed="This could not be made")
        said = plain.pieces(html.P(text, className="nothing"))
        return {**facts, "text": said, "again": made.state == "working"}, figure.empty(theme)
    study = found[1](made.value)
    notes = html.Ul([html.Li(text) for text in study.told], className="told")
    told = {"text": plain.pieces(_text(study)), "tables": plain.pieces([*map(_table, study.tables), notes])}
    drawn = figure.draw(study.plot, theme) if study.plot else figure.empty(theme)
    return {**facts, **told, "plot": study.plot is not None}, drawn


def _makers(auditor: Any) -> dict[str, tuple[Callable[[FooledRequest], Any], Callable[[Any], group_proof.Study]]]:
    return {
        "curve": (auditor.restoration_curve, group_proof.curve),
        "profile": (auditor.site_profile, group_proof.profile),
        "smallest": (auditor.smallest_sets, group_proof.smallest),
        "defence": (auditor.defence, group_proof.defence),
    }


def _study(ask: Mapping[str, Any]) -> str:
    wanted = ask.get("study")
    if wanted not in group_proof.STUDIES:
        raise BadInput(f"'{str(wanted)[:40]}' is no study; there are {', '.join(group_proof.STUDIES)}.")
    return str(wanted)


def _request(auditor: Any, examination: Examination) -> FooledRequest:
    """Return the images of the examination's class that were right before the attack, the first ones of them."""
    asked = examination.request
    label = examination.outcomes[0].label
    roster = auditor.roster(RosterRequest(asked.model, asked.data, asked.attack, label, asked.seed))
    if roster.value is None:
        raise BadInput(roster.message or "The class is still being attacked; ask again when it is done.")
    samples = tuple(one.sample for one in roster.value.outcomes if one.status in ("fooled", "resisted"))
    return FooledRequest(asked.model, asked.data, asked.attack, samples[:MOST_IMAGES], asked.seed)


def _text(study: group_proof.Study) -> list[Component]:
    prove = html.Button("Prove this set on the images shown", className="plain-button", **data(prove=study.prove))
    return [
        html.H3(study.title),
        html.P(study.verdict, className="verdict"),
        *([html.P(prove)] if study.prove else []),
    ]


def _table(table: group_proof.Table) -> Component:
    rows = [html.Tr([html.Th(first, scope="row"), *(html.Td(cell) for cell in cells)]) for first, *cells in table.rows]
    whole = html.Table([html.Caption(table.title, className="sr-only"), tables.head(table.heads), html.Tbody(rows)])
    scrolled = {"tabIndex": 0, "role": "region", **aria(label=table.title)}
    return html.Div(whole, className="table-scroll wrapped proof-table", **scrolled)
