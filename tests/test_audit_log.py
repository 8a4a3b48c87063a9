"""The audit log: appended by many, torn by none, and every change to it is found."""

from __future__ import annotations

import json
import sqlite3
import threading

import pytest

from engine.audit import runs
from engine.audit.runs import AuditLog
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
