"""The part of a run's page that tests its weak maps on images that did not rank them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from dash import html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.panels.held_out import model as tests
from dashboard.panels.inside import model as insides
from dashboard.panels.patching import model as patching
from dashboard.wording import awaited
from engine import Act, Answer, EngineError, Halves, HeldOutTest, RunView, Scope

ACTS: Final = ("look", "begin", "stop")
TERMS: Final = {"begin": "held-out-begin", "stop": "held-out-stop"}
Found = tuple[int, Answer[HeldOutTest] | None]
"""How many maps, and what is known of their test."""


def layout() -> html.Section:
    """Return the skeleton; assets/held-out.js fills it while a run is shown."""
    heading = [html.H3("Causal test of the weak channels", id="held-out-heading"), markup.save("held-out")]
    return html.Section(
        [
            html.Div(heading, className="panel-heading"),
            html.P(id=ids.HELD_OUT_LEAD, role="status"),
            html.Div(id=ids.HELD_OUT, **aria(live="polite")),
        ],
        id=ids.HELD_OUT_PART,
        className="inside",
        hidden=True,
        **aria(labelledby="held-out-heading"),
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> protocol.Facts:
    """Return every test of the scope, finished or not; begins and stops the one that is named by its number of maps."""
    run, act, count = str(stored.get("run") or ""), stored.get("act"), stored.get("count")
    try:
        scope = insides.scope(stored)
        condition, halves = auditor.audits.halves(run, scope)
        view = auditor.audits.view(run)
        found = [(size, _known(auditor, (run, scope), size, act if size == count else "look")) for size in tests.SIZES]
    except EngineError as error:
        return {"state": "nothing", "lead": str(error), "line": "", "body": []}
    lead = tests.lead(view, scope, condition, halves)
    return {
        "state": "working" if any(known and known.state == "working" for _, known in found) else "ready",
        "lead": lead,
        "line": f"run {view.card.name} ({view.card.run[:12]}), {lead}",
        "body": markup.pieces(_body((view, scope, condition, halves), found)),
    }


def _known(auditor: Auditor, where: tuple[str, Scope], size: int, act: object) -> Answer[HeldOutTest] | None:
    return auditor.audits.held_out(*where, size, cast(Act, act if act in ACTS else "look"))


def _body(about: tuple[RunView, Scope, str, Halves], found: Sequence[Found]) -> list[Component]:
    heads = ("Channels patched", "Label restored", "0 to 100 %", "Layer-matched random", "Difference, points (paired)",
             "Images", "Verdict", "")  # fmt: skip
    table = html.Table([markup.head(heads), html.Tbody([_row(*one) for one in found])])
    details = [_details(about, size, known.value) for size, known in found if known and known.value is not None]
    return [html.Div(table, **term("held-out")), html.P(tests.HOW, className="note"), *details]


def _row(size: int, known: Answer[HeldOutTest] | None) -> Component:
    name = html.Th(str(size), scope="row")
    if known is None:
        return html.Tr(
            [name, html.Td("not tested yet", colSpan=6, className="muted"), html.Td(_button("begin", size, "Test"))]
        )
    if known.value is None:
        told = awaited(known, doing="Testing channels on held-out images", failed="The test failed")
        going = known.state == "working"
        button = _button("stop", size, "Cancel") if going else _button("begin", size, "Try again")
        return html.Tr([name, html.Td(told, colSpan=6, className="muted"), html.Td(button)])
    row = tests.row(known.value)
    bar = markup.interval(row.low, row.value, row.high)
    shown = (row.restored, bar, row.matched, row.excess, row.n)
    cells = [*(html.Td(one, className="act") for one in shown), html.Td(row.verdict), html.Td("")]
    return html.Tr([name, *cells], className="worst" if row.is_supported else "")


def _button(act: str, size: int, text: str) -> html.Button:
    label = aria(label=f"{text}: {size} channels")
    return html.Button(
        text, className="plain-button", **data(held_out=act, count=str(size)), **label, **term(TERMS[act])
    )


def _details(about: tuple[RunView, Scope, str, Halves], size: int, found: HeldOutTest) -> Component:
    view, scope, condition, halves = about
    test, query = found.test, tests.link(view, scope, condition, found.test)
    heads = ("Put in", "Margin recovered", "Answers as aimed", "0 to 100 %")
    rows = [
        html.Tr([html.Th(one.name, scope="row"), html.Td(one.margin), html.Td(one.labels),
                 html.Td(markup.interval(one.low, one.value, one.high))])
        for one in tests.controls(test)
    ]  # fmt: skip
    shown: list[str | Component] = [f"Channels: {tests.channels(test)}. "]
    shown += [html.A("Patch them in one image in Explain", href=f"/?{query}")] if query else []
    missing = [html.P(f"Not run: {text}", className="note") for text in test.missing]
    return html.Details(
        [
            html.Summary(f"{size} channels: every control", **term("held-out")),
            html.P(f"{patching.verdict(test)}{tests.lost(found, halves)}", className="verdict"),
            html.Table([markup.head(heads), html.Tbody(rows)]),
            *missing,
            html.P(shown, className="note"),
        ],
        className="twin",
    )


PANELS: Final = (protocol.plain("held-out", answer),)
