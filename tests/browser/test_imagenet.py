"""The three levels on ImageNet: MobileNetV2 and the giant pandas of ../shared/data, added by the documented commands."""

from __future__ import annotations

import re

import pytest

from tests.browser import scenes
from tests.browser.conftest import Watched, logged_in, require, start, stop, until, watching
from tests.shared_data import NEEDS_SHARED

pytestmark = [*NEEDS_SHARED, pytest.mark.browser]
PATIENCE = 420.0


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A running dashboard on a store with MobileNetV2 and the pandas."""
    store = tmp_path_factory.mktemp("imagenet") / "store"
    scenes.fill_imagenet(store)
    running = start(store)
    yield running
    stop(running)


@pytest.fixture(scope="module")
def login(chromium, imagenet):
    return logged_in(chromium, imagenet)


@pytest.fixture
def page(chromium, login):
    yield from watching(chromium, login)


def percent(cell: str) -> float:
    """The first number of a cell such as `98 % [95, 99], n = 200`."""
    return float(re.match(r"([\d.]+) %", cell)[1])


@pytest.mark.parametrize("attack", ["attack=mifgsm-linf&epsilon=16/255", "attack=pgd-linf&epsilon=4/255&sample=00001"])
def test_the_giant_panda_goes_through_all_three_levels_and_the_causal_test(page: Watched, imagenet, attack):
    shown = page.page
    shown.goto(f"{imagenet.url}/?model=mobilenet&data=pandas&label=giant panda&{attack}")
    until(shown, "Boolean(document.querySelector('#network-river .main-svg .trace'))", seconds=PATIENCE)
    assert "panda" in shown.locator(".verdict-bar").inner_text()
    until(shown, "document.querySelectorAll('#layer-tiles button').length > 0", seconds=PATIENCE)
    shown.locator("#layer-tiles button").nth(1).click()
    until(shown, "document.querySelectorAll('#neuron-card .answers').length === 2", seconds=PATIENCE)
    until(shown, "document.querySelectorAll('#neuron-gallery li').length > 0", seconds=PATIENCE)
    # What the attack makes of a panda may be a class of which this small data set has no image.
    ended = (
        "/^All checks|no other correctly classified image of class/.test(document.querySelector('#status').textContent)"
    )
    until(shown, ended, seconds=PATIENCE)
    assert shown.locator("#checks td").filter(has_text="not run").count() == 0
    # The plain ranking of older links: on this network it fills a narrow layer, which restores whatever the image.
    shown.goto(f"{imagenet.url}/?model=mobilenet&data=pandas&label=giant panda&{attack}&patch=flow:64&drawer=test")
    until(shown, "Boolean(document.querySelector('#causal-test .claim'))", seconds=PATIENCE)
    rows = shown.locator("#causal-test .causal-test-table:not(.members-table) tbody tr")
    assert rows.nth(1).locator("th").inner_text().startswith("Random")
    restored, at_random = (percent(rows.nth(k).locator("td").nth(1).inner_text()) for k in (0, 1))
    assert restored >= 90
    assert at_random <= 10
    found = require("axe_playwright_python.sync_playwright").Axe().run(shown)
    serious = [item["id"] for item in found.response["violations"] if item["impact"] in ("serious", "critical")]
    assert serious == []
