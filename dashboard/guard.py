"""The guard around the application: which requests reach it, who is logged in, which headers every answer carries."""

from __future__ import annotations

import functools
import io
import logging
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import dash
from dash.exceptions import DependencyException
from flask import Response, jsonify, make_response, request
from werkzeug.http import parse_cookie

from dashboard import settings as configuration
from dashboard.auth import RENEW_SECONDS, SESSION_SECONDS, Login
from dashboard.settings import LOOPBACK_NAMES, Settings

METHODS = ("GET", "HEAD", "POST")
OPEN_PATH = "/health"
"""The one path that answers without a login."""
UPLOAD_PATH = "/import-folder"
"""The one path that takes a file, not JSON; what it may hold, the import folder says."""
LARGEST_UPLOAD = 16 * 2**30
CHUNK = 64 * 1024

_LOG = logging.getLogger(__name__)
_PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<link rel="icon" href="data:,">{head}<title>Faultline</title><style>'
    ":root {{ color-scheme: light dark; --bg: #f5f6f8; --panel: #fff; --text: #1b2129; --muted: #58616c; --line: #dde1e6; "
    "--accent: #364fc7; }} @media (prefers-color-scheme: dark) {{ :root {{ --bg: #14181d; --panel: #1b2027; --text: #e8ebef; "
    "--muted: #a4adb8; --line: #323a44; --accent: #91a7ff; }} }} "
    "* {{ box-sizing: border-box; }} body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px; "
    "background: var(--bg); color: var(--text); font: 15px/23px system-ui, sans-serif; }} "
    "main {{ width: 100%; max-width: 34em; padding: 24px 28px; background: var(--panel); border: 1px solid var(--line); "
    "border-radius: 8px; }} .brand {{ margin: 0 0 18px; font-weight: 700; letter-spacing: -.02em; }} "
    ".brand span {{ margin-left: 8px; font-size: 12px; font-weight: 400; letter-spacing: 0; color: var(--muted); }} "
    "h1 {{ font-size: 20px; line-height: 26px; margin: 0 0 8px; }} p {{ margin: 0 0 12px; }} p:last-child {{ margin: 0; }} "
    "a {{ color: var(--accent); }} a.button {{ display: inline-block; padding: 5px 14px; border: 1px solid var(--accent); "
    "border-radius: 5px; text-decoration: none; }} :focus-visible {{ outline: 2px solid var(--text); outline-offset: 2px; }} "
    "code {{ padding: 1px 5px; border: 1px solid var(--line); border-radius: 4px; font-size: 13px; overflow-wrap: anywhere; }}"
    "</style></head>\n"
    '<body><main><p class="brand">Faultline<span>where an attack takes hold</span></p>{body}</main></body></html>\n'
)
_ONWARD = _PAGE.format(
    head='<meta http-equiv="refresh" content="0">', body='<p><a class="button" href="">Open Faultline</a></p>'
)
_HOW_TO_LOG_IN = (
    "Open the one-time link that Faultline printed when it started. To get a new one, run "
    "<code>python -m dashboard --new-link</code> with the same <code>--store</code> on the machine where it runs."
)
CALLBACKS = "/_dash-update-component"
CATCH_ALL = "/<path:path>"
"""Dash's name for the rule that answers any address with the page."""


