"""Records read lately, kept within a budget of bytes so that the web process stays small."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeVar, final

from engine import serial

Record = TypeVar("Record")


class NotHeld(Exception):
    """The record is not among those read lately."""


@final
class Recent:
    """The records used last, whose arrays hold at most `budget` bytes together; the very last one is always kept."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[tuple[str, str], tuple[int, object]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kind: str, key: str, noun: type[Record]) -> Record:
        """Return a held record; raises NotHeld."""
        with self._lock:
            held = self._held.get((kind, key))
            if held is None or not isinstance(held[1], noun):
                raise NotHeld(key)
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
