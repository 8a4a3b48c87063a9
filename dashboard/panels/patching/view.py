"""The causal test panel: the chosen channels patched, and what all fooled images of the class say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol, wording
from dashboard.auditor import Auditor
from dashboard.links import ViewState
from dashboard.markup import aria, data, term
from dashboard.panels.patching import figure as study_figure
from dashboard.panels.patching import model as patching
from dashboard.panels.patching import studies
from engine import AttackResultsRequest, BadInput, EngineError, Explanation, FooledRequest, compare

HOW = (
    "Choose what to patch: here by the default ranking (attack conductance over the layer's mean), at the layer all "
    "channels of a group, at the neuron one "
    "channel, or any channels you "
    "choose. Every causal test stands beside five controls and another way to choose, is kept in the store, and has its own link."
)
AGAIN = 700
"""Milliseconds after which a causal test that is being made is asked for again."""
MOST_IMAGES = 64
"""Images of a class that a group is made of, at most: the first ones."""
STUDIES_HOW = (
    "Over all fooled images of this class, each with its own clean values: made on request, kept in the store."
)


def layout() -> html.Section:
    """Return the panel's skeleton; assets/causal-test.js asks and fills."""
    direction = html.Button(
        "the other way round",
        id=ids.CAUSAL_TEST_DIRECTION,
        className="plain-button",
        **aria(pressed="false"),
        **term("direction"),
    )
    return html.Section(
        [
            html.Div([html.H2("Causal test", id="causal-test-heading"), direction], className="panel-heading"),
            html.P(HOW, className="fine-print"),
            html.Div(id=ids.CAUSAL_TEST, **aria(live="polite")),
        ],
        id=ids.CAUSAL_TEST_PANEL,
        className="causal-test-panel",
        **aria(labelledby="causal-test-heading"),
    )


def sizes() -> html.Div:
    """Return the buttons that test the first channels of the default ranking, for the drawer's bar."""
    buttons = [
        html.Button(
            str(size),
            className="plain-button",
            **data(patch=f"standout:{size}"),
            **aria(label=f"Test {size} channels"),
            **term("sizes"),
        )
        for size in patching.SIZES
    ]
    label = html.Span("Patch the channels that stand out most:", className="control-label")
    return html.Div([label, *buttons], className="button-row sizes", role="group", **aria(label="Causal test by size"))


def choice_bar() -> html.Div:
    """Return the bar at the foot of the page that holds the choice; assets/chooser.js fills it."""
    return html.Div(
        [
            html.B("Chosen to patch:"),
            html.Span(id=ids.CHOICE_TERMS, className="chips", **aria(live="polite")),
            html.Button(
                "Test them", id=ids.CHOICE_TEST, className="plain-button", disabled=True, **term("choice-test")
            ),
            html.Button("Clear", id=ids.CHOICE_CLEAR, className="plain-button", disabled=True, **term("choice-clear")),
        ],
        id=ids.CHOICE,
        className="choice",
        hidden=True,
    )


def facts(auditor: Auditor, stored: protocol.Ask | None) -> dict[str, Any]:
    """Return the causal test as plain values, or why there is none; `again` while it is being made."""
    ask = stored or {}
    results = {"again": False}
    if not ask.get("patch"):
        return {**results, "causal-test": []}
    try:
        return {**results, **_intervened(auditor, protocol.key(ask), ViewState.from_dict(ask))}
    except EngineError as error:
        return {**results, "causal-test": protocol.nothing(error)}


def _intervened(auditor: Auditor, key: str, view: ViewState) -> dict[str, Any]:
    explanation = auditor.explained(key)
    wanted = patching.asked(str(view.patch), explanation, compare(explanation, view.share))
    answer = auditor.causal_test(key, wanted.chosen, wanted.direction)
    if answer.value is None:
        text = wording.awaited(answer, doing="Activation patching", failed="The causal test could not be run")
        return {"causal-test": protocol.nothing(text), "again": answer.state == "working"}
    return {"causal-test": markup.pieces(_panel(patching.build(answer.value, wanted.title, explanation)))}


def _panel(panel: patching.Panel) -> list[Component]:
    heads = ("Put in", panel.margin_head, "Answers as aimed", "0 to 100 %", "")
    head = markup.head(heads)
    return [
        html.H3(f"Put in: {panel.title}"),
        html.P(panel.verdict, className="verdict"),
        html.Table(
            [head, html.Tbody([_row(line, k == 0) for k, line in enumerate(panel.lines)])],
            className="causal-test-table",
        ),
        *(html.P(f"Not run: {text}", className="note open") for text in panel.missing),
        html.P(panel.claim, className="claim"),
        _members(panel),
    ]


def _members(panel: patching.Panel) -> Component:
    heads = ("Clean", "Adversarial", f"{panel.receiving.capitalize()}, with these channels put in", panel.margin_head)
    rows = [_member(member) for member in panel.members]
    table = html.Table([markup.head(("Image", *heads)), html.Tbody(rows)], className="causal-test-table members-table")
    if len(rows) == 1:
        return table
    reached = sum(member.is_reached for member in panel.members)
    return html.Details([html.Summary(f"Image by image: {reached} of {len(rows)} answer as aimed"), table])


def _member(one: patching.Member) -> Component:
    cells = ((one.clean, one.clean_text), (one.adversarial, one.adversarial_text))
    pictures = [html.Td(html.Div([html.Img(src=source, alt=""), text], className="pictured")) for source, text in cells]
    mark, said = ("✓", "as aimed") if one.is_reached else ("✗", "not as aimed")
    now = html.Td([html.B(mark, title=said), html.Span(f"{said}: ", className="sr-only"), f" {one.supported_text}"])
    return html.Tr([html.Th(one.sample, scope="row"), *pictures, now, html.Td(one.recovery)])


