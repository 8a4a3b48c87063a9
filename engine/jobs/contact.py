"""Who runs the store's cluster: a lock that dies with its holder, and a file that tells the others where to connect."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from engine.store import durable

if TYPE_CHECKING:
    from distributed.security import Security


class NoContact(Exception):
    """No process has said yet where its cluster can be reached."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Address and temporary TLS material of a local cluster. Whoever can read this may run code: file mode 0600."""

    address: str
    certificate: str
    """PEM text; it is its own authority."""
    private_key: str

    def security(self) -> Security:
        """Return what a Dask client needs to connect."""
        from distributed.security import Security

        return Security(
            require_encryption=True,
            tls_ca_file=self.certificate,
            tls_client_cert=self.certificate,
            tls_client_key=self.private_key,
        )


def read(store_root: Path) -> Contact:
    """Return where the store's cluster can be reached; raises NoContact."""
    try:
        return Contact(**json.loads(_path(store_root).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise NoContact from error


def publish(store_root: Path, contact: Contact) -> None:
    """Tell other processes of this user where the cluster can be reached."""
    with durable.disk_errors("starting the worker"):
        durable.write_file(_path(store_root), json.dumps(asdict(contact)).encode(), mode=0o600)


def withdraw(store_root: Path) -> None:
    """Take the contact away; only the lock's holder does this."""
    _path(store_root).unlink(missing_ok=True)


@final
class Ownership:
    """The store's lock: the system frees it when its holder dies, however; spawned workers do not inherit it."""

    def __init__(self, store_root: Path) -> None:
        self._path = store_root / "cluster.lock"
        self._descriptor: int | None = None

    def claim(self) -> bool:
        """Take the lock if it is free, and tell whether this object holds it now."""
        if self._descriptor is not None:
            return True
        with durable.disk_errors("claiming the worker"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Free the lock if this object holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _path(store_root: Path) -> Path:
    return store_root / "cluster.json"
