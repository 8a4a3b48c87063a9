"""The proof panel: put chosen maps of one run into the other and see what it does, beside the controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from dashboard import ids
from dashboard.state import ViewState
from dashboard.viewmodels import asks, choice, proof, wording
from dashboard.views import group_proof, plain, tables
from dashboard.views.aria import aria, data
from engine import EngineError, compare

HOW = (
    "Choose what to put back: here by attack flow, at the layer all maps of a group, at the neuron one map, or any maps you "
    "choose. Every proof stands beside five controls and another way to choose, is kept in the store, and has its own link."
)
Ask = Mapping[str, Any] | None


def layout() -> html.Section:
    """Return the panel's skeleton; assets/proof.js asks and fills."""
    sizes = [
        html.Button(
            str(size), className="plain-button", **data(prove=f"flow:{size}"), **aria(label=f"Prove {size} maps")
        )
        for size in proof.SIZES
    ]
    choose = html.Div(
        [
            html.Span("Put back the maps with the most attack flow:", className="control-label"),
            *sizes,
            html.Button("the other way round", id=ids.PROOF_TURN, className="plain-button", **aria(pressed="false")),
        ],
        className="prove-row",
    )
    return html.Section(
        [
            dcc.Store(id=ids.PROOF_ASK),
            dcc.Store(id=ids.PROOF_FACTS),
            html.Div(
                [html.H2([html.Span("✓", className="number"), "Prove"], id="proof-heading")], className="panel-heading"
            ),
            choose,
            html.P(HOW, className="fine-print"),
            html.Div(id=ids.PROOF, **aria(live="polite")),
            group_proof.layout(),
        ],
        id=ids.PROOF_PANEL,
        className="panel proof-panel",
        **aria(labelledby="proof-heading"),
    )


def choosing() -> html.Button:
    """Return the switch that makes clicks and rectangles choose maps; every level has one, and all show the same."""
    return html.Button("Choose maps", className="plain-button", **data(choosing=""), **aria(pressed="false"))


def choice_bar() -> html.Div:
    """Return the bar at the foot of the page that holds the choice; assets/chooser.js fills it."""
    return html.Div(
        [
            html.B("Chosen to put back:"),
            html.Span(id=ids.CHOICE_TERMS, className="chips", **aria(live="polite")),
            html.Button("Prove them", id=ids.CHOICE_PROVE, className="plain-button", disabled=True),
            html.Button("Clear", id=ids.CHOICE_CLEAR, className="plain-button", disabled=True),
        ],
        id=ids.CHOICE,
        className="choice",
        hidden=True,
    )


def register(app: Dash, auditor: Any) -> None:
    """Connect the panel."""

    @app.callback(Output(ids.PROOF_FACTS, "data"), Input(ids.PROOF_ASK, "data"), prevent_initial_call=True)
    def show_proof(stored: Ask) -> dict[str, Any]:
        return facts(auditor, stored)

    app.clientside_callback(
        ClientsideFunction("proof", "draw"), Input(ids.PROOF_FACTS, "data"), prevent_initial_call=True
    )
    group_proof.register(app, auditor)


def facts(auditor: Any, stored: Ask) -> dict[str, Any]:
    """Return the proof as plain values, or why there is none; `again` while it is being made."""
    ask = stored or {}
    told = {"for": [ask.get("key"), ask.get("prove")], "again": False}
    if not ask.get("prove"):
        return {**told, "proof": []}
    try:
        return {**told, **_proved(auditor, asks.key(ask), ViewState.from_dict(ask))}
    except EngineError as error:
        return {**told, "proof": plain.pieces(html.P(str(error), className="nothing"))}


def _proved(auditor: Any, key: str, view: ViewState) -> dict[str, Any]:
    examination = auditor.examined(key)
    wanted = choice.asked(str(view.prove), examination, compare(examination, view.share))
    answer = auditor.proof(key, wanted.chosen, wanted.direction)
    if answer.value is None:
        text = wording.awaited(answer, doing="Putting maps back", failed="This could not be proven")
        return {"proof": plain.pieces(html.P(text, className="nothing")), "again": answer.state == "working"}
    return {"proof": plain.pieces(_panel(proof.build(answer.value, wanted.title, examination)))}


def _panel(panel: proof.Panel) -> list[Component]:
    heads = ("Put in", panel.margin_head, "Answers as aimed", "0 to 100 %", "")
    head = tables.head(heads)
    return [
        html.H3(f"Put in: {panel.title}"),
        html.P(panel.verdict, className="verdict"),
        html.Table(
            [head, html.Tbody([_row(line, k == 0) for k, line in enumerate(panel.lines)])], className="proof-table"
        ),
        *(html.P(f"Not run: {text}", className="note open") for text in panel.missing),
        html.P(panel.claim, className="claim"),
        _members(panel),
    ]


def _members(panel: proof.Panel) -> Component:
    heads = ("Clean", "Adversarial", f"{panel.receiving.capitalize()}, with these maps put in", panel.margin_head)
    rows = [_member(one) for one in panel.members]
    table = html.Table([tables.head(("Image", *heads)), html.Tbody(rows)], className="proof-table members-table")
    if len(rows) == 1:
        return table
    reached = sum(one.is_reached for one in panel.members)
    return html.Details([html.Summary(f"Image by image: {reached} of {len(rows)} answer as aimed"), table])


def _member(one: proof.Member) -> Component:
    cells = ((one.clean, one.clean_text), (one.adversarial, one.adversarial_text))
    pictures = [html.Td(html.Div([html.Img(src=source, alt=""), text], className="pictured")) for source, text in cells]
    mark, said = ("✓", "as aimed") if one.is_reached else ("✗", "not as aimed")
    now = html.Td([html.B(mark, title=said), html.Span(f"{said}: ", className="sr-only"), f" {one.proven_text}"])
    return html.Tr([html.Th(one.sample, scope="row"), *pictures, now, html.Td(one.recovery)])


def _row(line: proof.Line, is_chosen: bool) -> Component:
    bar = tables.interval(line.low, line.value, line.high)
    name = html.Span([line.name, html.Span(f". {line.help}", className="sr-only")], title=line.help)
    cells = [html.Td(line.recovery), html.Td(line.flipped), html.Td(bar), html.Td(line.note)]
    return html.Tr([html.Th(name, scope="row"), *cells], className="worst" if is_chosen else "")
