"""Watching the work: from the view to rosters, examination, certificates and gallery, asked again while it goes on."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboard import ids, resolution, state
from dashboard.resolution import Resolved
from dashboard.state import ViewState
from dashboard.viewmodels import menus, work
from dashboard.viewmodels.work import Work
from engine import Answer, Certificates, EngineError, Examination, ExaminationRequest, compare, flatten

if TYPE_CHECKING:
    from engine import Auditor

POLL_MILLISECONDS = 600
"""Between looks at the clock in the browser; the server is asked only while work goes on and no answer is awaited."""
logger = logging.getLogger(__name__)


def stores() -> html.Div:
    """Return the stores of the page and the clock that drives asking again."""
    names = (ids.VIEW, ids.PICK, ids.WORK, ids.TICK, ids.ARRIVAL, ids.NETWORK_ASK, ids.LAYER_ASK, ids.NEURON_ASK)
    return html.Div([*(dcc.Store(id=name) for name in names), dcc.Interval(id=ids.CLOCK, interval=POLL_MILLISECONDS)])


def register(app: Dash, auditor: Auditor) -> None:
    """Connect the view to the work; what follows from it is the header's (menus, status) and the browser's (asks)."""

    @app.callback(Output(ids.WORK, "data"), Input(ids.VIEW, "data"), Input(ids.TICK, "data"), prevent_initial_call=True)
    def watch(stored: dict[str, Any] | None, tick: dict[str, Any] | None) -> dict[str, Any]:
        answer = asdict(look(stored, auditor))
        return {**answer, "asked": stored, "tick": (tick or {}).get("count", 0)}

    app.clientside_callback(
        ClientsideFunction("view", "tick"),
        Output(ids.TICK, "data"),
        Input(ids.CLOCK, "n_intervals"),
        Input(ids.RETRY, "n_clicks"),
        State(ids.WORK, "data"),
        State(ids.TICK, "data"),
        prevent_initial_call=True,
    )


def look(stored: object, auditor: Auditor) -> Work:
    """Return how far the work for a stored view is, asking for what is missing. An engine's error becomes its text."""
    view = ViewState.from_dict(stored)
    try:
        resolved = resolution.resolve(view, auditor)
        found = _look(resolved, auditor)
    except EngineError as error:
        logger.warning("A view could not be answered: %s", error)
        return _failed(view, str(error))
    return replace(
        found,
        notices=(*state.complaints(stored), *resolved.notices),
        menus=menus.build(replace(resolved, view=ViewState.from_dict(found.view))),
        scales=menus.scales(resolved.attacks),
    )


def _look(resolved: Resolved, auditor: Auditor) -> Work:
    view, roster = asdict(resolved.view), resolved.roster
    if roster is None:
        stage, progress, empty = work.setup()
        return Work(view, stage, progress, empty=empty)
    if roster.state == "failed":
        return _failed(resolved.view, roster.message)
    if roster.value is None or roster.state != "ready":
        return Work(view, "roster", work.roster_progress(resolved, roster))
    counts = menus.counts(roster.value)
    if resolved.request is None:
        return Work(view, "empty", work.Progress("Nothing to show."), counts=counts, empty=work.empty_state(resolved))
    found = replace(_examined(resolved, resolved.request, auditor), counts=counts)
    return _beside(found, resolved.rival, auditor) if found.key and resolved.rival else found


def _beside(found: Work, rival: ExaminationRequest, auditor: Auditor) -> Work:
    """Add the attack that is drawn beside, or how far its examination is."""
    answer = auditor.examination(rival)
    if answer.value is None:
        return replace(found, progress=work.rival_progress(answer))
    return replace(found, rival=flatten(rival).value)


def _failed(view: ViewState, message: str) -> Work:
    return Work(asdict(view), "failed", work.failure(message), empty=work.failed_state(message))


def _examined(resolved: Resolved, request: ExaminationRequest, auditor: Auditor) -> Work:
    answer = auditor.examination(request)
    if answer.state == "failed":
        return _failed(resolved.view, answer.message)
    if answer.value is None:
        return Work(asdict(resolved.view), "examination", work.examination_progress(resolved, answer))
    return _checked(_focused(resolved.view, answer.value), answer.value, auditor)


def _checked(view: ViewState, examination: Examination, auditor: Auditor) -> Work:
    request = examination.request
    certificates = auditor.certificates(request)
    gallery = auditor.gallery(request.model, request.data)
    known = certificates.value or Certificates()
    return Work(
        asdict(view),
        _stage(certificates, gallery),
        work.checks_progress(certificates, gallery),
        key=examination.key,
        request=flatten(request).value,
        arrived=(*known.done, *known.failed),
        gallery=gallery.state,
    )


def _stage(certificates: Answer[Any], gallery: Answer[Any]) -> str:
    if certificates.state == "working":
        return "certificates"
    return "gallery" if gallery.state == "working" else "done"


def _focused(view: ViewState, examination: Examination) -> ViewState:
    """Choose the layer and map to look at first, where the view names none."""
    layer = view.layer
    if layer is None:
        layer = work.default_layer(examination, compare(examination, view.share).parts_at)
    channel = work.default_channel(examination, layer) if view.channel is None else view.channel
    return replace(view, layer=layer, channel=channel)
