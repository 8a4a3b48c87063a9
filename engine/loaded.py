"""The networks a worker keeps ready. Torch is imported only when one is loaded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

from engine import keys
from engine.jobs.notes import Report
from engine.store import Store

if TYPE_CHECKING:
    from engine.models.bundle import ModelBundle

MOST: Final = 4
"""Networks that are kept."""


@final
class Bundles:
    """The networks a worker used last, at most `MOST`; loading one is reported, since it takes seconds."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, ModelBundle] = OrderedDict()

    def bundle(self, store: Store, model: str, key: str, report: Report) -> ModelBundle:
        """Return the bundle of a stored model; `key` is of all that it depends on, so one replaced under its name is another."""
        place = keys.content_key(str(store.root), key)
        if place not in self._held:
            from engine.models import load

            report(0, 0, f"Loading '{model}'")
            self._held[place] = load.bundle(store, model)
        self._held.move_to_end(place)
        while len(self._held) > MOST:
            self._held.popitem(last=False)
        return self._held[place]

    def clear(self) -> None:
        """Let go of all networks."""
        self._held.clear()
