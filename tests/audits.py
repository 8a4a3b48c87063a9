"""A small store, a small plan and workers without processes, for testing audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import demo
from engine.audit import compute, plan
from engine.audit import manifest as manifests
from engine.audit.manifest import Manifest, Place
from engine.audit.runs import Run, State
from engine.data import register
from engine.data.sources import Images
from engine.errors import EngineError
from engine.jobs.queue import Progress
from engine.models import register as load
from engine.models.network import ModelBundle
from engine.service import driver, worker
from engine.store import Store

PLAN = """
model = "digits-standard"
data = "digits"
method = "gradient"
attacks = ["fgsm-linf:eps=24/255"]
controls = false
threads = 1

[images]
count = 6
block = 2

[[thresholds]]
name = "clean"
condition = "clean"
at_least = 0.5
"""
PER_CLASS = 4


def fill(root: Path) -> Store:
    """Make a store with the demo's networks and 40 of its digits."""
    store = Store(root)
    for name in demo.MODELS:
        load.add(store, load.Submission(name, demo.ARCHITECTURE, demo.weights(name), demo.CLASSES))
    register.add(store, "digits", some_digits(), source="test")
    return store


def some_digits() -> Images:
    """Four held-out digits of each class."""
    every = demo.held_out()
    chosen = np.sort(np.concatenate([np.flatnonzero(every.y == label)[:PER_CLASS] for label in range(10)]))
    return Images(every.x[chosen], every.y[chosen], every.classes, tuple(every.names[k] for k in chosen))


BUNDLES: dict[str, ModelBundle] = {}


def bundle(root: Path, name: str) -> ModelBundle:
    """Return a network of the demo, loaded once for all stores."""
    if name not in BUNDLES:
        BUNDLES[name] = load.bundle(Store(root), name)
    return BUNDLES[name]


def planned(store: Store, text: str = PLAN) -> Manifest:
    """Return the manifest of a plan's text."""
    return manifests.build(plan.understood(plan.parse(text, "plan.toml"), store), store)


class Inline:
    """Workers that do everything at once, in this process; `before` may break each piece."""

    def __init__(self, root: Path, before: Any = None) -> None:
        self.root = root
        self.before = before
        self.failures: dict[str, str] = {}
        self.submitted: list[dict[str, Any]] = []

    def submit(self, task: dict[str, Any], *, priority: str, doing: str) -> bool:
        if task["kind"] != "shard":
            worker.perform(task, str(self.root))
            return True
        self.submitted.append(task)
        try:
            if self.before is None or self.before(task):
                self._make(task["request"])
        except EngineError as error:
            self.failures[task["key"]] = str(error)
        return True

    def _make(self, request: dict[str, Any]) -> None:
        store = Store(self.root, create=False)
        wanted = request["run"], request["condition"], request["block"]
        compute.make(store, lambda name: bundle(self.root, name), wanted, lambda *_: None)

    def progress(self, key: str) -> Progress:
        return Progress("failed", message=self.failures[key]) if key in self.failures else Progress("unknown")

    def wait(self, key: str, seconds: float) -> None:
        return

    def forgive(self, key: str) -> None:
        self.failures.pop(key, None)

    def close(self) -> None:
        return


def drive(store: Store, manifest: Manifest, before: Any = None) -> tuple[Run, State, Inline]:
    """Drive a run to its end, one piece after another."""
    run, workers = Run(store, manifest), Inline(store.root, before)
    return run, run.drive(workers, driver.shard_task, lambda _state: None), workers


def tables(place: Place) -> dict[str, bytes]:
    """Everything of a run that must not depend on who computed it, by path: all but times and locks."""
    timed = {"_receipt.json", "seal.json", "state.json", "run.lock"}
    files = [path for path in sorted(place.folder.rglob("*")) if path.is_file() and path.name not in timed]
    return {str(path.relative_to(place.folder)): path.read_bytes() for path in files}
