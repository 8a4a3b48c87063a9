"""The networks a worker keeps ready. Torch is imported only when one is loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from engine import keys
from engine.jobs.notes import Report
from engine.records.restoration import SiteChoice
from engine.store import Store

if TYPE_CHECKING:
    from engine.models.bundle import ModelBundle

MOST: Final = 4
"""Networks that are kept."""


def stored_bundle(store: Store, model: str, sites: SiteChoice) -> ModelBundle:
    """Return the bundle of a stored model; raises UnknownName, StoreError."""
    from engine.models import load

    return (load.block_bundle if sites == "blocks" else load.bundle)(store, model)


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
        place = keys.content_key(str(store.root), *key)
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
