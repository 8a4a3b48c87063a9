"""Help where it is needed: the tour of the first visit, what each level means, and the page of words."""

from __future__ import annotations

import pytest

from dashboard import guide, wording
from tests.browser.conftest import PATIENCE, require, settled, until
from tests.browser.test_journeys import PAIR

pytestmark = pytest.mark.browser


@pytest.fixture
def first(chromium, served, cookies):
    """A browser that has never been here, and what its console says."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies(cookies)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{served.url}/?{PAIR}")
    settled(page)
    yield page
    context.close()
    assert complaints == []


def step(page) -> str:
    return page.locator("#tour-card .note").inner_text()


def test_the_first_visit_begins_with_a_tour_of_six_steps_by_keyboard_alone(first):
    assert step(first) == "Step 1 of 6"
    for number in range(2, 7):
        first.keyboard.press("Enter")
        assert step(first) == f"Step {number} of 6"
        frame = first.evaluate("document.querySelector('#tour-frame').getBoundingClientRect().width")
        assert frame > 200
        card = first.evaluate(
            "JSON.parse(JSON.stringify(document.querySelector('#tour-card').getBoundingClientRect()))"
        )
        assert card["top"] >= 0 and card["bottom"] <= 900 and card["left"] >= 0 and card["right"] <= 1440
    first.keyboard.press("ArrowLeft")
    assert step(first) == "Step 5 of 6"
    first.keyboard.press("Tab")
    assert first.evaluate("document.activeElement.closest('#tour-card') !== null")
    first.keyboard.press("Escape")
    assert first.locator("#tour-card").count() == 0


def test_the_tour_is_shown_once_and_again_when_it_is_asked_for(first):
    first.keyboard.press("Escape")
    first.reload()
    settled(first)
    assert first.locator("#tour-card").count() == 0
    first.locator("#tour").focus()
    first.keyboard.press("Enter")
    assert step(first) == "Step 1 of 6"
    first.keyboard.press("Escape")
    assert first.evaluate("document.activeElement.id") == "tour"


def test_the_page_can_be_used_while_the_tour_is_shown(first):
    first.locator("#layer-tiles .tile[aria-pressed=false]").first.click()
    until(first, "document.querySelector('#layer-tiles .tile[aria-pressed=true]') !== null")
    assert first.locator("#tour-card").count() == 1


@pytest.mark.parametrize("level", guide.MEANINGS)
def test_each_level_says_how_to_read_it_and_what_it_cannot_say(watched, served, level):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}")
    settled(page)
    mark = page.get_by_label(f"What does this mean? {guide.TITLES[level]}")
    mark.focus()
    page.keyboard.press("Enter")
    popover = page.locator(".meaning[open] .popover")
    text = popover.inner_text()
    assert all(sentence in text for sentence in guide.MEANINGS[level])
    box = popover.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1280 and box["y"] + box["height"] <= 1000
    page.keyboard.press("Escape")
    assert page.locator(".meaning[open]").count() == 0
    assert mark.evaluate("node => node === document.activeElement")


def test_every_word_stands_on_a_page_of_its_own_with_an_address_of_its_own(watched, served):
    page = watched.page
    page.goto(f"{served.url}/help#term-river")
    texts = page.locator("main").inner_text()
    assert [name for name, sentence in wording.TERMS.items() if sentence not in texts] == []
    assert page.locator("#term-river").evaluate("node => node.getBoundingClientRect().top < innerHeight")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A"
    assert "layer-matched random" in page.locator("#claims").inner_text().lower()


def test_the_header_leads_to_it(watched, served):
    page = watched.page
    page.goto(f"{served.url}/?{PAIR}")
    with page.context.expect_page() as opened:
        page.locator("header a", has_text="Help").click()
    assert opened.value.url == f"{served.url}/help"


def violations(page) -> list[tuple[str, str]]:
    found = require("axe_playwright_python.sync_playwright").Axe().run(page).response["violations"]
    return [(item["id"], item["nodes"][0]["html"][:80]) for item in found]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_violation_in_the_tour_the_menus_and_the_page_of_help(first, served, theme):
    first.goto(f"{served.url}/?{PAIR}&theme={theme}")
    settled(first)
    assert first.locator("#tour-card").count() == 1
    assert violations(first) == []
    first.keyboard.press("Escape")
    first.locator("[data-save=neuron] summary").click()
    first.locator("#verdict .meaning summary").evaluate("node => { node.parentElement.open = true; }")
    assert violations(first) == []
    first.keyboard.press("Escape")
    first.locator("#sample-select").click()
    assert violations(first) == []
    first.goto(f"{served.url}/help")
    assert violations(first) == []
