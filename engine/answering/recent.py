"""Records read lately, kept within a budget of bytes so that the web process stays small."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar, final

from engine import serial

Record = TypeVar("Record")


@final
class Recent:
    """The records used last, whose arrays hold at most `budget` bytes together; the very last one is always kept."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[tuple[str, str], tuple[int, object]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        """Held by whoever fetches that record."""

    def read(self, kind: str, key: str, noun: type[Record], fetch: Callable[[], Record]) -> Record:
        """Return a held record, or what `fetch` returns, held from now on.

        Several requests for one record wait for the first to fetch it: a page asks for its parts all at once, and six
        copies of an examination of MobileNetV2 filled 700 MB.
        """
        found = self.get(kind, key, noun)
        if found is not None:
            return found
        with self._lock:
            turn = self._turns.setdefault((kind, key), threading.Lock())
        try:
            with turn:
                found = self.get(kind, key, noun)
                if found is None:
                    found = fetch()
                    self.put(kind, key, found)
                return found
        finally:
            with self._lock:
                self._turns.pop((kind, key), None)

    def get(self, kind: str, key: str, noun: type[Record]) -> Record | None:
        """Return a held record, or None."""
        with self._lock:
            held = self._held.get((kind, key))
            if held is None or not isinstance(held[1], noun):
                return None
            self._held.move_to_end((kind, key))
            return held[1]

    def put(self, kind: str, key: str, record: object) -> None:
        """Hold a record, and let go of those used longest ago until the budget is kept."""
        size = serial.size(record)
        with self._lock:
            self._held[kind, key] = (size, record)
            self._held.move_to_end((kind, key))
            while len(self._held) > 1 and sum(one[0] for one in self._held.values()) > self._budget:
                self._held.popitem(last=False)
