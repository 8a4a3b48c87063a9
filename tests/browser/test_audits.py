"""An audit from the page: planned, corrected, costed, started, stopped, taken up, and kept over a killed server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import stores
from tests.browser import conftest
from tests.browser.conftest import Served, Watched, logged_in, require, until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def auditing(chromium, small_demo_store, tmp_path_factory) -> Iterator[Served]:
    """A server on a store of its own: other tests rely on the shared one holding no audit."""
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("auditing") / "store")
    running = conftest.start(store.root)
    yield running
    conftest.stop(running)


@pytest.fixture(scope="module")
def login(chromium, auditing) -> list[dict]:
    return logged_in(chromium, auditing)


@pytest.fixture
def form(chromium, auditing, login) -> Iterator[Watched]:
    """A watched page with the form open."""
    for watched in conftest.watching(chromium, login):
        watched.page.goto(f"{auditing.url}/?page=audits")
        watched.page.locator("#audits summary").first.click()
        until(watched.page, "document.querySelector('#audit-cost')")
        yield watched


def filled(page, name: str, attack: str, count: int) -> None:
    page.locator("#audit-field-name").fill(name)
    page.locator("#audit-field-count").fill(str(count))
    page.locator("#audit-field-tier").select_option("custom")
    page.get_by_label("Attack to add").select_option(attack)
    page.get_by_role("button", name="Add this attack").click()
    page.locator("#audit-form [data-row=attacks] [data-name=epsilon]").fill("24/255")


def costed(page) -> None:
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "!document.querySelector('#audit-begin').disabled")


def state(page, name: str) -> str:
    rows = "[...document.querySelectorAll('#audit-list tr')]"
    return f"{rows}.find(one => one.textContent.includes('{name}'))?.cells[2]?.textContent"


def test_a_run_is_planned_costed_started_and_finished(form):
    page = form.page
    filled(page, "From the page", "fgsm-linf", 10)
    page.get_by_role("button", name="Add a threshold").click()
    costed(page)
    assert page.locator("#audit-said").inner_text().startswith("custom: 10 images, ")
    page.locator("#audit-field-seed").fill("1")
    assert page.locator("#audit-begin").is_disabled(), "a cost holds for what it was told of"
    costed(page)
    page.locator("#audit-begin").click()
    until(page, f"{state(page, 'From the page')} === 'finished'")
    until(page, "document.querySelector('#audit')?.textContent.includes('withstands the agreed attacks')")
    assert not page.locator("#audit-form").is_visible()


def test_what_is_wrong_is_told_at_its_field(form):
    page = form.page
    filled(page, "Wrong", "pgd-linf", 10)
    page.locator("#audit-field-count").fill("ten")
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "document.querySelector('#audit-field-count').getAttribute('aria-invalid') === 'true'")
    assert page.evaluate("document.activeElement.id") == "audit-field-count"
    assert "whole number" in page.locator("#audit-field-count-note").inner_text()
    page.locator("#audit-field-count").fill("10")
    assert page.locator("#audit-field-count").get_attribute("aria-invalid") is None
    page.locator("#audit-form [data-row=attacks] [data-name=steps]").fill("0")
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "document.querySelector('#audit-form [data-row=attacks] p.wrong').textContent.includes('steps')")
    assert page.locator("#audit-begin").is_disabled()


def test_a_run_is_stopped_and_taken_up_again(form):
    page = form.page
    filled(page, "Stopped", "square", 40)
    costed(page)
    page.locator("#audit-begin").click()
    until(page, f"{state(page, 'Stopped')} === 'running'")
    # The list is drawn again every other second while a run goes on: the keyboard stays where it is.
    page.locator("#audit-list [data-run]").first.focus()
    page.wait_for_timeout(3500)
    assert page.evaluate("Boolean(document.activeElement.dataset.run)")
    page.get_by_role("button", name="Stop", exact=True).click()
    until(page, "document.querySelector('#audit-list button:disabled')?.textContent === 'Stopping …'", seconds=2)
    until(page, f"{state(page, 'Stopped')} === 'cancelled'")
    page.get_by_role("button", name="Go on").click()
    until(page, f"['running', 'finished'].includes({state(page, 'Stopped')})", seconds=8)
    until(page, f"{state(page, 'Stopped')} === 'finished'")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_accessibility_violation(form, auditing, theme):
    axe = require("axe_playwright_python.sync_playwright")
    page = form.page
    page.goto(f"{auditing.url}/?page=audits&theme={theme}")
    page.locator("#audits summary").first.click()
    until(page, "document.querySelector('#audit-cost')")
    filled(page, "Axe", "mifgsm-linf", 10)
    page.get_by_role("button", name="Add a threshold").click()
    page.locator("#audit-field-count").fill("ten")
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "document.querySelector('.form-field.wrong')")
    found = axe.Axe().run(page).response["violations"]
    assert [(item["id"], item["impact"]) for item in found if item["impact"] in ("serious", "critical")] == []
