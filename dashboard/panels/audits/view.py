"""The audits page: a form that plans a run, the list of all of them, and what the chosen one found, also while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.panels.audits import curve as curves
from dashboard.panels.audits import form as planning
from dashboard.panels.audits import heat_map
from dashboard.panels.audits import model as audits
from dashboard.panels.audits.form import Mistake, Offer
from dashboard.panels.audits.model import Agreed, Line, ModelPart, Panel, Row, SanityCheck, Versus
from dashboard.panels.confusion import view as confusion_view
from dashboard.panels.held_out import view as held_out_view
from dashboard.panels.images import view as images_view
from dashboard.panels.inside import view as inside_view
from dashboard.panels.rebuild import view as rebuild_view
from dashboard.panels.versus import view as versus_view
from engine import (
    Answer,
    AttackSanity,
    EngineError,
    Forecast,
    RunView,
    duration,
    forecast_text,
)

NONE = (
    "This store holds no audit yet. Plan one with New audit, or write a plan (an example is engine/demo/plan.toml) and run "
    "python -m engine audit PLAN.toml --store DIR; this page then shows how far it is and what it finds."
)
MARKS = {"pass": "✔ pass", "fail": "✘ fail", "not run": "– not run"}
HEADS: Final = (
    ("name", "Run"), ("about", "About"), ("begun", "Began (UTC)"), ("seconds", "Took"), ("author", "By"), ("tier", "Tier"),
    ("state", "State"), ("verdict", "Verdict"),
)  # fmt: skip
"""Columns of the list that can be sorted by: field and title."""
STATES: Final = (
    ("", "All"), ("running", "Running"), ("stopped", "Stopped"), ("finished", "Finished"), ("pass", "Verdict: pass"),
    ("fail", "Verdict: fail"), ("inconclusive", "Verdict: inconclusive"),
)  # fmt: skip
SIGNS: Final = {
    "pass": ("✔ pass", "is-held"),
    "fail": ("✘ fail", "is-refuted"),
    "inconclusive": ("? inconclusive", "is-open"),
}
WAITING = "Waiting for the first results: they appear here as soon as a part of the images has met a condition."
MOST_LISTED = 60
"""Runs that are drawn; 300 took 0.4 s and 500 KB with every look."""


def layout() -> html.Section:
    """Return the page's skeleton; assets/audits.js fills it while the page is shown."""
    graph = dcc.Graph(
        id=ids.AUDIT_CURVE,
        figure=curves.draw((), "light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": curves.HEIGHT},
    )
    curve = [
        html.Div([html.H3("Accuracy as epsilon grows"), html.Span(id=ids.AUDIT_CURVE_FILE)], className="titled"),
        graph,
    ]
    return html.Section(
        [
            html.Div([html.H2("Audits", id="audits-heading"), *_finders()], className="panel-heading"),
            html.Div(id=ids.AUDIT_PROBLEM, role="alert"),
            form(),
            html.Div(id=ids.AUDIT_LIST, className="audit-list"),
            _parts(),
            html.Div(id=ids.AUDIT, className="audit"),
            rebuild_view.layout(),
            html.Div(
                [
                    html.Div(id=ids.AUDIT_MAPS, className="audit"),
                    html.Div(curve, id=ids.AUDIT_CURVE_PART, hidden=True, **term("audit-curve")),
                ],
                className="run-figures",
            ),
            inside_view.layout(),
            held_out_view.layout(),
            confusion_view.layout(),
            versus_view.layout(),
            images_view.layout(),
            html.Div(id=ids.AUDIT_DETAILS, className="audit"),
        ],
        id=ids.AUDITS,
        className="panel audits",
        **aria(labelledby="audits-heading"),
    )


PARTS = {
    ids.AUDIT: "Result",
    ids.INSIDE: "Where",
    ids.HELD_OUT_PART: "Causal test",
    ids.CONFUSION: "Classes",
    ids.AGAINST: "Baseline",
    ids.IMAGES: "Images",
    ids.AUDIT_DETAILS: "Details and checks",
}
"""The parts of a run's page, by the element that a button leads to; assets/app.css hides those that a run lacks."""


