"""The audits page: the form, all runs of the store, and one of them with thresholds, conditions, worst case and curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard import theme as themes
from dashboard.auditor import Auditor
from dashboard.markup import aria, data
from dashboard.panels.audits import model as audits
from dashboard.panels.audits.model import Line, ModelPart, Panel, Row, SanityCheck, Versus
from engine import (
    Answer,
    AttackSanity,
    EngineError,
    Forecast,
    ModelResult,
    RunView,
    WrongPlan,
    forecast_text,
    measure_of,
)

NONE = (
    "This store holds no audit yet. Start one above, or write a plan (an example is engine/demo/plan.toml) and run "
    "python -m engine audit PLAN.toml --store DIR; this page then shows how far it is and what it finds."
)
MARKS = {"pass": "✔ pass", "fail": "✘ fail", "not run": "– not run"}
FEW = "Classes with fewer than 30 images are grey and not to be ranked."
CURVE_HEIGHT = 240
DASHES = ("solid", "dot", "dash", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")


def layout() -> html.Section:
    """Return the page's skeleton; assets/audits.js fills it while the page is shown."""
    graph = dcc.Graph(
        id=ids.AUDIT_CURVE,
        figure=draw_curve((), "light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": CURVE_HEIGHT},
    )
    return html.Section(
        [
            html.Div([html.H2("Audits", id="audits-heading")], className="panel-heading"),
            html.Div(id=ids.AUDIT_PROBLEM, role="alert"),
            form(),
            html.Div(id=ids.AUDIT_LIST, className="audit-list"),
            html.Div(id=ids.AUDIT, className="audit"),
            html.Div([html.H3("Accuracy as the attack grows"), graph], id=ids.AUDIT_CURVE_PART, hidden=True),
        ],
        id=ids.AUDITS,
        className="panel audits",
        **aria(labelledby="audits-heading"),
    )


def answer(auditor: Auditor, stored: protocol.Ask | None) -> tuple[dict[str, Any], go.Figure]:
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
        checks = auditor.attack_sanity(run) if run and view else None
    except EngineError as error:
        view, checks, problem = None, None, str(error)
    facts = {
        "run": run,
        "list": markup.pieces(_list(lines, run)),
        "audit": markup.pieces([*_problem(problem), *_run(view, checks)]),
        "has_curve": bool(view and any(model.curve for model in view.summary.models)),
        "again": any(line.is_running for line in lines) or bool(checks and checks.state == "working"),
    }
    return facts, draw_curve(view.summary.models if view else (), theme)


def stop(auditor: Auditor, stored: protocol.Ask | None) -> str:
    """Ask whoever drives a run to stop, and return why that could not be asked; empty where it was."""
    try:
        auditor.audits.cancel(_run_of(stored))
    except EngineError as error:
        return str(error)
    return ""


def resume(auditor: Auditor, stored: protocol.Ask | None) -> str:
    """Take up a run that was left, and return why that could not be; empty where it could."""
    try:
        auditor.audits.resume(_run_of(stored))
    except EngineError as error:
        return str(error)
    return ""


def _stop(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    return {"problem": stop(auditor, ask)}


def _resume(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    return {"problem": resume(auditor, ask)}


def _run_of(stored: protocol.Ask | None) -> str:
    result = (stored or {}).get("run")
    return result if isinstance(result, str) else ""


def _run(view: RunView | None, checks: Answer[AttackSanity] | None) -> list[Component]:
    if view is None or checks is None:
        return []
    caution = audits.caution(checks, view.summary)
    return [
        *_panel(audits.panel(view)),
        *([html.P(caution, className="warning", role="alert")] if caution else []),
        *_sanity(audits.sanity(checks, view.card.model)),
    ]


def _problem(text: str) -> list[Component]:
    return [html.P(text, className="warning", role="alert")] if text else []


def _list(lines: list[Line], chosen: str | None) -> Component:
    if not lines:
        return html.P(NONE, className="nothing")
    heads = ("Run", "About", "State", "Progress", "")
    rows = [html.Tr(_cells(line, chosen), className="picked" if line.run == chosen else "") for line in lines]
    return html.Table([markup.head(heads), html.Tbody(rows)])


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
                html.Th(pairing.name, scope="row"),
                *(
                    html.Td(text)
                    for text in (
                        f"{pairing.n:,}",
                        pairing.difference,
                        f"{pairing.only[0]}, {pairing.only[1]}",
                        pairing.p,
                    )
                ),
            ],
            className="worst" if pairing.is_worst else "",
        )
        for pairing in pairings
    ]
    return [
        html.H3("Candidate against baseline, on the same images"),
        html.Table([markup.head(heads), html.Tbody(rows)]),
    ]


def _thresholds(panel: Panel) -> list[Component]:
    if not panel.thresholds:
        return [html.P("No thresholds were agreed before this run, so it decides nothing.", className="note")]
    heads = ("Threshold", "Agreed before the run", "Found (Clopper-Pearson)", "Outcome")
    rows = [
        html.Tr([html.Th(threshold[0], scope="row"), *(html.Td(text) for text in threshold[1:])])
        for threshold in panel.thresholds
    ]
    return [html.Table([markup.head(heads), html.Tbody(rows)]), html.P(panel.verdict, className="verdict")]


def _model(model: ModelPart) -> list[Component]:
    heads = ("Condition", "Images", "Right after it, 95 % interval", "", "How the images ended", "Most often into", "")
    head = markup.head(heads)
    warning = [html.P(model.warning, className="warning")] if model.warning else []
    return [
        html.H3(model.title),
        *warning,
        html.Table([head, html.Tbody([_row(row) for row in model.rows])]),
        *(html.P(text, className="note") for text in model.notes),
        *_classes(model),
    ]


