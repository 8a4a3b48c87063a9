"""A small guarded application for the security tests, also started by gunicorn: `tests.guarded:serve()`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import dash
from dash import Input, Output, dcc, html
from flask import Flask, Response, request

import engine
from dashboard import app, media
from dashboard.settings import Settings
from tests.fakes import FakeAuditor

SECRET_TEXT = "a path like /etc/shadow"


def build(store: Path) -> dash.Dash:
    """Return an application with an echo, a callback that fails, and a route that counts what it is sent."""
    made = app.shell()
    made.layout = html.Main(
        [html.H1("Guarded"), dcc.Input(id="text", value="hello"), html.P(id="echo"), html.P(id="fails")]
    )

    @made.callback(Output("echo", "children"), Input("text", "value"))
    def echo(text: str) -> str:
        return f"{text}, {os.getpid()}"

    @made.callback(Output("fails", "children"), Input("text", "value"), prevent_initial_call=True)
    def fail(_: str) -> str:
        raise RuntimeError(SECRET_TEXT)

    media.register(made.server, FakeAuditor())
    app.register_probes(made.server, FakeAuditor())
    made.server.add_url_rule("/count", "count", _count, methods=["POST"])
    return app.secured(made, Settings(store, allowed_hosts=("audit.example.org", "other.example.org:8443")))


def serve() -> Flask:
    """Return the application on the store that the environment names."""
    return build(Path(os.environ["FAULTLINE_STORE"])).server


def _count() -> Response:
    return Response(str(len(request.get_data())), content_type="text/plain")


class OpenedAuditor(FakeAuditor):
    """A fake that is opened on a folder like the real one, and leaves a mark there when it is closed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(
        cls, root: Path, *, scheduler: str | None = None, import_folder: Path | None = None, takes_uploads: bool = True
    ) -> OpenedAuditor:
        """Return a fake on a folder; raises StoreError for a file, and BadInput for plain tcp like the real one."""
        del import_folder, takes_uploads
        if root.is_file():
            raise engine.StoreError(f"'{root}' is a file, not a store.")
        if scheduler is not None and not scheduler.startswith("tls://"):
            raise engine.BadInput(f"A scheduler is reached by tls://, got '{scheduler}'.")
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    def models(self) -> tuple[engine.ModelCard, ...]:
        """Return nothing until the demo was asked for, like an empty store."""
        return super().models() if (self._root / "demo").exists() else ()

    def install_demo(self) -> None:
        """Mark the folder."""
        (self._root / "demo").touch()

    def begin_demo_audit(self) -> None:
        """Mark the folder."""
        (self._root / "demo-audit").touch()

    def close(self) -> None:
        """Mark the folder."""
        (self._root / f"closed-{os.getpid()}").touch()


def serve_wsgi() -> Flask:
    """Return what `dashboard.wsgi` builds from the environment, over the fake."""
    engine.Auditor = OpenedAuditor
    return importlib.import_module("dashboard.wsgi").server


def main() -> int:
    """Run the command line over the fake."""
    engine.Auditor = OpenedAuditor
    return importlib.import_module("dashboard.__main__").main()


if __name__ == "__main__":
    sys.exit(main())
