"""Which requests reach Dash: it answers some malformed ones with 500, and unknown addresses with the page."""

from __future__ import annotations

import functools

import dash
from dash.exceptions import DependencyException
from flask import Response, abort, jsonify, make_response, request

CALLBACKS = "/_dash-update-component"
CATCH_ALL = "/<path:path>"
"""Dash's name for the rule that answers any address with the page."""


def register(app: dash.Dash) -> None:
    """Let an application answer 404 and 400 where Dash alone would stumble."""
    app.server.before_request(functools.partial(_check_request, app))
    app.server.register_error_handler(DependencyException, _not_found)


def _check_request(app: dash.Dash) -> Response | None:
    """Answer 404 to addresses that nobody serves, and 4xx to callback requests that Dash would stumble over."""
    if request.endpoint == CATCH_ALL:
        abort(404)
    if request.path != CALLBACKS or request.method != "POST":
        return None
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not isinstance(body.get("output"), str):
        return make_response(jsonify(error="This is not a callback request."), 400)
    callback = app.callback_map.get(body["output"])
    if callback is None:
        return make_response(jsonify(error="There is no such callback."), 404)
    if not all(_fits(body.get(part, []), callback[kind]) for part, kind in (("inputs", "inputs"), ("state", "state"))):
        return make_response(jsonify(error="The callback takes other values."), 400)
    return None


def _fits(values: object, declared: list[dict[str, str]]) -> bool:
    """Return whether the values of a request name just what a callback declares, in its order."""
    if not isinstance(values, list) or len(values) != len(declared):
        return False
    return all(
        isinstance(value, dict) and value.get("id") == known["id"] and value.get("property") == known["property"]
        for value, known in zip(values, declared, strict=True)
    )


def _not_found(_: Exception) -> Response:
    return make_response("There is nothing here.\n", 404, {"Content-Type": "text/plain; charset=utf-8"})