def _parts() -> html.Nav:
    buttons = [html.Button(title, className="plain-button", **data(goto=part)) for part, title in PARTS.items()]
    return html.Nav(
        buttons, id=ids.RUN_PARTS, className="run-parts", **aria(label="Parts of the run"), **term("run-parts")
    )


def _finders() -> list[Component]:
    find = dcc.Input(
        id=ids.AUDIT_FIND, type="search", placeholder="Find a run", className="entry", autoComplete="off", maxLength=200
    )
    options = [html.Option(title, value=value) for value, title in STATES]
    state = html.Select(
        options, id=ids.AUDIT_STATE, className="menu", **aria(label="Which runs"), **term("audit-state")
    )
    count = html.Span(id=ids.AUDIT_COUNT, className="note", role="status")
    return [html.Label([html.Span("Find a run", className="sr-only"), find], **term("audit-find")), state, count]


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
        checks = auditor.attack_sanity(run) if run and view and _has_figures(view) else None
    except EngineError as error:
        view, checks, problem = None, None, str(error)
    lead, maps, details = _run(view, checks)
    has_curve = bool(view and any(model.curve for model in view.summary.models))
    return {
        "run": run,
        **_listed(lines, run, ask),
        "audit": markup.pieces([*_problem(problem), *lead]),
        "maps": markup.pieces(maps),
        "details": markup.pieces(details),
        "has_curve": has_curve,
        "curve_file": markup.pieces(_file(run, "curve")) if has_curve and run else [],
        "again": any(line.is_running for line in lines) or bool(checks and checks.state == "working"),
    }, curves.draw(view.summary.models if view else (), theme)


def _has_figures(view: RunView) -> bool:
    return any(model.conditions for model in view.summary.models)


def _listed(lines: list[Line], run: str | None, ask: protocol.Ask) -> dict[str, Any]:
    order, find, state = (str(ask.get(name) or "")[:200] for name in ("order", "find", "state"))
    shown = audits.listed(lines, order=order or audits.NEWEST, find=find, state=state)
    count = "" if len(shown) == len(lines) else f"{len(shown)} of {len(lines)} runs"
    if len(shown) > MOST_LISTED:
        count = f"The first {MOST_LISTED} of {len(shown)} runs are listed; find others by their words."
    rows = _list(shown[:MOST_LISTED], run, order or audits.NEWEST, has_runs=bool(lines))
    return {"list": markup.pieces(rows), "count": count}


def stop(auditor: Auditor, stored: protocol.Ask | None) -> str:
    """Ask whoever drives a run to stop, and return why that could not be asked; empty where it was."""
    return _problem_of(auditor.audits.cancel, stored)


def resume(auditor: Auditor, stored: protocol.Ask | None) -> str:
    """Take up a run that was left, and return why that could not be; empty where it could."""
    return _problem_of(auditor.audits.resume, stored)


def _problem_of(act: Callable[[str], None], stored: protocol.Ask | None) -> str:
    run = (stored or {}).get("run")
    try:
        act(run if isinstance(run, str) else "")
    except EngineError as error:
        return str(error)
    return ""


