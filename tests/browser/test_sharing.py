"""What leaves the page: the copied link, the evidence, the paper; and the menus that are searched."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import choose, settled, until
from tests.browser.test_journeys import PAIR

pytestmark = pytest.mark.browser
PAPER = 1047
"""Pixels of A4 across, less its margins."""


@pytest.fixture
def page(watched, served):
    """The demo's pair with all of its checks."""
    watched.page.set_viewport_size({"width": 1440, "height": 900})
    watched.page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3&drawer=evidence")
    settled(watched.page)
    watched.page.wait_for_selector("#layer-tiles button")
    return watched.page


def copied(page, button: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(button).click()
    until(page, f"document.querySelector('{button}').textContent === 'Copied'")
    return page.evaluate("navigator.clipboard.readText()")


def test_a_copied_link_says_what_it_shows_of_which_evidence_and_when(page):
    line, address = copied(page, "#copy-link").splitlines()
    assert address == page.url
    key = page.locator("#evidence dd").first.inner_text()
    assert re.fullmatch(
        rf"Faultline: class 3, PGD 24/255, sample \d+, digits-standard, layer3\.0 channel 3, evidence {key[:12]}, "
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC",
        line,
    )


def test_the_evidence_is_whole_and_can_be_copied(page):
    names = page.locator("#evidence dt").all_inner_texts()
    assert names == ["Evidence", "Model", "Data", "Images", "Attack", "Attribution", "Seed", "Versions"]
    text = copied(page, "#copy-evidence")
    assert all(f"{name}: " in text for name in names)
    assert "pgd-linf:eps=24/255,steps=10" in text


CUT = """() => [...document.querySelectorAll('main .panel, main table, .river-frame, .print-line, .filters')]
    .filter(node => node.checkVisibility() && node.closest('[data-drawer-part]')?.checkVisibility() !== false)
    .filter(node => node.getBoundingClientRect().right > innerWidth + 1 || node.scrollWidth > node.clientWidth + 1)
    .map(node => node.id || node.className)"""


@pytest.mark.parametrize("drawer", ["checks", "test", "layers"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_paper_is_light_whole_and_signed(page, served, theme, drawer):
    page.goto(f"{served.url}/?{PAIR}&theme={theme}&drawer={drawer}&patch=standout:16")
    settled(page)
    until(page, "document.querySelectorAll('#causal-test table').length > 0")
    key = page.evaluate("document.querySelector('#evidence dd').textContent")
    assert page.pdf(format="A4", prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 740})
    page.wait_for_timeout(600)
    assert page.evaluate(CUT) == []
    line = page.locator(".print-line")
    assert line.is_visible() and key[:12] in line.inner_text() and page.url in line.inner_text()
    assert key[:12] in page.evaluate("document.querySelector('#print-style').textContent")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('main .panel')).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert page.locator("#evidence").is_visible()
    assert page.locator("#layer-tiles .tile").first.is_visible() and page.locator("#neuron-card img").first.is_visible()


def entries(page) -> list[str]:
    return page.locator("#menu-search-list [role=option]").all_inner_texts()


def test_a_long_menu_is_searched_and_a_short_one_is_not(page):
    page.locator("#sample-select").click()
    assert len(entries(page)) == page.evaluate("document.querySelector('#sample-select').options.length") > 20
    page.keyboard.type("→ 9")
    assert entries(page) and all("→ 9" in text for text in entries(page))
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#menu-search-list .is-pointed").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#menu-search").count() == 0
    sample = chosen.split(" ")[0]
    until(page, f"new URLSearchParams(location.search).get('sample') === '{sample}'")
    assert page.evaluate("document.activeElement.id") == "sample-select"
    page.locator("#attack-select").focus()
    page.keyboard.press("Enter")
    assert page.locator("#menu-search-list .group").all_inner_texts() == ["Attacks", "Noise controls"]
    page.keyboard.type("no such thing")
    assert entries(page) == [] and "Nothing is called so" in page.locator("#menu-search").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "attack-select"
    page.locator("#epsilon-select").focus()
    page.keyboard.press("Alt+ArrowDown")
    assert page.locator("#menu-search").count() == 0


def test_the_order_of_the_tiles_is_chosen_from_a_menu_like_all_others_and_kept_in_the_link(page):
    choose(page, "layer-sort", "Index")
    until(page, "location.search.includes('sort=index')")
    until(page, "document.querySelector('#layer-tiles .tile').dataset.channel === '0'")
    page.reload()
    until(page, "document.querySelector('#layer-tiles .tile')?.dataset.channel === '0'")
    assert page.locator("#layer-sort").input_value() == "index"
    page.go_back()
    until(page, "!location.search.includes('sort=index')")
    until(page, "document.querySelector('#layer-sort').value === 'importance'")


def test_every_scale_of_colours_has_its_bar(page):
    assert page.locator("#layer-colours").inner_text().split("\n") == ["low", "high of each channel"]
    low, high = page.locator("#neuron-colours").inner_text().split("\n")
    peaks = page.locator("#neuron-card figcaption").all_inner_texts()
    grid = [float(text.split("peak ")[1]) for text in peaks]
    assert low == "0" and float(high.removesuffix(" activation")) == max(grid)
    page.locator("[data-drawer=evidence]").click()
    page.locator("summary[data-term=layer-more]").click()
    page.locator("[data-term=layer-mode] label", has_text="difference").click()
    until(page, "document.querySelector('#layer-colours').textContent.includes('stronger under attack')")
