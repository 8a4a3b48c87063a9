"""Who may come in: a secret per store, links that work once, signed cookies, and where a link leads to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner

from dashboard.settings import Settings
from engine import BadInput, StoreError

SESSION_SECONDS = 12 * 3600
RENEW_SECONDS = 3600
"""A cookie older than this is replaced by a fresh one, so that nobody is thrown out in the middle of the work."""
LINK_SECONDS = 24 * 3600
"""How long a link waits for its one use."""
_ADDRESS = "address.json"


@dataclass(frozen=True, slots=True)
class Login:
    """The login of one store. Links are files named by the hash of their token: removing one is the atomic exchange,
    so that of several processes (gunicorn's workers) exactly one can accept a token."""

    folder: Path
    secret: bytes

    @classmethod
    def open(cls, store: Path) -> Login:
        """Return the login of a store folder, made on first use (folder mode 0700, files 0600); raises StoreError."""
        folder = store / "login"
        try:
            # One by one: `parents=True` makes the outer folders with the usual, open mode.
            for result in (store, folder, folder / "links"):
                result.mkdir(mode=0o700, exist_ok=True)
            return cls(folder, _read_or_make_secret(folder / "secret"))
        except OSError as error:
            raise StoreError(f"The login files of the store cannot be read or written: {error.strerror}.") from error

    @property
    def cookie_name(self) -> str:
        """One name per store: cookies of one host reach all its ports, so two servers must not overwrite each other."""
        return f"faultline-{hashlib.sha256(self.secret).hexdigest()[:8]}"

    def new_token(self) -> str:
        """Return a token good for one login within a day; only its hash is stored. Raises StoreError."""
        token = secrets.token_urlsafe(32)
        try:
            self._remove_stale_links()
            self._link(token).touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise StoreError(f"No login link can be made in the store: {error.strerror}.") from error
        return token

    def use_token(self, token: str) -> bool:
        """Return whether a token was good, and make it useless.

        Only hashes are looked up, so the time taken tells nothing about a token.
        """
        link = self._link(token)
        try:
            st_mtime = link.stat().st_mtime
            link.unlink()
        except FileNotFoundError:
            return False
        return time.time() - st_mtime < LINK_SECONDS

    def new_cookie(self) -> str:
        """Return the value of a cookie that is good for twelve hours from now."""
        return self._signer().sign(secrets.token_hex(8)).decode()

    def seconds_left(self, cookie: str) -> int:
        """Return how long a cookie is still good for: 0 if it is forged, garbled or expired."""
        try:
            _, result = self._signer().unsign(cookie, return_timestamp=True)
        except BadSignature:
            return 0
        return max(0, int(result.timestamp()) + SESSION_SECONDS - int(time.time()))

    def _link(self, token: str) -> Path:
        return self.folder / "links" / hashlib.sha256(token.encode()).hexdigest()

    def _signer(self) -> TimestampSigner:
        return TimestampSigner(self.secret, salt="faultline cookie 2", digest_method=hashlib.sha256)

    def _remove_stale_links(self) -> None:
        for link in (self.folder / "links").iterdir():
            # Another process may have removed it between the listing and now.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - link.stat().st_mtime >= LINK_SECONDS:
                    link.unlink()


def _read_or_make_secret(path: Path) -> bytes:
    """Return the secret of a store; of two processes that make it at once, both use the first one's."""
    if not path.exists():
        fresh = path.with_name(f"secret-{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            # A hard link, unlike a rename, fails where the name is taken: the first one stays.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    secret = path.read_bytes()
    if len(secret) < 32:
        raise StoreError(
            "The login secret of the store is damaged: remove the file login/secret; open sessions then end."
        )
    return secret


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
