"""What a worker runs: one piece of work, its progress and failure noted in the store."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from engine.errors import EngineError, WorkFailed
from engine.store import files

REPORTS_PER_SECOND = 5
STOPPED = "It was stopped."
"""Why work failed that somebody stopped."""
Report = Callable[[int, int, str], None]
"""Called inside a piece of work with what is done, the total, and a line that says what is going on."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a piece of work."""

    state: Literal["working", "failed"]
    done: int = 0
    total: int = 0
    message: str = ""
    starts: int = 0
    """How often a worker began it without ending it."""
    at: float = 0.0
    """Seconds since 1970 at which this was written."""


class NoNote(Exception):
    """Nothing is noted of a piece of work."""


@final
class Notes:
    """The folder `work` of a store."""

    def __init__(self, store_root: str | Path) -> None:
        self._folder = Path(store_root) / "work"

    def read(self, key: str) -> Note:
        """Return what is noted of a key; raises NoNote, also for a note that cannot be understood."""
        try:
            return Note(**json.loads(self._path(key).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise NoNote(key) from error

    def write(self, key: str, note: Note) -> None:
        """Note how far a key is; raises StoreError when the disk refuses."""
        content = json.dumps(asdict(replace(note, at=time.time())))
        temporary = self._folder / f"{files.PREFIX}{files.HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        with files.disk_errors("noting progress"):
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(self._path(key))

    def clear(self, key: str) -> None:
        """Forget what is noted of a key."""
        with files.disk_errors("clearing progress"):
            self._path(key).unlink(missing_ok=True)

    def stop(self, key: str) -> None:
        """Ask whoever does a piece of work to end it at its next report; raises StoreError."""
        with files.disk_errors("stopping work"):
            self._mark(key).touch()

    def go_on(self, key: str) -> None:
        """Take that back."""
        with files.disk_errors("stopping work"):
            self._mark(key).unlink(missing_ok=True)

    def starts(self, key: str) -> int:
        """Return how often a worker began a key without ending it."""
        try:
            return self.read(key).starts
        except NoNote:
            return 0

    def reporter(self, key: str) -> Report:
        """Return the function by which a piece of work reports; it writes at most five times a second.

        It raises WorkFailed once the work was asked to stop.
        """
        starts = self.starts(key)
        last = 0.0

        def report(done: int, total: int, message: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 1 / REPORTS_PER_SECOND:
                last = now
                if self._mark(key).exists():
                    raise WorkFailed(STOPPED)
                self.write(key, Note("working", done, total, message, starts))

        return report

    def _mark(self, key: str) -> Path:
        return self._path(key).with_suffix(".stop")

    def _path(self, key: str) -> Path:
        if not files.is_key(key):
            raise NoNote(key)
        return self._folder / f"{key}.json"


AFTER = 0.5
"""Seconds without work. Work that follows at once finds its memory where it was: taking it anew costs time."""


class Resting:
    """Returns freed memory to the system once there has been no work for a while, where the C library is glibc.

    MobileNetV2 at 224 pixels: the worker holds 0.9 GB at rest instead of the 1.75 GB that an explanation leaves; giving it
    back takes 0.07 s.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Work is over: give back unless `end` follows soon."""
        with self._lock:
            self._stop()
            self._timer = threading.Timer(AFTER, give_back)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """There is work again."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def give_back() -> bool:
    """Return whether the C library could be asked to return what is no longer used."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


Perform = Callable[[dict[str, Any], str], str]
"""From a task and the store's folder to a token: a module-level function, loaded from the worker's own installation."""
log = logging.getLogger(__name__)
rest = Resting()
# Dask writes a trace of its own for every piece of work that raises; whoever handed it in tells the failure, once.
logging.getLogger("distributed.worker").addFilter(lambda record: not str(record.msg).startswith("Compute Failed"))


def run(perform: Perform, task: dict[str, Any], store_root: str) -> str:
    """Perform a task and return a tiny token; results and failures lie in the store, never in the scheduler.

    An EngineError is noted as its text. Any other error is noted as an id that stands in this worker's log beside the
    trace: traces and paths never reach a browser.
    """
    key = task["key"]
    notes = Notes(store_root)
    notes.write(key, Note("working", starts=notes.starts(key) + 1))
    rest.end()
    try:
        token = perform(task, store_root)
    except EngineError as error:
        notes.write(key, Note("failed", message=str(error)))
        return "failed"
    except Exception:
        identifier = secrets.token_hex(4)
        log.exception("Work %s (%s) ended with internal error %s", key, task.get("kind"), identifier)
        notes.write(key, Note("failed", message=f"The work ended with an internal error (id {identifier})."))
        return "failed"
    finally:
        notes.go_on(key)
        rest.begin()
    notes.clear(key)
    return token
