"""The entry for gunicorn, set up by the environment (see `dashboard.settings.from_environment`):

`FAULTLINE_STORE=/data gunicorn -b 127.0.0.1:8050 -k gthread -w 2 --threads 8 dashboard.wsgi:server`

Bind what FAULTLINE_HOST and FAULTLINE_PORT say, and do not use --preload: the auditor must be opened in each worker.
"""

from __future__ import annotations

import atexit
import os
import sys

from flask import Flask
from gunicorn.errors import AppImportError

from dashboard import app, auth, settings
from dashboard import server as serving
from dashboard.auth import Login
from engine import EngineError


def start() -> Flask:
    """Return the guarded application; the first worker prints the one-time link."""
    try:
        chosen = settings.from_environment(os.environ)
        auditor = serving.open_auditor(chosen)
        atexit.register(auditor.close)
        server = app.create_app(auditor, chosen).server
        if auth.is_first(Login.open(chosen.store)):
            serving.announce(chosen)
    except EngineError as error:
        # The one error that makes gunicorn print a line and end, instead of our trace or a new worker for ever.
        sys.stderr.write(f"faultline: {error}\n")
        raise AppImportError("Faultline cannot start.") from error
    return server


serving.give_back_memory()
server = start()
