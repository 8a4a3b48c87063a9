"""Links on other sites, and the printed one, in a real browser (S2): they lead in, and the login is not readable."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest

from tests.servers import werkzeug

pytestmark = pytest.mark.browser


class _OtherSite(http.server.BaseHTTPRequestHandler):
    """A page under another host name with one link; its address says where the link leads."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<link rel="icon" href="data:,"><a href="{self.path[1:]}">link</a>'.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_links_on_another_site_lead_in_and_stay_logged_in(chromium, tmp_path: Path) -> None:
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _OtherSite)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    complaints: list[str] = []
    context = chromium.new_context()
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    with werkzeug(tmp_path / "store", tmp_path / "log") as server:
        token = server.login.new_token()
        for query in (f"layer=a&token={token}", "layer=b", f"layer=c&token={token}"):
            tab.goto(f"http://localhost:{other.server_port}/http://{server.host}/?{query}")
            tab.click("a")
            tab.wait_for_selector("#echo:not(:empty)", timeout=15_000)
            assert tab.url == f"http://{server.host}/?{query.partition('&')[0]}"
        tab.reload()
        tab.wait_for_selector("#echo:not(:empty)", timeout=15_000)
        assert tab.evaluate("document.cookie") == ""
    context.close()
    other.shutdown()
    assert complaints == []