class Refusal(Exception):
    """A request that is answered by the guard itself."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the guard."""

    status: HTTPStatus
    text: str
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    def send(self, environ: WSGIEnvironment, start: StartResponse, failure: Any = None) -> Iterable[bytes]:
        """Hand over status and headers and return the body; `failure` is `sys.exc_info()` where one is answered."""
        body = self.text.encode()
        standard = [("Content-Type", self.content_type), ("Content-Length", str(len(body)))]
        start(f"{self.status.value} {self.status.phrase}", [*standard, *self.headers], failure)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class Guard:
    """Lets a request through to an application only if host, method, origin, size and login are right."""

    def __init__(
        self, application: WSGIApplication, login: Login, settings: Settings, *, script_hashes: Sequence[str] = ()
    ) -> None:
        self._application = application
        self._login = login
        self._settings = settings
        self._headers = security_headers(script_hashes)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333); every answer carries the security headers, no answer carries a trace."""
        start = self._with_headers(start_response)
        try:
            check_peer(environ, self._settings)
            check_host(environ, self._settings)
            check_method(environ)
            check_path(environ)
            check_length(environ, _limit(environ, self._settings))
            check_site(environ)
            if environ["REQUEST_METHOD"] == "POST":
                check_post(environ, self._settings)
            return self._admit(environ, start)
        except Refusal as refusal:
            _LOG.info("Refused %s %r: %s", environ["REQUEST_METHOD"], environ.get("PATH_INFO"), refusal)
            allow = (("Allow", ", ".join(METHODS)),) if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED else ()
            return Reply(refusal.status, f"{refusal.text}\n", headers=allow).send(environ, start)
        except Exception:
            number = secrets.token_hex(4)
            _LOG.exception("Error %s at %s %r", number, environ["REQUEST_METHOD"], environ.get("PATH_INFO"))
            text = f"Something went wrong on the server. The details are in its log under error {number}.\n"
            return Reply(HTTPStatus.INTERNAL_SERVER_ERROR, text).send(environ, start, sys.exc_info())

    def _admit(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Pass a logged-in request on, exchange a token for a cookie, and turn everybody else away."""
        if environ.get("PATH_INFO") == OPEN_PATH:
            return self._application(environ, start)
        seconds = self._seconds_left(environ)
        token = _token(environ)
        if not seconds and _comes_from_another_site(environ):
            return _page(HTTPStatus.OK, _ONWARD).send(environ, start)
        if token is not None:
            return self._exchange(environ, start, token, is_known=seconds > 0)
        if not seconds:
            return _locked("You are not logged in.").send(environ, start)
        limit_body(environ, _limit(environ, self._settings))
        if seconds < SESSION_SECONDS - RENEW_SECONDS:
            start = _with_extra(start, self._cookie())
        return self._application(environ, start)

    def _exchange(
        self, environ: WSGIEnvironment, start: StartResponse, token: str, *, is_known: bool
    ) -> Iterable[bytes]:
        """Answer a request that carries a token: a cookie and the same address without it, or a plain no."""
        location = _address_without_token(environ)
        if is_known:
            return Reply(HTTPStatus.SEE_OTHER, "", headers=(("Location", location),)).send(environ, start)
        # Browsers may fetch a link ahead of the click, and some tools ask for headers only: neither uses a link up.
        if environ["REQUEST_METHOD"] != "GET" or "prefetch" in environ.get("HTTP_SEC_PURPOSE", ""):
            return _locked("You are not logged in.").send(environ, start)
        if not self._login.use_token(token):
            return _locked("This link was already used, or is no longer valid.").send(environ, start)
        headers = (("Location", location), self._cookie())
        return Reply(HTTPStatus.SEE_OTHER, "", headers=headers).send(environ, start)

    def _seconds_left(self, environ: WSGIEnvironment) -> int:
        # Cookies of other programs on this host arrive too, and Flask stumbles over bytes that are not UTF-8.
        environ["HTTP_COOKIE"] = environ.get("HTTP_COOKIE", "").encode("ascii", "ignore").decode()
        cookies = parse_cookie(environ["HTTP_COOKIE"]).getlist(self._cookie_name())
        return max((self._login.seconds_left(cookie) for cookie in cookies), default=0)

    def _cookie(self) -> tuple[str, str]:
        secure = "; Secure" if self._settings.is_https else ""
        value = f"{self._cookie_name()}={self._login.new_cookie()}"
        return "Set-Cookie", f"{value}; Max-Age={SESSION_SECONDS}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def _cookie_name(self) -> str:
        # With this prefix browsers refuse a cookie of this name from a neighbouring subdomain or over plain http.
        return f"__Host-{self._login.cookie_name}" if self._settings.is_https else self._login.cookie_name

    def _with_headers(self, start_response: StartResponse) -> StartResponse:
        """Return a `start_response` that puts the security headers in, whatever the application says."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            ours = {name.lower() for name, _ in self._headers}
            kept = [(name, value) for name, value in headers if name.lower() not in ours]
            if not any(name.lower() == "cache-control" for name, _ in kept):
                kept.append(("Cache-Control", _default_caching(kept)))
            return start_response(status, [*kept, *self._headers], exc_info)

        return start


def security_headers(script_hashes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the headers of every answer; `script_hashes` are CSP sources of the page's own inline scripts."""
    policy = (
        "default-src 'self'",
        " ".join(("script-src 'self'", *script_hashes)),
        # Plotly and Dash set element styles; without this the page works but reports a thousand violations.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
    return (
        ("Content-Security-Policy", "; ".join(policy)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    )


def check_peer(environ: WSGIEnvironment, settings: Settings) -> None:
    """Refuse other machines unless hosts were named for them, however the server was bound.

    An empty peer is a Unix socket, which belongs to this machine.
    """
    peer = environ.get("REMOTE_ADDR", "")
    if peer and not settings.allowed_hosts and not configuration.is_loopback(peer):
        raise Refusal(HTTPStatus.FORBIDDEN, "This server answers its own machine only.")


def check_host(environ: WSGIEnvironment, settings: Settings) -> None:
    """Refuse names that are not ours (DNS rebinding), also where a proxy reports them."""
    forwarded = environ.get("HTTP_X_FORWARDED_HOST")
    names = [environ.get("HTTP_HOST", ""), *(forwarded.split(",") if forwarded is not None else [])]
    if not all(_is_allowed(name.strip(), settings) for name in names):
        raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, "This server does not answer to that host name.")


def check_method(environ: WSGIEnvironment) -> None:
    """Refuse every method that is not needed."""
    if environ["REQUEST_METHOD"] not in METHODS:
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This server knows GET, HEAD and POST only.")


def check_path(environ: WSGIEnvironment) -> None:
    """Refuse what no address of ours contains; the browser sends ids, never paths."""
    # WSGI hands over bytes as latin-1.
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    if "\\" in path or not path.isprintable() or ".." in path.split("/"):
        raise Refusal(HTTPStatus.NOT_FOUND, "There is nothing here.")


def check_length(environ: WSGIEnvironment, limit: int) -> None:
    """Refuse a body that is declared too long, or in two ways at once (request smuggling)."""
    declared = environ.get("CONTENT_LENGTH", "")
    if declared and ("HTTP_TRANSFER_ENCODING" in environ or not (declared.isascii() and declared.isdigit())):
        raise Refusal(HTTPStatus.BAD_REQUEST, "The length of the request is not clear.")
    if declared and (len(declared) > 12 or int(declared) > limit):
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request may hold {limit} bytes.")


def check_site(environ: WSGIEnvironment) -> None:
    """Refuse whatever another site embeds or fetches; it may only link here."""
    site = environ.get("HTTP_SEC_FETCH_SITE", "same-origin")
    is_navigation = environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and environ["REQUEST_METHOD"] != "POST"
    if site not in ("same-origin", "none") and not is_navigation:
        raise Refusal(HTTPStatus.FORBIDDEN, "Other sites may link here, nothing else.")


def check_post(environ: WSGIEnvironment, settings: Settings) -> None:
    """Refuse a POST that does not say it comes from our own page, and anything but JSON, or a file where one is taken."""
    scheme = "https" if settings.is_https else "http"
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        is_ours = environ.get("HTTP_SEC_FETCH_SITE") == "same-origin"
    else:
        is_ours = origin.lower() == f"{scheme}://{environ['HTTP_HOST']}".lower()
    if not is_ours:
        raise Refusal(HTTPStatus.FORBIDDEN, "Only the dashboard's own page may send this.")
    # Of a file too: no form of another site can send this type, and a script only with a question that is never answered.
    wanted = "application/octet-stream" if is_upload(environ) else "application/json"
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != wanted:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Only {wanted} is taken.")


def is_upload(environ: WSGIEnvironment) -> bool:
    """Return whether a request sends a file into the import folder; it is handed on as it comes in, never kept in memory."""
    return environ.get("PATH_INFO") == UPLOAD_PATH and environ["REQUEST_METHOD"] == "POST"


def _limit(environ: WSGIEnvironment, settings: Settings) -> int:
    is_taken = settings.takes_uploads and settings.import_folder is not None
    return LARGEST_UPLOAD if is_upload(environ) and is_taken else settings.body_limit


def limit_body(environ: WSGIEnvironment, limit: int) -> None:
    """Read a body of undeclared length (chunked), at most `limit` bytes of it, and declare it.

    A server that does not end such a body (no `wsgi.input_terminated`) is taken to have none: reading would hang.
    """
    if environ.get("CONTENT_LENGTH") or not environ.get("wsgi.input_terminated"):
        return
    if is_upload(environ):
        raise Refusal(HTTPStatus.LENGTH_REQUIRED, "A file must say how long it is.")
    body = bytearray()
    while chunk := environ["wsgi.input"].read(CHUNK):
        body += chunk
        if len(body) > limit:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request may hold {limit} bytes.")
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)


