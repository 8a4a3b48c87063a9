"""Handing work to a cluster, or doing it here, and knowing how far it is without making a caller wait."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, final

from engine.errors import EngineError, StoreError, WorkFailed
from engine.jobs import worker
from engine.jobs.connection import Connection, TlsFiles
from engine.jobs.worker import NoNote, Note, Notes

if TYPE_CHECKING:
    from distributed import Future


RETRY_AFTER: Final = 60.0
"""Seconds for which a failure stands before asking again starts the work again."""
Priority = Literal["interactive", "roster", "certificate", "gallery", "shard"]
PRIORITIES: Final[dict[Priority, int]] = {
    "interactive": 30,
    "roster": 20,
    "certificate": 10,
    "gallery": 0,
    "shard": -10,
}
AUDITING: Final = "Waiting for the worker: an audit is running, and this comes next, after the part it is at."
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is, as far as this process can tell."""

    state: Literal["unknown", "working", "failed"]
    """`unknown`: never asked for, or ended; whether it left a result is for the store to say."""
    done: int = 0
    total: int = 0
    message: str = ""
    is_waiting: bool = False
    """Handed in, and not begun by any worker yet."""


@dataclass(frozen=True, eq=False, slots=True)
class Ticket:
    """One piece of work in flight."""

    task: dict[str, Any]
    """Plain JSON with the content key under `key`; the same key is the same work in every process."""
    priority: Priority
    doing: str
    """What the work does, for example `explaining the pair`."""
    sent: threading.Event
    settled: threading.Event

    @property
    def key(self) -> str:
        return self.task["key"]


class Workers(Protocol):
    """What hands work in: `Jobs` to workers, `Here` to the process that asks."""

    def submit(self, task: dict[str, Any], *, priority: Priority, doing: str) -> bool: ...
    def progress(self, key: str) -> Progress: ...
    def wait(self, key: str, seconds: float) -> None: ...
    def is_unfinished(self, key: str) -> bool: ...
    def forgive(self, key: str) -> None: ...
    def stop(self, key: str) -> None: ...
    def close(self) -> None: ...


