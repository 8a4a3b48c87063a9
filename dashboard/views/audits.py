"""The audits page: all runs of the store, and one of them with thresholds, conditions, worst case and curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from dashboard import ids
from dashboard.figures import strength as strength_figure
from dashboard.viewmodels import audits
from dashboard.viewmodels.audits import Believed, Line, ModelPart, Panel, Row, Versus
from dashboard.views import audit_form, plain, tables
from dashboard.views.aria import aria, data
from engine import Answer, Credibility, EngineError, RunView

NONE = (
    "This store holds no audit yet. Start one above, or write a plan (an example is engine/demo/plan.toml) and run "
    "python -m engine audit PLAN.toml --store DIR; this page then shows how far it is and what it finds."
)
MARKS = {"pass": "✔ pass", "fail": "✘ fail", "not run": "– not run"}
FEW = "Classes with fewer than 30 images are grey and not to be ranked."
Ask = Mapping[str, Any] | None


def layout() -> html.Section:
    """Return the page's skeleton; assets/audits.js fills it while the page is shown."""
    curve = dcc.Graph(
        id=ids.AUDIT_CURVE,
        figure=strength_figure.draw((), "light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": strength_figure.HEIGHT},
    )
    return html.Section(
        [
            dcc.Store(id=ids.AUDITS_ASK),
            dcc.Store(id=ids.AUDITS_FACTS),
            dcc.Store(id=ids.AUDIT_CANCEL),
            dcc.Store(id=ids.AUDIT_STOPPED),
            dcc.Store(id=ids.AUDIT_RESUME),
            dcc.Store(id=ids.AUDIT_RESUMED),
            html.Div([html.H2("Audits", id="audits-heading")], className="panel-heading"),
            html.Div(id=ids.AUDIT_PROBLEM, role="alert"),
            audit_form.layout(),
            html.Div(id=ids.AUDIT_LIST, className="audit-list"),
            html.Div(id=ids.AUDIT, className="audit"),
            html.Div([html.H3("Accuracy as the attack grows"), curve], id=ids.AUDIT_CURVE_PART, hidden=True),
        ],
        id=ids.AUDITS,
        className="panel audits",
        **aria(labelledby="audits-heading"),
    )


