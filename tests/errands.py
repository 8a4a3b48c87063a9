"""Cheap pieces of work for testing jobs: workers load them from here by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.errors import UnknownName
from engine.jobs import Notes


def perform(task: dict[str, Any], store_root: str) -> str:
    """Do what `task["do"]` names, and leave a mark for every start."""
    with (Path(store_root) / f"started-{task['key']}").open("a") as marks:
        marks.write(f"{os.getpid()}\n")
    return globals()[f"do_{task['do']}"](task, Path(store_root))


def do_finish(task: dict[str, Any], root: Path) -> str:
    (root / f"finished-{task['key']}").touch()
    return "done"


def do_report(task: dict[str, Any], root: Path) -> str:
    report = Notes(root).reporter(task["key"])
    for done in range(1000):
        report(done, 1000, "Counting")
    _wait_for(root / "go")
    return "done"


def do_refuse(_task: dict[str, Any], _root: Path) -> str:
    raise UnknownName("attack", "pgdd", ["pgd"])


def do_stumble(_task: dict[str, Any], _root: Path) -> str:
    raise ZeroDivisionError("/secret/path")


def do_die(_task: dict[str, Any], _root: Path) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def do_die_once(task: dict[str, Any], root: Path) -> str:
    marker = root / f"died-{task['key']}"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return do_finish(task, root)


def do_wait(task: dict[str, Any], root: Path) -> str:
    _wait_for(root / "go")
    return do_finish(task, root)


def do_tell_environment(_task: dict[str, Any], root: Path) -> str:
    names = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX")
    text = ",".join([*(os.environ.get(name, "") for name in names), str("torch" in sys.modules)])
    (root / "environment").write_text(text)
    return "done"


def do_count(task: dict[str, Any], root: Path) -> str:
    report = Notes(root).reporter(task["key"])
    for done in range(600):
        report(done, 600, "Counting")
        time.sleep(0.05)
    return "done"


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
