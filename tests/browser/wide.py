"""A dashboard over made-up records whose last stage is as wide as asked for: `python -m tests.browser.wide PORT`.

FAKE_CHANNELS and FAKE_SIDE give the maps of the last stage and their side. No engine work and no login.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
from werkzeug.serving import make_server

from dashboard import app as application
from dashboard import media, page
from engine import Answer, Explanation, ExplanationRequest
from tests import fakes


@functools.cache
def _explained(key: str) -> Explanation:
    explanation = fakes.FakeAuditor().explained(key)
    # A store holds maps from the start: making them up must not count as part of the click that shows them.
    for site in range(len(explanation.sites)):
        _maps(key, site)
    return explanation


@functools.cache
def _maps(key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
    return fakes.FakeAuditor().maps(key, site)


class Remembering(fakes.FakeAuditor):
    """Makes every record once, as a store holds it."""

    def explained(self, key: str) -> Explanation:
        """Return an explanation."""
        return _explained(key)

    def explanation(self, request: ExplanationRequest) -> Answer[Explanation]:
        """Return the explanation of a request."""
        return Answer("ready", _explained("fake" + "-".join(request.samples)))

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps of a site."""
        return _maps(key, site)


def main(port: int) -> None:
    """Serve until killed."""
    auditor = Remembering()
    app = application.shell()
    app.layout = functools.partial(page.layout, auditor)
    page.register(app, auditor)
    media.register(app.server, auditor)
    # Dash answers 500 for its scripts until the page has been drawn once.
    app.server.test_client().get("/")
    server = make_server("127.0.0.1", port, app.server, threaded=True)
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