def _row(line: patching.Line, is_chosen: bool) -> Component:
    bar = markup.interval(line.low, line.value, line.high)
    name = html.Span([line.name, html.Span(f". {line.help}", className="sr-only")], title=line.help)
    cells = [html.Td(line.recovery), html.Td(line.flipped), html.Td(bar), html.Td(line.note)]
    return html.Tr([html.Th(name, scope="row"), *cells], className="worst" if is_chosen else "")


def studies_part() -> html.Div:
    """Return the part's skeleton; assets/causal-test.js asks and fills."""
    buttons = [
        html.Button(
            title, className="plain-button", **data(study=name), **aria(pressed="false"), **term(f"study-{name}")
        )
        for name, title in studies.STUDIES.items()
    ]
    graph = dcc.Graph(
        id=ids.STUDY_FIGURE,
        figure=study_figure.empty("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": study_figure.HEIGHT},
    )
    return html.Div(
        [
            html.Div(
                [html.Span("All fooled images of the class:", className="control-label"), *buttons],
                className="button-row",
            ),
            html.P(STUDIES_HOW, className="fine-print"),
            html.Div(id=ids.STUDY, **aria(live="polite")),
            html.Div(graph, id=ids.STUDY_PLOT, hidden=True, **term("study-plot")),
            html.Div(id=ids.STUDY_TABLES),
        ],
        className="group-test",
    )


def answer(auditor: Auditor, stored: protocol.Ask | None) -> tuple[dict[str, Any], go.Figure]:
    """Return a study as plain values and its plot, or why there is none; `again` while it is being made."""
    ask = stored or {}
    theme = "dark" if ask.get("theme") == "dark" else "light"
    facts = {"again": False, "plot": False, "tables": []}
    try:
        result = _makers(auditor)[_study(ask)]
        request, count = _request(auditor, auditor.explained(protocol.key(ask)))
        value = result[0](request)
    except EngineError as error:
        return {**facts, "text": protocol.nothing(error)}, study_figure.empty(theme)
    if value.value is None:
        text = wording.awaited(value, doing="Activation patching", failed="This could not be made")
        said = protocol.nothing(text)
        return {**facts, "text": said, "again": value.state == "working"}, study_figure.empty(theme)
    study = result[1](value.value)
    notes = html.Ul([html.Li(text) for text in (_asked_of(request, count), *study.told)], className="told")
    results = {"text": markup.pieces(_text(study)), "tables": markup.pieces([*map(_table, study.tables), notes])}
    drawn = study_figure.draw(study.plot, theme) if study.plot else study_figure.empty(theme)
    return {**facts, **results, "plot": study.plot is not None}, drawn


def _makers(auditor: Auditor) -> dict[str, tuple[Callable[[FooledRequest], Any], Callable[[Any], studies.Study]]]:
    return {
        "curve": (auditor.restoration_curve, studies.curve),
        "faithfulness": (auditor.faithfulness_curve, studies.faithfulness),
        "localisation": (auditor.localisation, studies.localisation),
        "profile": (auditor.site_profile, studies.profile),
        "smallest": (auditor.smallest_sets, studies.smallest),
        "defence": (auditor.defence, studies.defence),
    }


def _study(ask: Mapping[str, Any]) -> str:
    wanted = ask.get("study")
    if wanted not in studies.STUDIES:
        raise BadInput(f"'{str(wanted)[:40]}' is no study; there are {', '.join(studies.STUDIES)}.")
    return str(wanted)


def _asked_of(request: FooledRequest, count: int) -> str:
    """Return how many images a study was asked of, and of how many."""
    shown = f"the first {len(request.samples)} of {count}" if len(request.samples) < count else f"all {count}"
    return f"Asked of {shown} images of the class that were right before the attack."


def _request(auditor: Auditor, explanation: Explanation) -> tuple[FooledRequest, int]:
    """Return the images of the explanation's class that were right before the attack, the first ones, and how many there are."""
    asked = explanation.request
    label = explanation.outcomes[0].label
    attack_results = auditor.attack_results(
        AttackResultsRequest(asked.model, asked.data, asked.attack, label, asked.seed)
    )
    if attack_results.value is None:
        raise BadInput(attack_results.message or "The class is still being attacked; ask again when it is done.")
    samples = tuple(
        outcome.sample for outcome in attack_results.value.outcomes if outcome.status in ("fooled", "resisted")
    )
    return FooledRequest(asked.model, asked.data, asked.attack, samples[:MOST_IMAGES], asked.seed), len(samples)


def _text(study: studies.Study) -> list[Component]:
    intervene = html.Button(
        "Test this set on the images shown",
        className="plain-button",
        **data(patch=study.intervene),
        **term("choice-test"),
    )
    return [
        html.H3(study.title),
        html.P(study.verdict, className="verdict"),
        *([html.P(intervene)] if study.intervene else []),
    ]


def _table(table: studies.Table) -> Component:
    rows = [html.Tr([html.Th(first, scope="row"), *(html.Td(cell) for cell in cells)]) for first, *cells in table.rows]
    whole = html.Table([html.Caption(table.title, className="sr-only"), markup.head(table.heads), html.Tbody(rows)])
    scrolled = {"tabIndex": 0, "role": "region", **aria(label=table.title)}
    return html.Div(whole, className="table-scroll wrapped causal-test-table", **scrolled)


PANELS: Final = (
    protocol.plain("causal-test", facts, again=AGAIN),
    protocol.Panel("study", answer, ids.STUDY_FIGURE, again=AGAIN),
)
