"""The form that starts an audit: filled in the browser, checked as a plan's file is, costed, then started."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from dashboard import ids
from dashboard.viewmodels import audit_form
from engine import Answer, EngineError, Forecast, WrongPlan, forecast_text

Ask = Mapping[str, Any] | None
STORES = (
    ids.AUDIT_FORM_ASK, ids.AUDIT_FORM_FACTS, ids.AUDIT_DRAFT, ids.AUDIT_DRAFTED, ids.AUDIT_START, ids.AUDIT_STARTED,
)  # fmt: skip


def layout() -> html.Details:
    """Return the folded form; assets/audit-form.js draws its fields when it is first opened."""
    stores = [dcc.Store(id=one) for one in STORES]
    return html.Details([html.Summary("Start an audit"), *stores, html.Form(id=ids.AUDIT_FORM)], className="twin")


def register(app: Dash, auditor: Any) -> None:
    """Connect the form: what it offers, what a plan costs, and its start."""

    @app.callback(Output(ids.AUDIT_FORM_FACTS, "data"), Input(ids.AUDIT_FORM_ASK, "data"), prevent_initial_call=True)
    def offer_form(_stored: Ask) -> dict[str, Any]:
        return offered(auditor)

    @app.callback(Output(ids.AUDIT_DRAFTED, "data"), Input(ids.AUDIT_DRAFT, "data"), prevent_initial_call=True)
    def cost_plan(stored: Ask) -> dict[str, Any]:
        return costed(auditor, stored)

    @app.callback(Output(ids.AUDIT_STARTED, "data"), Input(ids.AUDIT_START, "data"), prevent_initial_call=True)
    def start_plan(stored: Ask) -> dict[str, Any]:
        return started(auditor, stored)

    for name, store in (
        ("draw", ids.AUDIT_FORM_FACTS),
        ("costed", ids.AUDIT_DRAFTED),
        ("started", ids.AUDIT_STARTED),
    ):
        app.clientside_callback(ClientsideFunction("auditForm", name), Input(store, "data"), prevent_initial_call=True)


def offered(auditor: Any) -> dict[str, Any]:
    """Return the form as plain values."""
    methods = auditor.methods()
    return dataclasses.asdict(audit_form.build(auditor.models(), auditor.datasets(), auditor.attacks(), methods))


def costed(auditor: Any, stored: Ask) -> dict[str, Any]:
    """Return what the plan that was filled in will cost, or at which field it is wrong."""
    plan = _plan(stored)
    return _checked(lambda: _told(auditor.audits.forecast(plan), plan.get("tier", audit_form.CUSTOM)))


def started(auditor: Any, stored: Ask) -> dict[str, Any]:
    """Start the plan that was filled in, and return the run, or at which field the plan is wrong."""
    return _checked(lambda: {"state": "started", "run": auditor.audits.start(_plan(stored)), "text": ""})


def _plan(stored: Ask) -> dict[str, Any]:
    return audit_form.plan((stored or {}).get("values"))


def _told(answer: Answer[Forecast], tier: str) -> dict[str, Any]:
    if answer.value is None:
        return {"state": answer.state, "text": answer.message or "Measuring how fast this machine is."}
    return {"state": "ready", "text": forecast_text(tier, answer.value)}


def _checked(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except WrongPlan as error:
        return {"state": "wrong", "field": audit_form.field_of(error.place), "text": error.problem}
    except EngineError as error:
        return {"state": "wrong", "field": "", "text": str(error)}
