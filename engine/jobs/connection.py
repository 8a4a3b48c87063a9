"""The cluster: started here or found, with what tells a live scheduler from a dead one."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from engine.errors import BadInput, WorkFailed
from engine.store import files
from engine.store.files import Lock

if TYPE_CHECKING:
    from distributed.security import Security

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
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
    with files.disk_errors("starting the worker"):
        files.write_file(_path(store_root), json.dumps(asdict(contact)).encode(), mode=0o600)


def withdraw(store_root: Path) -> None:
    """Take the contact away; only the lock's holder does this."""
    _path(store_root).unlink(missing_ok=True)


def ownership(store_root: Path) -> Lock:
    """Return the lock of the store's cluster, not yet claimed."""
    return Lock(store_root / "cluster.lock", "claiming the worker")


def _path(store_root: Path) -> Path:
    return store_root / "cluster.json"


DEATHS_ALLOWED: Final = 2
"""A piece of work that was running when its worker died is begun again so often; the next death fails it."""
PATIENCE: Final = 30.0
"""Seconds to wait for another process that holds the lock but has not published its contact yet."""
HANDSHAKE: Final = "5s"
REFUSED_FOR: Final = 5.0
"""Seconds for which a scheduler that did not answer is not tried again: a whole queue would wait once per piece of work."""
UNREACHABLE: Final = "The configured scheduler could not be reached; check its address and certificates."
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files with which a client proves itself to an existing cluster, and checks the cluster."""

    authority: Path
    certificate: Path
    private_key: Path

    def __post_init__(self) -> None:
        for path in (self.authority, self.certificate, self.private_key):
            if not path.is_file():
                raise BadInput(f"There is no certificate file {path.name}; give the PEM files of the cluster.")


@final
class Connection:
    """Connects on first need and again whenever the other side is gone. Use it from one thread at a time."""

    def __init__(
        self,
        store_root: Path,
        *,
        scheduler: str | None = None,
        allow_plain: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        """Check the address of an existing scheduler, if one is given; raises BadInput.

        tls: certificates for that scheduler; by default what Dask's own configuration names.
        """
        if scheduler is not None:
            _require_safe(scheduler, allow_plain)
        self._root = store_root
        self._scheduler = scheduler
        self._tls = tls
        self._ownership = ownership(store_root)
        self._client: Client | None = None
        self._cluster: LocalCluster | None = None
        self._refused_until = 0.0

    def client(self) -> Client:
        """Return a connected client.

        A vanished scheduler is replaced: by the next process that takes the store's lock, or by connecting anew.
        Raises WorkFailed when no cluster can be reached, StoreError when the store cannot be used.
        """
        if self._client is None or self._client.status != "running":
            self.close()
            self._client = self._external() if self._scheduler else self._local()
        return self._client

    def close(self) -> None:
        """Disconnect; a cluster started here ends with it."""
        if self._client is None and self._cluster is None:
            self._ownership.release()
            return
        try:
            if self._client is not None:
                _disconnect(self._client)
            if self._cluster is not None:
                withdraw(self._root)
                _end(self._cluster)
        except (OSError, TimeoutError) as error:
            log.warning("The connection to the workers did not end cleanly: %r", error)
        finally:
            self._client = self._cluster = None
            self._ownership.release()

    def abandon(self) -> None:
        """Let go of what a fork copied: the parent keeps its connection and, as long as it lives, the lock."""
        self._ownership.release()

    def _local(self) -> Client:
        """Start the store's cluster, or connect to the process that runs it already."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._ownership.claim():
                return self._started()
            try:
                result = read(self._root)
                return _connected(result.address, result.security())
            except (NoContact, OSError, TimeoutError) as error:
                # The holder is still starting, or it just died and the lock is free in a moment.
                log.debug("No cluster yet: %r", error)
                time.sleep(0.2)
        raise WorkFailed("Another process holds the store's worker but does not answer; end it and ask again.")

    def _started(self) -> Client:
        from distributed.security import Security

        withdraw(self._root)
        security = Security.temporary()
        try:
            self._cluster = _local_cluster(self._root, security)
            client = _connected(self._cluster.scheduler_address, security)
            public = (security.tls_client_cert, security.tls_client_key)
            publish(self._root, Contact(self._cluster.scheduler_address, *public))
        except Exception as error:
            log.exception("The worker could not be started")
            self.close()
            raise WorkFailed("The worker could not be started; the reason stands in the log.") from error
        return client

    def _external(self) -> Client:
        from distributed.security import Security

        address = str(self._scheduler)
        if time.monotonic() < self._refused_until:
            raise WorkFailed(UNREACHABLE)
        try:
            return _connected(address, Security(require_encryption=address.startswith("tls://"), **_named(self._tls)))
        # TypeError and ValueError: what Dask raises for TLS files that are missing from its configuration.
        except (OSError, TimeoutError, TypeError, ValueError) as error:
            log.warning("The scheduler %s could not be reached: %r", address, error)
            self._refused_until = time.monotonic() + REFUSED_FOR
            raise WorkFailed(UNREACHABLE) from error


