"""Who runs the store's cluster: a lock that dies with its holder, and a file that tells the others where to connect."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.store import durable
from engine.store.lock import Lock

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


def ownership(store_root: Path) -> Lock:
    """Return the lock of the store's cluster, not yet claimed."""
    return Lock(store_root / "cluster.lock", "claiming the worker")


def _path(store_root: Path) -> Path:
    return store_root / "cluster.json"
