"""A small guarded application for the security tests, also started by gunicorn: `tests.guarded:serve()`."""

from __future__ import annotations

import os
from pathlib import Path

import dash
from dash import Input, Output, dcc, html
from flask import Flask, Response, request

from dashboard import app, routes
from dashboard.settings import Settings
from tests.fakes import FakeAuditor

SECRET_TEXT = "a path like /etc/shadow"


def build(store: Path) -> dash.Dash:
    """Return an application with an echo, a callback that fails, and a route that counts what it is sent."""
    made = app.shell()
    made.layout = html.Main([html.H1("Guarded"), dcc.Input(id="text", value="hello"), html.P(id="echo"), html.P(id="fails")])

    @made.callback(Output("echo", "children"), Input("text", "value"))
    def echo(text: str) -> str:
        return f"{text}, {os.getpid()}"

    @made.callback(Output("fails", "children"), Input("text", "value"), prevent_initial_call=True)
    def fail(_: str) -> str:
        raise RuntimeError(SECRET_TEXT)

    routes.register(made.server, FakeAuditor())
    app.register_probes(made.server, FakeAuditor())
    made.server.add_url_rule("/count", "count", _count, methods=["POST"])
    return app.secured(made, Settings(store, allowed_hosts=("audit.example.org", "other.example.org:8443")))


def serve() -> Flask:
    """Return the application on the store that the environment names."""
    return build(Path(os.environ["FAULTLINE_STORE"])).server


def _count() -> Response:
    return Response(str(len(request.get_data())), content_type="text/plain")
