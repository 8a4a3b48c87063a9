"""The catalogue: which runs there are, which shards they have, and a log whose every line vouches for the one before.

One SQLite file, never on a network file system. The files are the truth: runs and shards are read from them again
whenever a run is taken up. Workers never touch it.
"""

from __future__ import annotations

import datetime
import errno
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from engine import keys
from engine.errors import StoreError
from engine.store import durable

FILE: Final = "catalogue.sqlite"
ROOM: Final = 256 * 1024
"""Bytes free below which a failure is laid to the full disk: SQLite's log grows by up to 64 KiB at once."""
PATIENCE: Final = 30.0
"""Seconds to wait for another process that is writing."""
TABLES: Final = """
create table if not exists runs (run text primary key, name text not null, started text not null, state text not null);
create table if not exists shards (
    run text not null, condition text not null, block integer not null, hash text not null, images integer not null,
    seconds real not null, primary key (run, condition, block));
create table if not exists log (
    number integer primary key, at text not null, run text not null, event text not null, detail text not null,
    hash text not null);
"""


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished shard."""

    condition: str
    block: int
    hash: str
    images: int
    seconds: float


@final
class Catalogue:
    """The catalogue of a store. Every call opens, commits and closes, so it may be used from any thread and process."""

    def __init__(self, root: Path) -> None:
        """Open the catalogue of a store and make it where it is missing; raises StoreError."""
        self._path = root / FILE
        with self._connected() as database:
            database.execute("pragma journal_mode=wal")
            database.executescript(TABLES)

    def begin(self, run: str, name: str) -> None:
        """Note that a run was started or taken up."""
        with self._open() as database:
            database.execute("insert or ignore into runs values (?, ?, ?, 'running')", (run, name, _now()))
            database.execute("update runs set state = 'running' where run = ?", (run,))

    def end(self, run: str, state: str) -> None:
        """Note the state a run was left in."""
        with self._open() as database:
            database.execute("update runs set state = ? where run = ?", (state, run))

    def runs(self) -> tuple[tuple[str, str, str, str], ...]:
        """Return (run, name, started, state) of every run that this catalogue knows, the latest first."""
        with self._open() as database:
            return tuple(database.execute("select run, name, started, state from runs order by started desc, run"))

    def reconcile(self, run: str, entries: Iterable[Entry]) -> None:
        """Replace what is known of a run's shards by what its files say."""
        with self._open() as database:
            database.execute("delete from shards where run = ?", (run,))
            _insert(database, run, entries)

    def add(self, run: str, entries: Iterable[Entry]) -> None:
        """Note finished shards."""
        with self._open() as database:
            _insert(database, run, entries)

    def shards(self, run: str) -> tuple[Entry, ...]:
        """Return the finished shards of a run."""
        query = "select condition, block, hash, images, seconds from shards where run = ? order by condition, block"
        with self._open() as database:
            return tuple(Entry(*row) for row in database.execute(query, (run,)))

    def log(self, run: str, event: str, detail: str = "") -> None:
        """Append a line to the log."""
        with self._open() as database:
            last = database.execute("select number, hash from log order by number desc limit 1").fetchone() or (0, "")
            line = (last[0] + 1, _now(), run, event, detail)
            database.execute("insert into log values (?, ?, ?, ?, ?, ?)", (*line, _chained(last[1], line)))

    def events(self) -> tuple[Event, ...]:
        """Return the whole log, the oldest line first. Raises StoreError naming the first line that was tampered with."""
        with self._open() as database:
            rows = database.execute("select number, at, run, event, detail, hash from log order by number").fetchall()
        previous = ""
        for expected, row in enumerate(rows, start=1):
            if row[0] != expected or row[5] != _chained(previous, row[:5]):
                raise StoreError(f"Line {expected} of the audit log was changed or taken out after it was written.")
            previous = row[5]
        return tuple(Event(*row) for row in rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction. `immediate`: two processes that read before they write would otherwise both fail."""
        with self._connected() as database, database:
            database.execute("begin immediate")
            yield database

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=PATIENCE)
            try:
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise StoreError(
                f"The catalogue {FILE} cannot be used ({self._reason(error)}). Nothing that was stored before is lost; if it is "
                "damaged, move it away: runs are read from their files again, only the log begins anew."
            ) from error

    def _reason(self, error: sqlite3.Error) -> str:
        """SQLite calls a disk without room for its log an input/output error."""
        is_full = shutil.disk_usage(self._path.parent).free < ROOM
        return durable.REASONS[errno.ENOSPC] if is_full else str(error)


def _insert(database: sqlite3.Connection, run: str, entries: Iterable[Entry]) -> None:
    rows = [(run, one.condition, one.block, one.hash, one.images, one.seconds) for one in entries]
    database.executemany("insert or replace into shards values (?, ?, ?, ?, ?, ?)", rows)


def _chained(previous: str, line: tuple[object, ...]) -> str:
    return keys.bytes_hash(json.dumps([previous, *line], ensure_ascii=False).encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
