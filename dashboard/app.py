"""The Dash application: page, callbacks, routes, and the guard around them all."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import logging
from pathlib import Path

import dash
from flask import Flask, Response, make_response

from dashboard import guard, guide, links, media, page, pictures, theme, transfers, wording
from dashboard.auditor import Auditor, remembering
from dashboard.auth import Login
from dashboard.settings import Settings
from engine import EngineError

_LOG = logging.getLogger(__name__)
ASSETS = Path(__file__).resolve().parent.parent / "assets"
INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>{%title%}</title>
        <link rel="icon" type="image/svg+xml" href="/assets/favicon.svg">
        <script src="/assets/theme-init.js"></script>
        <script src="/assets/dom.js"></script>
        <script src="/assets/panel.js"></script>
        <script defer src="/assets/vendor/plotly-basic.min.js"></script>
        <meta name="view-fields" content="@FIELDS">
        <meta name="view-aliases" content='@ALIASES'>
        <meta name="terms" content="@TERMS">
        <meta name="tour" content="@TOUR">
        <style>@COLOURS</style>
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>"""


def create_app(auditor: Auditor, settings: Settings) -> dash.Dash:
    """Return the application for an auditor, ready to be served, guarded; raises StoreError."""
    app, auditor = shell(), remembering(auditor)
    # A function, so that a reload shows models and data that were added since the start.
    app.layout = functools.partial(page.layout, auditor)
    page.register(app, auditor)
    media.register(app.server, auditor)
    guide.register(app.server)
    transfers.register(app.server, auditor)
    transfers.register_images(app.server, auditor)
    register_probes(app.server, auditor)
    return secured(app, settings)


def shell() -> dash.Dash:
    """Return an application without content."""
    app = dash.Dash(
        __name__,
        # Flask would serve a folder called `static` unasked.
        server=Flask(__name__, static_folder=None),  # type: ignore[arg-type]
        assets_folder=str(ASSETS),
        # The index loads these: the theme before anything is painted, dom.js and panel.js before what stands on them, and
        # plotly.js while the layout is fetched. Where plots are mounted before it has come, Dash loads the whole of
        # plotly.js instead: 3.6 times as long, the same picture.
        assets_ignore=r"theme-init\.js|dom\.js|panel\.js|plotly-basic\.min\.js",
        title="Faultline",
        update_title="",
        index_string=index(),
        serve_locally=True,
        compress=True,
        enable_mcp=False,
        add_log_handler=False,
    )
    # Errors travel to the guard, which logs them under a number and says no more than that number.
    app.server.config["PROPAGATE_EXCEPTIONS"] = True
    return app


def index() -> str:
    """Return the frame of the page, with the colours of both themes and the names of the fields of a view in it."""
    names = ",".join(field.name for field in dataclasses.fields(links.ViewState))
    return (
        INDEX.replace("@FIELDS", names)
        .replace("@ALIASES", json.dumps(links.ALIASES))
        .replace("@TERMS", html.escape(json.dumps(wording.TERMS, ensure_ascii=False)))
        .replace("@TOUR", html.escape(json.dumps(guide.tour(), ensure_ascii=False)))
        .replace("@COLOURS", f"{theme.style()}\n{pictures.scales()}")
    )


def secured(app: dash.Dash, settings: Settings) -> dash.Dash:
    """Finish an application: close what Dash leaves open, warm it up, put the guard around it. Raises StoreError."""
    guard.register(app)
    # A worker that has not drawn the page yet answers 500 to requests for its scripts (plotly/dash #3971).
    if app.server.test_client().get("/").status_code != 200:
        raise RuntimeError("The page could not be drawn.")
    app.server.wsgi_app = guard.Guard(
        app.server.wsgi_app, Login.open(settings.store), settings, script_hashes=app.csp_hashes()
    )
    return app


def register_probes(server: Flask, auditor: Auditor) -> None:
    """Add the two addresses a supervisor asks: is the process alive, and can it read its store (needs a login)."""

    def ready() -> Response:
        try:
            auditor.models()
        except EngineError:
            _LOG.exception("The store cannot be read")
            return make_response("not ready\n", 503, {"Content-Type": "text/plain; charset=utf-8"})
        return make_response("ready\n", {"Content-Type": "text/plain; charset=utf-8"})

    def health() -> Response:
        return make_response("ok\n", {"Content-Type": "text/plain; charset=utf-8"})

    server.add_url_rule(guard.OPEN_PATH, "health", health)
    server.add_url_rule("/ready", "ready", ready)
