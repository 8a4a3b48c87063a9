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
        watched.page.locator("#audit-new > summary").click()
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
    return f"{rows}.find(one => one.textContent.includes('{name}'))?.cells[6]?.firstChild?.textContent"


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
    until(page, "document.querySelector('#audit-form [data-row=attacks] .form-field.wrong [data-name=steps]')")
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


def test_all_mistakes_are_told_at_once_and_the_first_has_the_keyboard(form):
    page = form.page
    filled(page, "Wrong", "pgd-linf", 10)
    page.get_by_role("button", name="Add a threshold").click()
    page.locator("#audit-field-count").fill("0")
    page.locator("#audit-field-seed").fill("x")
    page.locator("#audit-form [data-row=thresholds] [data-name=at_least]").fill("0")
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "document.querySelectorAll('#audit-form [aria-invalid]').length === 3")
    assert page.evaluate("document.activeElement.id") == "audit-field-count"
    assert page.locator("#audit-said").inner_text().startswith("3 things are not right yet")
    assert "every model reaches 0 %" in page.locator("#audit-form [data-row=thresholds]").inner_text()
    assert page.locator("#audit-idle").inner_text().startswith("Start waits")


def test_a_threshold_says_what_it_needs_while_it_is_filled_in(form):
    page = form.page
    page.get_by_role("button", name="Add a threshold").click()
    page.locator("#audit-form [data-row=thresholds] [data-name=at_least]").fill("90%")
    need = "document.querySelector('#audit-form .need').textContent"
    until(page, f"{need}.startsWith('To pass: 50 of 50, 96 of 100, 189 of 200 or 919 of 1,000.')")
    until(page, f"{need}.endsWith('With these 40 images: 40.')")
    page.locator("#audit-field-count").fill("10")
    until(page, f"{need}.includes('it cannot pass: at least 36 are needed')")
    assert page.locator("#audit-form .need.short").count() == 1


def test_the_form_begins_with_what_one_comes_from_and_clones_a_run(form, auditing):
    page = form.page
    page.goto(f"{auditing.url}/?page=audits&model=digits-robust&data=digits")
    page.locator("#audit-new > summary").click()
    until(page, "document.querySelector('#audit-field-model')?.value === 'digits-robust'")
    assert page.locator("#audit-field-count").input_value() == "40", "never more than there are"
    page.get_by_role("button", name="Clone").first.click()
    until(page, "document.querySelector('#audit-from')?.textContent.startsWith('Filled with the plan of')")
    assert page.locator("#audit-field-name").input_value().endswith("(again)")
    assert page.locator("#audit-form [data-row=attacks]").count() == 1
    assert page.evaluate("document.activeElement.id") == "audit-field-name"


def test_the_list_is_sorted_and_filtered_by_keyboard_and_keeps_it(form, auditing):
    page = form.page
    names = "[...document.querySelectorAll('#audit-list tbody tr')].map((row) => row.cells[0].textContent)"
    page.goto(f"{auditing.url}/?page=audits")
    until(page, f"{names}.length >= 2")
    newest_first = page.evaluate(names)
    page.locator("[data-order=begun]").focus()
    page.keyboard.press("Enter")
    until(page, f"{names}.join() === {newest_first[::-1]!r}.join()".replace("'", '"'))
    assert page.evaluate("document.activeElement.dataset.order") == "-begun", "the keyboard stays on the column"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Began")
    page.locator("#audit-find").fill("from the page")
    until(page, f"{names}.length === 1")
    assert page.locator("#audit-count").inner_text() == f"1 of {len(newest_first)} runs"
    page.wait_for_timeout(11_000)
    assert page.evaluate("document.activeElement.id") == "audit-find", (
        "a look at the runs takes the keyboard from nobody"
    )


def test_what_is_selected_and_unfolded_stays_when_the_page_looks_again(form, auditing):
    page = form.page
    page.goto(f"{auditing.url}/?page=audits")
    until(page, "document.querySelector('#audit-details details')")
    page.locator("#audit-details summary", has_text="What this run was made of").click()
    page.evaluate("""() => {
        const range = document.createRange();
        range.selectNodeContents(document.querySelector('#audit-details dd'));
        window.getSelection().removeAllRanges();
        window.getSelection().addRange(range);
    }""")
    chosen = page.evaluate("window.getSelection().toString()")
    assert "digits-standard" in chosen
    page.wait_for_timeout(11_000)
    assert page.evaluate("window.getSelection().toString()") == chosen
    assert page.locator("#audit-details dl").is_visible()


def test_a_cell_of_the_heat_map_opens_explain_of_its_class_and_attack(form, auditing):
    page = form.page
    page.goto(f"{auditing.url}/?page=audits")
    until(page, "document.querySelector('.heat-map td a')")
    link = page.locator(".heat-map td a").first
    assert "Clopper-Pearson, 95 %" in link.get_attribute("aria-label")
    assert page.locator(".heat-map td.few").count() > 0, "few images: grey"
    link.click()
    until(page, "new URLSearchParams(location.search).get('attack')")
    query = page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
    assert query["model"] == "digits-standard"
    assert "label" in query


def test_at_twice_the_size_the_tables_scroll_and_the_page_does_not(form, auditing):
    page = form.page
    page.set_viewport_size({"width": 640, "height": 400})
    for name, ready in (
        ("audits", "document.querySelector('.heat-map')"),
        ("models", "document.querySelector('[data-copy]')"),
    ):
        page.goto(f"{auditing.url}/?page={name}")
        until(page, ready)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        reached = page.evaluate("""() => [...document.querySelectorAll('main table')].every((table) => {
            if (!table.checkVisibility() || table.offsetWidth <= table.parentElement.clientWidth) { return true; }
            let frame = table.parentElement;
            while (frame && getComputedStyle(frame).overflowX === 'visible') { frame = frame.parentElement; }
            return Boolean(frame) && getComputedStyle(frame).overflowX === 'auto';
        })""")
        assert reached, "nothing is cut off"


def test_a_table_comes_as_a_file(form, auditing):
    page = form.page
    page.goto(f"{auditing.url}/?page=audits")
    until(page, "document.querySelector('#audit-maps .file')")
    with page.expect_download() as waiting:
        page.locator("#audit-maps .file").first.click()
    text = waiting.value.path().read_text()
    assert waiting.value.suggested_filename.endswith("-classes.csv")
    assert text.startswith("role,model,condition,class,n,accuracy,low,high,interval,has_few")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_violation(form, auditing, theme):
    axe = require("axe_playwright_python.sync_playwright")
    page = form.page
    page.goto(f"{auditing.url}/?page=audits&theme={theme}")
    page.locator("#audit-new > summary").click()
    until(page, "document.querySelector('#audit-cost')")
    filled(page, "Axe", "mifgsm-linf", 10)
    page.get_by_role("button", name="Add a threshold").click()
    page.locator("#audit-field-count").fill("ten")
    page.get_by_role("button", name="What will it cost?").click()
    until(page, "document.querySelector('.form-field.wrong')")
    found = axe.Axe().run(page).response["violations"]
    assert [(item["id"], [node["target"] for node in item["nodes"]]) for item in found] == []
