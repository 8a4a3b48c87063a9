"""The real server on the real demo, and a real Chromium. Skips without a browser; with BROWSER_REQUIRED=1 that fails."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

# Servers that scripts start have their worker for themselves, as those of the tests do.
os.environ.setdefault("FAULTLINE_DEMO_AUDIT", "0")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000
"""Milliseconds a test waits for work on a busy machine; nothing is asserted of the time it takes."""
ROOT = Path(__file__).parents[2]
WITHOUT_TOUR = "try { localStorage.setItem('faultline-tour', 'done'); } catch { /* The blank page has no storage. */ }"
"""For pages that a script leads: the tour of the first visit would take the keyboard."""


@dataclass
class Served:
    """A running dashboard."""

    url: str
    link: str
    store: Path
    process: subprocess.Popen

    def new_link(self) -> str:
        """Return another one-time link, as the command line prints it."""
        command = [sys.executable, "-m", "dashboard", "--new-link", "--store", str(self.store)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@dataclass
class Watched:
    """A page with everything it complained about and every address it called."""

    page: object
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


def _missing(reason: str) -> NoReturn:
    if os.environ.get("BROWSER_REQUIRED") == "1":
        pytest.fail(f"BROWSER_REQUIRED=1, but {reason}")
    pytest.skip(reason)


def browser_path() -> str | None:
    """Return where Chromium is installed, or None."""
    return next((path for path in map(shutil.which, BROWSERS) if path is not None), None)


@contextmanager
def launch(path: str | None) -> Iterator[object]:
    """Run a Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    require("playwright")
    if browser_path() is None:
        _missing("no Chromium is installed (apt package chromium)")
    with launch(browser_path()) as browser:
        yield browser


def require(module: str) -> ModuleType:
    """Return a module that the browser tests need; without it the test is skipped, or fails where it is required."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return _missing(f"{module} is not installed (requirements-dev.txt)")


def start(store: Path, *options: str, port: int | None = None) -> Served:
    """Start `python -m dashboard` on a store and wait for the link it prints."""
    port = port or free_port()
    command = [sys.executable, "-m", "dashboard", "--store", str(store), "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        found = re.search(r"http://\S+token=\S+", line)
        if found:
            # A pipe that nobody reads is full after 64 KiB, and the server waits for ever to write its next line.
            threading.Thread(target=_drain, args=(process, printed), daemon=True).start()
            return Served(f"http://127.0.0.1:{port}", found.group(), store, process)
    raise RuntimeError("the dashboard did not start:\n" + "".join(printed))


def _drain(process: subprocess.Popen, printed: list[str]) -> None:
    with process.stdout:
        printed.extend(process.stdout)


def stop(served: Served) -> None:
    """End a dashboard like Ctrl-C does."""
    served.process.send_signal(signal.SIGINT)
    try:
        served.process.wait(30)
    finally:
        served.process.kill()


@pytest.fixture(scope="session")
def served(chromium, tmp_path_factory) -> Iterator[Served]:
    running = start(tmp_path_factory.mktemp("demo") / "store")
    yield running
    stop(running)


@pytest.fixture(scope="session")
def cookies(chromium, served) -> list[dict]:
    """Log in once with the printed link; later pages start with its cookie."""
    return logged_in(chromium, served)


def logged_in(chromium, served: Served) -> list[dict]:
    """Return the cookies of a login with the printed link."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(served.link)
    page.wait_for_selector("#network-panel", state="attached", timeout=PATIENCE)
    found = context.cookies()
    context.close()
    return found


@pytest.fixture
def watched(chromium, served, cookies) -> Iterator[Watched]:
    """A logged-in page that fails its test on any console error or warning, page error or call to another machine."""
    yield from watching(chromium, cookies)


def watching(chromium, cookies: list[dict]) -> Iterator[Watched]:
    """Yield a page that is watched, and judge it when it is done with."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.add_cookies(cookies)
    context.add_init_script(WITHOUT_TOUR)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    seen = Watched(page)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and seen.errors.append(message.text))
    page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).hostname or "inline"))
    yield seen
    context.close()
    assert not seen.errors, "\n".join(seen.errors)
    assert seen.hosts <= {"127.0.0.1", "inline"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(page: object, expression: str, *, seconds: float = PATIENCE / 1000) -> None:
    """Wait until a JavaScript expression holds. Playwright's own waiting needs `eval`, which the page's policy forbids."""
    wait_until(lambda: page.evaluate(f"() => Boolean({expression})"), seconds=seconds, what=expression)


def choose(page: object, control: str, option: str) -> None:
    """Choose the first option of a menu whose text matches a regular expression."""
    matching = f"[...document.querySelectorAll('#{control} option')].find(one => /{option}/.test(one.label))"
    until(page, matching)
    page.locator(f"#{control}").select_option(page.evaluate(f"() => {matching}.value"))


def settled(page: object) -> None:
    """Wait until the river is drawn and all checks of the view have run."""
    page.wait_for_selector("#network-river .main-svg .trace", state="attached")
    until(page, "document.querySelector('#status').textContent.startsWith('All checks')")


def at_rest(page: object, look: Callable[[], object]) -> object:
    """Return what is seen once two looks a fifth of a second apart agree."""
    before = look()
    for _ in range(300):
        page.wait_for_timeout(200)
        seen = look()
        if seen == before:
            return seen
        before = seen
    raise AssertionError("the page never came to rest")


def wait_until(claim: Callable[[], bool], *, seconds: float = 60.0, what: str = "it") -> None:
    """Wait until a claim of the outside world holds, or fail."""
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"this did not come true in {seconds:g} s: {what}")
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Return the process ids of the children of a process, and of theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def resident(pid: int) -> float:
    """Return the memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="module")
def serving(chromium, run) -> Iterator[Served]:
    """A dashboard on the store of the run that a module makes."""
    running = start(run.place.folder.parent.parent)
    yield running
    stop(running)


@pytest.fixture(scope="module")
def login(chromium, serving) -> list[dict]:
    """The cookies of somebody who is logged in there."""
    return logged_in(chromium, serving)
