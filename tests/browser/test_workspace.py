"""One screen for all three levels: nothing but the panels' insides scroll, every choice is a step back, every part has words."""

from __future__ import annotations

import pytest

from tests.browser.conftest import choose, settled, until
from tests.browser.test_journeys import PAIR, click_a_closed_column

pytestmark = pytest.mark.browser
SIZES = [(1920, 1080), (1440, 900), (1280, 800)]
LEVELS = ("#verdict", "#network-panel", ".layer-panel", ".neuron-panel", ".drawer-bar")


@pytest.fixture
def page(watched, served):
    """The demo's pair with all of its checks, in a usual window."""
    watched.page.set_viewport_size({"width": 1440, "height": 900})
    watched.page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(watched.page)
    watched.page.wait_for_selector("#layer-tiles button")
    return watched.page


def is_seen(page, selector: str) -> bool:
    """Whether all of an element stands in the window, and nothing lies over its middle."""
    return page.evaluate(
        """selector => {
            const node = document.querySelector(selector), box = node.getBoundingClientRect();
            const top = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height / 2, 20));
            return box.width > 0 && box.top >= 0 && box.bottom <= innerHeight && box.right <= innerWidth
                && (node.contains(top) || top.contains(node));
        }""",
        selector,
    )


def test_the_way_down_to_a_causal_test_never_scrolls_the_page(page):
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        until(
            page,
            "document.documentElement.scrollHeight === innerHeight && document.documentElement.scrollWidth === innerWidth",
        )
        assert [level for level in LEVELS if not is_seen(page, level)] == []
        until(page, DRAWN)
        site = click_a_closed_column(page)
        until(page, f"document.querySelector('#layer-title').textContent.startsWith('{site} ')")
        tile = page.locator("#layer-tiles .tile[aria-pressed=false]").first
        channel = tile.get_attribute("data-channel")
        assert is_seen(page, f"#layer-tiles .tile[data-channel='{channel}']")
        tile.click()
        until(page, f"/feature map {channel}$/.test(document.querySelector('#neuron-title').textContent.trim())")
        assert is_seen(page, "#neuron-card img")
        page.locator("[data-tab=links]").click()
        button = page.locator("#neighbourhood-list [data-pick-layer]").first
        layer, channel = button.get_attribute("data-pick-layer"), button.get_attribute("data-pick-channel")
        button.click()
        until(page, f"document.querySelector('#neuron-title').textContent.trim() === '{layer} · feature map {channel}'")
        until(page, f"document.querySelector('#layer-tiles [aria-pressed=true]')?.dataset.channel === '{channel}'")
        assert is_seen(page, "#layer-tiles [aria-pressed=true]")
        page.get_by_role("button", name="Test 16 channels").click()
        until(page, "Boolean(document.querySelector('#causal-test .claim'))")
        assert is_seen(page, "#causal-test h3")
        assert page.evaluate("scrollY") == 0
        page.keyboard.press("Escape")
        until(page, "!document.body.classList.contains('has-drawer')")


def test_who_walks_along_the_connections_by_keyboard_keeps_the_keyboard(page):
    page.locator("[data-tab=links]").click()
    button = page.locator("#neighbourhood-list [data-pick-layer]").first
    button.focus()
    before = page.locator("#neuron-title").inner_text()
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('#neuron-title').textContent !== {before!r}")
    until(page, "document.activeElement.closest('#neighbourhood-list') !== null")


def test_the_columns_are_walked_by_the_arrow_keys(page):
    page.locator(".river-frame").focus()
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer2.1 ')")
    assert page.evaluate("document.activeElement.className") == "river-frame"


UNCOVERED = (
    "![...document.querySelectorAll('[data-veil]')].some(one => one.checkVisibility({ visibilityProperty: true }))"
)
DRAWN = """(() => {
    const plot = document.querySelector('#network-river .js-plotly-plot');
    return Math.abs(plot._fullLayout.width - document.querySelector('.river-frame').clientWidth) < 2;
})()"""
"""The river has the width of the window that was just resized."""
SEEN = ("#headline", "#layer-title", "#neuron-title", ".drawer-tabs [aria-expanded=true]", ".tabs [aria-selected=true]")


def shown(page) -> dict:
    """All that tells one view from another."""
    texts = {part: page.locator(part).first.inner_text() if page.locator(part).count() else "" for part in SEEN}
    menus = page.evaluate("[...document.querySelectorAll('select.menu')].map(one => one.value)")
    return {"address": page.url, "title": page.title(), "menus": menus, **texts}