def _stop(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    return {"problem": stop(auditor, ask)}


def _resume(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    return {"problem": resume(auditor, ask)}


def _run(view: RunView | None, checks: Answer[AttackSanity] | None) -> tuple[list[Component], ...]:
    """Return what a run leads with, its heat maps, and its details."""
    if view is None:
        return [], [], []
    panel = audits.panel(view)
    caution = audits.caution(checks, view.summary) if checks else ""
    warned = [html.P(caution, className="warning", role="alert")] if caution else []
    sanity = _sanity(audits.sanity(checks, view.card.model)) if checks else []
    return [*_lead(panel), *warned], _maps(panel), [*_details(panel), *sanity, _provenance(panel)]


def _problem(text: str) -> list[Component]:
    return [html.P(text, className="warning", role="alert")] if text else []


def _list(lines: Sequence[Line], chosen: str | None, order: str, *, has_runs: bool) -> Component:
    if not has_runs:
        return html.P(NONE, className="nothing")
    if not lines:
        return html.P("No run is like that: change what is looked for above.", className="nothing")
    heads = html.Thead(html.Tr([*(_sorter(name, title, order) for name, title in HEADS), html.Td()]))
    rows = [
        html.Tr(_cells(line, chosen), className="picked" if line.run == chosen else "", **data(key=line.run))
        for line in lines
    ]
    return html.Table([html.Caption("Audit runs", className="sr-only"), heads, html.Tbody(rows)])


def _sorter(name: str, title: str, order: str) -> Component:
    is_own, is_down = order.removeprefix("-") == name, order.startswith("-")
    sign = (" ▾" if is_down else " ▴") if is_own else ""
    sorted_so = {"sort": "descending" if is_down else "ascending"} if is_own else {}
    # Dates and lengths are first asked for from the latest and longest down.
    other = name if (is_own and is_down) or (not is_own and name not in ("begun", "seconds")) else f"-{name}"
    shown: list[Any] = [title, html.Span(sign, **aria(hidden="true"))]
    button = html.Button(shown, className="sorter", **data(order=other), **term(f"run-{name}"))
    return html.Th(button, scope="col", **aria(**sorted_so))


def _cells(line: Line, chosen: str | None) -> list[Component]:
    current = aria(current="true") if line.run == chosen else {}
    name = html.Button(line.name, className="row-button", title=line.run, **data(run=line.run), **current)
    verdict = SIGNS.get(line.verdict, (audits.VERDICTS.get(line.verdict, ""), ""))
    began = html.Time(audits.moment(line.begun), dateTime=line.begun) if line.begun else "–"
    return [
        html.Th(name, scope="row"),
        html.Td(line.about),
        html.Td(began, className="act"),
        html.Td("–" if line.seconds is None else duration(line.seconds), className="act"),
        html.Td(line.author or "–", className="act"),
        html.Td(line.tier, className="act"),
        html.Td([line.state, *_progress(line)]),
        html.Td(html.Span(verdict[0], className=f"sign {verdict[1]}"), className="act"),
        html.Td(_act(line), className="act"),
    ]


def _progress(line: Line) -> list[Component]:
    if not line.told:
        return []
    fill = html.Span(className="fill", style={"width": f"{100 * line.share:.1f}%"})
    # Of one length in every row, whatever stands below it.
    return [html.Span(fill, className="run-track"), html.Div(line.told, className="note")]


def _act(line: Line) -> list[Component]:
    """What can be done with a run now; assets/audits.js says at once that it was pressed."""
    again = html.Button("Clone", className="plain-button", **data(clone=line.run), **term("run-clone"))
    if line.is_stopping:
        return [html.Button("Stopping …", className="plain-button", disabled=True, **term("run-stop")), again]
    if line.is_running:
        return [html.Button("Stop", className="plain-button", **data(cancel=line.run), **term("run-stop")), again]
    if line.can_go_on:
        return [html.Button("Go on", className="plain-button", **data(resume=line.run), **term("run-resume")), again]
    return [again] if line.about else []


def _lead(panel: Panel) -> list[Component]:
    interim = [html.P(panel.interim, className="interim", role="status")] if panel.interim else []
    line = panel.line
    tier = line.tier if line.tier in ("", audits.OWN_ATTACKS) else f"tier {line.tier}"
    told = " · ".join(filter(None, (line.about, tier, audits.moment(line.begun))))
    kind = "tier-banner" if panel.banner == audits.SCREENING else "note"
    banner = [html.P(panel.banner, className=kind, role="note")] if panel.banner else []
    return [
        html.Div([html.H3(line.name), html.Span(told, className="note")], className="titled"),
        *interim,
        *_thresholds(panel),
        *banner,
        *([html.P(panel.left_out, className="note")] if panel.left_out else []),
        *([] if panel.models or line.state == "finished" else [html.P(WAITING, className="nothing")]),
    ]


def _maps(panel: Panel) -> list[Component]:
    """Return the heat map of the candidate, and that of the baseline folded below it."""
    shown = [(model, model.heat) for model in panel.models if model.heat]
    results: list[Component] = []
    for place, (model, heat) in enumerate(shown):
        warning = [html.P(model.warning, className="warning")] if model.warning else []
        drawn = [*warning, *heat_map.drawn(heat)]
        title = html.H3([f"Robust accuracy, {heat.title}", _file(panel.line.run, "classes")])
        folded = html.Details(
            [html.Summary(f"Robust accuracy, {heat.title}", **term("heat")), *drawn], className="twin"
        )
        results += [title, *drawn] if place == 0 else [folded]
    return results


def _details(panel: Panel) -> list[Component]:
    if not panel.models:
        return []
    tables = [part for model in panel.models for part in _model(model)]
    return [
        html.Details(
            [html.Summary("Every condition", **term("run-conditions")), _file(panel.line.run, "conditions"), *tables],
            className="twin",
        ),
        *_pairings(panel.pairings, panel.line.run),
    ]


def _provenance(panel: Panel) -> Component:
    facts = [part for name, value in panel.facts for part in (html.Dt(name), html.Dd(value))]
    return html.Details(
        [html.Summary("What this run was made of", **term("run-facts")), html.Dl(facts)], className="twin"
    )


def _file(run: str, name: str) -> Component:
    own = aria(label=f"{name} as CSV")
    return html.A("CSV", href=f"/audits/{run}/{name}.csv", className="file", download="", **own, **term("csv"))


def _pairings(pairings: tuple[Versus, ...], run: str) -> list[Component]:
    if not pairings:
        return []
    heads = ("Condition", "Images", "Candidate minus baseline, points (Newcombe, 95 %)",
             "Right in one alone: candidate, baseline", "p (exact McNemar, Holm)")  # fmt: skip
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
        html.Details(
            [
                html.Summary("Candidate against baseline, on the same images", **term("run-versus")),
                _file(run, "comparison"),
                html.Table([markup.head(heads), html.Tbody(rows)]),
            ],
            className="twin",
        )
    ]


def _thresholds(panel: Panel) -> list[Component]:
    if not panel.thresholds:
        return [html.P("No thresholds were agreed before this run, so it decides nothing.", className="note")]
    heads = ("Outcome", "Threshold", "Agreed before the run", "Found", "Images", "Interval")
    kind = "run-verdict is-open" if panel.interim else "run-verdict"
    title = html.P([panel.verdict, _file(panel.line.run, "thresholds")], className=kind)
    return [
        title,
        html.Table([markup.head(heads), html.Tbody(list(map(_threshold, panel.thresholds)))], className="thresholds"),
    ]


def _threshold(agreed: Agreed) -> Component:
    sign, kind = SIGNS.get(agreed.outcome, ("not decided yet", "is-open"))
    reason = [html.Div(agreed.reason, className="doubt")] if agreed.reason else []
    return html.Tr(
        [
            html.Td(html.Span(sign, className=f"sign {kind}"), className="act"),
            html.Th(agreed.name, scope="row"),
            html.Td([agreed.agreed, *reason]),
            html.Td(agreed.found, className="act"),
            html.Td(f"{agreed.n:,}"),
            html.Td(agreed.interval),
        ]
    )


def _model(model: ModelPart) -> list[Component]:
    heads = ("Condition", "Images", "Right after it (Clopper-Pearson, 95 %)", "", "How the images ended",
             "Most often into", "")  # fmt: skip
    head = markup.head(heads)
    return [
        html.H4(model.title),
        html.Table([head, html.Tbody([_row(row) for row in model.rows])]),
        *(html.P(text, className="note") for text in model.notes),
    ]


def _sanity(sanity_check: SanityCheck) -> list[Component]:
    if not sanity_check.checks:
        return [html.P(f"{sanity_check.title} {sanity_check.verdict}", className="note", role="status")]
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
        html.Details(
            [
                html.Summary(f"The {len(sanity_check.checks)} checks", **term("run-sanity")),
                html.Table([markup.head(heads), html.Tbody(rows)]),
                html.P(sanity_check.about, className="note"),
            ],
            className="twin",
        ),
    ]


