"""The part of a run's page that names damaged files of its result and has them rebuilt; hidden where nothing is damaged."""

from __future__ import annotations

from typing import Final, cast

from dash import html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.wording import awaited
from engine import Act, Answer, EngineError, Rebuilt

ACTS: Final = ("look", "begin", "stop")
TERMS: Final = {"begin": "rebuild-begin", "stop": "rebuild-stop"}
WHOLE: Final[protocol.Facts] = {"state": "whole", "body": []}


def layout() -> html.Section:
    """Return the skeleton; assets/rebuild.js shows it where something is damaged."""
    body = html.Div(id=ids.REBUILD, **aria(live="polite"))
    return html.Section(body, id=ids.REBUILD_PART, hidden=True, **aria(label="Damaged files of the run"))


def answer(auditor: Auditor, stored: protocol.Ask) -> protocol.Facts:
    """Return which files of a run's result are damaged and how far their rebuilding is; begins and stops it."""
    run, act = str(stored.get("run") or ""), stored.get("act")
    try:
        damaged = auditor.audits.damaged(run)
        if not damaged:
            return WHOLE
        known = auditor.audits.rebuilt(run, cast(Act, act if act in ACTS else "look"))
        if act == "begin" and not auditor.audits.damaged(run):
            return WHOLE
    except EngineError as error:
        return {"state": "nothing", "body": markup.pieces(html.P(str(error), className="warning", role="alert"))}
    state = known.state if known else "idle"
    return {"state": state, "body": markup.pieces(_body(damaged, known))}


def _body(damaged: tuple[str, ...], known: Answer[Rebuilt] | None) -> list[Component]:
    named = ", ".join(damaged)
    is_are = "is" if len(damaged) == 1 else "are"
    told = (
        f"Damaged: {named} {is_are} missing or not what was sealed, so what stands on {'it' if len(damaged) == 1 else 'them'} is "
        "not shown. The run's shards hold everything that the result is added up from; what they give takes their place only "
        "where it is what was sealed, to the last bit."
    )
    warning = html.P(told, className="warning", role="alert")
    if known is None or known.state == "ready":
        return [warning, _button("begin", "Rebuild from the shards")]
    progress = html.P(awaited(known, doing="Rebuilding", failed="It could not be rebuilt"), role="status")
    button = _button("stop", "Cancel") if known.state == "working" else _button("begin", "Try again")
    return [warning, progress, button]


def _button(act: str, text: str) -> html.Button:
    return html.Button(text, className="plain-button", **data(rebuild=act), **term(TERMS[act]))


PANELS: Final = (protocol.plain("rebuild", answer),)
