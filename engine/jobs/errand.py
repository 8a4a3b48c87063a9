"""What a worker runs: one piece of work, with its progress and its failure noted in the store."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any

from engine.errors import EngineError
from engine.jobs.notes import Note, Notes
from engine.jobs.resting import Resting

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
        rest.begin()
    notes.clear(key)
    return token
