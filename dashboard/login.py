"""Who may come in: a secret per store, links that work once, and signed cookies."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from engine import StoreError

SESSION_SECONDS = 12 * 3600
RENEW_SECONDS = 3600
"""A cookie older than this is replaced by a fresh one, so that nobody is thrown out in the middle of the work."""
LINK_SECONDS = 24 * 3600
"""How long a link waits for its one use."""


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
            for made in (store, folder, folder / "links"):
                made.mkdir(mode=0o700, exist_ok=True)
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
            made = link.stat().st_mtime
            link.unlink()
        except FileNotFoundError:
            return False
        return time.time() - made < LINK_SECONDS

    def new_cookie(self) -> str:
        """Return the value of a cookie that is good for twelve hours from now."""
        payload = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{payload}.{self._signature(payload)}"

    def seconds_left(self, cookie: str) -> int:
        """Return how long a cookie is still good for: 0 if it is forged, garbled or expired."""
        payload, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._signature(payload).encode(), signature.encode()):
            return 0
        return max(0, int(payload.partition(".")[0]) - int(time.time()))

    def _link(self, token: str) -> Path:
        return self.folder / "links" / hashlib.sha256(token.encode()).hexdigest()

    def _signature(self, payload: str) -> str:
        return hmac.new(self.secret, b"faultline cookie 1:" + payload.encode(), hashlib.sha256).hexdigest()

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
