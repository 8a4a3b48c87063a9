"""Choosing maps to patched: by click, by rectangle, by key, in the table; the link of the causal test holds them."""

from __future__ import annotations

import pytest

from tests.browser.conftest import at_rest, settled, until, wait_until
from tests.browser.test_journeys import PAIR, query

pytestmark = pytest.mark.browser
CHOSEN = "document.querySelectorAll('#layer-tiles .is-chosen').length"


@pytest.fixture
def page(watched, served):
    """The demo's pair at a layer, with choosing switched on."""
    watched.page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(watched.page)
    watched.page.wait_for_selector("#layer-tiles button", state="attached")
    watched.page.locator(".layer-panel [data-choosing]").click()
    return watched.page


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()


def tile(page, place: int) -> dict:
    found = page.locator("#layer-tiles .tile").nth(place)
    found.scroll_into_view_if_needed()
    return found.bounding_box()


def test_clicks_and_keys_choose_maps_instead_of_opening_them(page):
    before = query(page)["channel"]
    page.locator("#layer-tiles .tile").nth(2).click()
    page.locator("#layer-tiles .tile").nth(4).focus()
    page.keyboard.press("Enter")
    until(page, f"{CHOSEN} === 2")
    page.locator("#layer-tiles .tile").nth(2).click()
    until(page, f"{CHOSEN} === 1")
    assert query(page)["channel"] == before
    page.keyboard.press("Escape")
    page.locator("#layer-tiles .tile").nth(4).click()
    until(page, f"new URLSearchParams(location.search).get('channel') !== '{before}'")


def test_a_rectangle_chooses_tiles_and_the_causal_test_is_a_link(page):
    first, third = tile(page, 0), tile(page, 2)
    drag(page, (first["x"] + 4, first["y"] + 4), (third["x"] + 9, third["y"] + 9))
    until(page, f"{CHOSEN} === 3")
    page.locator("#choice-test").click()
    until(page, "document.querySelector('#causal-test h3')?.textContent.includes('3 chosen channels of layer3.0')")
    until(page, "document.querySelectorAll('#causal-test .causal-test-table').length === 2")
    assert query(page)["patch"].startswith("map:layer3.0:")
    page.reload()
    until(page, f"{CHOSEN} === 3")
    page.locator("#choice-clear").click()
    until(page, f"{CHOSEN} === 0 && document.querySelector('#choice').hidden")


def test_a_rectangle_keeps_its_first_corner_while_the_tiles_scroll(page):
    first = tile(page, 0)
    page.mouse.move(first["x"] + 4, first["y"] + 4)
    page.mouse.down()
    page.mouse.wheel(0, 150)
    third = page.locator("#layer-tiles .tile").nth(2)
    wait_until(lambda: third.bounding_box()["y"] < first["y"] - 100)
    scrolled = at_rest(page, third.bounding_box)
    page.mouse.move(scrolled["x"] + 9, scrolled["y"] + 9)
    page.mouse.up()
    until(page, f"{CHOSEN} === 3")


def bars(page) -> list[dict]:
    """Where the middles of the adversarial bars lie on the screen."""
    return page.evaluate(
        """() => {
            const plot = document.querySelector('#network-river .js-plotly-plot');
            plot.scrollIntoView({ block: 'center' });
            const { xaxis, yaxis } = plot._fullLayout;
            const origin = plot.getBoundingClientRect();
            const bars = plot._fullData.find((one) => one.name === 'bars adversarial');
            const y = (value) => origin.top + yaxis._offset + yaxis.d2p(value);
            return Array.from(bars.x, (x, k) => ({
                name: plot.layout.meta.columns[x], x: origin.left + xaxis._offset + xaxis.d2p(x),
                y: y(bars.base[k] + bars.y[k] / 2) }));
        }"""
    )


def test_a_rectangle_over_the_river_chooses_the_bars_it_meets(page):
    named = [box for box in at_rest(page, lambda: bars(page)) if box["name"]]
    first, last = named[-2], named[-1]
    drag(page, (first["x"] - 30, min(first["y"], last["y"])), (last["x"] + 30, max(first["y"], last["y"]) + 2))
    terms = page.locator("#choice-terms").inner_text()
    for box in (first, last):
        assert f"adversarial-only of {box['name']}" in terms
    page.locator("#choice-terms button").first.click()
    until(page, "document.querySelectorAll('#choice-terms button').length === 1")


def test_the_table_chooses_without_a_mouse(page):
    page.locator("[data-drawer=layers]").click()
    button = page.locator("#site-table [data-choose]").first
    button.focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#choice-terms button').length === 1")


def test_all_fooled_images_of_the_class_are_asked_and_the_answer_has_a_link(page):
    page.locator("[data-drawer=study]").click()
    page.get_by_role("button", name="How many channels it takes").click()
    until(page, "document.querySelector('#study .verdict')?.textContent.includes('layers')", seconds=180)
    until(page, "document.querySelector('#study-figure .js-plotly-plot').data.length >= 5")
    assert page.locator("#study-figure").bounding_box()["width"] > 900
    page.reload()
    until(page, "document.querySelector('#study .verdict')?.textContent.includes('layers')")
    page.get_by_role("button", name="Smallest sets").click()
    until(page, "document.querySelectorAll('#study-tables table').length === 2", seconds=600)
    assert not page.locator("#study-plot").is_visible()
    page.get_by_role("button", name="Test this set on the images shown").click()
    until(page, "document.querySelector('#causal-test h3')?.textContent.includes('chosen channels of')")
    page.locator("[data-drawer=study]").click()
    page.get_by_role("button", name="Smallest sets").click()
    until(page, "!new URLSearchParams(location.search).has('study')")
    assert page.locator("#study").inner_text() == ""


def test_the_faithfulness_curve_has_one_plot_and_one_table(page):
    page.locator("[data-drawer=study]").click()
    page.get_by_role("button", name="Faithfulness curve (CPR, CMD)").click()
    until(
        page,
        "document.querySelector('#study .verdict')?.textContent.includes('beyond layer-matched random channels')",
        seconds=180,
    )
    until(page, "document.querySelector('#study-figure .js-plotly-plot').data.length === 4")
    assert query(page)["study"] == "faithfulness"
    assert page.locator("#study-tables table").count() == 1
    assert page.locator("#study-tables tbody tr").count() == 4
