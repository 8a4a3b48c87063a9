"""The audit log: appended by many, torn by none, and every change to it is found."""

from __future__ import annotations

import json
import sqlite3
import threading

import pytest

from engine.audit import runs
from engine.audit.runs import AuditLog, Event
from engine.errors import StoreError

EVENTS = ("taken up", "interrupted", "finished")


@pytest.fixture
def book(tmp_path):
    made = AuditLog(tmp_path)
    for event in EVENTS:
        made.append("run", event)
    return made


def test_a_log_that_nobody_wrote_is_empty_and_stays_away(tmp_path):
    assert AuditLog(tmp_path).events() == ()
    assert list(tmp_path.iterdir()) == []


def test_lines_come_back_in_order(book, tmp_path):
    assert [(item.number, item.event) for item in AuditLog(tmp_path).events()] == list(enumerate(EVENTS, start=1))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace("interrupted", "finished"), lines[2]], 2),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [*lines, lines[2].replace("3", "4", 1)], 4),
        (lambda lines: [lines[0], "not JSON", lines[2]], 2),
        (lambda lines: [lines[0], "[]", lines[2]], 2),
    ],
)
def test_lines_that_were_changed_taken_out_or_put_in_are_found(book, tmp_path, change, line):
    path = tmp_path / runs.FILE
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(StoreError, match=f"Line {line} of the audit log was changed"):
        book.events()


def test_a_line_that_a_dying_process_left_torn_is_cut_off(book, tmp_path):
    with (tmp_path / runs.FILE).open("a") as stream:
        stream.write('{"number": 4, "at": "20')
    book.append("run", "taken up")
    assert [item.event for item in book.events()] == [*EVENTS, "taken up"]


def test_many_writers_lose_no_line(tmp_path):
    def write(name: str) -> None:
        for _ in range(10):
            AuditLog(tmp_path).append(name, "taken up")

    writers = [threading.Thread(target=write, args=(str(k),)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(AuditLog(tmp_path).events()) == 40


def test_the_log_of_an_older_store_is_taken_over_with_its_hashes(book, tmp_path):
    older = tmp_path / "older"
    older.mkdir()
    lines = [json.loads(line) for line in (tmp_path / runs.FILE).read_text().splitlines()]
    with sqlite3.connect(older / runs.OLD_FILE) as database:
        database.execute("create table log (number, at, run, event, detail, hash)")
        database.executemany("insert into log values (?, ?, ?, ?, ?, ?)", [tuple(line.values()) for line in lines])
    database.close()
    AuditLog(older).append("run", "taken up")
    assert AuditLog(older).events()[:3] == book.events()
    with sqlite3.connect(older / runs.OLD_FILE) as database:
        database.execute("update log set event = 'approved' where number = 3")
    database.close()
    assert len(AuditLog(older).events()) == 4, "the older file is read once"


def test_a_damaged_older_log_is_named_and_can_be_moved_away(tmp_path):
    (tmp_path / runs.OLD_FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="move the file away"):
        AuditLog(tmp_path).append("run", "taken up")
    (tmp_path / runs.OLD_FILE).unlink()
    AuditLog(tmp_path).append("run", "taken up")
    assert len(AuditLog(tmp_path).events()) == 1


def event(number: int, seconds: int, run: str, name: str, detail: str = "") -> Event:
    return Event(number, f"2026-11-30T10:00:{seconds:02d}.000+00:00", run, name, detail, "")


def test_the_history_of_a_run_says_when_it_was_driven_and_who_asked_for_it():
    found = runs.histories(
        [
            event(1, 0, "a", runs.BEGUN, "page"),
            event(2, 1, "a", runs.TAKEN_UP),
            event(3, 3, "b", runs.TAKEN_UP),
            event(4, 6, "a", "interrupted"),
            event(5, 20, "a", runs.TAKEN_UP),
            event(6, 23, "b", "finished"),
            event(7, 30, "a", "finished"),
            event(8, 40, "c", runs.TAKEN_UP),
        ]
    )
    assert found["a"] == runs.History("2026-11-30T10:00:00.000+00:00", "page", 15.0)
    assert (found["b"].author, found["b"].seconds) == ("command line", 20.0)
    assert (found["c"].seconds, found["c"].since) == (0.0, "2026-11-30T10:00:40.000+00:00")


def test_a_driver_that_died_without_a_word_counts_until_the_next_one():
    found = runs.histories(
        [event(1, 1, "a", runs.TAKEN_UP), event(2, 5, "a", runs.TAKEN_UP), event(3, 9, "a", "finished")]
    )
    assert found["a"].seconds == 8.0


def test_a_clock_that_was_set_back_takes_no_time_away():
    assert runs.histories([event(1, 9, "a", runs.TAKEN_UP), event(2, 5, "a", "finished")])["a"].seconds == 0.0
