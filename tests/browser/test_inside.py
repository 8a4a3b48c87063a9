"""The inside of a run's model in the browser: classes are chosen, a map is named, opened in Explain, and gone back from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import planted_runs, stores
from tests.browser import conftest
from tests.browser.conftest import Watched, until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(small_demo_store, tmp_path_factory):
    return planted_runs.finish(stores.copied(small_demo_store, tmp_path_factory.mktemp("inside") / "store"))


@pytest.fixture
def opened(chromium, serving, run, login) -> Iterator[Watched]:
    for watched in conftest.watching(chromium, login):
        watched.page.goto(f"{serving.url}/?page=audits&run={run.id}")
        until(watched.page, "document.querySelector('#inside-maps table')")
        yield watched


FIRST = "document.querySelector('#inside-maps tbody tr th')?.textContent"
LEAD = "document.querySelector('#inside-lead').textContent"


def test_classes_are_chosen_a_map_is_opened_and_back_returns(opened, run):
    page = opened.page
    layer = run.manifest.model("candidate").sites[planted_runs.LAYER][0]
    until(page, f"{FIRST} === '{layer} · {planted_runs.CHANNEL}'")
    until(page, "document.querySelectorAll('#inside-classes .bars .point').length > 9")
    for label in ("3", "8"):
        page.locator(f"[data-inside=classes][data-value='{label}']").click()
        until(page, f"document.querySelector('[data-inside=classes][data-value=\"{label}\"]').ariaPressed === 'true'")
    until(page, f"{LEAD}.includes('classes 3, 8')")
    assert "classes=3%2C8" in page.url
    page.go_back()
    until(page, f"{LEAD}.includes('class 3.')")
    # A link of the table loads the page anew: what is looked at meanwhile must not be asked of the one that goes.
    page.locator("#inside-maps tbody a").first.press("Enter")
    page.wait_for_url(lambda url: "channel=" in url and f"layer={layer}" in url)
    page.locator("#neuron-title", has_text=str(planted_runs.CHANNEL)).wait_for()
    page.go_back()
    page.wait_for_url(lambda url: "page=audits" in url)
    page.locator("#inside-lead", has_text="class 3.").wait_for()


def test_what_is_saved_says_what_it_is_of(opened, run):
    page = opened.page
    page.locator("[data-save=inside] > summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Layer by layer as SVG").click()
    assert download.value.suggested_filename == f"faultline_run-{run.id[:12]}_layers.svg"
    drawn = Path(download.value.path()).read_text(encoding="utf-8")
    assert "images fooled: both attacks" in drawn


def test_from_the_river_to_a_layer_to_a_map_to_explain_and_back(opened, run):
    page = opened.page
    layer = run.manifest.model("candidate").sites[planted_runs.LAYER][0]
    until(page, "document.querySelectorAll('#inside-river .barlayer .point').length > 9")
    page.locator("[data-inside=detail][data-value=sites]").click()
    until(page, f"[...document.querySelectorAll('#inside-river .infolayer text')].length && "
                f"document.querySelector('#inside-river .js-plotly-plot').layout.meta.columns.includes('{layer}')")  # fmt: skip
    page.locator("[data-inside=classes][data-value='3']").click()
    until(page, "document.querySelector('#inside-river-lead').textContent.includes('4 clean and 8 attacked')")
    where = """layer => {
        const plot = document.querySelector('#inside-river .js-plotly-plot');
        plot.scrollIntoView({ block: 'center' });
        const { xaxis, yaxis } = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        const x = plot.layout.meta.columns.indexOf(layer);
        return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis._length / 2];
    }"""
    until(page, "!document.querySelector('#inside-river-part').ariaBusy")
    page.mouse.click(*page.evaluate(where, layer))
    page.wait_for_url(lambda url: f"within={layer}" in url)
    until(page, f"{FIRST} === '{layer} · {planted_runs.CHANNEL}'")
    until(
        page,
        f"[...document.querySelectorAll('#inside-maps tbody th')].every(one => one.textContent.startsWith('{layer} ·'))",
    )
    page.locator("#inside-maps tbody a").first.press("Enter")
    page.wait_for_url(lambda url: "channel=" in url and f"layer={layer}" in url)
    page.locator("#neuron-title", has_text=str(planted_runs.CHANNEL)).wait_for()
    page.go_back()
    page.wait_for_url(lambda url: f"within={layer}" in url)
    until(page, f"{FIRST} === '{layer} · {planted_runs.CHANNEL}'")
    page.locator("[data-inside=within][data-value='']").click()
    page.wait_for_url(lambda url: "within=" not in url)
    page.locator("[data-save=inside] > summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="River of the run as CSV").click()
    saved = Path(download.value.path()).read_text(encoding="utf-8")
    assert "bars adversarial" in saved and layer in saved