@final
class Jobs:
    """The work of one store. Thread-safe; nothing is connected or started before the first piece of work."""

    def __init__(
        self,
        store_root: Path,
        perform: worker.Perform,
        *,
        scheduler: str | None = None,
        allow_plain: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        """Prepare to hand tasks to `perform` in a worker; raises BadInput for a scheduler address that is not safe."""
        self._root = Path(store_root)
        self._perform = perform
        self._connect = functools.partial(Connection, self._root, scheduler=scheduler, allow_plain=allow_plain, tls=tls)
        self._notes = Notes(self._root)
        self._lock = threading.Lock()
        self._is_closed = False
        self._begin()

    def submit(self, task: dict[str, Any], *, priority: Priority, doing: str) -> bool:
        """Hand in a piece of work, in the background, and tell whether it is newly in flight.

        Does nothing while it is in flight, and for a minute after it failed. Raises WorkFailed after `close`.
        """
        ticket = Ticket(task, priority, doing, threading.Event(), threading.Event())
        with self._lock:
            if self._is_closed:
                raise WorkFailed("The workers have been shut down.")
            if os.getpid() != self._process:
                self._connection.abandon()
                self._begin()
            if ticket.key in self._tickets or self._failure(ticket.key) is not None:
                return False
            self._notes.go_on(ticket.key)
            self._tickets[ticket.key] = ticket
            self._sender.submit(self._send, ticket)
        return True

    def stop(self, key: str) -> None:
        """Ask for a piece of work in flight to end at its next report, and then to have failed; raises StoreError."""
        with self._lock:
            is_flying = key in self._tickets
        if is_flying:
            self._notes.stop(key)

    def progress(self, key: str) -> Progress:
        """Return how far a piece of work is."""
        with self._lock:
            ticket = self._tickets.get(key)
            failure = self._failure(key)
        if ticket is None:
            return Progress("failed", message=failure) if failure is not None else Progress("unknown")
        try:
            note = self._notes.read(key)
        except NoNote:
            note = Note("failed")
        if note.state == "failed":
            return Progress("working", message=self._awaited(ticket), is_waiting=True)
        return Progress("working", note.done, note.total, note.message or f"{ticket.doing.capitalize()}.")

    def wait(self, key: str, seconds: float) -> None:
        """Wait a little for a piece of work in flight to end."""
        with self._lock:
            ticket = self._tickets.get(key)
        if ticket is not None:
            ticket.settled.wait(seconds)

    def is_unfinished(self, key: str) -> bool:
        """Tell whether a worker, in any process and at any time, began a piece of work that did not end well."""
        try:
            self._notes.read(key)
        except NoNote:
            return False
        return True

    def forgive(self, key: str) -> None:
        """Forget that a piece of work failed, so that it can be handed in again at once."""
        with self._lock:
            self._failures.pop(key, None)
            if self._failure(key) is not None:
                self._notes.clear(key)

    def close(self) -> None:
        """End the connection, and the cluster if this process started it. What was in flight can be asked again."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            is_foreign = os.getpid() != self._process
        if not is_foreign:
            self._sender.shutdown(wait=True, cancel_futures=True)
            self._connection.close()

    def _begin(self) -> None:
        """Start afresh, also in a fork of a connected process: threads and sockets stay with the parent."""
        self._process = os.getpid()
        self._connection = self._connect()
        self._tickets: dict[str, Ticket] = {}
        self._failures: dict[str, tuple[float, str]] = {}
        self._warned: dict[str, float] = {}
        # One thread: connecting takes seconds, and the connection is never used by two threads.
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="faultline-jobs")

    def _send(self, ticket: Ticket) -> None:
        try:
            client = self._connection.client()
            future = client.submit(
                worker.run,
                self._perform,
                ticket.task,
                str(self._root),
                key=ticket.key,
                priority=PRIORITIES[ticket.priority],
                # What is handed in within this time is one batch to Dask, and of a batch it begins the last one first.
                fifo_timeout=0,
            )
            ticket.sent.set()
            future.add_done_callback(functools.partial(self._settle, ticket))
        except EngineError as error:
            self._fail(ticket, str(error))
        except Exception:
            self._fail_internally(ticket)

    def _settle(self, ticket: Ticket, future: Future) -> None:
        """Release a finished future at once: a result kept in a worker that dies would be computed again.

        A future cancelled with its connection is forgotten, never taken for done: the next ask hands it in again.
        """
        status = future.status
        error = future.exception(timeout=5) if status == "error" else None
        future.release()
        if status == "finished":
            self._drop(ticket)
        elif error is not None:
            self._judge(ticket, error)
        else:
            log.info("Lost sight of %s (%s); it is handed in again when it is asked for.", ticket.key, status)
            self._drop(ticket)

    def _judge(self, ticket: Ticket, error: BaseException) -> None:
        """Tell the work that kills workers from work that merely waited in the queue of one that died."""
        from distributed import KilledWorker

        if not isinstance(error, KilledWorker):
            if isinstance(error, EngineError):
                self._warn("Work %s could not be run: %s", ticket.key, str(error))
                self._fail(ticket, str(error))
                return
            log.error("Work %s could not be run", ticket.key, exc_info=error)
            self._fail_internally(ticket)
            return
        starts = self._notes.starts(ticket.key)
        if starts <= error.allowed_failures:
            self._resend(ticket)
        else:
            self._fail(ticket, str(WorkFailed(f"The worker died {starts} times while {ticket.doing}.")))

    def _resend(self, ticket: Ticket) -> None:
        with self._lock:
            if not self._is_closed:
                self._sender.submit(self._send, ticket)

    def _fail_internally(self, ticket: Ticket) -> None:
        identifier = secrets.token_hex(4)
        log.error("Work %s ended with internal error %s", ticket.key, identifier, exc_info=True)
        self._fail(ticket, f"The work ended with an internal error (id {identifier}).")

    def _fail(self, ticket: Ticket, message: str) -> None:
        """Keep a failure here and, where the disk lets us, for the other processes of this store."""
        with self._lock:
            now = time.monotonic()
            young = {key: one for key, one in self._failures.items() if now - one[0] < RETRY_AFTER}
            self._failures = {**young, ticket.key: (now, message)}
        try:
            self._notes.write(ticket.key, Note("failed", message=message))
        except StoreError as error:
            self._warn("The failure of %s could not be noted: %s", ticket.key, str(error))
        self._drop(ticket)

    def _warn(self, text: str, key: str, reason: str) -> None:
        """Log a reason once a minute: a full disk fails everything in the queue alike."""
        now, result = time.monotonic(), self._warned.get(text + reason)
        log.log(
            logging.DEBUG if result is not None and now - result < RETRY_AFTER else logging.WARNING, text, key, reason
        )
        self._warned[text + reason] = now if result is None or now - result >= RETRY_AFTER else result

    def _failure(self, key: str) -> str | None:
        """Why a piece of work failed within the last minute, here or in another process; None if it did not."""
        if key in self._failures and time.monotonic() - self._failures[key][0] < RETRY_AFTER:
            return self._failures[key][1]
        try:
            note = self._notes.read(key)
        except NoNote:
            return None
        # A clock that was set back makes an age negative; then the failure no longer stands.
        return note.message if note.state == "failed" and 0 <= time.time() - note.at < RETRY_AFTER else None

    def _awaited(self, ticket: Ticket) -> str:
        """Why a piece of work has not been begun; a part of an audit that has been begun is brought to its end first."""
        if not ticket.sent.is_set():
            return "Starting the worker."
        with self._lock:
            is_auditing = any(other.priority == "shard" for other in self._tickets.values() if other is not ticket)
        return AUDITING if is_auditing else "Waiting for the worker."

    def _drop(self, ticket: Ticket) -> None:
        with self._lock:
            if self._tickets.get(ticket.key) is ticket:
                del self._tickets[ticket.key]
        ticket.settled.set()


Perform = Callable[[dict[str, Any], str], str]


@final
class Here:
    """Takes what `Jobs` takes. Work ends before `submit` returns, and whatever error it ends with is raised there."""

    def __init__(self, store_root: Path, perform: Perform) -> None:
        self._root = str(store_root)
        self._perform = perform

    def submit(self, task: dict[str, Any], *, priority: Priority, doing: str) -> bool:  # noqa: ARG002 (as `Jobs`)
        """Do a piece of work."""
        self._perform(task, self._root)
        return True

    def progress(self, key: str) -> Progress:  # noqa: ARG002
        """Nothing is ever under way."""
        return Progress("unknown")

    def wait(self, key: str, seconds: float) -> None:
        """Nothing is ever waited for."""

    def is_unfinished(self, key: str) -> bool:  # noqa: ARG002
        """Nothing is ever left unfinished."""
        return False

    def forgive(self, key: str) -> None:
        """Failures are raised, not kept."""

    def stop(self, key: str) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing was opened."""
