"""What an auditor does in the browser, on the embedded demo, from the printed link to a feature map's patches."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.conftest import PATIENCE, choose, require, settled, until

pytestmark = pytest.mark.browser
PAIR = "model=digits-standard&data=digits&label=3&attack=pgd-linf"


def query(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def test_the_printed_link_opens_logged_in_and_draws_the_river_without_a_click(watched, served):
    page = watched.page
    page.goto(served.new_link())
    settled(page)
    assert "token" not in page.url
    assert query(page)["model"] == "digits-standard"
    assert re.match(r"Clean '\d' → '\d' at", page.locator("#headline").inner_text())


def test_a_used_link_does_not_open_a_second_browser(chromium, served):
    link = served.new_link()
    for expected in (200, 401):
        context = chromium.new_context()
        page = context.new_page()
        page.goto(link)
        # The landing page passes the cookie on before it opens the dashboard.
        page.wait_for_load_state("networkidle")
        assert page.request.get(served.url).status == expected
        context.close()


def test_from_class_and_attack_to_site_to_feature_map_and_back_by_the_link(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}")
    settled(page)
    choose(page, "label-select", "^7$")
    until(page, "new URLSearchParams(location.search).get('label') === '7'")
    choose(page, "attack-select", "^MI-FGSM$")
    until(page, "new URLSearchParams(location.search).get('attack') === 'mifgsm-linf'")
    settled(page)
    site = click_a_closed_column(page)
    until(page, f"document.querySelector('#layer-title').textContent.startsWith('{site} ')")
    tiles = page.locator("#layer-tiles button")
    channel = tiles.nth(2).get_attribute("data-channel")
    tiles.nth(2).click()
    until(page, f"new URLSearchParams(location.search).get('channel') === '{channel}'")
    until(page, f"/feature map {channel}$/.test(document.querySelector('#neuron-title').textContent.trim())")
    page.wait_for_selector("#neuron-gallery img, #neuron-gallery [style*=background]", state="attached")
    settled(page)
    before = page.url, page.locator("#headline").inner_text(), page.locator("#neuron-title").inner_text()
    page.reload()
    settled(page)
    until(page, f"/feature map {channel}$/.test(document.querySelector('#neuron-title').textContent.trim())")
    assert (page.url, page.locator("#headline").inner_text(), page.locator("#neuron-title").inner_text()) == before


def click_a_closed_column(page) -> str:
    """Click a column of the river whose layer is not the open one with the mouse, and return its site."""
    columns = page.evaluate("document.querySelector('#network-river .js-plotly-plot').layout.meta.columns")
    opened = query(page).get("layer")
    index, site = next((k, name) for k, name in enumerate(columns) if k >= 3 and name and name != opened)
    page.locator("#network-river").scroll_into_view_if_needed()
    place = page.evaluate(
        """index => {
            const plot = document.querySelector('#network-river .js-plotly-plot');
            const box = plot.getBoundingClientRect(), layout = plot._fullLayout;
            return {x: box.left + layout._size.l + layout.xaxis.d2p(index),
                    y: box.top + layout.yaxis._offset + layout.yaxis.d2p(0)};
        }""",
        index,
    )
    page.mouse.click(place["x"], place["y"])
    until(page, f"new URLSearchParams(location.search).get('layer') === '{site}'")
    return site


def test_back_and_forward_walk_through_the_layers_that_were_opened(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&layer=layer1.0")
    settled(page)
    choose(page, "layer-select", r"layer3\.1$")
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer3.1 ')")
    page.go_back()
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer1.0 ')")
    page.go_forward()
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer3.1 ')")


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("model=nobody", "model 'nobody'"),
        ("label=zebra", "class 'zebra'"),
        ("attack=telepathy", "attack 'telepathy'"),
        (f"{PAIR}&sample=99999", "Sample '99999'"),
        (f"{PAIR}&layer=layer9.9", "layer 'layer9.9'"),
        (f"{PAIR}&epsilon=8", "epsilon '8'"),
        (f"{PAIR}&epsilon=-1/255", "epsilon '-1/255'"),
    ],
)
def test_what_a_link_asks_for_and_is_not_there_is_named_and_the_page_goes_on(watched, served, link, told):
    page = watched.page
    page.goto(f"{served.url}/?{link}")
    page.wait_for_selector("#network-river .main-svg .trace", state="attached")
    until(page, f"document.querySelector('#notices').textContent.includes({json.dumps(told)})")


def test_two_browsers_do_not_disturb_each_other(chromium, served, cookies):
    pages = []
    for label in ("1", "6"):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.add_cookies(cookies)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{served.url}/?model=digits-standard&data=digits&attack=pgd-linf&label={label}")
        pages.append(page)
    for page, label in zip(pages, ("1", "6"), strict=True):
        until(page, f"document.querySelector('#headline')?.textContent?.startsWith(\"Clean '{label}'\")")
    for page in pages:
        page.context.close()


def test_the_dark_theme_is_in_the_link_and_reaches_the_figures(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&theme=dark")
    settled(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    fill = page.evaluate("getComputedStyle(document.querySelector('#network-river .gtitle, #network-river text')).fill")
    assert sum(int(part) for part in re.findall(r"\d+", fill)[:3]) > 3 * 128


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_violation_of_any_grade(watched, served, theme):
    axe = require("axe_playwright_python.sync_playwright")
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}&theme={theme}&layer=layer3.0&channel=3&patch=map:layer3.0:1-4&study=smallest")
    settled(page)
    page.wait_for_selector("#layer-tiles button", state="attached")
    page.wait_for_selector("#study-tables table", state="attached")
    page.wait_for_selector("#causal-test table", state="attached")
    found = axe.Axe().run(page).response["violations"]
    assert [(item["id"], item["impact"]) for item in found] == []
