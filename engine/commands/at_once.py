"""How a command asks: like the page, of the store first; what is missing is computed at once, in this process, and kept."""

from __future__ import annotations

import functools
from typing import TypeVar

from engine import work
from engine.answering.answers import Answers
from engine.errors import WorkFailed
from engine.jobs import Report
from engine.jobs.here import Here
from engine.store import Store
from engine.tasks import Task

Request = TypeVar("Request")
Record = TypeVar("Record")


def answers(store: Store, report: Report) -> Answers:
    """Return what answers from a store and computes here; `report` is told how far it is."""
    return Answers(store, Here(store.root, functools.partial(work.perform, report=report)))


def result(answering: Answers, task: Task[Request, Record], request: Request) -> Record:
    """Return the result of a task; raises whatever error its work ends with."""
    answer = answering.ask(task, request)
    if answer.value is None:
        raise WorkFailed(answer.message or f"There is no result of {task.title}.")
    return answer.value
