"""Models and data on the page: added from the import folder, checked, archived; the explain page's menus follow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from engine import demo
from tests.browser.conftest import Watched, choose, logged_in, require, start, stop, until, watching

pytestmark = pytest.mark.browser
SAID = {kind: f"document.querySelector('#registry-answer-{kind}').textContent" for kind in ("model", "data")}
REPORT = "document.querySelector('#registry-report')?.textContent"


@pytest.fixture(scope="module")
def model_registry(chromium, tmp_path_factory):
    """A server on the demo, with an import folder that holds a network, images and class names."""
    folder = tmp_path_factory.mktemp("desk")
    import_folder = folder / "inbox"
    import_folder.mkdir()
    shutil.copyfile(demo.weights(demo.MODELS[1]), import_folder / "net.safetensors")
    (import_folder / "names.txt").write_text("\n".join(demo.CLASSES) + "\n")
    found = demo.held_out()
    np.savez(import_folder / "few.npz", x=found.x[:60], y=found.y[:60])
    running = start(folder / "store", "--inbox", str(import_folder))
    yield running
    stop(running)


@pytest.fixture(scope="module")
def cookies(chromium, model_registry):
    """Log in once: the printed link works once."""
    return logged_in(chromium, model_registry)


@pytest.fixture
def page(chromium, cookies):
    yield from watching(chromium, cookies)


def test_a_model_and_data_come_in_are_checked_used_and_archived(page: Watched, model_registry):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models")
    shown.locator("summary", has_text="Add a data set").click()
    shown.locator("#registry-data-name").fill("few")
    shown.locator("#registry-data-classes").select_option(label="names.txt")
    shown.locator("#registry-data-epsilon").fill("nonsense")
    shown.locator(".registry-form[data-kind=data] button").click()
    until(shown, f"{SAID['data']}.includes('nonsense')")
    beside = shown.evaluate("() => document.activeElement.nextElementSibling.id")
    assert beside == "registry-answer-data", "the answer stands beside the button"
    shown.locator("#registry-data-epsilon").fill("24/255")
    shown.locator(".registry-form[data-kind=data] button").click()
    until(shown, f"{SAID['data']}.startsWith('Added few')")
    shown.locator("summary", has_text="Add a model").click()
    shown.locator("#registry-model-name").fill("mine")
    shown.locator("#registry-model-architecture").fill(demo.ARCHITECTURE)
    shown.locator("#registry-model-classes").select_option(label="names.txt")
    shown.locator(".registry-form[data-kind=model] button").click()
    until(shown, f"{SAID['model']}.startsWith('Added mine')")
    until(shown, f"{REPORT}?.includes('Validation report: mine, checked on 500 images of digits')")
    shown.goto(f"{model_registry.url}/?page=models")
    until(shown, "document.querySelector('#registry-models')?.textContent?.includes('✔ passed, on digits')")
    shown.locator('[data-report="mine@few"]').click()
    until(shown, f"{REPORT}?.includes('60 images of few')")
    assert shown.locator("#registry-report .check-fail").count() == 0
    shown.get_by_role("button", name="Explain").click()
    choose(shown, "model-select", "^mine$")
    until(shown, "new URLSearchParams(location.search).get('model') === 'mine'")
    shown.get_by_role("button", name="Models and data").click()
    shown.get_by_role("button", name="Archive mine").click()
    shown.get_by_role("button", name="Take mine back").wait_for()
    shown.reload()
    shown.get_by_role("button", name="Take mine back").click()
    shown.get_by_role("button", name="Archive mine").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_has_no_serious_accessibility_violation(page: Watched, model_registry, theme):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models&report=digits-standard@digits&theme={theme}")
    until(shown, f"{REPORT}?.includes('Validation report')")
    shown.locator("summary", has_text="Add a model").click()
    found = require("axe_playwright_python.sync_playwright").Axe().run(shown).response["violations"]
    assert [(item["id"], item["impact"]) for item in found if item["impact"] in ("serious", "critical")] == []
