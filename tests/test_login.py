"""Who is let in, under both servers (S2); links from other sites are followed in tests/browser/test_login_links.py."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from itsdangerous import TimestampSigner

from dashboard import auth
from dashboard.auth import Login
from tests import guarded
from tests.servers import CALLBACKS, ECHO, START, Running


@pytest.fixture(
    scope="module", params=["werkzeug", pytest.param("gunicorn", marks=[pytest.mark.slow, pytest.mark.cluster])]
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp(request.param)
    with START[request.param](folder / "store", folder / "log") as running:
        yield running


def _routes(store: Path) -> list[tuple[str, str]]:
    """Every rule of the application as (method, an address that matches it)."""
    rules = guarded.build(store).server.url_map.iter_rules()
    return [("GET" if "GET" in rule.methods else "POST", re.sub("<[^>]*>", "1", rule.rule)) for rule in rules]


def test_every_route_but_health_needs_a_login(server: Running, tmp_path: Path) -> None:
    routes = [*_routes(tmp_path), ("GET", "/assets/app.css"), ("GET", "/nothing-here"), ("HEAD", "/")]
    origin = {"Origin": f"http://{server.host}", "Content-Type": "application/json"}
    statuses = {path: server.ask(path, method, origin).status for method, path in routes}
    assert {"/", "/_dash-layout", "/_dash-dependencies", CALLBACKS, "/ready"} <= set(statuses)
    assert statuses == {path: 200 if path == "/health" else 401 for path in statuses}


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/ready", "/health"])
def test_a_cookie_opens_the_routes(server: Running, path: str) -> None:
    assert server.ask(path, headers={"Cookie": server.cookie()}).status == 200


def test_the_refusal_says_how_to_log_in_and_nothing_else(server: Running) -> None:
    body = server.ask("/").body
    assert "--new-link" in body
    assert str(server.store) not in body
    assert not re.search(r"\d+\.\d+", body)


def test_a_token_is_exchanged_for_a_cookie_once_and_the_rest_of_the_link_stays(server: Running) -> None:
    token = server.login.new_token()
    first = server.ask(f"/?layer=layer2.0&token={token}&epsilon=8%2F255")
    assert (first.status, first.headers["location"]) == (303, "/?layer=layer2.0&epsilon=8%2F255")
    cookie = first.headers["set-cookie"]
    assert "; HttpOnly" in cookie
    assert "; SameSite=Strict" in cookie
    assert "; Path=/" in cookie
    assert server.ask("/", headers={"Cookie": cookie.partition(";")[0]}).status == 200
    second = server.ask(f"/?token={token}")
    assert second.status == 401
    assert "already used" in second.body
    assert "set-cookie" not in second.headers


def test_only_one_of_many_simultaneous_uses_of_a_token_succeeds(server: Running) -> None:
    token = server.login.new_token()
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: server.ask(f"/?token={token}").status, range(24)))
    assert sorted(statuses) == [303] + [401] * 23


def test_a_session_holds_in_every_worker(server: Running) -> None:
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    with ThreadPoolExecutor(8) as pool:
        while seen != set(server.pids) and time.monotonic() < deadline:
            answers = list(pool.map(lambda _: server.post(ECHO), range(16)))
            assert {answer.status for answer in answers} == {200}
            seen |= {int(answer.body.split(", ")[1].split('"')[0]) for answer in answers}
    assert seen == set(server.pids)


def test_who_is_logged_in_uses_up_no_link(server: Running) -> None:
    token = server.login.new_token()
    known = server.ask(f"/?token={token}", headers={"Cookie": server.cookie()})
    assert (known.status, known.headers["location"]) == (303, "/")
    assert server.ask(f"/?token={token}").status == 303


@pytest.mark.parametrize("ahead", [{"Sec-Purpose": "prefetch;prerender"}, "HEAD"])
def test_looking_at_a_link_does_not_use_it_up(server: Running, ahead: dict[str, str] | str) -> None:
    token = server.login.new_token()
    method, headers = ("HEAD", {}) if ahead == "HEAD" else ("GET", ahead)
    assert server.ask(f"/?token={token}", method, headers).status == 401
    assert server.ask(f"/?token={token}").status == 303


def test_no_path_but_the_first_page_takes_a_token(server: Running) -> None:
    token = server.login.new_token()
    assert server.ask(f"//evil.example/?token={token}").status == 401
    assert server.ask(f"/_dash-layout?token={token}").status == 401


def test_the_token_is_in_no_log_and_stored_only_as_a_hash(server: Running) -> None:
    token = server.login.new_token()
    server.ask(f"/?token={token}&view=kept-part")
    server.ask("/health")
    assert token not in server.log.read_text()
    assert all(
        token not in str(file) and token not in file.read_text("latin-1")
        for file in server.store.rglob("*")
        if file.is_file()
    )


def test_forged_cookies_are_refused(server: Running, tmp_path: Path) -> None:
    nonce, made, signature = server.login.new_cookie().split(".")
    later = TimestampSigner(b"another secret").sign(nonce).decode().split(".")[1]
    values = [
        f"{nonce}.{later[:-1]}{'A' if later[-1] != 'A' else 'B'}.{signature}",
        f"{nonce}.{made}.{'0' * 43}",
        f"{nonce}.{made}",
        f"{nonce}.{made}.",
        f"{nonce}.{signature}",
        f"{int(time.time()) + 9999}.{nonce}.{'0' * 64}",
        "",
        "..",
        "9" * 5000,
        "é.ü.ß",
        Login.open(tmp_path).new_cookie(),
    ]
    answers = [server.ask("/", headers={"Cookie": f"{server.login.cookie_name}={value}"}).status for value in values]
    assert answers == [401] * len(values)


def _cookie_made_ago(server: Running, seconds: int, monkeypatch: pytest.MonkeyPatch) -> str:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda _signer: int(now - seconds))
        return server.cookie()


def test_a_cookie_expires_after_twelve_hours(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = _cookie_made_ago(server, auth.SESSION_SECONDS + 5, monkeypatch)
    assert server.ask("/", headers={"Cookie": cookie}).status == 401


def test_a_cookie_in_use_is_renewed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _cookie_made_ago(server, auth.RENEW_SECONDS + 60, monkeypatch)
    assert "set-cookie" in server.ask("/", headers={"Cookie": old}).headers
    assert "set-cookie" not in server.ask("/", headers={"Cookie": server.cookie()}).headers


def test_a_link_waits_for_a_day_only(tmp_path: Path) -> None:
    login = Login.open(tmp_path)
    token = login.new_token()
    (link,) = (tmp_path / "login" / "links").iterdir()
    os.utime(link, (time.time() - auth.LINK_SECONDS - 5,) * 2)
    assert not login.use_token(token)


def test_a_token_is_good_for_exactly_one_of_several_threads(tmp_path: Path) -> None:
    login = Login.open(tmp_path)
    start = threading.Barrier(6)

    def use(token: str) -> bool:
        start.wait(10)
        return login.use_token(token)

    with ThreadPoolExecutor(6) as pool:
        for token in [login.new_token() for _ in range(150)]:
            assert sum(pool.map(use, [token] * 6)) == 1


def test_the_secret_is_private_and_lasting(tmp_path: Path) -> None:
    secrets = {Login.open(tmp_path).secret, Login.open(tmp_path).secret}
    assert len(secrets) == 1
    assert (tmp_path / "login" / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "login").stat().st_mode & 0o777 == 0o700
