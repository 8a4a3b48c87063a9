"""No panel shows evidence of anything but what the controls say: not while it is worked on, not without a server."""

from __future__ import annotations

import pytest

from tests.browser.conftest import PATIENCE, WITHOUT_TOUR, choose, logged_in, settled, start, stop, until

pytestmark = pytest.mark.browser
PAIR = "model=digits-standard&data=digits&label=3&attack=pgd-linf"
PANELS = "#inputs-panel, #verdict, #network-panel, .layer-panel, .neuron-panel, [data-drawer-part=checks]"
SHOWN = f"[...document.querySelectorAll('{PANELS}')]"
COVERED = f"{SHOWN}.every(panel => panel.dataset.veil && panel.querySelector(':scope > .veil').textContent.includes('class 7'))"
OPEN = f"{SHOWN}.every(panel => !panel.dataset.veil)"


@pytest.fixture
def own(chromium, served):
    """A server of its own on the demo's store, to be stopped, and a page logged in to it."""
    running = start(served.store)
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies(logged_in(chromium, running))
    context.add_init_script(WITHOUT_TOUR)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page, running
    context.close()
    stop(running)


def key_of(page, selector: str) -> str:
    return page.evaluate("selector => document.querySelector(selector).dataset.key", selector)


def test_a_server_that_is_stopped_in_a_journey_leaves_no_evidence_of_another_view(own):
    page, running = own
    page.goto(f"{running.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(page)
    page.wait_for_selector("#layer-tiles button")
    until(page, OPEN)
    before = key_of(page, "#network-panel")
    stop(running)
    choose(page, "label-select", "^7$")
    until(page, COVERED, seconds=10)
    until(page, "!document.querySelector('#connection').hidden", seconds=20)
    until(page, COVERED, seconds=5)
    # Without a server what is covered is not even dimmed: it is not there to be read.
    is_hidden = "child => child.className === 'veil' || getComputedStyle(child).visibility === 'hidden'"
    until(page, f"{SHOWN}.every(panel => [...panel.children].every({is_hidden}))", seconds=5)
    assert page.locator("#label-select").input_value() == "7"
    running.process = start(running.store, port=int(running.url.rpartition(":")[2])).process
    until(page, f"document.querySelector('#connection').hidden && {OPEN}", seconds=60)
    until(page, "document.querySelector('#headline')?.textContent?.startsWith(\"Clean '7'\")")
    assert key_of(page, "#network-panel") != before
    assert page.locator("#label-select").input_value() == "7"
    keys = {key_of(page, panel.strip()).split(" ")[0] for panel in PANELS.split(",")}
    assert len(keys) == 1


def test_while_a_step_is_not_answered_the_panels_below_are_covered_and_those_above_are_not(watched, served):
    page = watched.page
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(page)
    until(page, OPEN)
    held = []

    def hold(route) -> None:
        if '"layer-facts.data"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/_dash-update-component*", hold)
    choose(page, "layer-select", r"^layer2\.0$")
    until(page, "Boolean(document.querySelector('.layer-panel').dataset.veil)")
    assert page.evaluate("!document.querySelector('#network-panel').dataset.veil")
    until(page, "location.search.includes('layer2.0')")
    for route in held:
        route.continue_()
    page.unroute("**/_dash-update-component*")
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer2.0 ')")
    until(page, OPEN)


def test_a_layer_chosen_without_a_server_covers_its_levels_whatever_the_window_does(own):
    page, running = own
    page.goto(f"{running.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(page)
    page.wait_for_selector("#layer-tiles button")
    until(page, OPEN)
    stop(running)
    choose(page, "layer-select", r"^layer2\.0$")
    both = "['.layer-panel', '.neuron-panel'].every(one => document.querySelector(one).dataset.veil)"
    until(page, both, seconds=5)
    page.set_viewport_size({"width": 1300, "height": 850})
    page.wait_for_timeout(1500)
    assert page.evaluate(both), "a resize asks for nothing that is no longer chosen"
    until(page, "/Waiting for the server|no answer|not connected/i.test(document.body.innerText)", seconds=10)


def test_back_asks_the_levels_with_numbers(watched, served):
    page = watched.page
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3&share=0.2")
    settled(page)
    until(page, OPEN)
    choose(page, "layer-select", r"^layer2\.0$")
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer2.0 ')")
    held = []
    page.route(
        "**/_dash-update-component*",
        lambda route: (
            held.append(route) if '"work-facts.data"' in (route.request.post_data or "") else route.continue_()
        ),
    )
    page.go_back()
    until(page, "document.querySelector('#layer-title').textContent.startsWith('layer3.0 ')")
    assert "must be" not in page.inner_text("main")
    for route in held:
        route.continue_()
    page.unroute("**/_dash-update-component*")
    until(page, OPEN)