def test_back_returns_to_exactly_the_view_before_five_times_in_a_row(page):
    steps = (
        lambda: choose(page, "layer-select", r"^layer2\.0$"),
        lambda: page.locator("#layer-tiles .tile[aria-pressed=false]").nth(1).click(),
        lambda: page.locator("[data-tab=histogram]").click(),
        lambda: page.locator("[data-drawer=checks]").click(),
        lambda: choose(page, "share-select", "^5 %$"),
    )
    views = []
    for step in steps:
        views.append(shown(page))
        step()
        until(page, f"location.href !== {views[-1]['address']!r}")
        until(page, UNCOVERED)
        page.wait_for_timeout(900)
    for before in reversed(views):
        page.go_back()
        until(page, f"location.href === {before['address']!r}")
        until(page, UNCOVERED)
        page.wait_for_timeout(900)
        assert shown(page) == before


def test_the_title_says_what_is_shown(page):
    assert page.title().startswith("class 3, PGD")
    assert "layer3.0 channel 3" in page.title()


def test_images_that_became_one_class_are_looked_at_together_and_counted(page):
    chips = page.locator("#scope button").all_inner_texts()
    assert chips[0] == "One image" and chips[-1].startswith("All targets: ")
    pair = min((text for text in chips[1:-1]), key=lambda text: int(text.split()[-1]))
    page.locator("#scope button", has_text=pair).click()
    target, count = pair.split()[1].removesuffix(":"), pair.split()[-1]
    until(page, f"document.querySelector('#headline').textContent === \"{count} images of '3', all → '{target}'.\"")
    said = page.locator("#scope p").inner_text()
    assert said == f"{count} of {count} fooled images of class '3' that became '{target}', together."
    assert page.locator(".members img").count() == int(count)
    page.locator("#scope button", has_text="One image").click()
    until(page, "document.querySelector('#headline').textContent.startsWith(\"Clean '3'\")")
    assert page.locator("#scope p").inner_text() == ""


def test_pointing_at_a_tile_marks_its_bar_in_the_river(page):
    page.locator("#layer-tiles .tile").first.hover()
    until(page, "Boolean(document.querySelector('.river-frame .lit'))")
    page.locator("#verdict").hover()
    until(page, "!document.querySelector('.river-frame .lit')")


CONTROLS = "main button, main select, main summary, main th, header button, header select, .js-plotly-plot"
DATA = "#audits, #registry, tbody, .strip, .veil, .tile, .member, .mantine-SegmentedControl-control"
"""What is data, not a control, or a choice of a control that has its sentence."""
UNEXPLAINED = """([controls, data]) => [...document.querySelectorAll(controls)]
    .filter(node => node.offsetParent !== null && node.innerText !== '' && !node.closest(data))
    .filter(node => !node.closest('[data-term]') && !node.querySelector('[data-term]'))
    .map(node => node.outerHTML.slice(0, 120))"""


def test_every_control_column_and_chart_has_its_sentence(page):
    for drawer in ("checks", "test", "study", "layers"):
        page.locator(f"[data-drawer={drawer}]").click()
        page.wait_for_timeout(200)
        missing = [
            text for text in page.evaluate(UNEXPLAINED, [CONTROLS, DATA]) if '<th scope="col">Class<' not in text
        ]
        missing = [text for text in missing if ">Before<" not in text and ">After<" not in text]
        assert missing == []


def test_a_sentence_is_shown_to_the_keyboard_and_goes_away_with_escape(page):
    page.locator("#method-select").focus()
    page.keyboard.press("Tab")
    until(
        page,
        "!document.querySelector('#tip').hidden && document.querySelector('#tip').textContent.includes('datapath')",
    )
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    until(page, "document.querySelector('#tip').hidden")


def test_a_narrow_window_shows_one_level_at_a_time_below_the_river(page):
    page.set_viewport_size({"width": 1000, "height": 800})
    level = "(name => document.querySelector(name).offsetParent !== null)"
    until(page, f"{level}('.layer-panel') && !{level}('.neuron-panel')")
    page.locator("#layer-tiles .tile[aria-pressed=false]").first.click()
    until(page, f"{level}('.neuron-panel') && !{level}('.layer-panel')")
    page.evaluate("scrollTo(0, 600)")
    assert page.evaluate("document.querySelector('#network-panel').getBoundingClientRect().top") >= 0
    page.locator("button[data-level=case]").click()
    until(page, f"{level}('#inputs-panel')")