def _named(tls: TlsFiles | None) -> dict[str, str]:
    """Return certificates by the names that Dask gives them."""
    if tls is None:
        return {}
    files = {
        "tls_ca_file": tls.authority,
        "tls_client_cert": tls.certificate,
        "tls_client_key": tls.private_key,
    }
    return {name: str(path) for name, path in files.items()}


def _require_safe(scheduler: str, allow_plain: bool) -> None:
    if scheduler.startswith("tls://"):
        return
    if not scheduler.startswith("tcp://"):
        raise BadInput(f"A scheduler's address starts with tls://, got '{scheduler[:80]}'.")
    if not allow_plain:
        raise BadInput(
            "A scheduler runs the code it is sent, so it needs TLS: give a tls:// address or allow plain tcp."
        )


def _connected(address: str, security: Security) -> Client:
    from distributed import Client

    # Dask writes traces for a scheduler that vanished; whoever asked for work is told that it is lost.
    for name, least in {"client": logging.CRITICAL, "batched": logging.WARNING, "core": logging.WARNING}.items():
        logging.getLogger(f"distributed.{name}").setLevel(least)
    return Client(address, security=security, timeout=HANDSHAKE, set_as_default=False)


def _local_cluster(root: Path, security: Security) -> LocalCluster:
    """One worker process with one thread; torch uses all cores inside it."""
    import dask
    from distributed import LocalCluster

    scratch = root / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    with dask.config.set(_settings()):
        return LocalCluster(
            # A copy: a worker that is started again later would otherwise get what the settings are by then.
            config=copy.deepcopy(dask.config.config),
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            security=security,
            silence_logs=logging.ERROR,
            scheduler_kwargs={
                "allowed_failures": DEATHS_ALLOWED,
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
            },
            local_directory=str(scratch),
        )


def _disconnect(client: Client) -> None:
    """Close a client whatever state it is in: one that is just connecting anew raises what its half-made stream raises."""
    try:
        client.close(timeout=2)
    except Exception as error:
        log.info("The connection to the workers was gone already: %r", error)


def _end(cluster: LocalCluster) -> None:
    """End a cluster without waiting for the work in it: results are whole or absent, so a worker may be killed."""
    for worker in cluster.workers.values():
        cluster.sync(worker.close, timeout=0.5)
    cluster.close(timeout=5)


def _settings() -> dict[str, Any]:
    """What Dask reads when it starts the cluster, above all the environment of the worker process.

    Few malloc arenas and early trimming keep a worker that has seen large batches from holding on to their memory.
    Trimming alone would fix the size from which every tensor is mapped anew at 128 KB: PGD-10 on 96 CIFAR images then
    takes 2.2 million page faults and 7.5 s of processor time instead of 0.1 million and 3.0 s, for 180 of 945 MB.
    Waiting threads sleep: spinning ones were eight times slower on two cores that other processes use as well.
    Without a dashboard Dask still serves logs, call stacks and workers over plain HTTP: no routes, nothing served.
    Endless saturation: all that waits is ordered by priority in the worker. With Dask's default a click would wait for
    one more piece of lesser work, which has gone ahead to the worker.
    """
    cores = str(os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0)))
    environment = {
        "OMP_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "OPENBLAS_NUM_THREADS": cores,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    }
    return {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.worker-saturation": math.inf,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
