"""The one-time link that lets the first browser in, and where the server that it leads to can be found."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from dashboard.login import Login
from dashboard.settings import Settings
from engine import BadInput, StoreError

_ADDRESS = "address.json"


def link(login: Login, address: str) -> str:
    """Return a new one-time link to a server; raises StoreError."""
    return f"{address}/?token={login.new_token()}"


def block(login: Login, settings: Settings) -> str:
    """Return what a starting server prints: a new link, how to stop, where the store is."""
    return (
        "\n"
        f"  Faultline is running. Open this link; it works once, within a day:\n\n"
        f"    {link(login, settings.address)}\n\n"
        f"  Another link:  python -m dashboard --new-link --store {settings.store}\n"
        f"  Store:         {settings.store.resolve()}\n"
        f"  Stop:          Ctrl-C (work in progress is kept)\n\n"
    )


def remember(login: Login, settings: Settings) -> None:
    """Write down where the server of this store listens, for `new_link`; raises StoreError."""
    record = {"host": settings.host, "port": settings.port, "address": settings.address}
    fresh = login.folder / f"{_ADDRESS}-{os.getpid()}"
    try:
        fresh.write_text(json.dumps(record))
        fresh.replace(login.folder / _ADDRESS)
    except OSError as error:
        raise StoreError(f"The store cannot be written: {error.strerror}.") from error


def new_link(store: Path) -> str:
    """Return a new one-time link to the server that runs on a store; raises BadInput if none does, StoreError."""
    try:
        record = json.loads((store / "login" / _ADDRESS).read_text())
    except FileNotFoundError:
        raise BadInput(f"No server was ever started on the store '{store}': name it with --store.") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"The login files of the store '{store}' cannot be read: {error}.") from error
    if not _answers(record["host"], record["port"]):
        raise BadInput(f"No server answers at {record['address']}: start it with python -m dashboard --store {store}.")
    return link(Login.open(store), record["address"])


def is_first(login: Login) -> bool:
    """Return True to one caller among the processes of one parent (gunicorn's workers), False to the others.

    Where the parent cannot be told from an earlier process of the same number, every caller is first.
    """
    try:
        # Field 22 of the line, the 20th after the name in brackets: when the parent was started.
        started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return True
    mark = login.folder / f"announced-{os.getppid()}-{started}"
    try:
        mark.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    for old in login.folder.glob("announced-*"):
        if old != mark:
            old.unlink(missing_ok=True)
    return True


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False
