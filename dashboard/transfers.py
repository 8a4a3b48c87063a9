"""Files in and out: tables of a run as CSV, and what the page sends into the import folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from flask import Flask, Response, jsonify, request

from dashboard import guard, markup
from dashboard.auditor import Auditor
from dashboard.panels.audits.model import INTERVAL
from dashboard.panels.confusion import model as confusions
from dashboard.panels.images import model as images
from dashboard.panels.inside import model as insides
from dashboard.panels.versus import model as versus
from engine import STATUSES, EngineError, RunView, UnknownName

UNUSUAL: Final = re.compile(r"[^A-Za-z0-9._-]+")

Table = tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]
"""Heads and rows."""


def table(name: str, view: RunView) -> Table:
    """Return a whole table of a run, for a file; raises UnknownName."""
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    return TABLES[name](view)


def _chosen(auditor: Auditor, view: RunView, name: str) -> Table:
    """Return a table of what the query of the address chooses of a run; raises UnknownName, BadInput, StoreError."""
    runs, run = auditor.audits, view.card.run
    if name in insides.TABLES:
        return insides.TABLES[name](view, runs.inside(run, insides.scope(request.args)))
    if name in confusions.TABLES:
        return confusions.TABLES[name](view, runs.confusion(run, insides.scope(request.args)))
    if name in versus.TABLES:
        return versus.TABLES[name](view, runs.versus(run, insides.scope(request.args)))
    if name == versus.MATCHES:
        matched = runs.matching(run, "look")
        if matched is None or matched.value is None:
            raise UnknownName("table", name, TABLES)
        return versus.matches_table(matched.value)
    return table(name, view)


def _thresholds_table(view: RunView) -> Table:
    heads = ("threshold", "condition", "class", "metric", "at_least", "outcome", "n", "value", "low", "high",
             "interval", "confidence", "reason")  # fmt: skip
    rows = tuple(
        (
            one.threshold.name, one.threshold.condition, one.threshold.label, one.threshold.metric, one.threshold.at_least,
            one.outcome, one.n, one.value, one.low, one.high, "Clopper-Pearson", one.threshold.confidence, one.reason,
        )
        for one in view.summary.thresholds
    )  # fmt: skip
    return heads, rows


def _conditions_table(view: RunView) -> Table:
    heads = ("role", "model", "condition", "kind", "n", "accuracy", "low", "high", "interval", *STATUSES)
    rows = tuple(
        (
            model.role, model.model, one.name, one.kind, one.accuracy.n, one.accuracy.value, one.accuracy.low,
            one.accuracy.high, INTERVAL, *(one.statuses.get(status, 0) for status in STATUSES),
        )
        for model in view.summary.models
        for one in (*model.conditions, *((model.worst_case,) if model.worst_case else ()))
    )  # fmt: skip
    return heads, rows


def _classes_table(view: RunView) -> Table:
    heads = ("role", "model", "condition", "class", "n", "accuracy", "low", "high", "interval", "has_few")
    rows = tuple(
        (
            model.role, model.model, one.name, own.name, own.accuracy.n, own.accuracy.value, own.accuracy.low,
            own.accuracy.high, INTERVAL, own.has_few,
        )
        for model in view.summary.models
        for one in (*model.conditions, *((model.worst_case,) if model.worst_case else ()))
        for own in one.classes
    )  # fmt: skip
    return heads, rows


def _curve_table(view: RunView) -> Table:
    heads = ("role", "model", "attack", "epsilon", "n", "accuracy", "low", "high", "interval")
    rows = tuple(
        (
            model.role, model.model, point.attack, point.epsilon, point.accuracy.n, point.accuracy.value, point.accuracy.low,
            point.accuracy.high, INTERVAL,
        )
        for model in view.summary.models
        for point in model.curve
    )  # fmt: skip
    return heads, rows


def _pairings_table(view: RunView) -> Table:
    heads = (
        "condition",
        "n",
        "difference",
        "low",
        "high",
        "interval",
        "only_candidate",
        "only_baseline",
        "p_value",
        "p_holm",
    )
    rows = tuple(
        (
            one.name, one.n, one.difference, one.low, one.high, "Newcombe, 95 %", one.only_candidate, one.only_baseline,
            one.p_value, one.p_holm,
        )
        for one in view.summary.pairings
    )  # fmt: skip
    return heads, rows


TABLES: Final[dict[str, Callable[[RunView], Table]]] = {
    "thresholds": _thresholds_table,
    "conditions": _conditions_table,
    "classes": _classes_table,
    "curve": _curve_table,
    "comparison": _pairings_table,
}
"""By the name of the file; every number in full, every row of it."""


def register(server: Flask, auditor: Auditor) -> None:
    """Add the addresses of files to the server."""

    @server.get("/audits/<run>/<name>.csv")
    def run_table(run: str, name: str) -> Response:
        try:
            view = auditor.audits.view(run)
            text = markup.csv_text(*_chosen(auditor, view, name))
        except EngineError:
            return Response("Not found.\n", status=404, mimetype="text/plain")
        return Response(text, mimetype="text/csv", headers=_attached(view.card.name, run, f"{name}.csv"))

    @server.post(guard.UPLOAD_PATH)
    def received() -> Response:
        size = request.content_length
        if size is None:
            return _refused("The length of the file is not clear.", 411)
        try:
            entry = auditor.model_registry.receive(request.args.get("name", ""), request.stream, size)
        except EngineError as error:
            return _refused(str(error), 422)
        return jsonify(key=entry.key, name=entry.name, kind=entry.kind, bytes=entry.bytes)


def register_images(server: Flask, auditor: Auditor) -> None:
    """Add the addresses of a run's images: blocks of rows for the table, and the whole of what it lists as files."""

    @server.get("/audits/<run>/images.json")
    def image_rows(run: str) -> Response:
        try:
            first, last = images.block(request.args)
            listing = auditor.audits.images(run, images.selection(request.args))
        except EngineError as error:
            return _refused(str(error), 400)
        return jsonify(rows=images.rows(listing, run, first, last), count=listing.count)

    @server.get("/audits/<run>/images.<ending>")
    def image_file(run: str, ending: str) -> Response:
        try:
            mimetype, made = images.FILES[_known(ending)]
            listing = auditor.audits.images(run, images.selection(request.args))
        except EngineError as error:
            return Response(f"{error}\n", status=404, mimetype="text/plain")
        name = f"{'interim-' if listing.is_interim else ''}images.{ending}"
        # Sent as it is made: 300,000 rows are never held as text.
        return Response(made(listing), mimetype=mimetype, headers=_attached(listing.manifest.plan.name, run, name))


def _known(ending: str) -> str:
    if ending not in images.FILES:
        raise UnknownName("kind of file", ending, images.FILES)
    return ending


def _attached(run_name: str, run: str, name: str) -> dict[str, str]:
    plain = UNUSUAL.sub("-", run_name)[:60].strip("-") or "audit"
    named = f"faultline-{plain}-{run[:12]}-{name}"
    return {"Content-Disposition": f'attachment; filename="{named}"', "Cache-Control": "no-store"}


def _refused(text: str, status: int) -> Response:
    response = jsonify(error=text)
    response.status_code = status
    return response