def _sanity(sanity_check: SanityCheck) -> list[Component]:
    heads = ("Check", "Outcome", "Found", "Fails when")
    rows = [
        html.Tr([html.Th(name, scope="row"), html.Td(MARKS[outcome]), html.Td(said), html.Td(when, className="muted")],
                className=f"check-{outcome.replace(' ', '-')}")
        for name, outcome, said, when in sanity_check.checks
    ]  # fmt: skip
    return [
        html.H3(sanity_check.title),
        *([html.P(sanity_check.scope, className="note")] if sanity_check.scope else []),
        html.P(sanity_check.verdict, className="verdict"),
        html.Table([markup.head(heads), html.Tbody(rows)]),
        html.P(sanity_check.about, className="note"),
    ]


def _row(row: Row) -> Component:
    link = [html.A("Explain", href=f"/?{row.link}")] if row.link else []
    texts = [html.Td(text) for text in (f"{row.n:,}", row.accuracy)]
    bar = "" if row.value is None else markup.interval(row.low or 0.0, row.value, row.high or 0.0)
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
        html.Li([html.B(class_.name), f" {class_.accuracy}"], className="few" if class_.has_few else "")
        for class_ in model.classes
    ]
    note = html.P(FEW, className="note") if any(class_.has_few for class_ in model.classes) else ""
    return [
        html.Details(
            [html.Summary("Worst case by class"), html.Ul(items, className="by-class"), note], className="twin"
        )
    ]


def form() -> html.Details:
    """Return the folded form; assets/audit-form.js draws its fields when it is first opened."""
    return html.Details([html.Summary("Start an audit"), html.Form(id=ids.AUDIT_FORM)], className="twin")


def offered(auditor: Auditor, _ask: protocol.Ask) -> dict[str, Any]:
    """Return the form as plain values."""
    methods = auditor.methods()
    return dataclasses.asdict(audits.build_form(auditor.models(), auditor.datasets(), auditor.attacks(), methods))


def costed(auditor: Auditor, stored: protocol.Ask | None) -> dict[str, Any]:
    """Return what the plan that was filled in will cost, or at which field it is wrong."""
    plan = _plan(stored)
    return _checked(lambda: _told(auditor.audits.forecast(plan), plan.get("tier", audits.CUSTOM)))


def started(auditor: Auditor, stored: protocol.Ask | None) -> dict[str, Any]:
    """Start the plan that was filled in, and return the run, or at which field the plan is wrong."""
    return _checked(lambda: {"state": "started", "run": auditor.audits.start(_plan(stored)), "text": ""})


def _plan(stored: protocol.Ask | None) -> dict[str, Any]:
    return audits.plan((stored or {}).get("values"))


def _told(answer: Answer[Forecast], tier: str) -> dict[str, Any]:
    if answer.value is None:
        return {"state": answer.state, "text": answer.message or "Measuring how fast this machine is."}
    return {"state": "ready", "text": forecast_text(tier, answer.value)}


def _checked(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except WrongPlan as error:
        return {"state": "wrong", "field": audits.field_of(error.place), "text": error.problem}
    except EngineError as error:
        return {"state": "wrong", "field": "", "text": str(error)}


def draw_curve(models: Sequence[ModelResult], theme: str) -> go.Figure:
    """Return the curves of a run; every line has its own dash and symbol, every point its 95 % interval."""
    colours = themes.palette(theme)
    figure = go.Figure(layout=_curve_layout(models, theme))
    lines = [(model, family) for model in models for family in dict.fromkeys(point.family for point in model.curve)]
    for k, (model, family) in enumerate(lines):
        points = [point for point in model.curve if point.family == family and point.accuracy.value is not None]
        values = [100 * float(point.accuracy.value or 0) for point in points]
        measures = [measure_of(point.attack) for point in points]
        colour = colours.adversarial if model.role == "candidate" else colours.clean
        figure.add_trace(
            go.Scatter(
                x=[own.factor * point.epsilon for own, point in zip(measures, points, strict=True)],
                y=values,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * float(p.accuracy.high or 0) - v for p, v in zip(points, values, strict=True)],
                    "arrayminus": [v - 100 * float(p.accuracy.low or 0) for p, v in zip(points, values, strict=True)],
                    "thickness": 1,
                },
                customdata=[(own.text(p.epsilon), p.accuracy.n) for own, p in zip(measures, points, strict=True)],
                hovertemplate=f"{model.model}, %{{customdata[0]}}: %{{y:.1f}} %, n = %{{customdata[1]}}<extra></extra>",
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": DASHES[k % len(DASHES)]},
                marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 8},
                name=f"{model.model} · {family}",
            )
        )
    return figure


def _curve_layout(models: Sequence[ModelResult], theme: str) -> go.Layout:
    axes = dict.fromkeys(measure_of(point.attack).axis for model in models for point in model.curve)
    strength = {**themes.titled(" · ".join(axes) or "epsilon ε"), "rangemode": "tozero"}
    accuracy = {**themes.titled("accuracy in %"), "range": [-3, 103]}
    return go.Layout(**themes.small_plot(theme, height=CURVE_HEIGHT, x=strength, y=accuracy), showlegend=True)


PANELS: Final = (
    protocol.Panel("audits", answer, ids.AUDIT_CURVE, again=1500, resting=10_000),
    # Panels of their own: as part of the other, a stop would be asked for again with every look at the runs.
    protocol.plain("audit-stop", _stop),
    protocol.plain("audit-resume", _resume),
    protocol.plain("audit-form", offered),
    protocol.plain("audit-cost", costed),
    protocol.plain("audit-start", started),
)
