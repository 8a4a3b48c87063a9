"""Asking: from a task and a request to what lies in the store, or to how far the work is that will put it there."""

from __future__ import annotations

import contextlib
from typing import Any, Final, TypeVar, final

from engine import tasks
from engine.answering.recent import Recent
from engine.jobs import Workers
from engine.records import Answer
from engine.store import NotStored, Store
from engine.tasks import Task

Request = TypeVar("Request")
Record = TypeVar("Record")
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
        request = task.settled(self.store, request)
        key = task.key(self.store, request)
        with contextlib.suppress(NotStored):
            return Answer("ready", self.stored(task, key))
        if self.jobs.submit(tasks.order(task, key, request), priority=task.priority, doing=doing or task.title):
            self.jobs.wait(key, patience)
        try:
            return Answer("ready", self.stored(task, key))
        except NotStored:
            return self.pending(key)

    def stored(self, task: Task[Any, Record], key: str) -> Record:
        """Return a result by its key; raises NotStored."""
        return self._recent.read(
            task.shelf, key, task.record, lambda: self.store.records.read(task.shelf, key, task.record)
        )

    def is_stored(self, task: Task[Request, Any], request: Request) -> bool:
        """Tell whether a result lies in the store, without reading it."""
        return self.store.records.has(task.shelf, task.key(self.store, request))

    def pending(self, key: str) -> Answer[Any]:
        """Return how far work is whose result is not stored yet, or why it failed."""
        progress = self.jobs.progress(key)
        if progress.state == "failed":
            return Answer("failed", message=progress.message)
        return Answer("working", None, progress.done, progress.total, progress.message)

    def retry(self, task: Task[Request, Any], request: Request) -> str:
        """Let work that failed be asked again at once, and return its key. Raises as `ask`."""
        key = task.key(self.store, task.settled(self.store, request))
        self.jobs.forgive(key)
        return key
