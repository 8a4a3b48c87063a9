"""What an auditor sees when a process dies: nothing stored is lost, and the page says what is going on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.browser.conftest import descendants, resident, settled, start, stop, until, wait_until
from tests.browser.test_journeys import PAIR

pytestmark = pytest.mark.browser


def records(store: Path) -> dict[Path, int]:
    """When every file of every whole record was last written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in (store / "records").rglob("*") if path.is_file()}


def lasting(store: Path) -> dict[Path, int]:
    """The same of the records that are not about to be thrown away or renamed."""
    return {path: when for path, when in records(store).items() if not path.name.startswith((".", "tmp"))}


def test_a_worker_that_is_killed_in_the_middle_loses_nothing_stored_and_the_page_goes_on(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}")
    settled(page)
    before = lasting(served.store)
    page.goto(f"{served.url}/?{PAIR}&label=8&epsilon=16/255&method=mask")
    until(page, "/Attacking|Examining|Checking/.test(document.querySelector('#status')?.textContent)")
    worker = max(descendants(served.process.pid), key=resident)
    os.kill(worker, signal.SIGKILL)
    said = "document.querySelector('#status').textContent"
    until(page, f"{said}.startsWith('All checks') || {said}.includes('worker died')")
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or worker not in descendants(served.process.pid))
    if "worker died" in page.locator("#status").inner_text():
        assert page.locator("#retry").is_visible()
    else:
        assert page.locator("#network-river .main-svg .trace").count() > 0
    after = lasting(served.store)
    assert {path: after.get(path) for path in before} == before


def test_after_a_restart_the_same_link_shows_the_same_view_from_the_store_alone(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&layer=layer2.0&channel=4")
    settled(page)
    # What is made once a map has been looked at for a moment belongs to the view.
    until(page, "Boolean(document.querySelector('#feature img')?.naturalWidth)")
    until(page, "document.querySelector('#response .js-plotly-plot').data.length === 2")
    shown = ("#headline", "#layer-title", "#neuron-title", "#checks")
    before, link = [page.locator(part).inner_text() for part in shown], page.url
    page.goto("about:blank")
    stored = lasting(served.store)
    stop(served)
    served.process = start(served.store, port=int(served.url.rpartition(":")[2])).process
    page.goto(link)
    settled(page)
    until(page, "document.querySelector('#neuron-title').textContent.trim().endsWith('feature map 4')")
    assert [page.locator(part).inner_text() for part in shown] == before
    assert page.url == link
    # A worker starts with the first piece of work: there was none, so no record can have been written again.
    assert descendants(served.process.pid) == []
    after = lasting(served.store)
    assert {path: after.get(path) for path in stored} == stored
