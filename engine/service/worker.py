"""What a worker does for a task: look the result up, load the network, compute, store."""

from __future__ import annotations

import functools
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import numpy as np

from engine import hashing, streams
from engine.audit import stored_images
from engine.jobs.worker import Notes, Report
from engine.service import tasks
from engine.service.tasks import OfModel, Task
from engine.store import Dataset, Store
from engine.types.patching import SiteChoice
from engine.types.requests import Nothing

if TYPE_CHECKING:
    from engine.models.network import ModelBundle


MOST: Final = 4
"""Networks that are kept."""


def stored_bundle(store: Store, model: str, sites: SiteChoice) -> ModelBundle:
    """Return the bundle of a stored model; raises UnknownName, StoreError."""
    from engine.models import register

    return (register.block_bundle if sites == "blocks" else register.bundle)(store, model)


@final
class Bundles:
    """The networks a worker used last, at most `MOST`; loading one is reported, since it takes seconds."""

    def __init__(self, load: Callable[[Store, str, SiteChoice], Any] = stored_bundle) -> None:
        self._load = load
        self._held: OrderedDict[str, ModelBundle] = OrderedDict()

    def bundle(self, store: Store, model: str, key: tuple[str, SiteChoice], report: Report) -> ModelBundle:
        """Return the bundle of a stored model.

        key: of all that it depends on, so one replaced under its name is another, and which sites it is looked at by.
        """
        place = hashing.content_key(str(store.root), *key)
        if place not in self._held:
            report(0, 0, f"Loading '{model}'")
            self._held[place] = self._load(store, model, key[1])
        self._held.move_to_end(place)
        while len(self._held) > MOST:
            self._held.popitem(last=False)
        return self._held[place]

    def clear(self) -> None:
        """Let go of all networks."""
        self._held.clear()


Record = TypeVar("Record")
Request = TypeVar("Request")
LOADED: Final = Bundles()


@dataclass(frozen=True, eq=False, slots=True)
class Kept(Generic[Record]):
    """A record and the archives that are kept beside it, whose members are read one by one."""

    record: Record
    extras: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every computation may use."""

    store: Store
    key: str
    """Of the result that is computed."""
    report: Report
    loaded: Bundles = LOADED

    def bundle(self, model: str, sites: SiteChoice = "all") -> ModelBundle:
        """Return the network of a stored model, loaded once; raises UnknownName."""
        key = tasks.model_key(self.store.model_card(model))
        return self.loaded.bundle(self.store, model, (key, sites), self.report)

    def both(self, request: OfModel) -> tuple[ModelBundle, Dataset]:
        """Return the network and the data set that a request names; raises UnknownName."""
        bundle = self.bundle(request.model, getattr(request, "sites", "all"))
        return bundle, self.store.dataset(request.data).reading(partial(stored_images.pictures, self.store))

    def publish(self, task: Task[Any, Record], kept: Kept[Record]) -> None:
        """Leave what can be shown before the rest is done; once the result is stored this goes. Raises StoreError."""
        self.store.records.write(task.early, self.key, kept.record, extras=kept.extras)

    def stored(self, task: Task[Any, Record], key: str) -> Record:
        """Return an earlier result that this one builds on; raises NotStored."""
        return self.store.records.read(task.shelf, key, task.record)


Compute = Callable[[Task[Any, Any], Bench, Any], Any]


def computed(task: Task[Request, Any], bench: Bench, request: Request) -> Any:
    """Return what the function of a task computes: its record, or `Kept`."""
    module, _, name = task.run.partition(":")
    return getattr(importlib.import_module(module), name)(bench, request)


def perform(
    ordered: dict[str, Any], store_root: str, *, report: Report | None = None, compute: Compute = computed
) -> str:
    """Do a piece of work and return its key; the result lies in the store. What is stored already is not computed again.

    report: what is told how far it is; notes in the store, where other processes read them, if not given.
    Raises BadInput for a task that this version does not understand, and whatever EngineError the work ends with.
    """
    task, key, request = tasks.understood(ordered)
    store = _store(store_root)
    leaves_record = task.record is not Nothing
    if leaves_record and store.records.has(task.shelf, key):
        return key
    # Checked here too: a worker trusts no request, whoever handed it in.
    task.require(store, request)
    with streams.kept_apart():
        result = compute(task, Bench(store, key, report or Notes(store_root).reporter(key)), request)
    if leaves_record:
        kept = result if isinstance(result, Kept) else Kept(result)
        store.records.write(task.shelf, key, kept.record, extras=kept.extras)
        if task.is_shown_early:
            store.records.remove(task.early, key)
    return key


@functools.lru_cache(maxsize=4)
def _store(root: str) -> Store:
    """A worker on another machine must see the same folder; it never starts a store of its own."""
    return Store(root, create=False)