def register(app: Dash, auditor: Any) -> None:
    """Connect the page."""

    @app.callback(
        Output(ids.AUDITS_FACTS, "data"),
        Output(ids.AUDIT_CURVE, "figure"),
        Input(ids.AUDITS_ASK, "data"),
        prevent_initial_call=True,
    )
    def show_audits(stored: Ask) -> tuple[dict[str, Any], go.Figure]:
        return answer(auditor, stored)

    # A callback of its own: as an input of the other, a stop would be asked for again with every look at the runs.
    @app.callback(Output(ids.AUDIT_STOPPED, "data"), Input(ids.AUDIT_CANCEL, "data"), prevent_initial_call=True)
    def stop_run(stored: Ask) -> str:
        return stop(auditor, stored)

    @app.callback(Output(ids.AUDIT_RESUMED, "data"), Input(ids.AUDIT_RESUME, "data"), prevent_initial_call=True)
    def resume_run(stored: Ask) -> str:
        return resume(auditor, stored)

    app.clientside_callback(
        ClientsideFunction("audits", "draw"), Input(ids.AUDITS_FACTS, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        ClientsideFunction("audits", "told"), Input(ids.AUDIT_STOPPED, "data"), prevent_initial_call=True
    )
    app.clientside_callback(
        ClientsideFunction("audits", "told"), Input(ids.AUDIT_RESUMED, "data"), prevent_initial_call=True
    )


def answer(auditor: Any, stored: Ask) -> tuple[dict[str, Any], go.Figure]:
    """Return the list and the asked run as plain values, and its curve."""
    ask, problem = stored or {}, ""
    cards = auditor.audits.cards()
    lines = [audits.line(card) for card in cards]
    known = [card.run for card in cards]
    asked = ask.get("run")
    run = asked if asked in known else (None if asked or not known else known[0])
    if asked and run is None:
        problem = f"The link asked for run '{str(asked)[:80]}', which this store does not hold; choose one above."
    theme = "dark" if ask.get("theme") == "dark" else "light"
    try:
        view: RunView | None = auditor.audits.view(run) if run else None
        checks = auditor.credibility(run) if view else None
    except EngineError as error:
        view, checks, problem = None, None, str(error)
    facts = {
        "run": run,
        "list": plain.pieces(_list(lines, run)),
        "audit": plain.pieces([*_problem(problem), *_run(view, checks)]),
        "has_curve": bool(view and any(model.curve for model in view.summary.models)),
        "again": any(line.is_running for line in lines) or bool(checks and checks.state == "working"),
    }
    return facts, strength_figure.draw(view.summary.models if view else (), theme)


def stop(auditor: Any, stored: Ask) -> str:
    """Ask whoever drives a run to stop, and return why that could not be asked; empty where it was."""
    try:
        auditor.audits.cancel(_run_of(stored))
    except EngineError as error:
        return str(error)
    return ""


def resume(auditor: Any, stored: Ask) -> str:
    """Take up a run that was left, and return why that could not be; empty where it could."""
    try:
        auditor.audits.resume(_run_of(stored))
    except EngineError as error:
        return str(error)
    return ""


def _run_of(stored: Ask) -> str:
    found = (stored or {}).get("run")
    return found if isinstance(found, str) else ""


def _run(view: RunView | None, checks: Answer[Credibility] | None) -> list[Component]:
    if view is None or checks is None:
        return []
    caution = audits.caution(checks, view.summary)
    return [
        *_panel(audits.panel(view)),
        *([html.P(caution, className="warning", role="alert")] if caution else []),
        *_believed(audits.believed(checks, view.card.model)),
    ]


def _problem(text: str) -> list[Component]:
    return [html.P(text, className="warning", role="alert")] if text else []


def _list(lines: list[Line], chosen: str | None) -> Component:
    if not lines:
        return html.P(NONE, className="nothing")
    heads = ("Run", "About", "State", "Progress", "")
    rows = [html.Tr(_cells(line, chosen), className="picked" if line.run == chosen else "") for line in lines]
    return html.Table([tables.head(heads), html.Tbody(rows)])


def _cells(line: Line, chosen: str | None) -> list[Component]:
    current = aria(current="true") if line.run == chosen else {}
    name = html.Button(line.name, className="row-button", title=line.run, **data(run=line.run), **current)
    fill = html.Span(className="fill clean", style={"width": f"{100 * line.share:.1f}%"})
    progress = html.Span([html.Span(fill, className="track"), html.Span(line.told, className="muted")], className="bar")
    return [
        html.Th(name, scope="row"),
        html.Td(line.about),
        html.Td(line.state),
        html.Td(progress),
        html.Td(_act(line)),
    ]


def _act(line: Line) -> list[Component]:
    """What can be done with a run now; assets/audits.js says at once that it was pressed."""
    if line.is_stopping:
        return [html.Button("Stopping …", className="plain-button", disabled=True)]
    if line.is_running:
        return [html.Button("Stop", className="plain-button", **data(cancel=line.run))]
    return [html.Button("Go on", className="plain-button", **data(resume=line.run))] if line.can_go_on else []


def _panel(panel: Panel) -> list[Component]:
    interim = [html.P(panel.interim, className="interim", role="status")] if panel.interim else []
    return [
        html.H3([panel.line.name, html.Span(f" run {panel.line.run[:12]}", className="muted")]),
        *interim,
        *_thresholds(panel),
        *([html.P(panel.left_out, className="note")] if panel.left_out else []),
        *(part for model in panel.models for part in _model(model)),
        *_pairings(panel.pairings),
    ]


def _pairings(pairings: tuple[Versus, ...]) -> list[Component]:
    if not pairings:
        return []
    heads = ("Condition", "Images", "Candidate minus baseline, points", "Right in one alone: candidate, baseline",
             "p (exact McNemar, Holm)")  # fmt: skip
    rows = [
        html.Tr(
            [
                html.Th(one.name, scope="row"),
                *(html.Td(text) for text in (f"{one.n:,}", one.difference, f"{one.only[0]}, {one.only[1]}", one.p)),
            ],
            className="worst" if one.is_worst else "",
        )
        for one in pairings
    ]
    return [
        html.H3("Candidate against baseline, on the same images"),
        html.Table([tables.head(heads), html.Tbody(rows)]),
    ]


def _thresholds(panel: Panel) -> list[Component]:
    if not panel.thresholds:
        return [html.P("No thresholds were agreed before this run, so it decides nothing.", className="note")]
    heads = ("Threshold", "Agreed before the run", "Found (Clopper-Pearson)", "Outcome")
    rows = [html.Tr([html.Th(one[0], scope="row"), *(html.Td(text) for text in one[1:])]) for one in panel.thresholds]
    return [html.Table([tables.head(heads), html.Tbody(rows)]), html.P(panel.verdict, className="verdict")]


def _model(model: ModelPart) -> list[Component]:
    heads = ("Condition", "Images", "Right after it, 95 % interval", "", "How the images ended", "Most often into", "")
    head = tables.head(heads)
    warning = [html.P(model.warning, className="warning")] if model.warning else []
    return [
        html.H3(model.title),
        *warning,
        html.Table([head, html.Tbody([_row(row) for row in model.rows])]),
        *(html.P(text, className="note") for text in model.notes),
        *_classes(model),
    ]


def _believed(found: Believed) -> list[Component]:
    heads = ("Check", "Outcome", "Found", "Fails when")
    rows = [
        html.Tr([html.Th(name, scope="row"), html.Td(MARKS[outcome]), html.Td(said), html.Td(when, className="muted")],
                className=f"check-{outcome.replace(' ', '-')}")
        for name, outcome, said, when in found.checks
    ]  # fmt: skip
    return [
        html.H3(found.title),
        *([html.P(found.scope, className="note")] if found.scope else []),
        html.P(found.verdict, className="verdict"),
        html.Table([tables.head(heads), html.Tbody(rows)]),
        html.P(found.about, className="note"),
    ]


def _row(row: Row) -> Component:
    link = [html.A("Explain", href=f"/?{row.link}")] if row.link else []
    texts = [html.Td(text) for text in (f"{row.n:,}", row.accuracy)]
    bar = "" if row.value is None else tables.interval(row.low or 0.0, row.value, row.high or 0.0)
    return html.Tr(
        [
            html.Th(row.name, scope="row"),
            *texts,
            html.Td(bar),
            html.Td([row.statuses, *(html.Div(f"? {doubt}", className="doubt") for doubt in row.doubts)]),
            html.Td(row.into),
            html.Td(link, className="act"),
        ],
        className="worst" if row.kind == "worst-case" else row.kind,
    )


def _classes(model: ModelPart) -> list[Component]:
    if not model.classes:
        return []
    items = [
        html.Li([html.B(one.name), f" {one.accuracy}"], className="few" if one.has_few else "") for one in model.classes
    ]
    note = html.P(FEW, className="note") if any(one.has_few for one in model.classes) else ""
    return [
        html.Details(
            [html.Summary("Worst case by class"), html.Ul(items, className="by-class"), note], className="twin"
        )
    ]
