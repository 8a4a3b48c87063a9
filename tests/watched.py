"""A stand-in for the page's questions whose runs are those of a real store."""

from __future__ import annotations

from engine.service import driver
from engine.service.answers import Answers
from tests import audits, fakes


class Watched(fakes.FakeAuditor):
    """The page's questions answered from a real store."""

    def __init__(self, store) -> None:
        self.store = store
        self.audits = driver.Runs(Answers(store, audits.Inline(store.root)))