def _is_allowed(host: str, settings: Settings) -> bool:
    """Any port will do for a loopback name: a tunnel or container may change it, and only the name can be rebound."""
    parts = configuration.split_host(host)
    if parts is None:
        return False
    name, _ = parts
    return name in LOOPBACK_NAMES or name in settings.allowed_hosts or host.lower() in settings.allowed_hosts


def _comes_from_another_site(environ: WSGIEnvironment) -> bool:
    """Return whether a link on another site was followed, in which case Strict cookies were left out."""
    return (
        environ["REQUEST_METHOD"] == "GET"
        and environ.get("HTTP_SEC_FETCH_SITE") == "cross-site"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )


def _token(environ: WSGIEnvironment) -> str | None:
    """Return the token in the address, which only the first page takes."""
    if environ.get("PATH_INFO") != "/":
        return None
    result = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get("token")
    return result[0] if result else None


def _address_without_token(environ: WSGIEnvironment) -> str:
    """Return the address of the first page with its query as sent, less the token, and clear the token from `environ`.

    Clearing it keeps it out of access logs, which servers write from `environ` after the answer.
    """
    parts = environ.get("QUERY_STRING", "").split("&")
    query = "&".join(part for part in parts if part and "token" not in parse_qs(part, keep_blank_values=True))
    address = f"/?{query}" if query else "/"
    environ["QUERY_STRING"] = query
    environ.update({name: address for name in ("RAW_URI", "REQUEST_URI") if name in environ})
    return address


