"""The dashboard's guard, under both servers it is run with. S1 ... are the numbers of the security requirements."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, Response
from werkzeug.test import Client

import engine
from dashboard import guard
from dashboard.auth import Login
from dashboard.settings import Settings
from tests import guarded
from tests.fakes import FakeAuditor
from tests.servers import ECHO, FAIL, START, Reply, Running

LIMIT = 2 * 1024 * 1024


@pytest.fixture(
    scope="module", params=["werkzeug", pytest.param("gunicorn", marks=[pytest.mark.slow, pytest.mark.cluster])]
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp(request.param)
    with START[request.param](folder / "store", folder / "log") as running:
        yield running


# --- S1, S3: who may ask, and under which name -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:{port}",
        "localhost",
        "LOCALHOST:9999",
        "[::1]:8050",
        "audit.example.org",
        "audit.example.org:1234",
        "other.example.org:8443",
    ],
)
def test_our_own_names_are_answered(server: Running, host: str) -> None:
    assert server.ask("/health", headers={"Host": host.format(port=server.port)}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        None, "", "evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.", "127.0.0.1:99999",
        "127.0.0.1:x", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "localhost/x", "[::1", "[::2]", "0.0.0.0",
        "127.1", "2130706433", "other.example.org", "other.example.org:1", "localhost,evil.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(server: Running, host: str | None) -> None:
    cookie = {"Cookie": server.cookie()}
    assert server.ask("/", headers=cookie | {"Host": host}).status in (400, 421)
    # What a proxy forwards must not open the door, nor close our eyes.
    assert server.ask("/", headers=cookie | {"Host": host, "X-Forwarded-Host": "localhost"}).status in (400, 421)


@pytest.mark.parametrize("forwarded", ["evil.example", "", "localhost, evil.example"])
def test_a_proxy_that_was_called_by_another_name_is_refused(server: Running, forwarded: str) -> None:
    headers = {"Cookie": server.cookie(), "X-Forwarded-Host": forwarded}
    assert server.ask("/", headers=headers).status == 421


@pytest.mark.parametrize(("peer", "hosts", "is_let_in"), [
    ("127.0.0.1", (), True), ("::1", (), True), ("", (), True), ("10.0.0.7", (), False),
    ("10.0.0.7", ("a.example",), True),
])  # fmt: skip
def test_without_named_hosts_only_this_machine_is_answered(peer: str, hosts: tuple[str, ...], is_let_in: bool) -> None:
    settings = Settings(Path("store"), allowed_hosts=hosts)
    with contextlib.nullcontext() if is_let_in else pytest.raises(guard.Refusal):
        guard.check_peer({"REMOTE_ADDR": peer}, settings)


# --- S4: what may be sent --------------------------------------------------------------------------------------------


def test_our_page_may_call(server: Running) -> None:
    assert server.post(ECHO).status == 200
    assert server.post(ECHO, Origin=None, Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:1", "https://{host}", "http://localhost:{port}", "{host}"],
)
def test_foreign_origins_are_refused(server: Running, origin: str) -> None:
    assert server.post(ECHO, Origin=origin.format(host=server.host, port=server.port)).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", None, "none"])
def test_a_post_without_origin_must_be_same_origin(server: Running, site: str | None) -> None:
    assert server.post(ECHO, Origin=None, Sec_Fetch_Site=site).status == 403


def test_an_origin_does_not_outweigh_the_browser_saying_cross_site(server: Running) -> None:
    assert server.post(ECHO, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None, "application/jsonx"]
)
def test_only_json_is_taken(server: Running, kind: str | None) -> None:
    assert server.post(ECHO, Content_Type=kind).status == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND", "CONNECT", "get"])
def test_other_methods_are_refused(server: Running, method: str) -> None:
    reply = server.ask("/", method, {"Cookie": server.cookie()})
    assert reply.status in (400, 405)
    assert method in ("CONNECT", "get") or (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST")


def test_other_sites_may_link_but_not_embed_or_fetch(server: Running) -> None:
    cookie = {"Cookie": server.cookie(), "Sec-Fetch-Site": "cross-site"}
    assert server.ask("/_dash-layout", headers=cookie | {"Sec-Fetch-Mode": "cors"}).status == 403
    assert server.ask("/assets/app.css", headers=cookie | {"Sec-Fetch-Mode": "no-cors"}).status == 403
    assert server.ask("/", headers=cookie | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}).status == 200


# --- S6: size --------------------------------------------------------------------------------------------------------


def _flood(server: Running, headers: list[str], *, is_chunked: bool) -> bytes:
    """Send 200 MB after a request head, whatever the server says, and return the first bytes of its answer."""
    head = [f"POST /count HTTP/1.1\r\nHost: {server.host}\r\nOrigin: http://{server.host}", *headers]
    block = b"x" * (1 << 20)
    frame = b"100000\r\n" + block + b"\r\n" if is_chunked else block
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(frame)
                if not answer and select.select([connection], [], [], 0)[0]:
                    answer = connection.recv(100)
        with contextlib.suppress(ConnectionError):
            answer = answer or connection.recv(100)
    return answer


def _reset_peak(server: Running) -> int:
    for pid in server.pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(server)


def _peak(server: Running) -> int:
    """The largest resident size of all server processes since `_reset_peak`, in bytes."""
    lines = [re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in server.pids]
    return sum(int(line[1]) * 1024 for line in lines)


@pytest.mark.parametrize("length", ["Content-Length: 209715200", "Transfer-Encoding: chunked"])
def test_a_flood_is_refused_without_being_kept(server: Running, length: str) -> None:
    before = _reset_peak(server)
    headers = [length, f"Cookie: {server.cookie()}", "Content-Type: application/json"]
    answer = _flood(server, headers, is_chunked="chunked" in length)
    assert answer.split(b" ")[1:2] == [b"413"]
    assert _peak(server) - before < 50 * 1024 * 1024
    assert server.ask("/health").status == 200


def test_bodies_up_to_the_limit_arrive_whole_whether_declared_or_not(server: Running) -> None:
    headers = {"Cookie": server.cookie(), "Origin": f"http://{server.host}", "Content-Type": "application/json"}
    assert server.ask("/count", "POST", headers, b"x" * LIMIT).body == str(LIMIT)
    assert server.ask("/count", "POST", headers, b"x" * (LIMIT + 1)).status == 413
    chunked = headers | {"Transfer-Encoding": "chunked", "Content-Length": None}
    assert server.ask("/count", "POST", chunked, b"5\r\nhello\r\n0\r\n\r\n").body == "5"
    assert server.ask("/count", "POST", headers).body == "0"


@pytest.mark.parametrize(
    "extra", [{"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "1e3"}]
)
def test_unclear_lengths_are_refused(server: Running, extra: dict[str, str]) -> None:
    headers = {"Cookie": server.cookie(), "Origin": f"http://{server.host}", "Content-Type": "application/json"}
    assert (
        server.ask("/count", "POST", headers | {"Content-Length": "5"} | extra, b"5\r\nhello\r\n0\r\n\r\n").status
        == 400
    )


# --- S14: headers ----------------------------------------------------------------------------------------------------

SNAPSHOT = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
POLICY = (
    "default-src 'self'; script-src 'self' 'sha256-*'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; worker-src 'self' blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def _answers(server: Running) -> dict[str, Reply]:
    """One answer of every kind."""
    cookie = {"Cookie": server.cookie()}
    page = server.ask("/", headers=cookie)
    script = re.search(r'src="(/_dash-component-suites/dash/[^"]+)"', page.body)[1]
    return {
        "page": page,
        "script": server.ask(script, headers=cookie),
        "asset": server.ask("/assets/tiles.js", headers=cookie),
        "callback": server.post(ECHO),
        "failed": server.post(FAIL),
        "health": server.ask("/health"),
        "locked": server.ask("/"),
        "redirect": server.ask(f"/?token={server.login.new_token()}"),
        "unknown": server.ask("/nothing", headers=cookie),
        "host": server.ask("/", headers={"Host": "evil.example"}),
        "method": server.ask("/", "DELETE"),
        "size": server.ask("/", headers={"Content-Length": "9999999999"}),
    }


def test_every_answer_carries_the_security_headers(server: Running) -> None:
    for kind, reply in _answers(server).items():
        assert {name: reply.headers.get(name) for name in SNAPSHOT} == SNAPSHOT, kind
        assert re.sub("'sha256-[^']+'", "'sha256-*'", reply.headers["content-security-policy"]) == POLICY, kind
        assert not re.search(r"\d|werkzeug|python", reply.headers.get("server", ""), re.IGNORECASE), kind
        assert "x-powered-by" not in reply.headers


def test_pages_and_data_are_never_stored_and_scripts_are(server: Running) -> None:
    caching = {kind: reply.headers["cache-control"] for kind, reply in _answers(server).items()}
    assert {caching[kind] for kind in caching if kind not in ("script", "asset")} == {"no-store"}
    assert "max-age=31536000" in caching["script"]
    assert caching["asset"] == "no-cache"


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    page = server.ask("/", headers={"Cookie": server.cookie()}).body
    assert '<html lang="en">' in page
    assert re.findall(r'(?:src|href)="(?!/)[^"]*"', page) == []
    assert page.count("theme-init.js") == 1


def test_with_https_the_cookie_is_secure_and_the_origin_too(tmp_path: Path) -> None:
    settings = Settings(tmp_path, allowed_hosts=("audit.example.org",), is_https=True)
    application = guarded.app.secured(_empty(), settings)
    client = application.server.test_client()
    base = {"HTTP_HOST": "audit.example.org", "CONTENT_TYPE": "application/json"}
    found = client.get("/", query_string={"token": Login.open(tmp_path).new_token()}, environ_overrides=base)
    assert found.headers["Set-Cookie"].startswith("__Host-faultline-")
    assert found.headers["Set-Cookie"].endswith("; Secure")
    plain = client.post("/health", environ_overrides=base | {"HTTP_ORIGIN": "http://audit.example.org"})
    assert plain.status_code == 403
    assert (
        client.post("/health", environ_overrides=base | {"HTTP_ORIGIN": "https://audit.example.org"}).status_code == 405
    )


def _empty() -> guarded.dash.Dash:
    made = guarded.app.shell()
    made.layout = guarded.html.Main()
    return made


# --- S18: errors -----------------------------------------------------------------------------------------------------


def test_an_unknown_callback_is_a_plain_404(server: Running) -> None:
    reply = server.post(ECHO | {"output": "nothing.children"})
    assert (reply.status, json.loads(reply.body)) == (404, {"error": "There is no such callback."})


@pytest.mark.parametrize(
    "body",
    [[], "text", 7, None, {}, {"output": 3}, {"output": ["echo.children"]}, ECHO | {"inputs": []},
     ECHO | {"inputs": {"a": 1}}, ECHO | {"inputs": [[]]}, ECHO | {"state": [1]},
     ECHO | {"inputs": [{"id": "other", "property": "value"}]}],
)  # fmt: skip
def test_a_malformed_callback_is_a_plain_400(server: Running, body: object) -> None:
    reply = server.post(body)
    assert reply.status == 400
    assert set(json.loads(reply.body)) == {"error"}


def test_an_exception_is_a_number_that_stands_in_the_log(server: Running) -> None:
    reply = server.post(FAIL)
    assert reply.status == 500
    number = re.fullmatch(
        r"Something went wrong on the server\. The details are in its log under error ([0-9a-f]{8})\.\n", reply.body
    )[1]
    logged = server.log.read_text()
    assert guarded.SECRET_TEXT in logged[logged.index(f"Error {number}") :]


def test_a_store_that_cannot_be_read_is_not_ready_and_named_in_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise engine.StoreError(f"{tmp_path} is gone.")

    auditor = FakeAuditor()
    auditor.models = broken
    server = Flask("probes")
    guarded.app.register_probes(server, auditor)
    reply = server.test_client().get("/ready")
    assert (reply.status_code, reply.text) == (503, "not ready\n")
    assert str(tmp_path) in caplog.text


def test_flask_serves_no_folder_of_its_own() -> None:
    assert "static" not in guarded.app.shell().server.view_functions


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/assets/../app.py", "/assets/%2e%2e/dashboard/app.py", "/assets/..%2f..%2fetc/passwd",
        "/assets/%00", "/assets/a%5c..%5cb", "/_dash-component-suites/dash/../../../../etc/passwd",
        "/_dash-component-suites/dash/%2e%2e/x.js", "/_dash-component-suites/os/path.py",
        "/_dash-component-suites/dash/nothing.js", "/static/x", "/_mcp", "/favicon.ico", "//etc/passwd",
        "/%252e%252e/x", "/;/../x",
    ],
)  # fmt: skip
def test_odd_addresses_are_404_and_name_nothing(server: Running, path: str) -> None:
    reply = server.ask(path, headers={"Cookie": server.cookie()})
    assert reply.status == 404
    assert not re.search("Traceback|site-packages|Registered|root:", reply.body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/a%00", 404),
        ("/a%5cb", 404),
        ("/a/%2e%2e/b", 404),
        ("/a%0d%0ab", 404),
        ("/..", 404),
        ("/a..b", 200),
        ("/größe", 200),
    ],
)
def test_what_no_address_of_ours_contains_never_reaches_the_application(path: str, status: int, tmp_path: Path) -> None:
    login = Login.open(tmp_path)
    client = Client(guard.Guard(Response("reached"), login, Settings(tmp_path)))
    client.set_cookie(login.cookie_name, login.new_cookie())
    assert client.get(path).status_code == status
