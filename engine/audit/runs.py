"""Runs driven to their end whatever happens, and the log whose every line vouches for the one before."""

from __future__ import annotations

import datetime
import fcntl
import itertools
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np

from engine import hashing
from engine.audit import manifest as manifests
from engine.audit import results, shards
from engine.audit.manifest import Condition, Manifest, Place
from engine.audit.shards import NoShard
from engine.errors import BadInput, EngineError, StoreError
from engine.jobs import Progress, Workers
from engine.store import Store, files
from engine.store.files import Lock

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
    """A log that is only added to; nothing is held open between two calls, so any thread and process may write.

    file: the store's own, or another one with the same chain; title: what messages call it.
    """

    def __init__(self, root: Path, file: str = FILE, title: str = "the audit log") -> None:
        self._path = root / file
        self._old = root / OLD_FILE if file == FILE else None
        self._named = title, file

    def append(self, run: str, event: str, detail: str = "") -> Event:
        """Append a line, durably, and return it. Raises StoreError where the last line is none, or the disk refuses.

        Whether earlier lines were changed, `events` tells: a run goes on whatever was done to the log.
        """
        with self._locked() as descriptor:
            lines = _whole_lines(descriptor)
            line = (len(lines) + 1, _now(), run, event, detail)
            added = Event(*line, _chained(self._read(lines[-1], len(lines)).hash if lines else "", line))
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, _written((added,)))
            os.fsync(descriptor)
            return added

    def events(self) -> tuple[Event, ...]:
        """Return the whole log, the oldest line first. Raises StoreError naming the first line that was tampered with."""
        if not self._path.exists() and not (self._old and self._old.exists()):
            return ()
        with self._locked() as descriptor:
            return self._chain(_whole_lines(descriptor))

    def _chain(self, lines: list[bytes]) -> tuple[Event, ...]:
        results: list[Event] = []
        for expected, line in enumerate(lines, start=1):
            event = self._read(line, expected)
            if event.number != expected or event.hash != _chained(
                results[-1].hash if results else "", astuple(event)[:5]
            ):
                raise self._changed(expected)
            results.append(event)
        return tuple(results)

    def _read(self, line: bytes, number: int) -> Event:
        try:
            return Event(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise self._changed(number) from error

    def _changed(self, number: int) -> StoreError:
        title, file = self._named
        return StoreError(
            f"Line {number} of {title} was changed or taken out after it was written. Nothing else that is stored is lost; to "
            f"begin a new log, move {file} away and keep it."
        )

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open for one process at a time, with the lines of an older store in it."""
        with files.disk_errors(f"writing {self._named[0]}"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._old and self._old.exists() and os.fstat(descriptor).st_size == 0:
                    os.write(descriptor, _written(_taken_over(self._old)))
                    os.fsync(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)


def _whole_lines(descriptor: int) -> list[bytes]:
    """The lines of the file; what a process that died left without its end was never promised, and is cut off."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        content = stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.ftruncate(descriptor, len(whole))
    return whole.splitlines()


def _taken_over(path: Path) -> tuple[Event, ...]:
    """Return the lines of an older store's log."""
    try:
        database = sqlite3.connect(path)
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


def _written(events: tuple[Event, ...]) -> bytes:
    names = ("number", "at", "run", "event", "detail", "hash")
    return "".join(
        json.dumps(dict(zip(names, astuple(event), strict=True)), ensure_ascii=False) + "\n" for event in events
    ).encode()


def _chained(previous: str, line: tuple[object, ...]) -> str:
    return hashing.bytes_hash(json.dumps([previous, *line], ensure_ascii=False).encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


BEGUN: Final = "begun"
"""Event of a run that somebody asked for on the page; its detail says who."""
TAKEN_UP: Final = "taken up"
REVIEWED: Final = "reviewed"
"""Event of an entry in the review of a run; its detail is the entry's hash."""
COMMAND_LINE: Final = "command line"


@dataclass(frozen=True, slots=True)
class History:
    """When a run was driven, and who asked for it."""

    begun: str
    """UTC, ISO 8601."""
    author: str
    seconds: float
    """In which it was driven, all times together; without the one that still goes on."""
    since: str = ""
    """Since when it goes on; empty where nobody drives it."""


def histories(events: Iterable[Event]) -> dict[str, History]:
    """Return the history of every run of a log, by its id."""
    results: dict[str, History] = {}
    for event in events:
        if event.event == REVIEWED:
            continue
        known = results.get(event.run)
        if known is None:
            known = History(event.at, event.detail if event.event == BEGUN else COMMAND_LINE, 0.0)
        if known.since and event.event != BEGUN:
            known = replace(known, seconds=known.seconds + seconds_between(known.since, event.at), since="")
        results[event.run] = replace(known, since=event.at) if event.event == TAKEN_UP else known
    return results


def seconds_between(start: str, end: str) -> float:
    """Return the time between two moments in ISO 8601, at least 0: the clock of a machine may be set back."""
    passed = datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(start)
    return max(0.0, passed.total_seconds())


Ending = Literal["running", "finished", "interrupted", "cancelled"]
WINDOW: Final = 64
"""Pieces of work handed in at a time: enough for every worker to have the next one at hand."""
ATTEMPTS: Final = 5
"""How often a piece of work is handed in that vanishes without a result and without a failure."""
FAILURES: Final = 3
"""Failed pieces of work after which no more are handed in."""
PAUSE: Final = 0.2
NOTED_EVERY: Final = 0.5
"""Seconds between two writings of the state."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is."""

    run: str
    state: Ending
    done: int
    """Finished shards."""
    total: int
    rate: float = 0.0
    """Images per second since the run was taken up, all conditions counted."""
    seconds_left: float | None = None
    message: str = ""
    is_stopping: bool = False
    """It was asked to stop, and what was begun is being left."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard to be made."""

    condition: Condition
    block: int
    key: str


Task = Callable[[str, Piece], dict[str, Any]]
"""From a run's id and a piece to the plain JSON that a worker takes."""
Tell = Callable[[State], None]


@final
class Run:
    """One run of a store, to be driven, watched or read. Any number of processes may hold one; one at a time drives."""

    def __init__(self, store: Store, manifest: Manifest, run: str = "") -> None:
        """Take up a run by its manifest, and by its id where that is known; nothing is written before `begin`."""
        self.manifest = manifest
        self.id = run or manifests.run_id(manifests.text(manifest))
        self.place = manifests.place(store.root, self.id)
        self._root = store.root
        self._lock = _lock(self.place)

    @classmethod
    def open(cls, store: Store, run: str) -> Run:
        """Return a run that was begun; raises UnknownName, StoreError."""
        return cls(store, manifests.read(manifests.place(store.root, run)), run)

    @classmethod
    def of(cls, store: Store, manifest: Manifest) -> Run:
        """Return the run of a plan: the one that a version without connections began, where only that is there."""
        own, older = cls(store, manifest), cls(store, manifests.unconnected(manifest))
        return older if older.place.manifest.is_file() and not own.place.manifest.is_file() else own

    @property
    def pieces(self) -> list[Piece]:
        """All shards, block by block in an order that spreads the classes, so that interim results speak of all."""
        order = np.random.default_rng(self.manifest.plan.images.seed).permutation(self.manifest.blocks)
        return [
            Piece(condition, int(block), shard_key(self.id, condition.folder, int(block)))
            for block in order
            for condition in self.manifest.conditions
        ]

    def state(self) -> State:
        """Return how far the run is, as its driver noted it; a driver that vanished left it interrupted."""
        return state_of(self.place, self.manifest.shards)

    def cancel(self) -> None:
        """Ask whoever drives the run to stop; workers notice between two batches. Raises BadInput, StoreError."""
        if not self.place.manifest.is_file():
            raise BadInput("This plan has no run that could be cancelled.")
        with files.disk_errors("cancelling a run"):
            self.place.cancel.touch()

    def drive(self, workers: Workers, task: Task, tell: Tell) -> State:
        """Make what is undone, or watch the process that does, and return how the run was left.

        A store that refuses to be written in the middle leaves it interrupted, with the reason; raises StoreError where it
        refuses from the start. Whatever ends this, finished shards stay and are found again.
        """
        if results.is_finished(self.place):
            return self.state()
        self.begin()
        while not self._lock.claim():
            tell(self.state())
            time.sleep(PAUSE)
        try:
            if results.is_finished(self.place):
                return self.state()
            return _Driver(self, self._root, workers, task, tell).drive()
        finally:
            self._lock.release()

    def begin(self) -> None:
        """Write down what the run is; from here on other processes see it. Raises StoreError."""
        with files.disk_errors("beginning a run"):
            self.place.folder.parent.mkdir(mode=0o700, exist_ok=True)
            self.place.folder.mkdir(mode=0o700, exist_ok=True)
            if not self.place.manifest.exists():
                files.write_file(self.place.manifest, manifests.text(self.manifest))


def shard_key(run: str, condition: str, block: int) -> str:
    """Return the key of one block of a run under the condition of a folder."""
    return hashing.content_key("shard", run, condition, block)


def state_of(place: Place, total: int) -> State:
    """Return how far a run of so many shards is, as its driver noted it; a driver that vanished left it interrupted."""
    if results.is_finished(place):
        return State(place.run, "finished", total, total)
    try:
        noted = State(**json.loads(place.state.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        noted = State(place.run, "running", 0, total)
    if noted.state != "running":
        return noted
    if _is_abandoned(place):
        return replace(noted, state="interrupted", message="The process that drove the run ended.")
    return replace(noted, is_stopping=place.cancel.exists())


def _is_abandoned(place: Place) -> bool:
    lock = _lock(place)
    if not lock.claim():
        return False
    lock.release()
    return True


def _lock(place: Place) -> Lock:
    return Lock(place.lock, "taking up a run")


@final
class _Driver:
    """One attempt to bring a run to its end."""

    def __init__(self, run: Run, root: Path, workers: Workers, task: Task, tell: Tell) -> None:
        self.run, self.place, self.workers, self.task, self.tell = run, run.place, workers, task, tell
        self.audit_log = AuditLog(root)
        self.pieces = run.pieces
        self.waiting: list[Piece] = []
        self.undone: set[tuple[str, int]] = set()
        """Condition folder and block of every shard that is not there yet."""
        self.flying: dict[str, Piece] = {}
        self.attempts: dict[str, int] = {}
        self.failures: list[str] = []
        self.done = 0
        self.images = 0
        self.begun = self.noted = time.monotonic()

    def drive(self) -> State:
        self.place.cancel.unlink(missing_ok=True)
        try:
            # Said before the files are looked through, which takes seconds: who asked for this sees at once that it goes on.
            self.done = self.run.state().done
            self._write(self._state_now("running", "Looking through what is done."))
            self._reconcile()
            self.audit_log.append(self.run.id, TAKEN_UP, f"{self.done} of {len(self.pieces)} shards are done")
            self._write(self._state_now("running", ""))
            self._hand_in()
            while self.flying:
                self._collect()
                self._note("running")
                self._hand_in()
            return self._ended()
        except EngineError as error:
            return self._interrupted(str(error))
        except BaseException:
            self._interrupted("The process was stopped.")
            raise

    def _reconcile(self) -> None:
        """Read what is done from the files; one that was damaged is made again."""
        self._sweep()
        self.done = 0
        for piece in self.pieces:
            try:
                shards.check(self.place, piece.condition.folder, piece.block)
                self.done += 1
            except NoShard:
                self.workers.forgive(piece.key)
                self.waiting.append(piece)
                self.undone.add((piece.condition.folder, piece.block))

    def _sweep(self) -> None:
        """Remove what workers that died while writing left behind."""
        for folder in (self.place.folder, *self.place.shards.glob("*")):
            files.sweep(folder)

    def _may_go_on(self) -> bool:
        return len(self.failures) < FAILURES and not self.place.cancel.exists()

    def _hand_in(self) -> None:
        """Hand in what may be made next; what waits for other shards stays where it stands."""
        for piece in itertools.islice(filter(self._is_ready, self.waiting[:]), WINDOW - len(self.flying)):
            if not self._may_go_on():
                return
            self.waiting.remove(piece)
            self.attempts[piece.key] = self.attempts.get(piece.key, 0) + 1
            self.flying[piece.key] = piece
            doing = f"making block {piece.block} of {piece.condition.folder}"
            self.workers.submit(self.task(self.run.id, piece), priority="shard", doing=doing)

    def _is_ready(self, piece: Piece) -> bool:
        """Tell whether the earlier attacks of the cascade that a piece builds on are through with its block."""
        return not any((folder, piece.block) in self.undone for folder in piece.condition.after)

    def _collect(self) -> None:
        """Take in what has ended. Work that ended is done only if its shard lies there whole."""
        if self.flying:
            self.workers.wait(next(iter(self.flying)), PAUSE)
        for piece in list(self.flying.values()):
            progress = self.workers.progress(piece.key)
            if progress.state == "working" and not (progress.is_waiting and self.place.cancel.exists()):
                continue
            # A stopped run does not wait for the work of others in front of it: what no worker began is left where it is.
            del self.flying[piece.key]
            try:
                checked = shards.check(self.place, piece.condition.folder, piece.block)
                self.done += 1
                self.images += checked.receipt.images
                self.undone.discard((piece.condition.folder, piece.block))
            except NoShard:
                self._put_back(piece, progress)

    def _put_back(self, piece: Piece, progress: Progress) -> None:
        if progress.state == "failed":
            self.failures.append(f"Block {piece.block} of {piece.condition.folder}: {progress.message}")
        elif self.attempts[piece.key] >= ATTEMPTS:
            self.failures.append(f"Block {piece.block} of {piece.condition.folder} vanished {ATTEMPTS} times.")
        else:
            self.waiting.append(piece)

    def _ended(self) -> State:
        """Finished only if nothing is undone: the work may also have ended because a scheduler died or was told to stop."""
        self._sweep()
        if self.done == len(self.pieces):
            results.seal(self.place, self.run.manifest)
            self.audit_log.append(self.run.id, "finished", results.seal_hash(self.place))
            return self._left("finished", "")
        if self.place.cancel.exists():
            self.audit_log.append(self.run.id, "cancelled", f"{self.done} of {len(self.pieces)} shards are done")
            return self._left("cancelled", "The run was cancelled; what is done is kept.")
        return self._interrupted(self.failures[0] if self.failures else "Work was lost; what is done is kept.")

    def _interrupted(self, message: str) -> State:
        try:
            self.audit_log.append(self.run.id, "interrupted", message)
            return self._left("interrupted", message)
        except EngineError as error:
            log.warning("The interruption could not be noted; the files of the run tell it as well. %s", error)
            return self._state_now("interrupted", message)

    def _left(self, state: Ending, message: str) -> State:
        result = self._state_now(state, message)
        self._write(result)
        self.tell(result)
        return result

    def _note(self, state: Ending) -> None:
        now = time.monotonic()
        if now - self.noted >= NOTED_EVERY:
            self.noted = now
            result = self._state_now(state, self.failures[0] if self.failures else "")
            self._write(result)
            self.tell(result)

    def _state_now(self, state: Ending, message: str) -> State:
        elapsed = max(time.monotonic() - self.begun, 1e-9)
        rate = self.images / elapsed
        total = len(self.run.manifest.images.samples) * len(self.run.manifest.conditions)
        left = total * (1 - self.done / len(self.pieces)) / rate if rate else None
        return State(self.run.id, state, self.done, len(self.pieces), rate, left, message)

    def _write(self, state: State) -> None:
        with files.disk_errors("noting how far a run is"):
            temporary = self.place.folder / f"{files.PREFIX}{files.HOST}-state"
            temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
            temporary.replace(self.place.state)
