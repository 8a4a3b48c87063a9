"""The audit log of a store: one JSON line per event, each of which vouches for the one before.

It is written and read by the processes of one machine; the files of a run are the truth, and the log says when and by what
they came about. Stores of version 0.1 hold theirs in `catalogue.sqlite`, whose lines are taken over with their hashes.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, final

from engine import keys
from engine.errors import StoreError
from engine.store import durable

FILE: Final = "log.jsonl"
OLD_FILE: Final = "catalogue.sqlite"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log."""

    number: int
    at: str
    """UTC, ISO 8601, by the clock of the machine; the order is that of `number`."""
    run: str
    event: str
    detail: str
    hash: str
    """Of this line and the hash of the one before."""


@final
class AuditLog:
    """The log of a store; nothing is held open between two calls, so any thread and process may write."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._old = root / OLD_FILE

    def append(self, run: str, event: str, detail: str = "") -> None:
        """Append a line, durably. Raises StoreError where the last line is none, or the disk refuses.

        Whether earlier lines were changed, `events` tells: a run goes on whatever was done to the log.
        """
        with self._locked() as descriptor:
            lines = _whole_lines(descriptor)
            line = (len(lines) + 1, _now(), run, event, detail)
            added = Event(*line, _chained(_read(lines[-1], len(lines)).hash if lines else "", line))
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, _written((added,)))
            os.fsync(descriptor)

    def events(self) -> tuple[Event, ...]:
        """Return the whole log, the oldest line first. Raises StoreError naming the first line that was tampered with."""
        if not self._path.exists() and not self._old.exists():
            return ()
        with self._locked() as descriptor:
            return _chain(_whole_lines(descriptor))

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open for one process at a time, with the lines of an older store in it."""
        with durable.disk_errors("writing the audit log"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_size == 0 and self._old.exists():
                    os.write(descriptor, _written(self._taken_over()))
                    os.fsync(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)

    def _taken_over(self) -> tuple[Event, ...]:
        try:
            database = sqlite3.connect(self._old)
            try:
                rows = database.execute("select number, at, run, event, detail, hash from log order by number")
                return tuple(Event(*row) for row in rows.fetchall())
            finally:
                database.close()
        except sqlite3.Error as error:
            raise StoreError(
                f"The log of version 0.1, {OLD_FILE}, cannot be read ({error}). Nothing that was stored is lost; move the file "
                f"away, and the log begins anew in {FILE}."
            ) from error


def _whole_lines(descriptor: int) -> list[bytes]:
    """The lines of the file; what a process that died left without its end was never promised, and is cut off."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        content = stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.ftruncate(descriptor, len(whole))
    return whole.splitlines()


def _chain(lines: list[bytes]) -> tuple[Event, ...]:
    found: list[Event] = []
    for expected, line in enumerate(lines, start=1):
        event = _read(line, expected)
        if event.number != expected or event.hash != _chained(found[-1].hash if found else "", astuple(event)[:5]):
            raise _changed(expected)
        found.append(event)
    return tuple(found)


def _read(line: bytes, number: int) -> Event:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise _changed(number) from error


def _changed(number: int) -> StoreError:
    return StoreError(
        f"Line {number} of the audit log was changed or taken out after it was written. Nothing else that is stored is lost; to "
        f"begin a new log, move {FILE} away and keep it."
    )


def _written(events: tuple[Event, ...]) -> bytes:
    names = ("number", "at", "run", "event", "detail", "hash")
    return "".join(
        json.dumps(dict(zip(names, astuple(event), strict=True)), ensure_ascii=False) + "\n" for event in events
    ).encode()


def _chained(previous: str, line: tuple[object, ...]) -> str:
    return keys.bytes_hash(json.dumps([previous, *line], ensure_ascii=False).encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
