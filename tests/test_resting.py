"""A worker with nothing to do gives its memory back; one with work to do is left alone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from engine.errors import UnknownName
from engine.jobs import worker
from engine.store import Store

SOON = 0.02


@pytest.fixture
def given(monkeypatch) -> threading.Event:
    """Set when memory is given back."""
    event = threading.Event()
    monkeypatch.setattr(worker, "AFTER", SOON)
    monkeypatch.setattr(worker, "give_back", event.set)
    return event


def resident() -> float:
    """Megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; glibc's malloc_trim")
def test_what_was_freed_in_the_middle_of_the_heap_goes_back_to_the_system():
    # Written to: of zeros the system keeps no page until they are.
    blocks = [b"x" * (100_000 + k % 2) for k in range(2000)]
    keep = blocks[::100]
    full = resident()
    del blocks
    assert worker.give_back()
    assert resident() < full - 100
    assert len(keep) == 20


def test_memory_is_given_back_once_there_was_no_work_for_a_while(given):
    worker.Resting().begin()
    assert given.wait(5)


def test_work_that_follows_at_once_finds_its_memory_where_it_was(given):
    rest = worker.Resting()
    rest.begin()
    rest.end()
    assert not given.wait(10 * SOON)


@pytest.mark.parametrize("failure", [None, UnknownName("attack", "pgdd", ["pgd"]), ZeroDivisionError()])
def test_a_worker_rests_after_its_work_however_that_ended(tmp_path, given, failure):
    while_working = []

    def perform(_task, _root):
        while_working.append(given.wait(10 * SOON))
        if failure:
            raise failure
        return "done"

    root = Store(tmp_path / "store").root
    worker.rest.begin()
    worker.run(perform, {"key": "0" * 32, "kind": "test"}, str(root))
    assert while_working == [False]
    assert given.wait(5)
