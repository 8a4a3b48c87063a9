"""How quickly the page answers when the results are stored: `python -m tests.browser.speed [--scene S] [--store DIR]`.

A program, not a test: it prints a table of medians beside their targets and asserts nothing. It starts the real
dashboard on the store (filled first by the documented commands where it is empty), lets it compute what will be looked
at, then opens a fresh browser and clicks with the mouse. A time runs from the mouse button, or a menu's choice, to the
frame in which the whole answer stands.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.browser.conftest import (
    PATIENCE,
    WITHOUT_TOUR,
    Served,
    browser_path,
    choose,
    descendants,
    launch,
    logged_in,
    resident,
    start,
    stop,
    until,
)
from tests.browser.scenes import SCENES, Scene

STOPWATCH = Path(__file__).with_name("stopwatch.js")
REPEATS = 9
"""Clicks of each kind: a multiple of what is looked at in turn, so that each kind ends where it began."""
COLUMNS = 6
"""Columns of the river that are looked at in turn, after the stem."""
WHOLE = 900.0
"""Seconds that computing one view with all its checks may take."""


@dataclass
class Traffic:
    """What one page did over the wire and on its main thread since it was last reset."""

    session: Any
    requests: int = 0
    received: int = 0
    cpu_before: float = 0.0

    def reset(self) -> None:
        self.requests = self.received = 0
        self.cpu_before = self.cpu_seconds()

    def cpu_seconds(self) -> float:
        """Return the CPU time of the page's main thread."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")


@dataclass
class Series:
    """Measurements of one kind of click."""

    name: str
    target: float | None
    unit: str = "ms"
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(arguments)
    scene = SCENES[options.scene]
    with tempfile.TemporaryDirectory() as empty:
        store = options.store or Path(empty) / "store"
        if not store.exists():
            scene.fill(store)
        sys.stdout.write(f"{options.scene}; load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores\n")
        with running(store) as served, launch(browser_path()) as browser:
            cookies = logged_in(browser, served)
            _prime(browser, served, cookies, scene)
            if options.prime:
                return 0
            series = _measured(browser, served, cookies, scene)
            series += _memory(served)
        sys.stdout.write(table(series))
        sys.stdout.write(f"load average after: {os.getloadavg()[0]:.2f}\n")
    return 0


def table(series: Sequence[Series]) -> str:
    """Return one line per measurement: median, range, target, and what it cost."""
    lines = [f"{'what':<34} {'median':>8} {'range':>15} {'target':>8} {'n':>3} {'CPU ms':>7} {'calls':>6} {'KB':>7}"]
    for line in series:
        middle, low, high = statistics.median(line.values), min(line.values), max(line.values)
        target = "" if line.target is None else f"{line.target:g}"
        verdict = "" if line.target is None else "  ok" if middle <= line.target else "  MISSED"
        extra = "".join(
            f" {statistics.median(values):>{width}.0f}" if values else " " * (width + 1)
            for values, width in ((line.cpu, 7), (line.requests, 6), (line.kilobytes, 7))
        )
        span = f"{low:.0f} to {high:.0f}"
        lines.append(
            f"{line.name:<34} {middle:>5.0f} {line.unit:<2} {span:>15} {target:>8} {len(line.values):>3}{extra}{verdict}"
        )
    return "\n".join(lines) + "\n"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.speed", description=__doc__)
    parser.add_argument("--scene", choices=tuple(SCENES), default="demo", help="network and data to measure on")
    parser.add_argument("--store", type=Path, help="folder of a store of that scene (default: a new one)")
    parser.add_argument("--prime", action="store_true", help="only compute what would be looked at")
    return parser.parse_args(arguments)


@contextmanager
def running(store: Path) -> Iterator[Served]:
    served = start(store)
    try:
        yield served
    finally:
        stop(served)


