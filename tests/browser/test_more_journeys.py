"""Further ways through the page: keyboard only, groups, images that resisted, every filter, both usual screen widths."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import at_rest, choose, settled, until, wait_until
from tests.browser.test_journeys import PAIR, query

pytestmark = pytest.mark.browser

FILTERS = (
    ("model-select", "model", "^digits-robust$", "digits-robust"),
    ("label-select", "label", "^7$", "7"),
    ("attack-select", "attack", "^FGSM$", "fgsm-linf"),
    ("epsilon-select", "epsilon", r"^16.255$", "16/255"),
    ("outcome-select", "outcome", "^Resisted", "resisted"),
    ("sample-select", "sample", "^All targets: ", "group"),
    ("method-select", "method", "^Mask network$", "mask"),
    ("share-select", "share", "^5 %$", "0.05"),
    ("layer-select", "layer", r"^layer3\.1$", "layer3.1"),
)


@pytest.mark.parametrize(("control", "name", "option", "value"), FILTERS)
def test_every_filter_goes_into_the_link_and_comes_back_from_it(watched, served, control, name, option, value):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}")
    page.wait_for_selector("#network-river .main-svg .trace", state="attached")
    before = query(page)[name]
    assert before != value
    choose(page, control, option)
    until(page, f"new URLSearchParams(location.search).get('{name}') === '{value}'")
    shown = page.locator(f"#{control}").input_value()
    page.goto(page.url)
    until(page, f"document.querySelector('#{control}')?.value === {shown!r}")
    assert query(page)[name] == value


def test_with_the_keyboard_alone_from_the_filters_to_a_feature_map(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=0")
    settled(page)
    page.wait_for_selector("#layer-tiles button", state="attached")
    press_until(page, "Tab", "document.activeElement.id === 'label-select'")
    tiles = page.locator("#layer-tiles")
    before = tiles.inner_html()
    page.keyboard.press("ArrowDown")
    until(page, "new URLSearchParams(location.search).get('label') === '4'", seconds=30)
    until(page, "document.querySelector('#headline')?.textContent?.startsWith(\"Clean '4'\")")
    settled(page)
    wait_until(lambda: tiles.inner_html() != before, what="the channels of the other class")
    at_rest(page, tiles.inner_html)
    press_until(page, "Tab", "document.activeElement.closest('#layer-tiles') !== null")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    channel = page.evaluate("document.activeElement.dataset.channel")
    assert channel != query(page)["channel"]
    page.keyboard.press("Enter")
    until(page, f"/feature map {channel}$/.test(document.querySelector('#neuron-title').textContent.trim())")
    assert query(page)["channel"] == channel


def press_until(page, key: str, claim: str, most: int = 150) -> None:
    """Press a key until a claim of the page holds."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate(f"() => {claim}"):
            return
    raise AssertionError(f"not within {most} times {key}: {claim}")


def test_a_group_is_shown_as_one_and_each_of_its_images_can_be_opened(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&sample=group")
    page.wait_for_selector("#network-river .main-svg .trace", state="attached")
    until(page, "/^\\d+ images of '3'/.test(document.querySelector('#headline')?.textContent)")
    members = page.locator("#inputs-body .member")
    assert members.count() > 1
    # In a narrow window the case column is folded to its pictures.
    page.locator("#case-toggle").click()
    sample = members.nth(1).get_attribute("title").partition(":")[0]
    members.nth(1).click()
    until(page, f"new URLSearchParams(location.search).get('sample') === '{sample}'")
    until(page, "document.querySelector('#headline')?.textContent?.startsWith(\"Clean '3'\")")


def test_an_image_that_resisted_is_shown_as_one_that_keeps_its_class(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?model=digits-robust&data=digits&attack=pgd-linf&outcome=resisted")
    page.wait_for_selector("#network-river .main-svg .trace", state="attached")
    until(page, "Boolean(document.querySelector('#headline'))")
    assert re.match(r"Clean '\d' stays '\d' at", page.locator("#headline").inner_text())
    verdict = page.locator("#verdict").inner_text()
    assert "no other class to converge on" in verdict
    assert "nothing to restore" in verdict


def test_where_nothing_was_fooled_there_is_nothing_to_prove(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&epsilon=0.25/255")
    page.locator("#empty-state").wait_for()
    assert not page.locator("#causal-test-panel").is_visible()


@pytest.mark.parametrize("width", [640, 1024, 1280, 1920])
def test_the_page_never_scrolls_sideways(watched, served, width):
    page = watched.page
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto(f"{served.url}/?{PAIR}&detail=sites&layer=layer3.0&channel=3")
    settled(page)
    page.wait_for_selector("#layer-tiles button", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_on_a_tile_is_answered_without_waiting_for_a_look_at_the_work(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(page)
    held = []

    def hold_the_first(route) -> None:
        if not held and '"output":"work-facts.data"' in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    page.route("**/_dash-update-component*", hold_the_first)
    tile = page.locator("#layer-tiles button:not([data-channel='3'])").first
    channel = tile.get_attribute("data-channel")
    tile.click()
    until(
        page, f"/feature map {channel}$/.test(document.querySelector('#neuron-title').textContent.trim())", seconds=30
    )
    wait_until(lambda: page.evaluate("true") and len(held) == 1, what="the look at the work was asked for")
    held[0].continue_()
    until(page, f"new URLSearchParams(location.search).get('channel') === '{channel}'")