def _default_caching(headers: Iterable[tuple[str, str]]) -> str:
    """Return `no-store` for pages and data, and for scripts and pictures "keep it, but ask whether it is current"."""
    kinds = [value.partition(";")[0] for name, value in headers if name.lower() == "content-type"]
    return "no-store" if not kinds or kinds[0] in ("text/html", "text/plain", "application/json") else "no-cache"


def _with_extra(start: StartResponse, header: tuple[str, str]) -> StartResponse:
    def start_with_extra(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        return start(status, [*headers, header], exc_info)

    return start_with_extra


def _page(status: HTTPStatus, text: str) -> Reply:
    return Reply(status, text, "text/html; charset=utf-8")


def _locked(reason: str) -> Reply:
    return _page(HTTPStatus.UNAUTHORIZED, _PAGE.format(head="", body=f"<h1>{reason}</h1><p>{_HOW_TO_LOG_IN}</p>"))


def register(app: dash.Dash) -> None:
    """Let an application answer 404 and 400 where Dash alone would stumble."""
    app.server.before_request(functools.partial(_check_request, app))
    app.server.register_error_handler(DependencyException, _not_found)


def _check_request(app: dash.Dash) -> Response | None:
    """Answer 404 to addresses that nobody serves, and 4xx to callback requests that Dash would stumble over."""
    if request.endpoint == CATCH_ALL:
        text = "<h1>Nothing is here</h1><p>Faultline has no page of this address.</p>"
        missing = _PAGE.format(head="", body=f'{text}<p><a class="button" href="/">Open Faultline</a></p>')
        return make_response(missing, 404, {"Content-Type": "text/html; charset=utf-8"})
    if request.path != CALLBACKS or request.method != "POST":
        return None
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not isinstance(body.get("output"), str):
        return make_response(jsonify(error="This is not a callback request."), 400)
    callback = app.callback_map.get(body["output"])
    if callback is None:
        return make_response(jsonify(error="There is no such callback."), 404)
    if not all(_fits(body.get(part, []), callback[kind]) for part, kind in (("inputs", "inputs"), ("state", "state"))):
        return make_response(jsonify(error="The callback takes other values."), 400)
    return None


def _fits(values: object, declared: list[dict[str, str]]) -> bool:
    """Return whether the values of a request name just what a callback declares, in its order."""
    if not isinstance(values, list) or len(values) != len(declared):
        return False
    return all(
        isinstance(value, dict) and value.get("id") == known["id"] and value.get("property") == known["property"]
        for value, known in zip(values, declared, strict=True)
    )


def _not_found(_: Exception) -> Response:
    return make_response("There is nothing here.\n", 404, {"Content-Type": "text/plain; charset=utf-8"})
