"""The demo's own small audit: made once, in the background, so that the page of audits has one to show."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final, final

from engine.audit import manifest as manifests
from engine.audit import plan
from engine.audit.manifest import Manifest
from engine.audit.runs import Run
from engine.errors import EngineError
from engine.service.driver import Runs
from engine.store import Store
from engine.store.files import Lock

PLAN: Final = Path(__file__).parents[1] / "demo" / "plan.toml"
SOURCE: Final = "embedded demo"
"""What the cards of the demo's models and data name as their source."""
AUTHOR: Final = "demo"
"""Who asked for the run, in the log."""
QUIET: Final = 20.0
"""Seconds after the demo's models are there in which the first screen has the worker for itself."""
LOOK: Final = 1.0
"""Seconds between two looks for the demo's models."""
log = logging.getLogger(__name__)


@final
class DemoAudit:
    """The demo's audit of one store, begun by one process of it."""

    def __init__(self, store: Store, runs: Runs, *, quiet: float = QUIET) -> None:
        """Prepare to make it; quiet: seconds to wait once the models are there."""
        self._store, self._runs, self._quiet = store, runs, quiet
        self._lock = Lock(store.root / "demo-audit.lock", "beginning the demo's audit")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Make the audit in the background where it is wanted, or go on with it; raises StoreError."""
        if is_wanted(self._store) and self._lock.claim():
            self._thread = threading.Thread(target=self._make, name="demo-audit", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Give up what was not begun; a run that goes on is left to its driver."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(LOOK)
        self._lock.release()

    def _make(self) -> None:
        try:
            while not is_ready(self._store):
                if self._ended.wait(LOOK):
                    return
            if not self._ended.wait(self._quiet) and is_wanted(self._store):
                self._runs.begin(planned(self._store), AUTHOR)
        except EngineError as error:
            log.warning("The demo's audit could not be begun: %s", error)


def planned(store: Store) -> Manifest:
    """Return the manifest of the demo's plan; raises UnknownName where the demo is not there."""
    return manifests.build(plan.read(PLAN, store), store)


def is_ready(store: Store) -> bool:
    """Tell whether the models and the data of the demo's plan are in a store."""
    values = plan.read_file(PLAN).values
    models, datasets = ({card.name for card in cards} for cards in (store.models(), store.datasets()))
    return {values["model"], values["baseline"]} <= models and values["data"] in datasets


def is_wanted(store: Store) -> bool:
    """Tell whether the demo's audit is still to be made: in a store of the demo alone, and unless somebody stopped it."""
    sources = {card.source for card in store.models()} | {card.source for card in store.datasets()}
    if sources - {SOURCE}:
        return False
    known = manifests.listed(store.root)
    if not known or not is_ready(store):
        return not known
    run = Run(store, planned(store))
    return known == [run.id] and run.state().state in ("running", "interrupted")
