"""Which processes a test starts, and whether its markers say so: the default run starts none, and no browser."""

from __future__ import annotations

import sys
from collections.abc import Generator
from multiprocessing.process import BaseProcess

import pytest

DRIVER = "playwright"
"""Stands in the command of the process that drives a browser."""
EVENTS = ("os.fork", "os.forkpty", "os.posix_spawn")
"""What Python's audit hooks call the ways to start a process, besides `subprocess.Popen`."""
STARTED: list[str] = []
"""The commands of the processes that the test in hand has started so far."""


def watch() -> None:
    """Note every process that this one starts from now on. An audit hook cannot be taken away again."""
    sys.addaudithook(_note)
    start = BaseProcess.start

    def noted(process: BaseProcess) -> None:
        # The method "spawn" reaches the kernel without an audit event.
        STARTED.append(f"multiprocessing {process.name}")
        start(process)

    BaseProcess.start = noted


def _note(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        command = arguments[1] if isinstance(arguments[1], str) else " ".join(map(str, arguments[1]))
        if not command.startswith(LOOKUPS):
            STARTED.append(command)
    elif event in EVENTS:
        STARTED.append(event)


LOOKUPS = ("/sbin/ldconfig", "fc-list")
"""What libraries run once, whichever test comes first: Python to find a library (`ctypes.util.find_library`), and
matplotlib, which captum imports, to list the fonts of a new machine."""


def judged(item: pytest.Item) -> Generator[None, object, object]:
    """Run a phase of a test, and fail it for the processes that its markers do not announce."""
    STARTED.clear()
    outcome = yield
    lacking = missing_marker({mark.name for mark in item.iter_markers()}, STARTED)
    if lacking is not None:
        pytest.fail(lacking, pytrace=False)
    return outcome


def missing_marker(markers: set[str], commands: list[str]) -> str | None:
    """Return what is wrong with the markers of a test that ran these commands, or None."""
    browsers = [command for command in commands if DRIVER in command]
    if browsers and "browser" not in markers:
        return f"This test starts a browser and is not marked 'browser': {browsers[0][:200]}"
    if commands and not markers & {"browser", "cluster"}:
        return f"This test starts a process and is marked neither 'cluster' nor 'browser': {commands[0][:200]}"
    return None
