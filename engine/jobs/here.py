"""Work done at once, in the process that asks for it: commands run this way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from engine.jobs.queue import Priority, Progress

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

    def close(self) -> None:
        """Nothing was opened."""
