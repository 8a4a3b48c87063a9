"""How far a piece of work is: one small file per piece in the store, readable from every process.

Files instead of messages through the scheduler: they cost 0.1 ms to read, need no connection, and outlive the worker
that wrote them, so a poll may reach any web process. Progress is no evidence, so nothing here is synced to the disk.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, final

from engine.store import durable, names

REPORTS_PER_SECOND = 5
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
        temporary = self._folder / f"{durable.PREFIX}{durable.HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        with durable.disk_errors("noting progress"):
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(self._path(key))

    def clear(self, key: str) -> None:
        """Forget what is noted of a key."""
        with durable.disk_errors("clearing progress"):
            self._path(key).unlink(missing_ok=True)

    def starts(self, key: str) -> int:
        """Return how often a worker began a key without ending it."""
        try:
            return self.read(key).starts
        except NoNote:
            return 0

    def reporter(self, key: str) -> Report:
        """Return the function by which a piece of work reports; it writes at most five times a second."""
        starts = self.starts(key)
        last = 0.0

        def report(done: int, total: int, message: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 1 / REPORTS_PER_SECOND:
                last = now
                self.write(key, Note("working", done, total, message, starts))

        return report

    def _path(self, key: str) -> Path:
        if not names.is_key(key):
            raise NoNote(key)
        return self._folder / f"{key}.json"
