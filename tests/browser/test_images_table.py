"""A run's images in the browser: from a number to its images, filtered and sorted in the link, to Explain and back."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import audits, stores
from tests.browser import conftest
from tests.browser.conftest import Watched, require, until
from tests.test_of_run import ATTACK, PLAN

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(small_demo_store, tmp_path_factory):
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("images") / "store")
    made, state, _ = audits.drive(store, audits.planned(store, PLAN))
    assert state.state == "finished", state.message
    return made


ROWS = "[...document.querySelectorAll('#images-grid .ag-center-cols-container .ag-row')]"
TOLD = "document.querySelector('#images-lead').textContent"


@pytest.fixture
def opened(chromium, serving, run, login) -> Iterator[Watched]:
    for watched in conftest.watching(chromium, login):
        watched.page.goto(f"{serving.url}/?page=audits&run={run.id}")
        until(watched.page, f"{ROWS}.some((row) => row.querySelector('img'))")
        yield watched


def column(page, name: str) -> list[str]:
    """What a column shows, from the first row down."""
    script = f"""() => {ROWS}.sort((a, b) => a.getAttribute('row-index') - b.getAttribute('row-index'))
        .map((row) => row.querySelector('[col-id={name}]').textContent)"""
    return page.evaluate(script)


def test_a_number_leads_to_its_images_and_a_row_to_explain_and_back(opened, run):
    page = opened.page
    page.locator("summary", has_text="Every condition").click()
    flow = page.locator("a.to-images", has_text="→").first
    true, into = flow.inner_text().split(" (")[0].split(" → ")
    flow.click()
    until(page, f"{TOLD}.includes('row') && {ROWS}.length && {ROWS}.every((row) => row.textContent)")
    until(page, "document.activeElement.id === 'images-heading'")
    assert f"into={into}" in page.url
    until(page, f"{ROWS}.every((row) => row.querySelector('[col-id=true_class]').textContent === '{true}')")
    assert set(column(page, "after")) == {into}
    sample = column(page, "sample")[0]
    page.locator("#images-grid .ag-row").first.locator("[col-id=after]").click()
    page.wait_for_url(lambda url: f"sample={sample}" in url)
    assert f"attack=run%3A{run.id}" in page.url
    page.locator("#network-river .main-svg").first.wait_for(state="attached")
    until(page, f"document.title.includes('sample {sample}')")
    assert page.evaluate("() => document.querySelector('#attack-select').selectedOptions[0].label").startswith(ATTACK)
    assert page.locator("#notices").inner_text() == ""
    page.go_back()
    page.wait_for_url(lambda url: "page=audits" in url and f"into={into}" in url)
    until(page, f"{ROWS}.length && {ROWS}.every((row) => row.querySelector('[col-id=after]').textContent === '{into}')")


def test_it_is_filtered_and_sorted_by_keyboard_and_the_link_holds_it(opened, run):
    page = opened.page
    page.locator("#images-status").select_option("all")
    until(page, f"{TOLD}.startsWith('20 rows')")
    page.locator("#images-under").select_option("all")
    until(page, f"!{TOLD}.startsWith('20 rows')")
    page.locator("#images-grid .ag-header-cell[col-id=after_confidence]").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "order=-after_confidence" in url)
    until(page, f"{ROWS}.length > 5 && {ROWS}.every((row) => row.querySelector('img'))")
    link = page.url
    shown = column(page, "sample")
    page.goto(link)
    until(page, f"{ROWS}.length > 5 && {ROWS}.every((row) => row.querySelector('img'))")
    assert column(page, "sample") == shown
    assert page.locator("#images-grid [col-id=after_confidence][aria-sort=descending]").count() == 1
    page.locator("#images-grid .ag-row[row-index='0'] [col-id=status]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    until(page, "document.activeElement.closest('.ag-row')?.getAttribute('row-index') === '2'")
    page.keyboard.press("Tab")
    until(page, "!document.activeElement.closest('#images-grid')")


def test_enter_opens_explain_and_the_whole_is_saved(opened, run):
    page = opened.page
    with page.expect_download() as download:
        page.get_by_role("link", name="All listed images as CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert download.value.suggested_filename.endswith(f"{run.id[:12]}-images.csv")
    page.locator("#images-find").fill(rows[3]["sample"])
    until(page, f"{ROWS}.length === 1 && {ROWS}[0].querySelector('img')")
    page.locator("#images-grid .ag-row[row-index='0'] [col-id=sample]").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: f"sample={rows[3]['sample']}" in url and "run%3A" in url)


def test_the_table_has_no_accessibility_violation(opened):
    page = opened.page
    found = require("axe_playwright_python.sync_playwright").Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found] == []
