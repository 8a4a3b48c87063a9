"""Models and data on the page: added from the inbox, checked, retired; the explain page's menus follow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from engine import demo
from tests.browser.conftest import Watched, choose, logged_in, require, start, stop, until, watching

pytestmark = pytest.mark.browser
SAID = {kind: f"document.querySelector('#desk-answer-{kind}').textContent" for kind in ("model", "data")}
REPORT = "document.querySelector('#desk-report')?.textContent"


@pytest.fixture(scope="module")
def desk(chromium, tmp_path_factory):
    """A server on the demo, with an inbox that holds a network, images and class names."""
    folder = tmp_path_factory.mktemp("desk")
    inbox = folder / "inbox"
    inbox.mkdir()
    shutil.copyfile(demo.weights(demo.MODELS[1]), inbox / "net.safetensors")
    (inbox / "names.txt").write_text("\n".join(demo.CLASSES) + "\n")
    found = demo.held_out()
    np.savez(inbox / "few.npz", x=found.x[:60], y=found.y[:60])
    running = start(folder / "store", "--inbox", str(inbox))
    yield running
    stop(running)


@pytest.fixture(scope="module")
def cookies(chromium, desk):
    """Log in once: the printed link works once."""
    return logged_in(chromium, desk)


@pytest.fixture
def page(chromium, cookies):
    yield from watching(chromium, cookies)


def test_a_model_and_data_come_in_are_checked_used_and_retired(page: Watched, desk):
    shown = page.page
    shown.goto(f"{desk.url}/?page=models")
    shown.locator("summary", has_text="Add a data set").click()
    shown.locator("#desk-data-name").fill("few")
    shown.locator("#desk-data-classes").select_option(label="names.txt")
    shown.locator("#desk-data-epsilon").fill("nonsense")
    shown.locator(".desk-form[data-kind=data] button").click()
    until(shown, f"{SAID['data']}.includes('nonsense')")
    beside = shown.evaluate("() => document.activeElement.nextElementSibling.id")
    assert beside == "desk-answer-data", "the answer stands beside the button"
    shown.locator("#desk-data-epsilon").fill("24/255")
    shown.locator(".desk-form[data-kind=data] button").click()
    until(shown, f"{SAID['data']}.startsWith('Added few')")
    shown.locator("summary", has_text="Add a model").click()
    shown.locator("#desk-model-name").fill("mine")
    shown.locator("#desk-model-architecture").fill(demo.ARCHITECTURE)
    shown.locator("#desk-model-classes").select_option(label="names.txt")
    shown.locator(".desk-form[data-kind=model] button").click()
    until(shown, f"{SAID['model']}.startsWith('Added mine')")
    until(shown, f"{REPORT}?.includes('Intake report: mine, checked on 500 images of digits')")
    shown.goto(f"{desk.url}/?page=models")
    until(shown, "document.querySelector('#desk-models')?.textContent?.includes('✔ passed, on digits')")
    shown.locator('[data-intake="mine@few"]').click()
    until(shown, f"{REPORT}?.includes('60 images of few')")
    assert shown.locator("#desk-report .check-fail").count() == 0
    shown.get_by_role("button", name="Explain").click()
    choose(shown, "model-select", "^mine$")
    until(shown, "new URLSearchParams(location.search).get('model') === 'mine'")
    shown.get_by_role("button", name="Models and data").click()
    shown.get_by_role("button", name="Retire mine").click()
    shown.get_by_role("button", name="Take mine back").wait_for()
    shown.reload()
    shown.get_by_role("button", name="Take mine back").click()
    shown.get_by_role("button", name="Retire mine").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_has_no_serious_accessibility_violation(page: Watched, desk, theme):
    shown = page.page
    shown.goto(f"{desk.url}/?page=models&intake=digits-standard@digits&theme={theme}")
    until(shown, f"{REPORT}?.includes('Intake report')")
    shown.locator("summary", has_text="Add a model").click()
    found = require("axe_playwright_python.sync_playwright").Axe().run(shown).response["violations"]
    assert [(one["id"], one["impact"]) for one in found if one["impact"] in ("serious", "critical")] == []