@contextmanager
def opened(browser: Any, cookies: list[dict], address: str) -> Iterator[tuple[Any, Traffic]]:
    """A fresh browser profile on an address, with the stopwatch and the traffic counter running."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies(cookies)
    context.add_init_script(path=STOPWATCH)
    context.add_init_script(WITHOUT_TOUR)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.send("Network.enable")
    traffic = Traffic(session)
    session.on("Network.loadingFinished", lambda event: _count(traffic, event))
    page.goto(address)
    try:
        yield page, traffic
    finally:
        context.close()


def _count(traffic: Traffic, event: dict) -> None:
    traffic.requests += 1
    traffic.received += int(event["encodedDataLength"])


def _prime(browser: Any, served: Served, cookies: list[dict], scene: Scene) -> None:
    """Let the store hold everything that the clicks will ask for."""
    with opened(browser, cookies, f"{served.url}/?{scene.address}") as (page, _):
        checked(page)
        for label in scene.labels:
            choose(page, "label-select", f"^{label}$")
            checked_for(page, "label", label)
        for title, attack in scene.attacks:
            choose(page, "attack-select", f"^{title}$")
            checked_for(page, "attack", attack)
        for k in range(scene.samples):
            page.locator("#sample-select").select_option(index=1 + (k + 1) % scene.samples)
            page.wait_for_timeout(300)
            checked(page)


def checked(page: Any) -> None:
    """Wait until the river is drawn and the checks have run, or said why they cannot."""
    until(page, "document.querySelector('#network-river .main-svg .trace')", seconds=WHOLE)
    said = "document.querySelector('#status').textContent"
    until(page, f"/^All checks|no other correctly classified image/.test({said})", seconds=WHOLE)


def checked_for(page: Any, name: str, value: str) -> None:
    """Wait until the link says so and the checks of the view have run."""
    until(page, f"new URLSearchParams(location.search).get('{name}') === '{value}'")
    page.wait_for_timeout(300)
    checked(page)


def _measured(browser: Any, served: Served, cookies: list[dict], scene: Scene) -> list[Series]:
    address = f"{served.url}/?{scene.address}"
    series = _openings(browser, cookies, address, REPEATS)
    with opened(browser, cookies, address) as (page, traffic):
        checked(page)
        _columns_of(page, 2)[1]()()
        until(page, "document.querySelectorAll('#layer-tiles button').length > 0")
        page.locator("#layer-tiles button").nth(0).click()
        until(page, "document.querySelectorAll('#neuron-gallery li').length > 0")
        page.wait_for_timeout(1500)
        labels = [f"^{scene.labels[k % len(scene.labels)]}$" for k in range(REPEATS)]
        attacks = [
            f"^{scene.attacks[k % len(scene.attacks)][0]}$" for k in range(REPEATS + REPEATS % len(scene.attacks))
        ]
        series += [
            _clicks(
                page, traffic, Series("class -> network", 400), "network", _options_of(page, "label-select", labels)
            ),
            _clicks(page, traffic, Series("sample -> network", 400), "network", _samples_of(page, scene.samples)),
            _clicks(
                page, traffic, Series("attack -> network", 400), "network", _options_of(page, "attack-select", attacks)
            ),
            _clicks(page, traffic, Series("layer -> tiles", 300), "layer", _columns_of(page, REPEATS)),
            _clicks(page, traffic, Series("neuron -> panel", 250), "neuron", _tiles_of(page, REPEATS)),
        ]
    return series


def _openings(browser: Any, cookies: list[dict], address: str, repeats: int) -> list[Series]:
    """Open the page in fresh profiles, nothing cached in the browser."""
    names = (("first contentful paint", 500), ("controls usable", 1500), ("network drawn on open", 2500))
    painted, usable, drawn = (Series(name, target) for name, target in names)
    for _ in range(repeats):
        with opened(browser, cookies, address) as (page, traffic):
            until(page, "window.stopwatch.opening().drawn > 0")
            found = page.evaluate("window.stopwatch.opening()")
            painted.values.append(found["painted"])
            usable.values.append(found["usable"])
            drawn.values.append(found["drawn"])
            drawn.cpu.append(1000 * traffic.cpu_seconds())
            drawn.requests.append(traffic.requests)
            drawn.kilobytes.append(traffic.received / 1000)
    return [painted, usable, drawn]


Step = Callable[[], Callable[[], None]]
"""Prepares a click (opens a menu, finds a place) and returns what does it."""


def _clicks(page: Any, traffic: Traffic, series: Series, level: str, steps: Sequence[Step]) -> Series:
    for step in steps:
        do_click = step()
        page.wait_for_timeout(1200)
        traffic.reset()
        page.evaluate("level => window.stopwatch.start(level)", level)
        do_click()
        until(page, "window.stopwatch.result")
        series.values.append(page.evaluate("window.stopwatch.result"))
        page.wait_for_timeout(400)
        series.cpu.append(1000 * (traffic.cpu_seconds() - traffic.cpu_before))
        series.requests.append(traffic.requests)
        series.kilobytes.append(traffic.received / 1000)
    return series


def _options_of(page: Any, control: str, names: Sequence[str]) -> list[Step]:
    # A menu is the system's own: the time runs from the moment at which it tells the page what was chosen.
    return [lambda name=name: lambda: choose(page, control, name) for name in names]


def _samples_of(page: Any, samples: int) -> list[Step]:
    def step(place: int) -> Callable[[], None]:
        return lambda: page.locator("#sample-select").select_option(index=place)

    # The first option is the group, the second one is shown at first.
    return [lambda k=k: step(1 + (k + 1) % samples) for k in range(REPEATS)]


def _columns_of(page: Any, repeats: int) -> list[Step]:
    def step(column: int) -> Callable[[], None]:
        place = page.evaluate(
            """column => {
                const plot = document.querySelector('#network-river .js-plotly-plot');
                const box = plot.getBoundingClientRect(), layout = plot._fullLayout;
                return [box.left + layout._size.l + layout.xaxis.d2p(column),
                        box.top + layout.yaxis._offset + layout.yaxis.d2p(0)];
            }""",
            column,
        )
        page.mouse.move(*place)
        return lambda: page.mouse.click(*place)

    return [lambda k=k: step(1 + (k + 1) % COLUMNS) for k in range(repeats)]


def _tiles_of(page: Any, repeats: int) -> list[Step]:
    def step(place: int) -> Callable[[], None]:
        return page.locator("#layer-tiles button").nth(place).click

    return [lambda k=k: step(1 + k) for k in range(repeats)]


def _memory(served: Served) -> list[Series]:
    """Resident memory of the web process and, where one was needed, of the worker: its largest descendant."""
    found = [Series("web process resident", 250, "MB", [resident(served.process.pid)])]
    others = [resident(pid) for pid in descendants(served.process.pid)]
    return [*found, Series("worker resident", 1500, "MB", [max(others)])] if others else found


if __name__ == "__main__":
    sys.exit(main())