def _row(row: Row) -> Component:
    link = [html.A("Explain", href=f"/?{row.link}")] if row.link else []
    texts = [html.Td(markup.counted(f"{row.n:,}", row.images)), html.Td(row.accuracy)]
    into = [part for text, query in row.into for part in (", ", markup.counted(text, query))][1:]
    bar = "" if row.value is None else markup.interval(row.low or 0.0, row.value, row.high or 0.0)
    return html.Tr(
        [
            html.Th(row.name, scope="row"),
            *texts,
            html.Td(bar),
            html.Td([row.statuses, *(html.Div(f"? {doubt}", className="doubt") for doubt in row.doubts)]),
            html.Td(into),
            html.Td(link, className="act"),
        ],
        className="worst" if row.kind == "worst-case" else row.kind,
    )


def form() -> html.Details:
    """Return the folded form; assets/audit-form.js draws its fields when it is first opened."""
    summary = html.Summary("New audit", className="primary", **term("audit-new"))
    return html.Details([summary, html.Form(id=ids.AUDIT_FORM)], id=ids.AUDIT_NEW, className="twin")


def offered(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Return the form as plain values, filled with the plan of a run or with the model and data that one comes from."""
    offer, run = Offer.of(auditor), ask.get("clone")
    if not isinstance(run, str) or not run:
        return asdict(planning.build(offer, {name: ask.get(name) for name in ("model", "data")}))
    try:
        first = planning.values_of(auditor.audits.values(run))
    except EngineError as error:
        return asdict(planning.build(offer, {"note": f"The plan of that run could not be taken over: {error}"}))
    return asdict(planning.build(offer, {**first, "note": _cloned(first, offer)}))


def _cloned(first: planning.Values, offer: Offer) -> str:
    gone = [str(first[name]) for name, known in (("model", offer.models), ("data", offer.datasets))
            if first[name] not in [card.name for card in known]]  # fmt: skip
    name = str(first["name"]).removesuffix(" (again)")
    lost = f" Not here any more, so others stand in their place: {', '.join(gone)}." if gone else ""
    return f"Filled with the plan of '{name[:80]}'. With nothing but the name changed it measures the same again.{lost}"


def costed(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Return what the plan that was filled in will cost, or everything that is wrong with it."""
    values = ask.get("values")
    planned = planning.plan(values)
    return _unless_wrong(
        auditor, values, lambda: _cost(auditor.audits.forecast(planned), planned.get("tier", planning.CUSTOM))
    )


def started(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Start the plan that was filled in, and return the run, or everything that is wrong with it."""
    values = ask.get("values")
    return _unless_wrong(
        auditor, values, lambda: {"state": "started", "run": auditor.audits.start(planning.plan(values)), "text": ""}
    )


def _unless_wrong(auditor: Auditor, values: object, act: Callable[[], protocol.Facts]) -> protocol.Facts:
    found = planning.mistakes(values, Offer.of(auditor), auditor.audits.check)
    try:
        if not found:
            return act()
    except EngineError as error:
        found = (Mistake("", planning.worded(str(error))),)
    count = len(found)
    text = (
        f"{count} things are not right yet: each is said at its field." if count > 1 else "One thing is not right yet."
    )
    return {"state": "wrong", "mistakes": [asdict(item) for item in found], "text": text}


def _cost(answer: Answer[Forecast], tier: str) -> protocol.Facts:
    if answer.value is None:
        return {"state": answer.state, "text": answer.message or "Measuring how fast this machine is."}
    return {"state": "ready", "text": forecast_text(tier, answer.value)}


def _needs(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    return {"lines": planning.needed(ask.get("values"), Offer.of(auditor))}


PANELS: Final = (
    protocol.Panel("audits", answer, ids.AUDIT_CURVE, again=1500, resting=10_000),
    # Panels of their own: as part of the other, a stop would be asked for again with every look at the runs.
    protocol.plain("audit-stop", _stop),
    protocol.plain("audit-resume", _resume),
    protocol.plain("audit-form", offered),
    protocol.plain("audit-cost", costed),
    protocol.plain("audit-need", _needs),
    protocol.plain("audit-start", started),
)
