"""Asking for cheap work and waiting for it, for tests of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from engine import hashing
from engine.jobs import Jobs, queue


def key_of(name: str) -> str:
    return hashing.content_key(name)


def ask(jobs: Jobs, do: str, name: str, priority: queue.Priority = "interactive") -> str:
    key = key_of(name)
    jobs.submit({"key": key, "do": do}, priority=priority, doing="testing the worker")
    return key


def until(condition: Callable[[], object], seconds: float = 25) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never became true"
        time.sleep(0.02)


def finish(jobs: Jobs, key: str) -> queue.Progress:
    until(lambda: jobs.progress(key).state != "working")
    return jobs.progress(key)


def starts(root: Path, key: str) -> list[str]:
    path = root / f"started-{key}"
    return path.read_text().split() if path.exists() else []


def askers(jobs: Jobs, key: str) -> int:
    """How many processes the scheduler knows to want a piece of work."""

    def count(key: str, dask_scheduler: object) -> int:
        return len(dask_scheduler.tasks[key].who_wants) if key in dask_scheduler.tasks else 0

    return jobs._connection.client().run_on_scheduler(count, key)


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
