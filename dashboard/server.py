"""One process that serves one store: what `python -m dashboard` runs."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import signal
import socket
import sys

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

import engine
from dashboard import app, auth
from dashboard.auditor import Auditor
from dashboard.auth import Login
from dashboard.settings import Settings

MEMORY_OPTIONS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 2**20), "M_TRIM_THRESHOLD": (-1, 2**20)}
"""Of glibc's <malloc.h>, with what they are set to: heaps for all threads; bytes from which on memory is given back."""


class Handler(WSGIRequestHandler):
    """Says nothing of its make, keeps no log of addresses (they may hold a token), and waits a minute, not forever."""

    timeout = 60

    def send_header(self, keyword: str, value: str) -> None:
        """Send a header, except the server's banner."""
        if keyword.lower() != "server":
            super().send_header(keyword, value)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


def give_back_memory() -> bool:
    """Let the C library, where it is glibc, return what is no longer used; return whether it agreed.

    Every thread of the server reads explanations now and then, and a heap of its own keeps what it once took: after two
    rounds through eight views of MobileNetV2 the process held 415 MB, with two heaps 305, and with large arrays mapped 263.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and [mallopt(*option) for option in MEMORY_OPTIONS.values()] == [1] * len(MEMORY_OPTIONS)


def open_auditor(settings: Settings) -> Auditor:
    """Return the auditor of the store; an empty store starts to load the embedded demo, with its audit. Raises EngineError."""
    auditor = engine.Auditor.open(
        settings.store,
        scheduler=settings.scheduler,
        import_folder=settings.import_folder,
        takes_uploads=settings.takes_uploads,
    )
    try:
        if not auditor.models():
            auditor.install_demo()
        if settings.has_demo_audit:
            auditor.begin_demo_audit()
        engine.load_libraries()
    except BaseException:
        auditor.close()
        raise
    return auditor


def serve(settings: Settings) -> None:
    """Serve until interrupted (Ctrl-C or SIGTERM), then end the worker too; raises EngineError if it cannot start."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The port is taken first: whoever opens the page early waits instead of failing, and a port in use costs nothing.
    with contextlib.suppress(KeyboardInterrupt), listen(settings.host, settings.port) as listener:
        settings = dataclasses.replace(settings, port=listener.getsockname()[1])
        with contextlib.closing(open_auditor(settings)) as auditor:
            server = build(auditor, settings, listener)
            announce(settings)
            server.serve_forever()


def build(auditor: Auditor, settings: Settings, listener: socket.socket) -> BaseWSGIServer:
    """Return a threaded server on a listening socket; raises StoreError."""
    application = app.create_app(auditor, settings).server
    return make_server(
        settings.host, settings.port, application, threaded=True, request_handler=Handler, fd=listener.fileno()
    )


def announce(settings: Settings) -> None:
    """Print the one-time link and remember the address for `--new-link`; raises StoreError."""
    login = Login.open(settings.store)
    auth.remember(login, settings)
    sys.stdout.write(auth.block(login, settings))
    sys.stdout.flush()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises BadInput where the address cannot be had."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise engine.BadInput(f"Port {port} is already in use: choose another with --port.") from error
        raise engine.BadInput(f"Cannot listen on '{host}', port {port}: {error.strerror}.") from error
