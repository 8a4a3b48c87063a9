"""Asking: from a task and a request to what lies in the store, or how far the work is; commands do the work at once."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar, final

from engine import serialization
from engine.errors import WorkFailed
from engine.jobs import Report, Workers
from engine.jobs.queue import Here
from engine.service import tasks, worker
from engine.service.tasks import Task
from engine.store import NotStored, Store
from engine.types.core import Answer

Record = TypeVar("Record")


@final
class Recent:
    """The records used last, whose arrays hold at most `budget` bytes together; the very last one is always kept."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[tuple[str, str], tuple[int, object]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        """Held by whoever fetches that record."""

    def read(self, kind: str, key: str, noun: type[Record], fetch: Callable[[], Record]) -> Record:
        """Return a held record, or what `fetch` returns, held from now on.

        Several requests for one record wait for the first to fetch it: a page asks for its parts all at once, and six
        copies of an explanation of MobileNetV2 filled 700 MB.
        """
        result = self.get(kind, key, noun)
        if result is not None:
            return result
        with self._lock:
            turn = self._turns.setdefault((kind, key), threading.Lock())
        try:
            with turn:
                result = self.get(kind, key, noun)
                if result is None:
                    result = fetch()
                    self.put(kind, key, result)
                return result
        finally:
            with self._lock:
                self._turns.pop((kind, key), None)

    def get(self, kind: str, key: str, noun: type[Record]) -> Record | None:
        """Return a held record, or None."""
        with self._lock:
            held = self._held.get((kind, key))
            if held is None or not isinstance(held[1], noun):
                return None
            self._held.move_to_end((kind, key))
            return held[1]

    def put(self, kind: str, key: str, record: object) -> None:
        """Hold a record, and let go of those used longest ago until the budget is kept."""
        size = serialization.size(record)
        with self._lock:
            self._held[kind, key] = (size, record)
            self._held.move_to_end((kind, key))
            while len(self._held) > 1 and sum(item[0] for item in self._held.values()) > self._budget:
                self._held.popitem(last=False)


Request = TypeVar("Request")
Read = TypeVar("Read")
A_MOMENT: Final = 0.15
"""Seconds to wait after handing work in, so that quick work needs no poll."""
MEMORY: Final = 64 * 2**20
"""Bytes of read records that are kept; with what the libraries need the web process stays below 250 MB."""


@final
class Answers:
    """The results of a store and the work that makes them. Thread-safe; several processes may open one store."""

    def __init__(self, store: Store, jobs: Workers) -> None:
        self.store = store
        self.jobs = jobs
        self._recent = Recent(MEMORY)

    def ask(
        self, task: Task[Request, Record], request: Request, *, patience: float = A_MOMENT, doing: str = ""
    ) -> Answer[Record]:
        """Return a result from the store; what is missing is handed in once, and waited for `patience` seconds.

        doing: what whoever waits is told, where the task's title says too little. Raises BadInput for a request that cannot
        be computed, UnknownName for what it names and is not there.
        """
        task.require(self.store, request)
        key = task.key(self.store, request)
        with contextlib.suppress(NotStored):
            return Answer("ready", self.stored(task, key))
        if self.jobs.submit(tasks.order(task, key, request), priority=task.priority, doing=doing or task.title):
            self.jobs.wait(key, patience)
        try:
            return Answer("ready", self.stored(task, key))
        except NotStored:
            return self._so_far(task, key, self.pending(key))

    def stored(self, task: Task[Any, Record], key: str) -> Record:
        """Return a result by its key; raises NotStored."""
        return self._recent.read(task.shelf, key, task.record, lambda: self._fetched(task, task.shelf, key))

    def shown(self, task: Task[Any, Record], key: str) -> Record:
        """Return a result by its key, or what can be shown of it already; raises NotStored."""
        return self.read_shown(
            task, lambda shelf: self._recent.read(shelf, key, task.record, lambda: self._fetched(task, shelf, key))
        )

    def read_shown(self, task: Task[Any, Any], read: Callable[[str], Read]) -> Read:
        """Return what `read` makes of the shelf that holds a result, or what can be shown of it; raises NotStored."""
        # The result may come, and take the place of what was there, while both are looked for.
        for shelf in (task.shelf, task.early):
            with contextlib.suppress(NotStored):
                return read(shelf)
        return read(task.shelf)

    def is_stored(self, task: Task[Request, Any], request: Request) -> bool:
        """Tell whether a result lies in the store, without reading it."""
        return self.store.records.has(task.shelf, task.key(self.store, request))

    def _fetched(self, task: Task[Any, Record], shelf: str, key: str) -> Record:
        return self.store.records.read(shelf, key, task.record)

    def _so_far(self, task: Task[Any, Record], key: str, answer: Answer[Record]) -> Answer[Record]:
        """The answer with what can be shown of the result already."""
        if not task.is_shown_early or answer.state != "working":
            return answer
        try:
            return replace(answer, value=self.shown(task, key))
        except NotStored:
            return answer

    def pending(self, key: str) -> Answer[Any]:
        """Return how far work is whose result is not stored yet, or why it failed."""
        progress = self.jobs.progress(key)
        if progress.state == "failed":
            return Answer("failed", message=progress.message)
        return Answer("working", None, progress.done, progress.total, progress.message)

    def known(self, task: Task[Request, Record], request: Request) -> Answer[Record] | None:
        """Return a result that is stored, or how far its work is; None where nobody asked for it. Hands no work in."""
        key = task.key(self.store, request)
        with contextlib.suppress(NotStored):
            return Answer("ready", self.stored(task, key))
        return None if self.jobs.progress(key).state == "unknown" else self.pending(key)

    def stop(self, task: Task[Request, Any], request: Request) -> None:
        """Ask for work in flight to end at its next report; raises UnknownName, StoreError."""
        self.jobs.stop(task.key(self.store, request))

    def retry(self, task: Task[Request, Any], request: Request) -> str:
        """Let work that failed be asked again at once, and return its key. Raises as `ask`."""
        task.require(self.store, request)
        key = task.key(self.store, request)
        self.jobs.forgive(key)
        return key


def answers(store: Store, report: Report) -> Answers:
    """Return what answers from a store and computes here; `report` is told how far it is."""
    return Answers(store, Here(store.root, functools.partial(worker.perform, report=report)))


def result(answering: Answers, task: Task[Request, Record], request: Request) -> Record:
    """Return the result of a task; raises whatever error its work ends with."""
    answer = answering.ask(task, request)
    if answer.value is None:
        raise WorkFailed(answer.message or f"There is no result of {task.title}.")
    return answer.value
