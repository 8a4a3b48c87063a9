"""The two servers the dashboard is run with, for the tests of login and security."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from werkzeug.serving import make_server

from dashboard.auth import Login
from dashboard.server import Handler, listen
from tests import guarded

CHECKOUT = Path(__file__).resolve().parent.parent
ECHO = {
    "output": "echo.children",
    "outputs": {"id": "echo", "property": "children"},
    "inputs": [{"id": "text", "property": "value", "value": "hello"}],
    "state": [],
    "changedPropIds": ["text.value"],
}
FAIL = ECHO | {"output": "fails.children", "outputs": {"id": "fails", "property": "children"}}
CALLBACKS = "/_dash-update-component"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Running:
    """A server under test."""

    port: int
    store: Path
    log: Path
    pids: tuple[int, ...]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def login(self) -> Login:
        return Login.open(self.store)

    def cookie(self) -> str:
        return f"{self.login.cookie_name}={self.login.new_cookie()}"

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        """Send a request with exactly these headers; Host is right unless given (None leaves it out)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": self.host} | ({"Content-Length": str(len(body))} if body else {}) | (headers or {})
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        reply = Reply(
            answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode("utf-8", "replace")
        )
        connection.close()
        return reply

    def post(self, body: object, path: str = CALLBACKS, **headers: str | None) -> Reply:
        """Send what the page sends, logged in; `headers` replace or remove some of it."""
        usual = {"Cookie": self.cookie(), "Origin": f"http://{self.host}", "Content-Type": "application/json"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(path, "POST", usual | given, json.dumps(body).encode())


@contextlib.contextmanager
def werkzeug(store: Path, log: Path) -> Iterator[Running]:
    handler = logging.FileHandler(log)
    logging.getLogger("dashboard").addHandler(handler)
    with listen("127.0.0.1", 0) as listener:
        application = guarded.build(store).server
        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler, fd=listener.fileno())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Running(server.port, store, log, (os.getpid(),))
        server.shutdown()
    logging.getLogger("dashboard").removeHandler(handler)
    handler.close()


@contextlib.contextmanager
def gunicorn(store: Path, log: Path) -> Iterator[Running]:
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-b",
        f"127.0.0.1:{port}",
        "-k",
        "gthread",
        "-w",
        "2",
        "--threads",
        "4",
    ]
    command += ["--access-logfile", "-", "--error-logfile", "-", "--worker-tmp-dir", str(store.parent)]
    environment = os.environ | {"FAULTLINE_STORE": str(store), "HOME": str(store.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "tests.guarded:serve()"], cwd=CHECKOUT, env=environment, stdout=output, stderr=output
        )
    try:
        yield Running(port, store, log, _workers(process, port, log))
    finally:
        process.terminate()
        process.wait(20)


def _workers(process: subprocess.Popen, port: int, log: Path) -> tuple[int, ...]:
    """Wait until both workers have booted and one answers, and return their process ids."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            pids = tuple(int(pid) for pid in children.read_text().split())
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/health")
            if len(pids) == 2:
                return pids
        time.sleep(0.2)
    raise RuntimeError(log.read_text())


START = {"werkzeug": werkzeug, "gunicorn": gunicorn}
