"""A dashboard over made-up records whose last stage is as wide as asked for: `python -m tests.browser.wide PORT`.

FAKE_CHANNELS and FAKE_SIDE give the maps of the last stage and their side. No engine work and no login.
"""

from __future__ import annotations

import functools
import sys

from werkzeug.serving import make_server

from dashboard import app as application
from dashboard import routes
from dashboard.views import page
from tests import fakes


def main(port: int) -> None:
    """Serve until killed."""
    auditor = fakes.FakeAuditor()
    app = application.shell()
    app.layout = functools.partial(page.layout, auditor)
    page.register(app, auditor)
    routes.register(app.server, auditor)
    # Dash answers 500 for its scripts until the page has been drawn once.
    app.server.test_client().get("/")
    server = make_server("127.0.0.1", port, app.server, threaded=True)
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
